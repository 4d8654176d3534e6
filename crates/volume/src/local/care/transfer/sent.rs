//! What was sent of a volume. All of it blocks.
//!
//! ```text
//! volumes/<name>/sent/sent.json        the streams that are known, the latest first
//! volumes/<name>/sent/<stream>.index   what a stream held
//! volumes/<name>/sent/.new.<stream>    being sent
//! ```
//!
//! Be aware: that a stream was written does not say that it was received. So
//! what it built on is kept as well, until the next one was sent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sampan_sys::file;
use sampan_types::SnapshotName;
use serde::{Deserialize, Serialize};

use super::super::fill::Source;
use super::super::snapshot;
use crate::fault::fault;
use crate::local::operations::make_dir;
use crate::local::record::NEW;
use crate::local::{Entry, Inner};
use crate::transfer::{self, Header, Output, SendOptions, Sent, StreamId, TransferError};
use crate::{VolumeError, Watch};

const DIR: &str = "sent";
const FILE: &str = "sent.json";
const VERSION: u32 = 1;

/// `sent.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The layout's version.
    version: u32,
    /// The latest first.
    streams: Vec<StreamId>,
}

impl Inner {
    /// Writes what a volume, or one of its snapshots, holds.
    pub(super) fn send(
        &self,
        entry: &Entry,
        snapshot: Option<&SnapshotName>,
        options: &SendOptions,
        output: Output,
        watch: &Watch,
    ) -> Result<Sent, VolumeError> {
        let source = match snapshot {
            None => Source::volume(entry),
            Some(name) => snapshot::open(entry, name)?,
        };
        let dir = entry.dir().join(DIR);
        if !dir.is_dir() {
            make_dir(&dir, 0o700)?;
        }
        let known = known(entry, &dir)?;
        let since = base(entry, options, &known)?;
        let stream = StreamId::random()?;
        let header = Header {
            version: 1,
            stream: stream.clone(),
            since: since.clone(),
            volume: entry.volume.name.to_string(),
            labels: entry.volume.labels.clone(),
        };
        let new = dir.join(format!("{NEW}{stream}"));
        let written = source.while_open(|data| {
            let base = since.as_ref().map(|since| index(&dir, since));
            transfer::write_stream(data, &header, base.as_deref(), &new, output, watch)
        });
        fault!("volume-send:after-stream");
        if let Err(error) = written {
            file::remove_file(&new).map_err(VolumeError::io("remove", &new))?;
            return Err(error);
        }
        fs::rename(&new, index(&dir, &stream)).map_err(VolumeError::io("rename", &new))?;
        fault!("volume-send:after-index");
        // What it builds on, or, when that is nothing, the one before.
        let before = since.clone().or_else(|| known.into_iter().next());
        let streams: Vec<StreamId> = std::iter::once(stream.clone()).chain(before).collect();
        write(entry, &dir, &streams)?;
        fault!("volume-send:after-record");
        clear(&dir, &streams)?;
        Ok(Sent { stream, since })
    }
}

impl Source {
    /// Does `work` with the directory of the content, which is mounted for
    /// that time.
    fn while_open<T>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, VolumeError>,
    ) -> Result<T, VolumeError> {
        let data = self.dir.join(crate::local::record::DATA);
        if !self.content.needs_mount() || self.content.is_mounted(&self.dir)? {
            return work(&data);
        }
        self.content.ensure_mounted(&self.dir)?;
        let done = work(&data);
        let closed = self.content.ensure_unmounted(&self.dir);
        done.and_then(|value| closed.map(|()| value))
    }
}

/// What the stream is to build on.
fn base(
    entry: &Entry,
    options: &SendOptions,
    known: &[StreamId],
) -> Result<Option<StreamId>, VolumeError> {
    match &options.since {
        _ if options.full => Ok(None),
        None => Ok(known.first().cloned()),
        Some(since) if known.contains(since) => Ok(Some(since.clone())),
        Some(since) => Err(TransferError::NotKept {
            name: entry.volume.name.to_string(),
            since: since.clone(),
            kept: known.to_vec(),
        }
        .into()),
    }
}

fn index(dir: &Path, stream: &StreamId) -> PathBuf {
    dir.join(format!("{stream}.index"))
}

/// The streams whose indexes are there.
fn known(entry: &Entry, dir: &Path) -> Result<Vec<StreamId>, VolumeError> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
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
    Ok(record.streams.into_iter().filter(|stream| index(dir, stream).is_file()).collect())
}

fn write(entry: &Entry, dir: &Path, streams: &[StreamId]) -> Result<(), VolumeError> {
    let path = dir.join(FILE);
    let record = Record { version: VERSION, streams: streams.to_vec() };
    let name = entry.volume.name.to_string();
    let text = serde_json::to_vec(&record).map_err(|source| VolumeError::Record {
        name,
        path: path.clone(),
        source,
    })?;
    file::write_atomic(&path, &text, 0o600).map_err(VolumeError::io("write", path))
}

/// Removes what is not needed any more, and what a crash left.
fn clear(dir: &Path, streams: &[StreamId]) -> Result<(), VolumeError> {
    let wanted: Vec<PathBuf> =
        streams.iter().map(|s| index(dir, s)).chain([dir.join(FILE)]).collect();
    for entry in fs::read_dir(dir).map_err(VolumeError::io("read", dir))? {
        let path = entry.map_err(VolumeError::io("read", dir))?.path();
        if !wanted.contains(&path) {
            file::remove_file(&path).map_err(VolumeError::io("remove", &path))?;
        }
    }
    Ok(())
}
