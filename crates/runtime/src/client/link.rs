//! A connection to a shim: requests, their answers, and the news of the exit.
//!
//! One task owns the connection. When it ends without the news, the shim was
//! killed; what the end was then is for [`Orphan`] to find out.
//!
//! Be aware:
//! - The task lives as long as the connection, not as long as its handles:
//!   somebody has to learn of the exit.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::types::ExitStatus;
use crate::error::RuntimeError;
use crate::protocol::{Failure, Info, Kind, Op, Parsed, Reason, Reply, SOCKET, json_frame, parse};

/// Finds out how a process ended whose shim is gone, and ends it if need be.
pub(super) type Orphan = Box<dyn FnOnce() -> BoxFuture<'static, ExitStatus> + Send>;

/// A request on its way, and where its answer goes.
struct Request {
    op: Op,
    answer: oneshot::Sender<Reply>,
}

/// A connection to a shim. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `container <id>` or `exec <id>`, for messages.
    what: String,
    /// The shim's directory.
    dir: PathBuf,
    requests: mpsc::UnboundedSender<Request>,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// The latest that the shim said of itself. Locked only to copy it.
    info: Mutex<Info>,
}

impl Link {
    /// Takes over a connection whose first answer was `info`.
    pub(super) fn new(
        what: String,
        dir: PathBuf,
        stream: UnixStream,
        rest: BytesMut,
        info: Info,
        orphan: Orphan,
    ) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        let (news, exit) = watch::channel(info.exit.clone());
        let wire = Wire { stream, received: rest, waiting: VecDeque::new() };
        tokio::spawn(async move {
            let status = match wire.run(incoming, &news).await {
                Some(status) => status,
                // The exit was told with the first answer already.
                None if news.borrow().is_some() => return,
                None => orphan().await,
            };
            news.send_replace(Some(status));
        });
        let inner = Inner { what, dir, requests, exit, info: Mutex::new(info) };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn info(&self) -> Info {
        self.inner.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, operation: &'static str, op: Op) -> Result<Info, RuntimeError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { op, answer };
        self.inner.requests.send(request).map_err(|_| self.died(operation))?;
        let reply = answered.await.map_err(|_| self.died(operation))?;
        let info = reply.map_err(|failure| self.error(operation, failure))?;
        *self.inner.info.lock().unwrap_or_else(PoisonError::into_inner) = info.clone();
        Ok(info)
    }

    /// As [`Link::ask`], for requests that make sense only while the process
    /// lives: a shim that has gone says that it does not.
    pub(super) async fn ask_living(
        &self,
        operation: &'static str,
        op: Op,
    ) -> Result<(), RuntimeError> {
        match self.ask(operation, op).await {
            Ok(_) => Ok(()),
            Err(RuntimeError::ShimDied { what, .. }) => Err(RuntimeError::NotRunning { what }),
            Err(e) => Err(e),
        }
    }

    pub(super) fn died(&self, operation: &'static str) -> RuntimeError {
        RuntimeError::ShimDied { operation, what: self.inner.what.clone() }
    }

    pub(super) fn error(&self, operation: &'static str, failure: Failure) -> RuntimeError {
        error(operation, &self.inner.what, failure)
    }

    /// A further connection to the same shim, for an attached client.
    pub(super) async fn connect_again(&self) -> Result<UnixStream, RuntimeError> {
        match connect(&self.inner.dir).await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(RuntimeError::NotRunning { what: self.inner.what.clone() }),
            Err(e) => Err(RuntimeError::io("connecting to the shim of", &self.inner.what, e)),
        }
    }

    pub(super) async fn wait(&self) -> ExitStatus {
        let mut exit = self.inner.exit.clone();
        loop {
            if let Some(status) = exit.borrow_and_update().clone() {
                return status;
            }
            if exit.changed().await.is_err() {
                // The runtime is being shut down: nobody will ever know.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends the process and its shim.
    pub(super) async fn shut_down(&self) -> Result<(), RuntimeError> {
        match self.ask("deleting", Op::Shutdown).await {
            Ok(_) | Err(RuntimeError::ShimDied { .. }) => {}
            Err(e) => return Err(e),
        }
        self.wait().await;
        Ok(())
    }
}

/// A shim's failure as an error of the runtime.
pub(super) fn error(operation: &'static str, what: &str, failure: Failure) -> RuntimeError {
    let Failure { reason, message } = failure;
    match reason {
        Reason::Command(code) => RuntimeError::Command { code, message },
        Reason::Create => RuntimeError::Create { message },
        Reason::NotRunning => RuntimeError::NotRunning { what: what.to_owned() },
        Reason::Refused => RuntimeError::Refused { operation, what: what.to_owned(), message },
    }
}

/// Connects to the shim in `dir`. `None` when none listens there.
pub(super) async fn connect(dir: &Path) -> io::Result<Option<UnixStream>> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(dir);
    let connected = match opened {
        Ok(dir) => UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).await,
        Err(e) => Err(e),
    };
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(e)
            if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Sends one request on a fresh connection and waits for its answer. `None`
/// when the connection ended instead. What came after the answer stays in
/// `rest`.
pub(super) async fn first(
    stream: &mut UnixStream,
    op: &Op,
    rest: &mut BytesMut,
) -> io::Result<Option<Reply>> {
    match stream.write_all(&json_frame(Kind::Request, op)).await {
        Err(e) if is_end(&e) => return Ok(None),
        other => other?,
    }
    loop {
        match parse(rest) {
            Parsed::Frame { kind: Kind::Reply, payload, used } => {
                let reply = serde_json::from_slice(payload)?;
                rest.advance(used);
                return Ok(Some(reply));
            }
            Parsed::Incomplete => {}
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
        match stream.read_buf(rest).await {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) if is_end(&e) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// What the task of a link owns.
struct Wire {
    stream: UnixStream,
    received: BytesMut,
    /// Who waits for answers, in the order of the requests.
    waiting: VecDeque<oneshot::Sender<Reply>>,
}

impl Wire {
    /// Runs until the exit is known, or the connection has ended without it.
    async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
        news: &watch::Sender<Option<ExitStatus>>,
    ) -> Option<ExitStatus> {
        let mut asking = true;
        loop {
            match self.take_frames() {
                Ok(None) => {}
                Ok(Some(status)) => return Some(status),
                Err(()) => return None,
            }
            tokio::select! {
                request = requests.recv(), if asking => match request {
                    Some(Request { op, answer }) => {
                        self.waiting.push_back(answer);
                        let frame = json_frame(Kind::Request, &op);
                        // A connection that has ended is noticed by reading.
                        let _ = self.stream.write_all(&frame).await;
                    }
                    None => asking = false,
                },
                read = self.stream.read_buf(&mut self.received) => match read {
                    Ok(0) | Err(_) => return news.borrow().clone(),
                    Ok(_) => {}
                },
            }
        }
    }

    /// Handles whole frames. `Err` when the other end talks nonsense.
    fn take_frames(&mut self) -> Result<Option<ExitStatus>, ()> {
        loop {
            match parse(&self.received) {
                Parsed::Incomplete => return Ok(None),
                Parsed::Frame { kind: Kind::Reply, payload, used } => {
                    let reply = serde_json::from_slice(payload).map_err(|_| ())?;
                    self.received.advance(used);
                    if let Some(answer) = self.waiting.pop_front() {
                        // Who asked may have gone away.
                        let _ = answer.send(reply);
                    }
                }
                Parsed::Frame { kind: Kind::Exit, payload, .. } => {
                    return serde_json::from_slice(payload).map(Some).map_err(|_| ());
                }
                _ => return Err(()),
            }
        }
    }
}
