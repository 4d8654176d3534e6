//! Volumes of plugins that speak Docker's volume plugin protocol.
//!
//! ```text
//! volume-plugins/<name>.json   what a plugin was asked for, written down first
//! create:  record ─> VolumeDriver.Get, .Create ─> record: made
//! mount:   record: user ─> VolumeDriver.Mount ─> record: mountpoint
//! unmount: VolumeDriver.Unmount ─> record: without the user
//! ```
//!
//! Be aware:
//! - A plugin may hang or be gone, and it may be a container of this very
//!   engine. Nothing that lists or looks waits for one longer than
//!   [`PATIENCE`]; what changes a volume waits for its own plugin alone, as long
//!   as the protocol's client does.
//! - The daemon starts without plugins: what is to be undone after a crash is
//!   undone in the background, or at the volume's next use.
//! - Volumes that a plugin has and nobody asked for here are shown as of the
//!   last time that the plugin told of them; they are not written down.

mod keeper;
mod mounts;
mod protocol;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sampan_plugin::Plugins;
use sampan_types::VolumeName;

use self::keeper::{Entry, Inner, volume};
use self::protocol::{Capable, List};
use crate::local::{blocking, spawned};
use crate::{BoxFuture, Details, Driver, Volume, VolumeError, VolumeSpec, copy};

/// How long a plugin may take to tell what it has.
const PATIENCE: Duration = Duration::from_millis(500);

/// The volumes of all plugins.
#[derive(Debug)]
pub(crate) struct PluginVolumes {
    inner: Arc<Inner>,
}

impl PluginVolumes {
    /// Reads what was written down below `dir`, and begins to take back what a
    /// crash left half made.
    ///
    /// # Errors
    /// When `dir` can't be made or read.
    pub async fn open(dir: PathBuf, plugins: Plugins) -> Result<Self, VolumeError> {
        let at = dir.clone();
        let records = blocking(move || record::read_all(&at)).await?;
        let entries = records.into_iter().map(|(name, record)| (name, Entry::new(record)));
        let inner = Arc::new(Inner {
            plugins,
            dir,
            entries: Mutex::new(entries.collect()),
            others: Mutex::default(),
            asked: Mutex::default(),
        });
        for (name, entry) in inner.entries().clone() {
            if !entry.record.made {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    if let Err(error) = inner.remove(&name).await {
                        tracing::warn!(%error, "a volume that a plugin may have made stays for now");
                    }
                });
            }
        }
        Ok(Self { inner })
    }
}

impl Driver for PluginVolumes {
    fn name(&self) -> &'static str {
        "plugin"
    }

    /// Whatever is not built in.
    fn serves(&self, _driver: &str) -> bool {
        true
    }

    fn create<'a>(
        &'a self,
        name: &'a VolumeName,
        spec: &'a VolumeSpec,
    ) -> BoxFuture<'a, Result<Volume, VolumeError>> {
        Box::pin(self.inner.create(name, &spec.driver, spec))
    }

    fn get(&self, name: &VolumeName) -> Option<Volume> {
        let known = self.inner.entries().get(name).map(|e| Arc::clone(&e.record));
        match known {
            Some(record) => record.made.then(|| volume(name, &record)),
            None => self.inner.others().get(name).cloned(),
        }
    }

    fn list(&self) -> Vec<Volume> {
        let entries = self.inner.entries();
        let own = entries.iter().filter(|(_, e)| e.record.made);
        let own = own.map(|(name, e)| volume(name, &e.record));
        own.chain(self.inner.others().values().cloned()).collect()
    }

    fn remove<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(self.inner.remove(name))
    }

    fn forget<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(self.inner.forget(name))
    }

    fn mount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let (using, place) = self.inner.mount(name, user).await?;
            using.keep();
            Ok(place)
        })
    }

    fn unmount<'a>(
        &'a self,
        name: &'a VolumeName,
        user: &'a str,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(self.inner.unmount(name, user))
    }

    /// In the background: a plugin that hangs must not keep the daemon from
    /// starting.
    fn restore<'a>(
        &'a self,
        users: &'a BTreeMap<VolumeName, BTreeSet<String>>,
    ) -> BoxFuture<'a, Vec<VolumeError>> {
        for (name, entry) in self.inner.entries().clone() {
            let nobody = BTreeSet::new();
            self.inner.restore(&name, &entry, users.get(&name).unwrap_or(&nobody));
        }
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Only the plugin knows.
    fn size<'a>(&'a self, _: &'a VolumeName) -> BoxFuture<'a, Result<Option<u64>, VolumeError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn copy_up<'a>(
        &'a self,
        name: &'a VolumeName,
        rootfs: &'a Path,
        inside: &'a Path,
    ) -> BoxFuture<'a, Result<(), VolumeError>> {
        Box::pin(async move {
            let (image, place) = (rootfs.to_owned(), inside.to_owned());
            if blocking(move || copy::open_inside(&image, &place)).await?.is_none() {
                // Its plugin need not be asked.
                return Ok(());
            }
            let user = format!("copy-up-{name}");
            let (using, target) = self.inner.mount(name, &user).await?;
            let (rootfs, inside) = (rootfs.to_owned(), inside.to_owned());
            // Goes on when nobody waits any more: nothing may be unmounted
            // while it is written to.
            spawned(async move {
                let copied = blocking(move || copy::copy_up(&rootfs, &inside, &target)).await;
                copied.and(using.end().await)
            })
            .await
        })
    }

    fn refresh(&self) -> BoxFuture<'_, Vec<String>> {
        // Whoever is asked already, and has not answered yet, is not asked again.
        let ask = |driver: String| {
            let is_new = self.inner.asked().insert(driver.clone());
            let asked = is_new.then(|| {
                let (inner, driver) = (Arc::clone(&self.inner), driver.clone());
                // Goes on when nobody waits any more: the next one will know.
                tokio::spawn(async move {
                    if let Err(error) = inner.learn(&driver).await {
                        tracing::debug!(driver, %error, "a plugin does not list its volumes");
                    }
                    inner.asked().remove(&driver);
                })
            });
            (driver, asked)
        };
        Box::pin(async move {
            let waiting: Vec<_> = self.inner.plugins.names().into_iter().map(ask).collect();
            let mut warnings = Vec::new();
            for (driver, asked) in waiting {
                let answered = match asked {
                    Some(asked) => tokio::time::timeout(PATIENCE, asked).await.is_ok(),
                    None => false,
                };
                if !answered {
                    warnings.push(format!(
                        "volume plugin {driver} does not answer: some of its volumes may be missing"
                    ));
                }
            }
            warnings
        })
    }

    fn details<'a>(&'a self, name: &'a VolumeName) -> BoxFuture<'a, Details> {
        Box::pin(async move {
            let mut details = Details::default();
            let Some(volume) = self.get(name) else { return details };
            let asked = async {
                let plugin = self.inner.plugin(name, &volume.driver).await.ok()?;
                let capable = plugin
                    .call::<_, Capable>("VolumeDriver.Capabilities", &List {})
                    .await
                    .is_ok_and(|c| c.capabilities.scope == "global");
                let told = self.inner.told(&plugin, name).await.ok().flatten()?;
                Some((capable, told))
            };
            if let Ok(Some((global, told))) = tokio::time::timeout(PATIENCE, asked).await {
                details.global = global;
                details.status = told.status;
            }
            details
        })
    }
}
