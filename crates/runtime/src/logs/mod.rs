//! Container logs: drivers, their options, the writers that the shim uses and
//! the readers that the daemon uses.
//!
//! Be aware:
//! - Writers are synchronous and small: they run in the shim's only thread.
//! - Readers follow by inotify; they never look at a file "from time to time".

mod config;
mod json;
mod local;
mod reader;
mod rotate;
mod scan;
pub mod split;
mod syslog;
pub mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use config::{LogInfo, LogOptError, setup, validate};
pub use reader::{LogEntry, LogQuery, LogReadError, read};
pub use split::LineSplitter;
pub use writer::{LogSink, Record};

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StdStream {
    /// Standard output; with a terminal, everything.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StdStream {
    /// The word that log files use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where a container's output goes: complete, so that the shim needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSetup {
    /// Nowhere.
    None,
    /// Docker's JSON lines.
    JsonFile {
        /// The file; rotated ones have `.1`, `.2` … appended (and `.gz`).
        path: PathBuf,
        /// Bytes after which it is rotated; zero for never.
        max_size: u64,
        /// Files kept, the current one included; at least one.
        max_file: u32,
        /// Whether rotated files are compressed.
        compress: bool,
        /// What is added to each entry: labels, environment, tag.
        attrs: BTreeMap<String, String>,
    },
    /// Sampan's compact binary records.
    Local {
        /// The file; rotated ones have `.1`, `.2` … appended (and `.gz`).
        path: PathBuf,
        /// Bytes after which it is rotated; zero for never.
        max_size: u64,
        /// Files kept, the current one included; at least one.
        max_file: u32,
        /// Whether rotated files are compressed.
        compress: bool,
        /// Labels, environment, tag: written once per file.
        attrs: BTreeMap<String, String>,
    },
    /// A syslog receiver.
    Syslog {
        /// Where it listens.
        address: SyslogAddress,
        /// The facility's number, 0 to 23.
        facility: u8,
        /// The tag of each message.
        tag: String,
        /// How messages are written.
        format: SyslogFormat,
        /// Bytes kept while the receiver is away; older ones are dropped.
        buffer: u64,
    },
}

/// Where a syslog receiver listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogAddress {
    /// The machine's own: `/dev/log`, `/var/run/syslog` or `/var/run/log`.
    Local,
    /// A datagram socket of this machine.
    UnixGram(PathBuf),
    /// A stream socket of this machine.
    Unix(PathBuf),
    /// `host:port` over UDP.
    Udp(String),
    /// `host:port` over TCP.
    Tcp(String),
}

/// How syslog messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// As Go's `log/syslog` does on the local socket.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, seconds.
    Rfc5424,
    /// RFC 5424, microseconds.
    Rfc5424Micro,
}
