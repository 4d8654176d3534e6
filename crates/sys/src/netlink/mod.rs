//! Netlink.
use std::io;
use thiserror::Error;

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
}
