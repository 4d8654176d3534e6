//! New volumes from old ones, and new names for them. All of it blocks.

use std::collections::BTreeMap;
use std::io;

use sampan_sys::file;
use sampan_types::{SnapshotName, Timestamp, VolumeName};

use super::super::operations::make_dir;
use super::super::record::{self, DATA, NEW};
use super::super::storage::{self, Content, Wish};
use super::super::{DRIVER, Entry, Inner, State};
use super::fill::{self, Source};
use super::snapshot;
use crate::fault::fault;
use crate::{ANONYMOUS_LABEL, CloneSpec, Volume, VolumeError, Watch};

/// The options that say where content is mounted from.
const MOUNT: [&str; 3] = ["type", "o", "device"];

impl Inner {
    /// Makes the volume `to` with what `entry`, or a snapshot of it, holds.
    pub(super) fn clone_volume(
        &self,
        entry: &Entry,
        snapshot: Option<&SnapshotName>,
        to: VolumeName,
        spec: &CloneSpec,
        watch: &Watch,
    ) -> Result<Volume, VolumeError> {
        let taken = || VolumeError::Taken {
            operation: "clone",
            name: entry.volume.name.to_string(),
            to: to.to_string(),
        };
        if self.entries().contains_key(&to) {
            return Err(taken());
        }
        let source = match snapshot {
            None => Source::volume(entry),
            Some(name) => snapshot::open(entry, name)?,
        };
        let options = options(&source.volume, spec)?;
        let wish = Wish::new(&to, &options)?;
        let content = self.decide(&to, wish)?;
        let mut labels = source.volume.labels.clone();
        labels.remove(ANONYMOUS_LABEL);
        labels.extend(spec.labels.clone());
        let dir = self.dir(&to);
        let volume = Volume {
            mountpoint: dir.join(DATA),
            driver: DRIVER.to_owned(),
            created: Timestamp::now(),
            options,
            labels,
            name: to.clone(),
        };
        let new = self.temporary(NEW)?;
        make_dir(&new, 0o701)?;
        let made = fill::fill(&source, &content, &new, watch)
            .and_then(|()| record::write(&new, &volume, &content))
            .and_then(|()| fill::settle(&new));
        fault!("volume-clone:after-content");
        let named = made.and_then(|()| {
            let mut entries = self.entries();
            match fill::rename_new(&new, &dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
                renamed => renamed.map_err(VolumeError::io("create", &dir))?,
            }
            let (volume, content) = (volume.clone(), content.clone());
            entries.insert(to.clone(), Entry::new(volume, content));
            Ok(())
        });
        if let Err(error) = named {
            fill::discard(&content, &new);
            return Err(error);
        }
        fault!("volume-clone:after-rename");
        file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))?;
        Ok(volume)
    }

    /// Gives a volume another name.
    pub(super) fn rename(
        &self,
        entry: &Entry,
        state: &mut State,
        new: VolumeName,
    ) -> Result<Volume, VolumeError> {
        let old = &entry.volume.name;
        if state.removed {
            return Err(VolumeError::NotFound { name: old.to_string() });
        }
        entry.refuse_users("rename")?;
        let (from, to) = (self.dir(old), self.dir(&new));
        let taken = || {
            let (name, to) = (old.to_string(), new.to_string());
            VolumeError::Taken { operation: "rename", name, to }
        };
        let renamed = {
            let mut entries = self.entries();
            match fill::rename_new(&from, &to) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
                renamed => renamed.map_err(VolumeError::io("rename", &from))?,
            }
            // Whoever waits for the lock of the old one is told that it is gone.
            state.removed = true;
            entries.remove(old);
            let (volume, content) = record::read_dir(&to, new.clone())?;
            let renamed = volume.clone();
            entries.insert(new.clone(), Entry::new(volume, content));
            renamed
        };
        fault!("volume-rename:after-rename");
        file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))?;
        Ok(renamed)
    }

    /// Changes how much a volume may hold: the record first, so that the
    /// change can be repeated.
    pub(super) fn resize(
        &self,
        name: &VolumeName,
        state: &mut State,
        size: &str,
    ) -> Result<Volume, VolumeError> {
        if state.removed {
            return Err(VolumeError::NotFound { name: name.to_string() });
        }
        let entry = self.entry(name)?;
        let limit = storage::limit(name, size)?;
        entry.content.check_resize(entry.dir(), limit)?;
        let mut volume = entry.volume.clone();
        match limit {
            Some(_) => volume.options.insert("size".to_owned(), size.to_owned()),
            None => volume.options.remove("size"),
        };
        let content = Content { limit, ..entry.content.clone() };
        record::write(entry.dir(), &volume, &content)?;
        if let Some(kept) = self.entries().get_mut(name) {
            (kept.volume, kept.content) = (volume.clone(), content.clone());
        }
        fault!("volume-resize:after-record");
        content.resize(entry.dir())?;
        fault!("volume-resize:after-resize");
        Ok(volume)
    }
}

/// The options of a clone: those of the source, but for where it is mounted
/// from, because a clone holds a copy on this host.
fn options(source: &Volume, spec: &CloneSpec) -> Result<BTreeMap<String, String>, VolumeError> {
    if spec.options.keys().any(|o| MOUNT.contains(&o.as_str())) {
        return Err(VolumeError::Refused {
            operation: "clone",
            name: source.name.to_string(),
            reason: "a clone holds a copy on this host: the options type, o and device are not \
                     for it; create such a volume, and copy into it",
        });
    }
    let mut options = source.options.clone();
    options.retain(|option, _| !MOUNT.contains(&option.as_str()));
    options.extend(spec.options.clone());
    // What was made with a bound can have a clone without.
    options.retain(|option, value| option != "size" || !matches!(value.as_str(), "" | "0"));
    Ok(options)
}

impl Content {
    /// What a snapshot of this content lies in: the same, but for the limit,
    /// which is the volume's.
    pub(super) fn of_snapshot(&self) -> Self {
        self.without_ids()
    }
}
