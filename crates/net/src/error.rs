//! What can go wrong with networks.

use std::io;
use std::path::PathBuf;

use sampan_plugin::PluginError;
use sampan_sys::bpf::{ProgramError, RedirectError};
use sampan_sys::netlink::NetlinkError;
use sampan_sys::sysctl::SysctlError;
use sampan_types::{ErrorKind, Kind, NetworkId, SandboxId};
use thiserror::Error;

/// A failure of the networks' manager, a driver or the firewall.
#[derive(Debug, Error)]
pub enum NetError {
    /// No such network.
    #[error("network {0} not found")]
    NoNetwork(NetworkId),
    /// No such sandbox.
    #[error("sandbox {0} not found")]
    NoSandbox(SandboxId),
    /// The network's options make no sense.
    #[error("invalid network {network}: {reason}")]
    InvalidNetwork {
        /// The network's name.
        network: String,
        /// Why.
        reason: String,
    },
    /// The endpoint's options make no sense.
    #[error("invalid endpoint on network {network}: {reason}")]
    InvalidEndpoint {
        /// The network's name.
        network: String,
        /// Why.
        reason: String,
    },
    /// The network's subnet or bridge belongs to another one.
    #[error("cannot create network {network}: {what} is already used by network {by}")]
    InUse {
        /// The new network's name.
        network: String,
        /// The subnet or bridge.
        what: String,
        /// The other network's name.
        by: String,
    },
    /// There are endpoints on the network.
    #[error("network {network} has active endpoints ({count})")]
    ActiveEndpoints {
        /// The network's name.
        network: String,
        /// How many.
        count: usize,
    },
    /// Something that this engine does not do (yet).
    #[error("{what} is not supported")]
    NotSupported {
        /// What was asked for.
        what: String,
    },
    /// A kernel parameter could not be set.
    #[error("failed to set a kernel parameter: {0}")]
    Sysctl(#[from] SysctlError),
    /// The kernel refused a change of links, addresses, routes or rules.
    #[error("failed to {operation}: {source}")]
    Kernel {
        /// What was being done, with its object.
        operation: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// A namespace could not be made, opened or removed.
    #[error("failed to {operation} {}: {source}", path.display())]
    Namespace {
        /// What was being done.
        operation: &'static str,
        /// The namespace's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The name service could not do what was asked.
    #[error("failed to {operation}: {reason}")]
    Names {
        /// What was being done, with its object.
        operation: String,
        /// Why not.
        reason: String,
    },
    /// The program that leads frames past the bridge, or its entries.
    #[error("failed to {0}")]
    Redirect(#[from] RedirectError),
    /// A program that spares packets a part of their way, or its entries.
    #[error("failed to {0}")]
    Program(#[from] ProgramError),
    /// A plugin is not there, or does not do what it is asked for.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// What a driver has to remember can't be written or read.
    #[error("failed to {operation} {}: {source}", path.display())]
    Note {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The network thread is gone.
    #[error("the network thread has stopped")]
    Stopped,
}

impl NetError {
    /// Wraps the kernel's refusal of `operation`.
    pub(crate) fn kernel(operation: impl Into<String>) -> impl FnOnce(NetlinkError) -> Self {
        let operation = operation.into();
        move |source| Self::Kernel { operation, source }
    }
}

impl Kind for NetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoNetwork(_) | Self::NoSandbox(_) => ErrorKind::NotFound,
            Self::InvalidNetwork { .. } | Self::InvalidEndpoint { .. } | Self::Sysctl(_) => {
                ErrorKind::InvalidParameter
            }
            Self::ActiveEndpoints { .. } | Self::InUse { .. } => ErrorKind::Forbidden,
            Self::NotSupported { .. } => ErrorKind::NotImplemented,
            Self::Plugin(e) => e.kind(),
            Self::Kernel { .. }
            | Self::Namespace { .. }
            | Self::Names { .. }
            | Self::Note { .. }
            | Self::Redirect(_)
            | Self::Program(_)
            | Self::Stopped => ErrorKind::System,
        }
    }
}
