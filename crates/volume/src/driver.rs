//! The seam between the engine and what keeps volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use crate::transfer::Transfer;
use crate::{Care, Usage, Volume, VolumeError, VolumeSpec};
use sampan_types::VolumeName;

/// A future that a driver returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a driver says of a volume beyond its record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// Whether all hosts of a cluster have it.
    pub global: bool,
    /// The driver's own words: the `Status` of inspect.
    pub status: serde_json::Map<String, serde_json::Value>,
}

/// What keeps volumes: one implementation per kind of storage.
///
/// Every operation can be repeated: creating what exists returns it, removing
/// what is absent is success, a user that mounts twice counts once.
pub trait Driver: Send + Sync {
    /// The name that users give with `--driver`.
    fn name(&self) -> &'static str;

    /// Whether volumes of the driver that users call `driver` are its.
    fn serves(&self, driver: &str) -> bool {
        driver == self.name()
    }

    /// What it can do beyond keeping volumes; `None` when it can't.
    fn care(&self) -> Option<&dyn Care> {
        None
    }

    /// Whether it can send and receive volumes; `None` when it can't.
    fn transfer(&self) -> Option<&dyn Transfer> {
        None
    }

    /// Makes the volume `name`; options are checked before anything is made.
    fn create<'a>(
        &'a self,
        name: &'a VolumeName,
        spec: &'a VolumeSpec,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>>;

    /// The volume of this name, when the driver has it. Never waits.
    fn get(&self, name: &VolumeName) -> Option<Volume>;

    /// All volumes of this driver, by name. Never waits.
    fn list(&self) -> Vec<Volume>;

    /// Removes the volume and its content. Refused while it is mounted.
    fn remove<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Result<(), VolumeError>>;

    /// Forgets a volume without touching its content, because what keeps it
    /// can't be reached any more. Drivers that can always be reached do nothing.
    fn forget<'a>(&'a self, _name: &'a VolumeName) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Looks for volumes that others made where this driver keeps its own, for
    /// a moment at most; gives warnings about what could not be looked at.
    fn refresh(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// What is to be said of a volume beyond its record. Waits for a moment at
    /// most.
    fn details<'a>(&'a self, _name: &'a VolumeName) -> BoxFuture<'a, Details> {
        Box::pin(std::future::ready(Details::default()))
    }

    /// Makes the content reachable for `user` (a container's id) and tells where.
    fn mount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>>;

    /// `user` needs the volume no longer; the last one takes the mount away.
    fn unmount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<(), VolumeError>>;

    /// Sets the users of all volumes, as known from the container records
    /// after a restart: mounts what should be mounted, unmounts the rest.
    fn restore<'a>(
        &'a self,
        users: &'a BTreeMap<VolumeName, BTreeSet<String>>,
    ) -> BoxFuture<'a, Vec<VolumeError>>;

    /// Bytes that the content takes on the disk; `None` when that can't be
    /// told without mounting.
    fn size<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Result<Option<u64>, VolumeError>>;

    /// How much the volume holds, where the driver can tell that at once:
    /// without walking through files and without mounting.
    fn usage<'a>(
        &'a self,
        _name: &'a VolumeName,
    ) -> BoxFuture<'a, Result<Option<Usage>, VolumeError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Fills an empty volume with what is at `inside` below the mounted
    /// `rootfs` (see [`crate::Volumes::copy_up`]).
    fn copy_up<'a>(
        &'a self,
        name: &'a VolumeName,
        rootfs: &'a Path,
        inside: &'a Path,
    ) -> BoxFuture<'a, Result<(), VolumeError>>;
}
