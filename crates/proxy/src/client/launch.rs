//! Starting the process, and finding it again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::ClientConfig;
use crate::paths;
use crate::protocol::{self, Request, Response};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A log that is longer is begun anew.
const LOG_MAX: u64 = 4 << 20;

/// Why the process does not do what it is asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// It could not be started.
    #[error("failed to start {program} proxy: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The connection to it failed.
    #[error("the name service does not answer: {0}")]
    Link(#[from] io::Error),
    /// It said so.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the process.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    /// The process's id.
    pub(super) pid: i32,
}

impl Link {
    /// The process that listens at the socket, if it is of this build.
    pub(super) async fn find(config: &ClientConfig, build: &str) -> Option<Self> {
        let stream = paths::connect(&config.exec_root).await.ok()?;
        match Self::greet(stream, build).await {
            Ok((link, theirs)) if theirs == build => Some(link),
            Ok((link, theirs)) => {
                tracing::info!(
                    pid = link.pid,
                    theirs,
                    "the name service of another build is replaced"
                );
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a name service that does not answer is replaced");
                None
            }
        }
    }

    /// Starts a process, which replaces another one when it is told what to
    /// answer for.
    pub(super) async fn start(config: &ClientConfig, build: &str) -> Result<Self, ClientError> {
        let stream = spawn(config).map_err(|source| ClientError::Start {
            program: config.program.display().to_string(),
            source,
        })?;
        let (link, _) = Self::greet(stream, build).await?;
        tracing::info!(pid = link.pid, "the name service is started");
        Ok(link)
    }

    async fn greet(stream: UnixStream, build: &str) -> Result<(Self, String), ClientError> {
        let mut link = Self { stream, pid: 0 };
        match link.call(&Request::Hello { build: build.to_owned() }).await? {
            Response::Hello { build, pid } => {
                link.pid = pid;
                Ok((link, build))
            }
            other => Err(ClientError::Refused(format!("unexpected greeting {other:?}"))),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&mut self, request: &Request) -> io::Result<Response> {
        let exchange = async {
            protocol::send(&mut self.stream, request).await?;
            protocol::receive(&mut self.stream)
                .await?
                .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        };
        timeout(PATIENCE, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Returns when the process is gone.
    pub(super) async fn closed(&self) {
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            // It says nothing unasked, so this is the end.
            match self.stream.try_read(&mut [0]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

fn spawn(config: &ClientConfig) -> io::Result<UnixStream> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut command = Command::new(&config.program);
    command.arg("proxy").arg("--exec-root").arg(&config.exec_root);
    if let Some(path) = &config.resolv_conf {
        command.arg("--resolv-conf").arg(path);
    }
    command.env_clear().current_dir("/");
    let theirs = std::os::fd::OwnedFd::from(theirs);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::from(log(config)?));
    let mut child = command.spawn()?;
    // Whoever lives when it ends takes its status: this daemon, or init.
    tokio::spawn(async move { child.wait().await });
    ours.set_nonblocking(true)?;
    UnixStream::from_std(ours)
}

fn log(config: &ClientConfig) -> io::Result<File> {
    let path = config.exec_root.join(paths::LOG);
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if log.metadata()?.len() > LOG_MAX {
        log.set_len(0)?;
    }
    Ok(log)
}
