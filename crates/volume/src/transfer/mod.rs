//! Moving volumes between daemons: a tree as a stream, and back.
//!
//! The first stream has everything. Later ones have what changed since one
//! that was sent before: the sender keeps what it sent (an index with a hash
//! of each block, see `index`), the receiver which stream it took last.
//!
//! ```text
//! send   tree + index of the last stream  ->  stream + index of this one
//! receive                          stream ->  a new tree, or a changed copy
//! ```
//!
//! Be aware:
//! - The streams are read by somebody who should not trust them; see
//!   `format` and `receive` for what is checked.
//! - Here is what knows nothing of drivers; what becomes of a volume is the
//!   driver's, which has the capability [`Transfer`].

mod content;
mod error;
mod format;
mod index;
mod receive;
mod send;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sampan_types::VolumeName;
use serde::{Deserialize, Serialize};

pub use self::error::TransferError;
use self::format::{FrameReader, ReadError, STREAM, Step, kind};
use crate::volumes::check_name;
use crate::{BoxFuture, CloneSource, Volume, VolumeError, Volumes, Watch};

/// The header's version.
const VERSION: u32 = 1;

/// What is written to.
pub type Output = Box<dyn Write + Send>;
/// What is read from.
pub type Input = Box<dyn Read + Send>;

/// The name of one stream: 32 hexadecimal digits, chosen when it is sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamId(String);

impl StreamId {
    /// A new one.
    pub(crate) fn random() -> Result<Self, VolumeError> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).map_err(|e| {
            let source = std::io::Error::other(e.to_string());
            VolumeError::io("choose a random name from", "/dev/urandom")(source)
        })?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no [`StreamId`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} names no stream: they are 32 hexadecimal digits")]
pub struct StreamIdError(String);

impl FromStr for StreamId {
    type Err = StreamIdError;

    fn from_str(text: &str) -> Result<Self, StreamIdError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for StreamId {
    type Error = StreamIdError;

    fn try_from(text: String) -> Result<Self, StreamIdError> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(is_digit) {
            return Ok(Self(text));
        }
        Err(StreamIdError(text.chars().take(64).collect()))
    }
}

impl From<StreamId> for String {
    fn from(id: StreamId) -> Self {
        id.0
    }
}

/// What a stream says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format's version.
    pub version: u32,
    /// Its name.
    pub stream: StreamId,
    /// The stream that it has the changes since; everything without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<StreamId>,
    /// The volume's name where it was sent.
    pub volume: String,
    /// The volume's labels there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How a volume is to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// Everything, whatever was sent before.
    pub full: bool,
    /// The changes since this stream; without, since the last one.
    pub since: Option<StreamId>,
}

/// How a volume is to be received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// Its name here; without, the one that it has at the sender.
    pub name: Option<String>,
    /// Whether a stream with everything may take the place of what a volume
    /// holds.
    pub replace: bool,
    /// Labels of a new volume that are added, or that replace the sender's.
    pub labels: BTreeMap<String, String>,
    /// Options of a new volume: `size`, `encrypted` and the like.
    pub options: BTreeMap<String, String>,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The stream.
    pub stream: StreamId,
    /// What it builds on.
    pub since: Option<StreamId>,
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The volume.
    pub volume: Volume,
    /// Whether it is new.
    pub new: bool,
    /// The stream.
    pub stream: StreamId,
    /// What it builds on.
    pub since: Option<StreamId>,
}

/// The capability of a driver to send and to receive volumes.
///
/// What is received appears whole or not at all, also when the process dies
/// in the middle or the stream ends there.
pub trait Transfer: Send + Sync {
    /// Writes what a volume, or a snapshot of it, holds.
    ///
    /// Errors: [`TransferError::NotKept`], those of the file system and of the
    /// output.
    fn send<'a>(
        &'a self,
        from: &'a CloneSource,
        options: &'a SendOptions,
        output: Output,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Sent, VolumeError>>;

    /// Makes or changes the volume `name` as a stream says.
    ///
    /// Errors: [`TransferError`], [`VolumeError::Mounted`], those of the file
    /// system and of the input.
    fn receive<'a>(
        &'a self,
        name: &'a VolumeName,
        stream: Incoming,
        options: &'a ReceiveOptions,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<Received, VolumeError>>;
}

impl Volumes {
    /// Writes what a volume, or a snapshot of it, holds, as a stream.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::NoCare`], and see
    /// [`Transfer::send`].
    pub async fn send(
        &self,
        from: &str,
        snapshot: Option<&sampan_types::SnapshotName>,
        options: &SendOptions,
        output: Output,
        watch: &Watch,
    ) -> Result<Sent, VolumeError> {
        let (driver, volume) = self.lookup(from)?;
        let transfer = driver.transfer().ok_or_else(|| no_transfer("send", &volume))?;
        let source = CloneSource { volume: volume.name.clone(), snapshot: snapshot.cloned() };
        transfer.send(&source, options, output, watch).await
    }

    /// Makes or changes a volume as a stream says.
    ///
    /// # Errors
    /// A wrong name, [`VolumeError::NoCare`], and see [`Transfer::receive`].
    pub async fn receive(
        &self,
        stream: Incoming,
        options: &ReceiveOptions,
        watch: &Watch,
    ) -> Result<Received, VolumeError> {
        let name = check_name(options.name.as_deref().unwrap_or(&stream.header.volume))?;
        match self.lookup(name.as_str()) {
            Ok((driver, volume)) => {
                let transfer = driver.transfer().ok_or_else(|| no_transfer("receive", &volume))?;
                transfer.receive(&name, stream, options, watch).await
            }
            Err(VolumeError::NotFound { .. }) => {
                let driver = self.drivers().iter().find_map(|driver| driver.transfer());
                let driver = driver.ok_or_else(|| VolumeError::NoDriver {
                    name: name.to_string(),
                    driver: crate::local::DRIVER.to_owned(),
                })?;
                driver.receive(&name, stream, options, watch).await
            }
            Err(e) => Err(e),
        }
    }
}

fn no_transfer(operation: &'static str, volume: &Volume) -> VolumeError {
    let (name, driver) = (volume.name.to_string(), volume.driver.clone());
    VolumeError::NoCare { operation, name, driver }
}

/// A stream that is being received: its header is read.
pub struct Incoming {
    /// What it says of itself.
    pub header: Header,
    frames: FrameReader<zstd::stream::read::Decoder<'static, BufReader<Input>>>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Reads the header. Blocks.
    ///
    /// # Errors
    /// [`TransferError::NotAStream`], [`TransferError::Version`],
    /// [`TransferError::Damaged`].
    pub fn open(input: Input) -> Result<Self, VolumeError> {
        let frames = format::unpack(BufReader::new(input), STREAM).map_err(unread)?;
        let mut frames = frames.ok_or(TransferError::NotAStream)?;
        let Some((kind::HEADER, payload)) = frames.next().map_err(unread)? else {
            return Err(stream_damaged("it begins with something else than its header"));
        };
        let header = header(payload)?;
        Ok(Self { header, frames })
    }

    /// Makes the tree below `root`, which is empty, or what the stream builds
    /// on. Blocks. After an error the tree is to be discarded.
    ///
    /// # Errors
    /// [`TransferError::Damaged`], [`VolumeError::Full`], those of the file
    /// system.
    pub(crate) fn apply(mut self, root: &Path, watch: &Watch) -> Result<Header, VolumeError> {
        let is_change = self.header.since.is_some();
        receive::receive_tree(root, &mut self.frames, is_change, watch)?;
        // Nothing may follow: somebody appended it.
        let decoder = self.frames.input();
        let rest = decoder.read(&mut [0; 1]).map_err(|e| unread(e.into()))?;
        let follows =
            rest > 0 || !decoder.get_mut().fill_buf().map_err(|e| unread(e.into()))?.is_empty();
        if follows {
            return Err(stream_damaged("something follows its end"));
        }
        Ok(self.header)
    }
}

fn header(payload: &[u8]) -> Result<Header, VolumeError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let bad = |e: serde_json::Error| stream_damaged(&format!("its header: {e}"));
    let Version { version } = serde_json::from_slice(payload).map_err(bad)?;
    if version != VERSION {
        return Err(TransferError::Version { version, known: VERSION }.into());
    }
    serde_json::from_slice(payload).map_err(bad)
}

/// Writes a stream of the tree below `root`: everything, or with `base` the
/// changes since that index; writes the index of what it sends to `index`,
/// where nothing is. Blocks.
///
/// # Errors
/// Those of the file system and of the output.
pub(crate) fn write_stream(
    root: &Path,
    header: &Header,
    base: Option<&Path>,
    index: &Path,
    output: Output,
    watch: &Watch,
) -> Result<(), VolumeError> {
    let unsent = || VolumeError::io("send", root);
    let base = base.map(index::IndexReader::open).transpose().map_err(index_damaged)?;
    let mut writer = index::IndexWriter::create(index).map_err(VolumeError::io("create", index))?;
    let mut frames = format::pack(output, STREAM).map_err(unsent())?;
    let text = serde_json::to_vec(header).map_err(|e| unsent()(e.into()))?;
    frames.write(kind::HEADER, &[&text]).map_err(unsent())?;
    send::send_tree(root, &mut frames, base, &mut writer, watch)?;
    let mut output = frames.end().and_then(|packed| packed.finish()).map_err(unsent())?;
    output.flush().map_err(unsent())?;
    writer.end().map_err(VolumeError::io("write", index))
}

/// Something below `root`, which is not looked at itself, that was changed
/// after a time. Blocks.
///
/// # Errors
/// Those of the file system.
pub(crate) fn changed_after(
    root: &Path,
    time: sampan_types::Timestamp,
) -> Result<Option<PathBuf>, VolumeError> {
    let below = |path: Vec<u8>| root.join(OsStr::from_bytes(&path));
    match tree::changed_after(root, time.nanos().into()) {
        Ok(found) => Ok(found.map(below)),
        Err((path, e)) => Err(VolumeError::io("look at", below(path))(e.into())),
    }
}

/// Parses frames that are not packed; for the fuzzer.
///
/// # Errors
/// What is wrong with them.
#[doc(hidden)]
pub fn check_frames(input: &[u8]) -> Result<usize, String> {
    let text = |e: ReadError| format!("{e:?}");
    let mut frames = FrameReader::new(input);
    let mut count = 0;
    while let Some((kind, payload)) = frames.next().map_err(text)? {
        if kind == kind::HEADER {
            let _ = header(payload);
        } else if let Step::Entry(entry) = Step::decode(kind, payload).map_err(text)? {
            let again = entry.encode();
            assert_eq!(Step::decode(kind::ENTRY, &again).map_err(text)?, Step::Entry(entry));
        }
        count += 1;
    }
    Ok(count)
}

/// What is wrong with a stream.
fn stream_damaged(reason: &str) -> VolumeError {
    let (what, remedy) = ("the stream of a volume", "nothing of it is kept, send it again");
    TransferError::Damaged { what, reason: reason.to_owned(), remedy }.into()
}

/// Why a stream could not be read.
fn unread(error: ReadError) -> VolumeError {
    match error {
        ReadError::Io(e) => VolumeError::io("receive", "the stream of a volume")(e),
        ReadError::Bad(reason) => stream_damaged(&reason),
    }
}

/// Why the index of what was sent could not be read.
fn index_damaged(error: ReadError) -> VolumeError {
    match error {
        ReadError::Io(e) => VolumeError::io("read", "what was sent before")(e),
        ReadError::Bad(reason) => {
            let (what, remedy) = ("the record of what was sent", "send everything with --full");
            TransferError::Damaged { what, reason, remedy }.into()
        }
    }
}

#[cfg(test)]
mod tests;
