//! All volumes of all drivers, found by name.
//!
//! Be aware: a name is unique over all drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_plugin::Plugins;
use sampan_types::{Timestamp, VolumeName};
use serde::{Deserialize, Serialize};

use crate::local::{HIDDEN_OPTIONS, Local};
use crate::plugin::PluginVolumes;
use crate::{Details, Driver, Usage, VolumeError};

/// The label that marks a volume which was made without a name.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// What a user asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The name; `None` or empty makes an anonymous volume with a random one.
    pub name: Option<String>,
    /// The driver; empty means `local`.
    pub driver: String,
    /// The driver's options (`--opt`).
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, unique over all drivers.
    pub name: VolumeName,
    /// The driver that keeps it.
    pub driver: String,
    /// Where its content is while it is mounted.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Volume {
    /// The driver's options as they may be shown: without what could be secret.
    #[must_use]
    pub fn shown_options(&self) -> BTreeMap<String, String> {
        let hidden = |option: &str| HIDDEN_OPTIONS.contains(&option);
        let shown = |(option, value): (&String, &String)| {
            let value = if hidden(option) { "********" } else { value.as_str() };
            (option.clone(), value.to_owned())
        };
        self.options.iter().map(shown).collect()
    }

    /// Whether it was made without a name.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS_LABEL)
    }
}

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The volume.
    pub volume: Volume,
    /// False when it was there before.
    pub new: bool,
}

/// All volumes. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    drivers: Arc<[Arc<dyn Driver>]>,
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.drivers.iter().map(|d| d.name())).finish()
    }
}

impl Volumes {
    /// Reads the volumes below `<data_root>/volumes` and clears away what a
    /// crash left half made or half removed.
    ///
    /// # Errors
    /// When the directory can't be made or read. A volume whose record is
    /// damaged is logged and left alone, not an error.
    pub async fn open(data_root: &Path) -> Result<Self, VolumeError> {
        let local = Local::open(data_root.join("volumes")).await?;
        Ok(Self::with_drivers(vec![Arc::new(local)]))
    }

    /// These, and the volumes of `plugins`, as far as they are known below
    /// `<data_root>/volume-plugins`. Every driver that is not built in is a
    /// plugin's from now on.
    ///
    /// # Errors
    /// As [`Volumes::open`].
    pub async fn with_plugins(
        self,
        data_root: &Path,
        plugins: Plugins,
    ) -> Result<Self, VolumeError> {
        let of_plugins = PluginVolumes::open(data_root.join("volume-plugins"), plugins).await?;
        let mut drivers = self.drivers.to_vec();
        drivers.push(Arc::new(of_plugins));
        Ok(Self::with_drivers(drivers))
    }

    /// With these drivers; the first one is used when none is named. Of several
    /// that serve a name, the first does.
    #[must_use]
    pub fn with_drivers(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self { drivers: drivers.into() }
    }

    /// Makes a volume, or returns the one that has the name already; without
    /// a driver in `spec`, whoever keeps it.
    ///
    /// # Errors
    /// [`VolumeError`] for wrong names, drivers and options, and those of the
    /// file system.
    pub async fn create(&self, mut spec: VolumeSpec) -> Result<Created, VolumeError> {
        let name = match spec.name.take().filter(|n| !n.is_empty()) {
            Some(text) => check_name(&text)?,
            None => {
                spec.labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
                random_name()?
            }
        };
        let driver = self.driver(&spec.driver, &name)?;
        if let Some((_, volume)) = self.find(&name) {
            if spec.driver.is_empty() || volume.driver == spec.driver {
                return Ok(Created { volume, new: false });
            }
            let owner = volume.driver;
            return Err(VolumeError::DriverConflict { name: name.to_string(), owner });
        }
        let volume = driver.create(&name, &spec).await?;
        Ok(Created { volume, new: true })
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`].
    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        self.lookup(name).map(|(_, volume)| volume)
    }

    /// All volumes, sorted by name.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        let mut all: Vec<Volume> = self.drivers.iter().flat_map(|d| d.list()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Removes a volume with its content.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::InUse`] while it is mounted,
    /// and those of the file system.
    pub async fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        driver.remove(&volume.name).await
    }

    /// Forgets a volume whose driver can't be reached any more; see
    /// [`Driver::forget`].
    ///
    /// # Errors
    /// [`VolumeError::NotFound`] and those of the file system.
    pub async fn forget(&self, name: &str) -> Result<(), VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        driver.forget(&volume.name).await
    }

    /// Looks for volumes that were made behind our back, for a moment at most;
    /// gives warnings about drivers that did not answer.
    pub async fn refresh(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for driver in self.drivers.iter() {
            warnings.extend(driver.refresh().await);
        }
        warnings
    }

    /// What a driver says of a volume beyond its record.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`].
    pub async fn details(&self, name: &str) -> Result<Details, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        Ok(driver.details(&volume.name).await)
    }

    /// Makes a volume's content reachable for `user` (a container's id) and
    /// tells where. A user that mounts twice counts once.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], or why the mount failed.
    pub async fn mount(&self, name: &str, user: &str) -> Result<PathBuf, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        driver.mount(&volume.name, user).await
    }

    /// Ends `user`'s use of a volume. That there is no such volume or user is
    /// success.
    ///
    /// # Errors
    /// Those of umount(2).
    pub async fn unmount(&self, name: &str, user: &str) -> Result<(), VolumeError> {
        match self.lookup(name) {
            Ok((driver, volume)) => driver.unmount(&volume.name, user).await,
            Err(VolumeError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Sets who uses which volume, as known from the container records after
    /// a restart, and mounts and unmounts accordingly. Collects every failure.
    pub async fn restore(
        &self,
        users: &BTreeMap<VolumeName, BTreeSet<String>>,
    ) -> Vec<VolumeError> {
        let mut failures = Vec::new();
        for driver in self.drivers.iter() {
            failures.extend(driver.restore(users).await);
        }
        failures
    }

    /// Bytes that a volume takes on the disk; `None` when its options mount
    /// something from elsewhere.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`] and those of the file system.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        driver.size(&volume.name).await
    }

    /// How much a volume holds, where that can be told at once.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`] and those of the file system.
    pub async fn usage(&self, name: &str) -> Result<Option<Usage>, VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        driver.usage(&volume.name).await
    }

    /// Fills an empty volume with what the image has at `inside` below the
    /// mounted `rootfs`, and gives it that directory's owner, mode and times.
    /// Does nothing when the volume has content or the image no such
    /// directory.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`] and those of the file system.
    pub async fn copy_up(
        &self,
        name: &str,
        rootfs: &Path,
        inside: &Path,
    ) -> Result<(), VolumeError> {
        let (driver, volume) = self.lookup(name)?;
        driver.copy_up(&volume.name, rootfs, inside).await
    }

    pub(crate) fn drivers(&self) -> &[Arc<dyn Driver>] {
        &self.drivers
    }

    fn driver(&self, wanted: &str, volume: &VolumeName) -> Result<&Arc<dyn Driver>, VolumeError> {
        let mut drivers = self.drivers.iter();
        let found =
            if wanted.is_empty() { drivers.next() } else { drivers.find(|d| d.serves(wanted)) };
        found.ok_or_else(|| VolumeError::NoDriver {
            name: volume.to_string(),
            driver: wanted.to_owned(),
        })
    }

    fn find(&self, name: &VolumeName) -> Option<(&Arc<dyn Driver>, Volume)> {
        self.drivers.iter().find_map(|d| d.get(name).map(|v| (d, v)))
    }

    pub(crate) fn lookup(&self, name: &str) -> Result<(&Arc<dyn Driver>, Volume), VolumeError> {
        let parsed: Option<VolumeName> = name.parse().ok();
        parsed
            .and_then(|n| self.find(&n))
            .ok_or_else(|| VolumeError::NotFound { name: name.to_owned() })
    }
}

pub(crate) fn check_name(text: &str) -> Result<VolumeName, VolumeError> {
    if text.chars().count() == 1 {
        return Err(VolumeError::NameTooShort { name: text.to_owned() });
    }
    text.parse().map_err(|_| VolumeError::InvalidName { name: text.to_owned() })
}

/// 64 hexadecimal digits from the kernel's generator.
fn random_name() -> Result<VolumeName, VolumeError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| VolumeError::Io {
        operation: "choose a random name from",
        path: "/dev/urandom".into(),
        source: std::io::Error::other(e.to_string()),
    })?;
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    check_name(&text)
}
