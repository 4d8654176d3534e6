//! Reading logs back: the end first, across rotated files, following.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use sampan_types::{ErrorKind, Kind, Timestamp};
use thiserror::Error;
use tokio::sync::watch;

use super::{LogSetup, StdStream};

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it came from.
    pub stream: StdStream,
    /// When.
    pub time: Timestamp,
    /// The text with its newline; a piece of a long line has none.
    pub line: Bytes,
    /// Labels, environment, tag.
    pub attrs: Arc<BTreeMap<String, String>>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct LogQuery {
    /// The log.
    pub setup: LogSetup,
    /// Whether to wait for more at the end.
    pub follow: bool,
    /// Only the last so many records (after `since` and `until`).
    pub tail: Option<usize>,
    /// Nothing before this.
    pub since: Option<Timestamp>,
    /// Nothing after this; ends a following read.
    pub until: Option<Timestamp>,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
    /// Becomes true when the container has stopped and its log is complete:
    /// a following read ends after the rest. `None`: follows for ever.
    pub stopped: Option<watch::Receiver<bool>>,
}

/// Why a log can't be read.
#[derive(Debug, Error)]
pub enum LogReadError {
    /// The driver does not keep what it got.
    #[error("configured logging driver does not support reading")]
    Unreadable,
    /// The file can't be read.
    #[error("reading the log {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Kind for LogReadError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreadable => ErrorKind::NotImplemented,
            Self::Io { .. } => ErrorKind::System,
        }
    }
}

/// Reads a log. The first item is the error when the driver keeps nothing.
/// Dropping the stream ends the reading.
#[must_use]
pub fn read(query: LogQuery) -> BoxStream<'static, Result<LogEntry, LogReadError>> {
    let _ = query;
    let _: Option<&dyn Stream<Item = ()>> = None;
    todo!()
}
