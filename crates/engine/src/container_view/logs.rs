//! A container's log, as `docker logs` shows it.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use sampan_runtime::StdStream;
use sampan_types::Timestamp;

use crate::{Engine, Result};

/// What to read of a log.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Wait for more until the container ends.
    pub follow: bool,
    /// Nothing before this.
    pub since: Option<Timestamp>,
    /// Nothing after this.
    pub until: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Put the log's attributes before each line.
    pub details: bool,
    /// Only the last so many lines; `None` for all.
    pub tail: Option<usize>,
}

/// A piece of a log, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOutput {
    /// Where it came from.
    pub stream: StdStream,
    /// What to send.
    pub data: Bytes,
}

/// A log that is being read.
pub struct Logs {
    /// Whether the container has a terminal: no frames then.
    pub tty: bool,
    /// Its pieces; an error is the last item.
    pub stream: BoxStream<'static, Result<LogOutput>>,
}

impl Engine {
    /// Reads a container's log.
    ///
    /// # Errors
    /// No such container; a log driver that can't be read; neither stream chosen.
    pub async fn container_logs(&self, id: &str, options: LogsOptions) -> Result<Logs> {
        let _ = (id, options);
        todo!()
    }
}
