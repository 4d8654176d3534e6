//! Taking a stream as a volume's content. All of it blocks.
//!
//! ```text
//! volumes/<name>/received.json   the stream that was taken last
//! ```
//!
//! Be aware:
//! - What a stream builds on is the volume as it was received. That nobody
//!   changed it since is seen by what the kernel writes down at every change:
//!   the times of change of all entries, and which directory it is.
//! - The record is written after the content is in its place. A crash between
//!   them leaves one that does not fit, and everything has to be sent again.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sampan_sys::file;
use sampan_types::{Timestamp, VolumeName};
use serde::{Deserialize, Serialize};

use super::super::{exchange, fill};
use crate::fault::fault;
use crate::local::operations::make_dir;
use crate::local::record::{self, DATA, NEW};
use crate::local::storage::{Content, Fresh, Storage, Wish};
use crate::local::{DRIVER, Entry, Inner};
use crate::transfer::{Header, Incoming, ReceiveOptions, Received, StreamId, TransferError};
use crate::{ANONYMOUS_LABEL, Volume, VolumeError, Watch};

const FILE: &str = "received.json";
const VERSION: u32 = 1;
/// What holds a volume in an image file.
const IMAGE: &str = "content.img";

/// `received.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The layout's version.
    version: u32,
    stream: StreamId,
    /// Nothing in the volume was changed after this.
    received: Timestamp,
    /// What the content is.
    content: Identity,
}

/// What tells the content that was received from any that took its place.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    ino: u64,
    /// When the root was changed last, which a rename does as well; of content
    /// that lies in an image the root is among the other entries.
    changed: Option<(i64, i64)>,
}

impl Identity {
    fn of(content: &Content, dir: &Path) -> Result<Self, VolumeError> {
        let is_image = matches!(content.storage, Storage::Image);
        let path = dir.join(if is_image { IMAGE } else { DATA });
        let found = path.symlink_metadata().map_err(VolumeError::io("look at", &path))?;
        let changed = (!is_image).then(|| (found.ctime(), found.ctime_nsec()));
        Ok(Self { ino: found.ino(), changed })
    }
}

impl Inner {
    /// Makes a volume as a stream says.
    pub(super) fn receive_new(
        &self,
        name: VolumeName,
        stream: Incoming,
        options: &ReceiveOptions,
        watch: &Watch,
    ) -> Result<Received, VolumeError> {
        if let Some(since) = stream.header.since.clone() {
            return Err(TransferError::NoVolume { name: name.to_string(), since }.into());
        }
        let wish = Wish::new(&name, &options.options)?;
        if wish.mount.is_some() {
            return Err(elsewhere(&name));
        }
        let content = self.decide(&name, wish)?;
        let mut labels = stream.header.labels.clone();
        labels.remove(ANONYMOUS_LABEL);
        labels.extend(options.labels.clone());
        let dir = self.dir(&name);
        let volume = Volume {
            mountpoint: dir.join(DATA),
            driver: DRIVER.to_owned(),
            created: Timestamp::now(),
            options: options.options.clone(),
            labels,
            name: name.clone(),
        };
        let new = self.temporary(NEW)?;
        make_dir(&new, 0o701)?;
        let made = content
            .make(&new)
            .and_then(|()| fill_from(stream, &content, &new, watch))
            .and_then(|header| {
                record::write(&new, &volume, &content)?;
                write(&new, &content, &header)?;
                fill::settle(&new).map(|()| header)
            });
        fault!("volume-receive:after-content");
        let named = made.and_then(|header| {
            let mut entries = self.entries();
            match fill::rename_new(&new, &dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(TransferError::Exists { name: name.to_string() }.into());
                }
                renamed => renamed.map_err(VolumeError::io("create", &dir))?,
            }
            let (volume, content) = (volume.clone(), content.clone());
            entries.insert(name, Entry::new(volume, content));
            Ok(header)
        });
        let header = named.inspect_err(|_| {
            fill::discard(&content, &new);
            content.give_back(&self.projects);
        })?;
        fault!("volume-receive:after-rename");
        file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))?;
        Ok(Received { volume, new: true, stream: header.stream, since: None })
    }

    /// Gives a volume the content that a stream says. `user` is one of its
    /// users for as long as this takes; no other may be there at the end.
    pub(super) fn receive_into(
        &self,
        entry: &Entry,
        stream: Incoming,
        options: &ReceiveOptions,
        user: &str,
        watch: &Watch,
    ) -> Result<Received, VolumeError> {
        let name = &entry.volume.name;
        if !options.options.is_empty() || !options.labels.is_empty() {
            return Err(VolumeError::Refused {
                operation: "receive",
                name: name.to_string(),
                reason: "there is such a volume already, and options and labels are for new \
                         ones: leave them out, or name a new volume",
            });
        }
        if matches!(entry.content.storage, Storage::Mount(_)) {
            return Err(elsewhere(name));
        }
        let since = stream.header.since.clone();
        if since.is_none() && !options.replace {
            return Err(TransferError::Exists { name: name.to_string() }.into());
        }
        refuse_others(entry, user)?;
        if let Some(since) = &since {
            check_base(entry, since)?;
        }
        let content = self.like(entry)?;
        let new = self.temporary(NEW)?;
        make_dir(&new, 0o700)?;
        let exchanged = self
            .build(entry, stream, &content, &new, watch)
            .and_then(|header| self.put(entry, &header, &content, &new, user).map(|()| header));
        match exchanged {
            Ok(header) => {
                // What was the volume's content until now.
                fill::discard(&entry.content, &new);
                if entry.content.project() != content.project() {
                    entry.content.give_back(&self.projects);
                }
                let volume = entry.volume.clone();
                Ok(Received { volume, new: false, stream: header.stream, since })
            }
            Err(error) => {
                fill::discard(&content, &new);
                if entry.content.project() != content.project() {
                    content.give_back(&self.projects);
                }
                Err(error)
            }
        }
    }

    /// Makes the new content beside what the volume has.
    fn build(
        &self,
        entry: &Entry,
        stream: Incoming,
        content: &Fresh,
        new: &Path,
        watch: &Watch,
    ) -> Result<Header, VolumeError> {
        if stream.header.since.is_some() {
            // How far the copy is says nothing of the stream.
            entry.content.clone_content(entry.dir(), content, new, &watch.quiet())?;
        } else {
            content.make(new)?;
        }
        let header = fill_from(stream, content, new, watch)?;
        fill::settle(new)?;
        fault!("volume-receive:after-content");
        Ok(header)
    }

    /// Exchanges the content, while nobody else has it mounted.
    fn put(
        &self,
        entry: &Entry,
        header: &Header,
        content: &Content,
        new: &Path,
        user: &str,
    ) -> Result<(), VolumeError> {
        let _turn = entry.state.blocking_lock();
        refuse_others(entry, user)?;
        if self.entry(&entry.volume.name)?.volume != entry.volume {
            let name = entry.volume.name.to_string();
            return Err(VolumeError::Refused {
                operation: "receive",
                name,
                reason: "its options were changed meanwhile: receive it again",
            });
        }
        if let Some(since) = &header.since {
            // Somebody may have come and gone meanwhile.
            check_base(entry, since)?;
        }
        if entry.content.needs_mount() {
            entry.ensure_unmounted()?;
        }
        exchange::exchange(new, entry.dir())?;
        fault!("volume-receive:after-exchange");
        if let Some(kept) = self.entries().get_mut(&entry.volume.name) {
            kept.content = content.clone();
        }
        record::write(entry.dir(), &entry.volume, content)?;
        write(entry.dir(), content, header)?;
        fault!("volume-receive:after-record");
        file::sync_dir(&self.root).map_err(VolumeError::io("synchronise", &self.root))
    }
}

fn elsewhere(name: &VolumeName) -> VolumeError {
    VolumeError::Refused {
        operation: "receive",
        name: name.to_string(),
        reason: "its content is elsewhere (option device), where it can't be exchanged in one \
                 step: receive another volume, and copy from it",
    }
}

fn refuse_others(entry: &Entry, user: &str) -> Result<(), VolumeError> {
    let mut users = entry.users.all();
    users.retain(|u| u != user);
    if users.is_empty() {
        return Ok(());
    }
    let name = entry.volume.name.to_string();
    Err(VolumeError::Mounted { operation: "receive", name, users })
}

/// Applies a stream to the content in `dir`, which is mounted for that time.
fn fill_from(
    stream: Incoming,
    content: &Fresh,
    dir: &Path,
    watch: &Watch,
) -> Result<Header, VolumeError> {
    content.ensure_mounted(dir)?;
    let filled = stream
        .apply(&Content::data(dir), watch)
        .and_then(|header| content.give_owner(dir).map(|()| header));
    let closed = if content.needs_mount() { content.ensure_unmounted(dir) } else { Ok(()) };
    filled.and_then(|header| closed.map(|()| header))
}

/// Writes down what the content in `dir`, complete and in its place, is.
fn write(dir: &Path, content: &Content, header: &Header) -> Result<(), VolumeError> {
    let path = dir.join(FILE);
    let record = Record {
        version: VERSION,
        stream: header.stream.clone(),
        received: Timestamp::now(),
        content: Identity::of(content, dir)?,
    };
    let name = header.volume.clone();
    let text = serde_json::to_vec(&record).map_err(|source| VolumeError::Record {
        name,
        path: path.clone(),
        source,
    })?;
    file::write_atomic(&path, &text, 0o600).map_err(VolumeError::io("write", path))
}

fn read(entry: &Entry) -> Result<Option<Record>, VolumeError> {
    let path = entry.dir().join(FILE);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(VolumeError::io("read", &path))?,
    };
    let name = entry.volume.name.to_string();
    let record: Record = serde_json::from_slice(&text).map_err(|source| VolumeError::Record {
        name,
        path: path.clone(),
        source,
    })?;
    if record.version > VERSION {
        let source = io::Error::other("it was written by a later version");
        return Err(VolumeError::io("read", path)(source));
    }
    Ok(Some(record))
}

/// Whether the volume, which is mounted, holds what the stream `since` brought.
fn check_base(entry: &Entry, since: &StreamId) -> Result<(), VolumeError> {
    let name = || entry.volume.name.to_string();
    let record = read(entry)?;
    let held = match record {
        Some(record) if record.stream == *since => record,
        other => {
            let held = other.map(|record| record.stream);
            return Err(
                TransferError::WrongBase { name: name(), since: since.clone(), held }.into()
            );
        }
    };
    let changed = |path: &str| TransferError::Changed { name: name(), path: path.to_owned() };
    let identity = Identity::of(&entry.content, entry.dir())?;
    if identity != held.content {
        return Err(changed("the content, or its root").into());
    }
    let root = Content::data(entry.dir());
    let mut found = None;
    if identity.changed.is_none() && is_after(&root, held.received)? {
        found = Some(root.clone());
    }
    if found.is_none() {
        found = crate::transfer::changed_after(&root, held.received)?;
    }
    match found {
        Some(path) => {
            let path = path.strip_prefix(&root).unwrap_or(&path).as_os_str().as_bytes();
            let path: String = String::from_utf8_lossy(path).chars().take(200).collect();
            Err(changed(if path.is_empty() { "its root" } else { &path }).into())
        }
        None => Ok(()),
    }
}

fn is_after(path: &Path, received: Timestamp) -> Result<bool, VolumeError> {
    let found = path.symlink_metadata().map_err(VolumeError::io("look at", path))?;
    Ok(i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec())
        > i128::from(received.nanos()))
}
