//! Asking plugins, and writing down what they were asked.
//!
//! Be aware: [`Inner::entries`] is locked before [`Inner::others`], never after.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_plugin::{Plugin, PluginError, PluginKind, Plugins};
use sampan_types::{Timestamp, VolumeName};
use tokio::time::timeout;

use super::PATIENCE;
use super::mounts::Leaving;
use super::protocol::{Create, Got, List, Listed, Named, Nothing, Told};
use super::record::{self, Record};
use crate::local::blocking;
use crate::{Volume, VolumeError, VolumeSpec};

/// How long removing a volume waits for who has it mounted meanwhile.
const TURN: Duration = Duration::from_secs(3);

/// A volume as it is known.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: Arc<Record>,
    /// Held, across calls of the plugin, by what changes this volume.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Who does not use it any more.
    pub(super) leaving: Arc<Leaving>,
}

impl Entry {
    pub(super) fn new(record: Record) -> Self {
        Self { record: Arc::new(record), turn: Arc::default(), leaving: Arc::default() }
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) plugins: Plugins,
    pub(super) dir: PathBuf,
    /// Held for a look-up or one insertion, never across an await.
    pub(super) entries: Mutex<BTreeMap<VolumeName, Entry>>,
    /// What plugins told of and nobody asked for here: name to plugin.
    pub(super) others: Mutex<BTreeMap<VolumeName, Volume>>,
    /// The plugins that are being asked what they have.
    pub(super) asked: Mutex<BTreeSet<String>>,
}

impl Inner {
    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn asked(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn others(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Volume>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entry(&self, name: &VolumeName) -> Result<Entry, VolumeError> {
        let entry = self.entries().get(name).cloned();
        entry.ok_or_else(|| VolumeError::NotFound { name: name.to_string() })
    }

    /// The record as it is once it is the caller's turn.
    pub(super) fn current(&self, name: &VolumeName) -> Result<Arc<Record>, VolumeError> {
        self.entry(name).map(|e| e.record)
    }

    pub(super) async fn plugin(
        &self,
        name: &VolumeName,
        driver: &str,
    ) -> Result<Arc<Plugin>, VolumeError> {
        self.plugins.get(driver, PluginKind::Volume).await.map_err(|source| match source {
            PluginError::NotFound { .. } => {
                VolumeError::NoDriver { name: name.to_string(), driver: driver.to_owned() }
            }
            source => failed("reach its plugin", name)(source),
        })
    }

    /// Writes a record and makes it what is known.
    pub(super) async fn keep(&self, name: &VolumeName, record: Record) -> Result<(), VolumeError> {
        let (dir, at, written) = (self.dir.clone(), name.clone(), record.clone());
        blocking(move || record::write(&dir, &at, &written)).await?;
        let mut entries = self.entries();
        match entries.get_mut(name) {
            Some(entry) => entry.record = Arc::new(record),
            None => drop(entries.insert(name.clone(), Entry::new(record))),
        }
        drop(entries);
        self.others().remove(name);
        Ok(())
    }

    pub(super) async fn forget(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let (dir, at) = (self.dir.clone(), name.clone());
        blocking(move || record::remove(&dir, &at)).await?;
        self.entries().remove(name);
        self.others().remove(name);
        Ok(())
    }

    /// What a plugin knows of a volume; `None` when it says that it has none.
    pub(super) async fn told(
        &self,
        plugin: &Plugin,
        name: &VolumeName,
    ) -> Result<Option<Told>, VolumeError> {
        let request = Named { name: name.as_str() };
        match plugin.call::<_, Got>("VolumeDriver.Get", &request).await {
            Ok(got) => Ok(got.volume),
            // Plugins say in words of their own that there is no such volume.
            Err(e) if e.is_refusal() => Ok(None),
            Err(e) => Err(failed("look for", name)(e)),
        }
    }

    pub(super) async fn create(
        &self,
        name: &VolumeName,
        driver: &str,
        spec: &VolumeSpec,
    ) -> Result<Volume, VolumeError> {
        let plugin = self.plugin(name, driver).await?;
        let record = Record::new(driver, spec.options.clone(), spec.labels.clone());
        let turn = {
            let mut entries = self.entries();
            let entry = entries.entry(name.clone()).or_insert_with(|| Entry::new(record.clone()));
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

    pub(super) async fn remove(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let entry = match self.entry(name) {
            Ok(entry) => entry,
            Err(_) => match self.adopt(name).await? {
                Some(entry) => entry,
                None => return Ok(()),
            },
        };
        let Ok(_turn) = timeout(TURN, entry.turn.lock()).await else {
            return Err(VolumeError::Busy { operation: "remove", name: name.to_string() });
        };
        self.leave_all_in_turn(&entry, name).await?;
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

    /// What is known of a volume that is about to be used.
    pub(super) async fn known(&self, name: &VolumeName) -> Result<Entry, VolumeError> {
        match self.entry(name) {
            Ok(entry) => Ok(entry),
            Err(e) => self.adopt(name).await?.ok_or(e),
        }
    }

    /// Asks one plugin what it has, and remembers what is not written down.
    pub(super) async fn learn(&self, driver: &str) -> Result<(), PluginError> {
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

pub(super) fn volume(name: &VolumeName, record: &Record) -> Volume {
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
pub(super) fn failed<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
    name: &VolumeName,
) -> impl FnOnce(E) -> VolumeError {
    let name = name.to_string();
    move |source| VolumeError::Plugin { operation, name, source: Box::new(source) }
}
