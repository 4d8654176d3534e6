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

mod protocol;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_plugin::{Plugin, PluginError, PluginKind, Plugins};
use sampan_types::{Timestamp, VolumeName};

use self::protocol::{Capable, Create, Got, List, Listed, Mounted, Named, Nothing, Told, Used};
use self::record::Record;
use crate::local::blocking;
use crate::{BoxFuture, Details, Driver, Volume, VolumeError, VolumeSpec, copy_up};

/// How long a plugin may take to tell what it has.
const PATIENCE: Duration = Duration::from_millis(500);

/// A volume as it is known.
#[derive(Debug, Clone)]
struct Entry {
    record: Arc<Record>,
    /// Held, across calls of the plugin, by what changes this volume.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The volumes of all plugins.
#[derive(Debug)]
pub(crate) struct PluginVolumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    plugins: Plugins,
    dir: PathBuf,
    /// Held for a look-up or one insertion, never across an await.
    entries: Mutex<BTreeMap<VolumeName, Entry>>,
    /// What plugins told of and nobody asked for here: name to plugin.
    others: Mutex<BTreeMap<VolumeName, Volume>>,
    /// The plugins that are being asked what they have.
    asked: Mutex<BTreeSet<String>>,
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
        let entries = records
            .into_iter()
            .map(|(name, record)| (name, Entry { record: Arc::new(record), turn: Arc::default() }));
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

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Volume>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, name: &VolumeName) -> Result<Entry, VolumeError> {
        let entry = self.entries().get(name).cloned();
        entry.ok_or_else(|| VolumeError::NotFound { name: name.to_string() })
    }

    /// The record as it is once it is the caller's turn.
    fn current(&self, name: &VolumeName) -> Result<Arc<Record>, VolumeError> {
        self.entry(name).map(|e| e.record)
    }

    async fn plugin(&self, name: &VolumeName, driver: &str) -> Result<Arc<Plugin>, VolumeError> {
        self.plugins.get(driver, PluginKind::Volume).await.map_err(|source| match source {
            PluginError::NotFound { .. } => {
                VolumeError::NoDriver { name: name.to_string(), driver: driver.to_owned() }
            }
            source => failed("reach its plugin", name)(source),
        })
    }

    /// Writes a record and makes it what is known.
    async fn keep(&self, name: &VolumeName, record: Record) -> Result<(), VolumeError> {
        let (dir, at, written) = (self.dir.clone(), name.clone(), record.clone());
        blocking(move || record::write(&dir, &at, &written)).await?;
        let mut entries = self.entries();
        let turn = entries.get(name).map(|e| Arc::clone(&e.turn)).unwrap_or_default();
        entries.insert(name.clone(), Entry { record: Arc::new(record), turn });
        drop(entries);
        self.others().remove(name);
        Ok(())
    }

    async fn forget(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let (dir, at) = (self.dir.clone(), name.clone());
        blocking(move || record::remove(&dir, &at)).await?;
        self.entries().remove(name);
        self.others().remove(name);
        Ok(())
    }

    /// What a plugin knows of a volume; `None` when it says that it has none.
    async fn told(&self, plugin: &Plugin, name: &VolumeName) -> Result<Option<Told>, VolumeError> {
        let request = Named { name: name.as_str() };
        match plugin.call::<_, Got>("VolumeDriver.Get", &request).await {
            Ok(got) => Ok(got.volume),
            // Plugins say in words of their own that there is no such volume.
            Err(e) if e.is_refusal() => Ok(None),
            Err(e) => Err(failed("look for", name)(e)),
        }
    }

    async fn create(
        &self,
        name: &VolumeName,
        driver: &str,
        spec: &VolumeSpec,
    ) -> Result<Volume, VolumeError> {
        let plugin = self.plugin(name, driver).await?;
        let record = Record::new(driver, spec.options.clone(), spec.labels.clone());
        let turn = {
            let mut entries = self.entries();
            let entry = entries.entry(name.clone()).or_insert_with(|| Entry {
                record: Arc::new(record.clone()),
                turn: Arc::default(),
            });
            Arc::clone(&entry.turn)
        };
        let _turn = turn.lock().await;
        if let Ok(known) = self.current(name)
            && known.made
        {
            return Ok(volume(name, &known));
        }
        let made = async {
            self.keep(name, record.clone()).await?;
            if let Some(told) = self.told(&plugin, name).await? {
                return Ok(told.mountpoint);
            }
            let request = Create { name: name.as_str(), opts: &spec.options };
            let asked = plugin.call::<_, Nothing>("VolumeDriver.Create", &request).await;
            asked.map_err(failed("create", name))?;
            Ok(PathBuf::new())
        };
        match made.await {
            Ok(mountpoint) => {
                let record = Record { made: true, mountpoint, ..record };
                self.keep(name, record.clone()).await?;
                Ok(volume(name, &record))
            }
            Err(error) => {
                // What the plugin may have made all the same is taken back.
                let request = Named { name: name.as_str() };
                let _ = tokio::time::timeout(
                    PATIENCE,
                    plugin.call::<_, Nothing>("VolumeDriver.Remove", &request),
                )
                .await;
                self.forget(name).await?;
                Err(error)
            }
        }
    }

    async fn remove(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let entry = match self.entry(name) {
            Ok(entry) => entry,
            Err(_) => match self.adopt(name).await? {
                Some(entry) => entry,
                None => return Ok(()),
            },
        };
        let _turn = entry.turn.lock().await;
        let Ok(record) = self.current(name) else { return Ok(()) };
        if !record.users.is_empty() {
            let users = record.users.iter().cloned().collect();
            return Err(VolumeError::InUse { name: name.to_string(), users });
        }
        let plugin = self.plugin(name, &record.driver).await?;
        let request = Named { name: name.as_str() };
        match plugin.call::<_, Nothing>("VolumeDriver.Remove", &request).await {
            Ok(_) => {}
            // It is gone already when the plugin does not know it.
            Err(e) if e.is_refusal() && self.told(&plugin, name).await?.is_none() => {}
            Err(e) => return Err(failed("remove", name)(e)),
        }
        self.forget(name).await
    }

    /// Writes down a volume that a plugin told of, because it is used now.
    async fn adopt(&self, name: &VolumeName) -> Result<Option<Entry>, VolumeError> {
        let Some(other) = self.others().get(name).cloned() else { return Ok(None) };
        let made = Record::new(&other.driver, BTreeMap::new(), BTreeMap::new());
        self.keep(name, Record { made: true, mountpoint: other.mountpoint, ..made }).await?;
        self.entry(name).map(Some)
    }

    async fn mount(&self, name: &VolumeName, user: &str) -> Result<PathBuf, VolumeError> {
        let entry = match self.entry(name) {
            Ok(entry) => entry,
            Err(e) => self.adopt(name).await?.ok_or(e)?,
        };
        let _turn = entry.turn.lock().await;
        let known = self.current(name)?;
        let plugin = self.plugin(name, &known.driver).await?;
        let mut record = Record::clone(&known);
        record.users.insert(user.to_owned());
        self.keep(name, record.clone()).await?;
        let request = Used { name: name.as_str(), id: user };
        let mounted = plugin
            .call::<_, Mounted>("VolumeDriver.Mount", &request)
            .await
            .map_err(failed("mount", name))
            .and_then(|m| place(name, m.mountpoint));
        match mounted {
            Ok(mountpoint) => {
                record.mountpoint.clone_from(&mountpoint);
                self.keep(name, record).await?;
                Ok(mountpoint)
            }
            Err(error) => {
                if !known.users.contains(user) {
                    record.users.remove(user);
                    self.keep(name, record).await?;
                }
                Err(error)
            }
        }
    }

    async fn unmount(&self, name: &VolumeName, user: &str) -> Result<(), VolumeError> {
        let Ok(entry) = self.entry(name) else { return Ok(()) };
        let _turn = entry.turn.lock().await;
        let Ok(known) = self.current(name) else { return Ok(()) };
        if !known.users.contains(user) {
            return Ok(());
        }
        let plugin = self.plugin(name, &known.driver).await?;
        let request = Used { name: name.as_str(), id: user };
        let asked = plugin.call::<_, Nothing>("VolumeDriver.Unmount", &request).await;
        asked.map_err(failed("unmount", name))?;
        let mut record = Record::clone(&known);
        record.users.remove(user);
        self.keep(name, record).await
    }

    /// Asks one plugin what it has, and remembers what is not written down.
    async fn learn(&self, driver: &str) -> Result<(), PluginError> {
        let plugin = self.plugins.get(driver, PluginKind::Volume).await?;
        let Ok(listed) = plugin.call::<_, Listed>("VolumeDriver.List", &List {}).await else {
            return Ok(());
        };
        let entries = self.entries();
        let mut others = self.others();
        others.retain(|_, v| v.driver != driver);
        for told in listed.volumes {
            let Ok(name) = told.name.parse::<VolumeName>() else { continue };
            if entries.contains_key(&name) {
                continue;
            }
            let volume = Volume {
                name: name.clone(),
                driver: driver.to_owned(),
                mountpoint: told.mountpoint,
                created: Timestamp::NEVER,
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
            };
            others.insert(name, volume);
        }
        Ok(())
    }
}

/// Where a plugin says that the content is: an absolute path of the host.
fn place(name: &VolumeName, mountpoint: PathBuf) -> Result<PathBuf, VolumeError> {
    if mountpoint.is_absolute() {
        return Ok(mountpoint);
    }
    let said = format!("its plugin names {mountpoint:?} as the place, not an absolute path");
    Err(failed("mount", name)(std::io::Error::other(said)))
}

fn volume(name: &VolumeName, record: &Record) -> Volume {
    Volume {
        name: name.clone(),
        driver: record.driver.clone(),
        mountpoint: record.mountpoint.clone(),
        created: record.created,
        options: record.options.clone(),
        labels: record.labels.clone(),
    }
}

/// A plugin's failure in what was asked of it.
fn failed<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
    name: &VolumeName,
) -> impl FnOnce(E) -> VolumeError {
    let name = name.to_string();
    move |source| VolumeError::Plugin { operation, name, source: Box::new(source) }
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
        Box::pin(self.inner.mount(name, user))
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
            let wanted = users.get(&name).cloned().unwrap_or_default();
            let gone: Vec<String> = entry.record.users.difference(&wanted).cloned().collect();
            let missing: Vec<String> = wanted.difference(&entry.record.users).cloned().collect();
            if gone.is_empty() && missing.is_empty() {
                continue;
            }
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                for user in missing {
                    if let Err(error) = inner.mount(&name, &user).await {
                        tracing::warn!(%error, "a volume that a container uses is not mounted");
                    }
                }
                for user in gone {
                    if let Err(error) = inner.unmount(&name, &user).await {
                        tracing::warn!(%error, "a volume that nobody uses stays mounted");
                    }
                }
            });
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
            let user = format!("copy-up-{name}");
            let target = self.inner.mount(name, &user).await?;
            let (rootfs, inside) = (rootfs.to_owned(), inside.to_owned());
            let copied = blocking(move || copy_up(&rootfs, &inside, &target)).await;
            self.inner.unmount(name, &user).await?;
            copied
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
