//! A container's log, as `docker logs` shows it.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sampan_runtime::logs::{LogEntry, LogQuery, LogReadError, read};
use sampan_runtime::{LogSetup, StdStream};
use sampan_types::Timestamp;
use tokio::sync::watch;

use crate::container::Container;
use crate::record::Status;
use crate::{Engine, EngineError, Result};

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
        let container = self.container(id)?;
        let record = container.record();
        if !options.stdout && !options.stderr {
            return Err(EngineError::Invalid(
                "Bad parameters: you must choose at least one stream".to_owned(),
            ));
        }
        if matches!(record.state.status, Status::Dead | Status::Removing) {
            return Err(EngineError::Conflict(
                "can not get logs from container which is dead or marked for removal".to_owned(),
            ));
        }
        let setup = self.log_setup(&record)?;
        if matches!(setup, LogSetup::None | LogSetup::Syslog { .. }) {
            return Err(EngineError::part(LogReadError::Unreadable));
        }
        let query = LogQuery {
            setup,
            follow: options.follow,
            tail: options.tail,
            since: options.since,
            until: options.until,
            stdout: options.stdout,
            stderr: options.stderr,
            stopped: options.follow.then(|| until_stopped(&container)),
        };
        let mut prefix = Prefix::new(options.timestamps, options.details);
        let stream = read(query).map(move |entry| match entry {
            Ok(entry) => Ok(LogOutput { stream: entry.stream, data: prefix.put(&entry) }),
            Err(error) => Err(EngineError::part(error)),
        });
        Ok(Logs { tty: record.tty(), stream: stream.boxed() })
    }
}

/// Becomes true when the container has no process (any more). The task ends
/// with its last listener.
fn until_stopped(container: &Arc<Container>) -> watch::Receiver<bool> {
    let mut live = container.subscribe();
    let (stopped, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            // An error means that the container is gone.
            _ = live.wait_for(|l| l.removed || !l.record.state.has_process()) => {
                stopped.send_replace(true);
            }
            () = stopped.closed() => {}
        }
    });
    receiver
}

/// What is put before each line.
struct Prefix {
    timestamps: bool,
    details: bool,
    /// Whether a piece without a newline was the last one: of standard output,
    /// of standard error.
    open: [bool; 2],
}

impl Prefix {
    fn new(timestamps: bool, details: bool) -> Self {
        Self { timestamps, details, open: [false; 2] }
    }

    fn put(&mut self, entry: &LogEntry) -> Bytes {
        let open = &mut self.open[usize::from(entry.stream == StdStream::Stderr)];
        let continues = std::mem::replace(open, !entry.line.ends_with(b"\n"));
        if continues || !(self.timestamps || self.details) {
            return entry.line.clone();
        }
        let mut text = String::new();
        if self.timestamps {
            text.push_str(&fixed(entry.time));
            text.push(' ');
        }
        if self.details {
            for (at, (key, value)) in entry.attrs.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                text.push_str(comma);
                escape(&mut text, key);
                text.push('=');
                escape(&mut text, value);
            }
            text.push(' ');
        }
        let mut out = BytesMut::with_capacity(text.len() + entry.line.len());
        out.put_slice(text.as_bytes());
        out.put_slice(&entry.line);
        out.freeze()
    }
}

/// RFC 3339 with nine digits after the point, always.
fn fixed(time: Timestamp) -> String {
    let whole = Timestamp::from_nanos(time.seconds().saturating_mul(1_000_000_000)).to_string();
    let nanos = time.nanos().rem_euclid(1_000_000_000);
    format!("{}.{nanos:09}Z", whole.trim_end_matches('Z'))
}

/// As Go's `url.QueryEscape`.
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                // Writing to a String can't fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entry(stream: StdStream, line: &'static str) -> LogEntry {
        let attrs = [("b", "x y"), ("a", "1,2")];
        LogEntry {
            stream,
            time: Timestamp::from_nanos(1_700_000_000_000_000_500),
            line: Bytes::from_static(line.as_bytes()),
            attrs: Arc::new(attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
        }
    }

    fn lines(mut prefix: Prefix, entries: &[LogEntry]) -> String {
        entries.iter().map(|e| String::from_utf8(prefix.put(e).to_vec()).unwrap()).collect()
    }

    #[test]
    fn prefixes_stand_before_lines_only() {
        use StdStream::{Stderr, Stdout};
        let entries = [
            entry(Stdout, "long "),
            entry(Stderr, "e\n"),
            entry(Stdout, "line\n"),
            entry(Stdout, "x\n"),
        ];
        assert_eq!(lines(Prefix::new(false, false), &entries), "long e\nline\nx\n");
        let t = "2023-11-14T22:13:20.000000500Z ";
        assert_eq!(
            lines(Prefix::new(true, false), &entries),
            format!("{t}long {t}e\nline\n{t}x\n")
        );
        let d = "a=1%2C2,b=x+y ";
        assert_eq!(lines(Prefix::new(true, true), &entries[3..]), format!("{t}{d}x\n"));
    }

    #[test]
    fn without_attributes_details_are_a_blank() {
        let bare = LogEntry { attrs: Arc::new(BTreeMap::new()), ..entry(StdStream::Stdout, "x\n") };
        assert_eq!(lines(Prefix::new(false, true), &[bare]), " x\n");
    }
}
