//! What a driver may be able to do with volumes beyond keeping them:
//! snapshots, clones, other names and sizes.

use std::collections::BTreeMap;

use sampan_types::{SnapshotName, Timestamp, VolumeName};
use serde::{Deserialize, Serialize};

use crate::volumes::check_name;
use crate::{BoxFuture, Driver, Volume, VolumeError, Volumes, Watch};

/// The content of a volume as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The volume.
    pub volume: VolumeName,
    /// Its name, unique among the volume's.
    pub name: SnapshotName,
    /// When it was made.
    pub created: Timestamp,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

/// What a new volume takes its content from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSource {
    /// The volume.
    pub volume: VolumeName,
    /// One of its snapshots; without, what it holds now.
    pub snapshot: Option<SnapshotName>,
}

/// What is different about a clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloneSpec {
    /// Labels that are added, or that replace those of the source.
    pub labels: BTreeMap<String, String>,
    /// Options that are added, or that replace those of the source: `size`.
    pub options: BTreeMap<String, String>,
}

/// The capability of a driver to look after volumes.
///
/// What an operation makes appears whole or not at all, also when the process
/// dies in the middle. Copies tell `watch` how far they are and end when it
/// says so.
pub trait Care: Send + Sync {
    /// Keeps what the volume holds now under the name `snapshot`.
    ///
    /// Errors: [`VolumeError::SnapshotExists`], those of the file system.
    fn snapshot<'a>(
        &'a self,
        volume: &'a VolumeName,
        snapshot: &'a SnapshotName,
        labels: &'a BTreeMap<String, String>,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Snapshot, VolumeError>>;

    /// The snapshots of a volume, the oldest first.
    fn snapshots<'a>(
        &'a self,
        volume: &'a VolumeName,
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, VolumeError>>;

    /// Removes a snapshot.
    ///
    /// Errors: [`VolumeError::NoSnapshot`], those of the file system.
    fn remove_snapshot<'a>(
        &'a self,
        volume: &'a VolumeName,
        snapshot: &'a SnapshotName,
    ) -> BoxFuture<'a, Result<(), VolumeError>>;

    /// Makes the volume `to` with the content of `from`.
    ///
    /// Errors: [`VolumeError::Taken`], [`VolumeError::NoSnapshot`], those of
    /// the file system.
    fn clone_volume<'a>(
        &'a self,
        from: &'a CloneSource,
        to: &'a VolumeName,
        spec: &'a CloneSpec,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>>;

    /// Gives the volume the content that it had when the snapshot was made.
    /// Refused while it is mounted.
    fn roll_back<'a>(
        &'a self,
        volume: &'a VolumeName,
        snapshot: &'a SnapshotName,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<(), VolumeError>>;

    /// Gives the volume another name. Refused while it is mounted. That `old`
    /// is gone and `new` is what it was is success.
    fn rename<'a>(
        &'a self,
        old: &'a VolumeName,
        new: &'a VolumeName,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>>;

    /// Changes how much the volume may hold: `10g`, or `0` for no bound. Also
    /// while it is mounted.
    fn resize<'a>(
        &'a self,
        volume: &'a VolumeName,
        size: &'a str,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>>;
}

impl Volumes {
    /// Keeps what a volume holds now under the name `snapshot`.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::NoCare`], and see
    /// [`Care::snapshot`].
    pub async fn snapshot(
        &self,
        name: &str,
        snapshot: &SnapshotName,
        labels: &BTreeMap<String, String>,
        watch: &Watch,
    ) -> Result<Snapshot, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        let care = care(driver.as_ref(), &volume, "snapshot")?;
        care.snapshot(&volume.name, snapshot, labels, watch).await
    }

    /// The snapshots of a volume, the oldest first; none where the driver has
    /// no such thing.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`] and those of the file system.
    pub async fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        match driver.care() {
            Some(care) => care.snapshots(&volume.name).await,
            None => Ok(Vec::new()),
        }
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// See [`Care::remove_snapshot`].
    pub async fn remove_snapshot(
        &self,
        name: &str,
        snapshot: &SnapshotName,
    ) -> Result<(), VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        let care = care(driver.as_ref(), &volume, "remove a snapshot of")?;
        care.remove_snapshot(&volume.name, snapshot).await
    }

    /// Makes the volume `to` with the content of another one.
    ///
    /// # Errors
    /// A wrong name; see [`Care::clone_volume`].
    pub async fn clone_volume(
        &self,
        from: &str,
        snapshot: Option<&SnapshotName>,
        to: &str,
        spec: &CloneSpec,
        watch: &Watch,
    ) -> Result<Volume, VolumeError> {
        let (driver, volume) = self.lookup(from)?;
        let care = care(driver.as_ref(), &volume, "clone")?;
        let to = self.free_name("clone", from, to)?;
        let source = CloneSource { volume: volume.name.clone(), snapshot: snapshot.cloned() };
        care.clone_volume(&source, &to, spec, watch).await
    }

    /// Gives a volume the content of one of its snapshots.
    ///
    /// # Errors
    /// See [`Care::roll_back`].
    pub async fn roll_back(
        &self,
        name: &str,
        snapshot: &SnapshotName,
        watch: &Watch,
    ) -> Result<(), VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        let care = care(driver.as_ref(), &volume, "restore")?;
        care.roll_back(&volume.name, snapshot, watch).await
    }

    /// Whether a volume could be given the name `new`: checks all that can be
    /// known before.
    ///
    /// # Errors
    /// A wrong or taken name, a driver that can't.
    pub fn check_rename(&self, old: &str, new: &str) -> Result<VolumeName, VolumeError> {
        let (driver, volume) = self.lookup(old)?;
        care(driver.as_ref(), &volume, "rename")?;
        self.free_name("rename", old, new)
    }

    /// Gives a volume another name. That it has it is success.
    ///
    /// # Errors
    /// See [`Care::rename`].
    pub async fn rename(&self, old: &str, new: &str) -> Result<Volume, VolumeError> {
        let (driver, volume) = match self.lookup(old) {
            Err(VolumeError::NotFound { .. }) => {
                let old = || VolumeError::NotFound { name: old.to_owned() };
                return self.lookup(new).map(|(_, volume)| volume).map_err(|_| old());
            }
            found => found?,
        };
        let care = care(driver.as_ref(), &volume, "rename")?;
        let new = self.free_name("rename", old, new)?;
        care.rename(&volume.name, &new).await
    }

    /// Changes how much a volume may hold.
    ///
    /// # Errors
    /// See [`Care::resize`].
    pub async fn resize(&self, name: &str, size: &str) -> Result<Volume, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        care(driver.as_ref(), &volume, "resize")?.resize(&volume.name, size).await
    }

    /// A name that no volume has.
    fn free_name(
        &self,
        operation: &'static str,
        name: &str,
        to: &str,
    ) -> Result<VolumeName, VolumeError> {
        let checked = check_name(to)?;
        match self.lookup(to) {
            Err(VolumeError::NotFound { .. }) => Ok(checked),
            _ => Err(VolumeError::Taken { operation, name: name.to_owned(), to: to.to_owned() }),
        }
    }
}

fn care<'a>(
    driver: &'a dyn Driver,
    volume: &Volume,
    operation: &'static str,
) -> Result<&'a dyn Care, VolumeError> {
    driver.care().ok_or_else(|| VolumeError::NoCare {
        operation,
        name: volume.name.to_string(),
        driver: volume.driver.clone(),
    })
}
