//! What the daemon and this process say to one another, over a unix socket:
//! a length of four bytes, most significant first, and JSON.
//!
//! Be aware: the first thing that both say is who they are. Only with its own
//! build a daemon goes on; another one it replaces.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sampan_net::names::{NameSet, SandboxNames};
use sampan_types::SandboxId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message: some hundred thousand sandboxes.
const MESSAGE_MAX: u32 = 256 << 20;

/// What the daemon says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Who it is.
    Hello {
        /// Its build, as [`build`] has it.
        build: String,
    },
    /// Answer for a sandbox, or answer anew.
    Set(Box<SandboxNames>),
    /// Forget a sandbox.
    Remove(SandboxId),
    /// These are all sandboxes.
    Restore(Vec<SandboxNames>),
    /// Compare what leads to the sockets in these sandboxes, and restore it.
    Verify(Vec<SandboxId>),
    /// These are all sets that are filled.
    Fill(Vec<NameSet>),
    /// Say how things are.
    Status,
    /// End: another process answers from now on.
    Quit,
}

/// What this process answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Response {
    /// Who it is.
    Hello {
        /// Its build.
        build: String,
        /// Its process id.
        pid: i32,
    },
    /// It is done.
    Done {
        /// Whether anything was different.
        changed: bool,
    },
    /// What led to the sockets was different in these sandboxes.
    Verified {
        /// The sandboxes.
        restored: Vec<SandboxId>,
    },
    /// It could not be done.
    Failed {
        /// Why.
        reason: String,
    },
    /// How things are.
    Status(Status),
}

/// How things are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Sandboxes that are known.
    pub sandboxes: usize,
    /// Those in which questions are answered.
    pub served: usize,
    /// Questions that were answered from what is known.
    pub answered: u64,
    /// Questions that were asked elsewhere.
    pub forwarded: u64,
    /// Questions that were answered from memory.
    pub remembered: u64,
    /// Questions that nobody answered.
    pub failed: u64,
    /// Questions that wait for an answer now.
    pub waiting: usize,
    /// Answers in memory.
    pub cached: usize,
    /// The host's name servers.
    pub servers: Vec<std::net::IpAddr>,
}

/// A program's build: its file, so that another file is another build.
///
/// # Errors
/// When there is no such file.
pub fn build(program: &Path) -> io::Result<String> {
    let file = std::fs::metadata(program)?;
    let version = env!("CARGO_PKG_VERSION");
    let (device, inode) = (file.dev(), file.ino());
    Ok(format!("{version}/{device}:{inode}:{}:{}", file.mtime(), file.mtime_nsec()))
}

/// Sends one message.
///
/// # Errors
/// Those of the socket.
pub async fn send<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|l| *l <= MESSAGE_MAX);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    to.write_all(&[&length.to_be_bytes()[..], &body].concat()).await
}

/// Receives one message; none at the end.
///
/// # Errors
/// Those of the socket; `InvalidData` for what is no message.
pub async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let length = match from.read_u32().await {
        Ok(length) if length <= MESSAGE_MAX => length,
        Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    // As it comes: a length that is only claimed costs nothing.
    let mut body = Vec::new();
    let got = from.take(length.into()).read_to_end(&mut body).await?;
    if got < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&body)?))
}
