//! Attaching clients to a container's or an exec's standard streams.
//!
//! Be aware:
//! - A client may attach before the start: it gets its streams when the shim
//!   exists, before the program runs, and so sees the first byte.
//! - Dropping both halves detaches; the container goes on.

pub mod keys;

use std::sync::PoisonError;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use sampan_runtime::logs::{self, LogQuery};
use sampan_runtime::{AttachStream, OutputStream, StdStream, StdinWriter};
use sampan_types::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::container::Container;
use crate::container::state::Status;
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use keys::Scanner;

/// What a client asks for when it attaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Stay attached to what comes.
    pub stream: bool,
    /// First replay the log.
    pub logs: bool,
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
    /// Keys that detach, as `ctrl-p,ctrl-q`; `None`: the default when there
    /// is a terminal.
    pub detach_keys: Option<String>,
}

/// What a process writes, as an attached client gets it.
pub type Output = BoxStream<'static, (StdStream, Bytes)>;

/// The two directions of an attached client.
pub struct Attachment {
    /// Whether there is a terminal: then the output is raw, not multiplexed.
    pub tty: bool,
    /// What the process writes. Ends when the process has ended, or when the
    /// client has typed the detach keys.
    pub output: Output,
    /// What the process reads.
    pub input: AttachInput,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").field("tty", &self.tty).finish_non_exhaustive()
    }
}

impl Attachment {
    /// The streams of a process, with detach keys. The output ends when the
    /// process has written all and `ended` is over.
    pub(crate) fn new(
        tty: bool,
        streams: AttachStream,
        stdin: bool,
        scanner: Scanner,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let source = if stdin { Source::Ready(streams.input) } else { Source::None };
        let input = AttachInput::new(source, scanner);
        let last = stream::once(ended).filter_map(|()| std::future::ready(None));
        let output = streams.output.chain(last);
        let output = output.take_until(input.detached.clone().cancelled_owned());
        Self { tty, output: output.boxed(), input }
    }

    /// An output of one text, for a process that could not be started.
    pub(crate) fn text(tty: bool, text: String) -> Self {
        let chunk = (StdStream::Stdout, Bytes::from(text));
        let input = AttachInput::new(Source::None, Scanner::new(Vec::new()));
        Self { tty, output: stream::iter([chunk]).boxed(), input }
    }
}

/// What became of bytes that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// They went to the process, or wait for the rest of the detach keys.
    Passed,
    /// The detach keys were typed: the client is detached, the output ends.
    Detached,
}

/// Where input goes.
enum Source {
    /// Nowhere: the client did not ask for it, or the process reads nothing.
    None,
    /// To a container that is not started yet.
    Waiting(oneshot::Receiver<StdinWriter>),
    /// To the process.
    Ready(StdinWriter),
}

/// The input half of an attached client. Dropping it leaves the container
/// alone, but see `StdinOnce`.
pub struct AttachInput {
    source: Source,
    scanner: Scanner,
    detached: CancellationToken,
    /// Told when the client detaches, for the event.
    on_detach: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for AttachInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttachInput")
    }
}

impl AttachInput {
    fn new(source: Source, scanner: Scanner) -> Self {
        Self { source, scanner, detached: CancellationToken::new(), on_detach: None }
    }

    /// Sends bytes to the process; waits for its start, and while it does not
    /// read.
    ///
    /// # Errors
    /// When the process has ended, or could not be started.
    pub async fn write(&mut self, bytes: Bytes) -> Result<Written> {
        if self.detached.is_cancelled() {
            return Ok(Written::Detached);
        }
        let scanned = self.scanner.scan(&bytes);
        if !scanned.pass.is_empty() {
            self.pass(scanned.pass.into()).await?;
        }
        if !scanned.detached {
            return Ok(Written::Passed);
        }
        self.detached.cancel();
        if let Some(tell) = self.on_detach.take() {
            tell();
        }
        Ok(Written::Detached)
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// When the process has ended, or could not be started.
    pub async fn close(&mut self) -> Result<()> {
        let rest = self.scanner.finish();
        if !rest.is_empty() {
            self.pass(rest.into()).await?;
        }
        match self.ready().await? {
            Some(writer) => Ok(writer.close().await?),
            None => Ok(()),
        }
    }

    async fn pass(&mut self, bytes: Bytes) -> Result<()> {
        match self.ready().await? {
            Some(writer) => Ok(writer.write(bytes).await?),
            None => Ok(()),
        }
    }

    async fn ready(&mut self) -> Result<Option<&mut StdinWriter>> {
        if let Source::Waiting(receiver) = &mut self.source {
            let writer = receiver
                .await
                .map_err(|_| EngineError::Conflict("the container was not started".to_owned()))?;
            self.source = Source::Ready(writer);
        }
        Ok(match &mut self.source {
            Source::Ready(writer) => Some(writer),
            _ => None,
        })
    }
}

/// A client that attached before the start.
#[derive(Debug)]
pub struct Waiting {
    /// Which streams it wants.
    pub(crate) options: sampan_runtime::AttachOptions,
    output: oneshot::Sender<OutputStream>,
    input: oneshot::Sender<StdinWriter>,
}

impl Waiting {
    /// Hands the streams over. A client that is gone drops them.
    pub(crate) fn hand_over(self, streams: AttachStream) {
        let _ = self.output.send(streams.output);
        let _ = self.input.send(streams.input);
    }
}

/// The scanner for a client's keys: those that it named, else the default
/// ones when there is a terminal.
pub(crate) fn scanner(named: Option<&str>, tty: bool) -> Result<Scanner> {
    let keys = match named.filter(|k| !k.is_empty()) {
        Some(text) => keys::parse(text).map_err(|e| EngineError::Invalid(e.to_string()))?,
        None if tty => keys::DEFAULT.to_vec(),
        None => Vec::new(),
    };
    Ok(Scanner::new(keys))
}

impl Engine {
    /// Attaches to a container, also before it is started.
    ///
    /// # Errors
    /// No such container; it is paused or about to restart; wrong keys.
    pub async fn container_attach(&self, id: &str, options: AttachOptions) -> Result<Attachment> {
        let c = self.container(id)?;
        let record = c.record();
        match record.state.status {
            Status::Paused => {
                return Err(EngineError::Conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    c.id()
                )));
            }
            Status::Restarting => return Err(EngineError::Restarting(c.id().to_string())),
            _ => {}
        }
        let scanner = scanner(options.detach_keys.as_deref(), record.tty())?;
        let mut attachment = if options.stream {
            self.attach_live(&c, &record, &options, scanner).await?
        } else {
            Attachment {
                tty: record.tty(),
                output: stream::empty().boxed(),
                input: AttachInput::new(Source::None, scanner),
            }
        };
        self.container_event(&c, "attach", &[]);
        if options.logs {
            let past = self.replay(&record, &options)?;
            attachment.output = past.chain(attachment.output).boxed();
        }
        let engine = self.clone();
        attachment.input.on_detach =
            Some(Box::new(move || engine.container_event(&c, "detach", &[])));
        Ok(attachment)
    }

    async fn attach_live(
        &self,
        c: &Container,
        record: &ContainerRecord,
        options: &AttachOptions,
        scanner: Scanner,
    ) -> Result<Attachment> {
        let stdin = options.stdin && record.open_stdin();
        let wanted =
            sampan_runtime::AttachOptions { stdin, stdout: options.stdout, stderr: options.stderr };
        if let Some(shim) = c.shim() {
            let streams = shim.attach(wanted).await?;
            return Ok(Attachment::new(
                record.tty(),
                streams,
                stdin,
                scanner,
                std::future::ready(()),
            ));
        }
        let (output, from_output) = oneshot::channel();
        let (input, from_input) = oneshot::channel();
        {
            let mut waiting = c.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|w| !w.output.is_closed());
            waiting.push(Waiting { options: wanted, output, input });
        }
        let source = if stdin { Source::Waiting(from_input) } else { Source::None };
        let input = AttachInput::new(source, scanner);
        let output = stream::once(from_output)
            .filter_map(|ready| std::future::ready(ready.ok()))
            .flatten()
            .take_until(input.detached.clone().cancelled_owned());
        Ok(Attachment { tty: record.tty(), output: output.boxed(), input })
    }

    /// The log up to now.
    fn replay(&self, record: &ContainerRecord, options: &AttachOptions) -> Result<Output> {
        let entries = logs::read(LogQuery {
            setup: self.log_setup(record)?,
            follow: false,
            tail: None,
            since: None,
            until: Some(Timestamp::now()),
            stdout: options.stdout,
            stderr: options.stderr,
            stopped: None,
        });
        // A log that can't be read (none, syslog) has no past.
        Ok(entries
            .filter_map(|entry| std::future::ready(entry.ok()))
            .map(|entry| (entry.stream, entry.line))
            .boxed())
    }
}
