//! The sockets inside one sandbox.
//!
//! Be aware:
//! - They are opened by a thread that enters the sandbox's namespace, and
//!   belong to it from then on. As long as they are open the namespace lives.
//! - A process that takes over opens its own beside ours (`SO_REUSEPORT`),
//!   so that there is no moment without.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use sampan_sys::netns::{self, NetNs};
use thiserror::Error;

use crate::redirect;

/// Room for questions that come all at once.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Why there are no sockets in a sandbox.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no namespace, or it can't be entered.
    #[error("failed to enter the namespace {path}: {source}")]
    Namespace {
        /// Its file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A socket could not be opened.
    #[error("failed to open the {what} at {address} in the namespace {path}: {source}")]
    Socket {
        /// Which one.
        what: &'static str,
        /// Where.
        address: SocketAddrV4,
        /// The namespace's file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The rules that lead to the sockets could not be made.
    #[error("failed to lead questions to the name service in the namespace {path}: {source}")]
    Redirect {
        /// The namespace's file.
        path: String,
        /// Why.
        source: sampan_sys::netlink::NetlinkError,
    },
}

/// The sockets of a sandbox.
#[derive(Debug)]
pub struct Opened {
    /// For datagrams.
    pub udp: OwnedFd,
    /// For connections.
    pub tcp: OwnedFd,
    /// The namespace.
    pub netns: Arc<NetNs>,
    /// Its number, which tells it from another one at the same path.
    pub inode: u64,
}

/// The number of the namespace that is at a path now.
#[must_use]
pub fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.ino())
}

/// Opens the sockets in the namespace at `path` and leads questions to them.
/// Blocks for as long as that takes.
///
/// # Errors
/// [`OpenError`].
pub fn open(path: &Path) -> Result<Opened, OpenError> {
    let name = path.display().to_string();
    let entering = |source| OpenError::Namespace { path: name.clone(), source };
    let netns = NetNs::open(path).map_err(entering)?;
    let number = inode(path).ok_or_else(|| entering(io::ErrorKind::NotFound.into()))?;
    let (udp, tcp) = netns.run(|| open_here(&name)).map_err(entering)??;
    Ok(Opened { udp, tcp, netns: Arc::new(netns), inode: number })
}

fn open_here(path: &str) -> Result<(OwnedFd, OwnedFd), OpenError> {
    let address = SocketAddrV4::new(redirect::ADDRESS, redirect::PORT);
    let failed = |what| {
        move |e: nix::Error| {
            let (path, source) = (path.to_owned(), e.into());
            OpenError::Socket { what, address, path, source }
        }
    };
    let udp = bound(SockType::Datagram, address).map_err(failed("UDP socket"))?;
    let tcp = bound(SockType::Stream, address).map_err(failed("TCP socket"))?;
    listen(&tcp, Backlog::MAXCONN).map_err(failed("TCP socket"))?;
    // Last: nothing is led to where nobody listens.
    redirect::install().map_err(|source| OpenError::Redirect { path: path.to_owned(), source })?;
    Ok((udp, tcp))
}

fn bound(kind: SockType, address: SocketAddrV4) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&made, sockopt::ReusePort, &true)?;
    if kind == SockType::Datagram {
        setsockopt(&made, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        setsockopt(&made, sockopt::SndBufForce, &RECEIVE_BUFFER)?;
    } else {
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
    }
    bind(made.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(made)
}

/// Compares the rules in a namespace with what they shall be, and restores
/// them. Says whether they were different. Blocks for as long as that takes.
///
/// # Errors
/// [`OpenError`].
pub fn repair(netns: &NetNs, path: &Path) -> Result<bool, OpenError> {
    in_namespace(netns, path, redirect::install)
}

/// As [`repair`] in the namespaces at `paths`, one after the other on one
/// thread.
///
/// # Errors
/// When there is no thread.
pub fn repair_all(paths: &[PathBuf]) -> io::Result<Vec<Result<bool, OpenError>>> {
    let mut outcomes = Vec::with_capacity(paths.len());
    netns::tour(paths, |entered| {
        let path = paths.get(outcomes.len()).map(|p| p.display().to_string()).unwrap_or_default();
        outcomes.push(match entered {
            Ok(()) => redirect::install().map_err(|source| OpenError::Redirect { path, source }),
            Err(source) => Err(OpenError::Namespace { path, source }),
        });
    })?;
    Ok(outcomes)
}

/// Takes the rules away.
///
/// # Errors
/// [`OpenError`].
pub fn close(netns: &NetNs, path: &Path) -> Result<(), OpenError> {
    in_namespace(netns, path, redirect::remove)
}

fn in_namespace<T: Send>(
    netns: &NetNs,
    path: &Path,
    work: impl FnOnce() -> Result<T, sampan_sys::netlink::NetlinkError> + Send,
) -> Result<T, OpenError> {
    let path = path.display().to_string();
    match netns.run(work) {
        Ok(done) => done.map_err(|source| OpenError::Redirect { path, source }),
        Err(source) => Err(OpenError::Namespace { path, source }),
    }
}
