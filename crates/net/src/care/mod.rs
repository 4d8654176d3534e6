//! Looking after networks: what is wrong ([`Networks::check`]), what passed
//! ([`Networks::stats`]), and where a packet would go ([`Networks::trace`]).
//!
//! Be aware: nothing here changes anything. What is read is not read at one
//! instant, hence an operation under way may show as something wrong.

mod check;
mod stats;
mod trace;

use std::path::PathBuf;
use std::sync::Arc;

use sampan_sys::netlink::Route;
use sampan_sys::netns::NetNs;
use sampan_types::{NetworkId, SandboxId};

pub(crate) use check::{Taken, overlaps};
pub use stats::{Denied, EndpointStats};
pub use trace::{Hop, Place, Trace, TraceRequest, Verdict};

use crate::config::{Attachment, NetworkSpec};
use crate::error::NetError;
use crate::manager::{Inner, Networks};
use crate::watch::Finding;

impl Networks {
    /// What is not as it shall be, of one network or of all; the worst first.
    ///
    /// # Errors
    /// [`NetError::NoNetwork`], or when the host can't be looked at at all.
    pub async fn check(&self, network: Option<&NetworkId>) -> Result<Vec<Finding>, NetError> {
        self.known(network)?;
        check::run(self.inner(), network.cloned()).await
    }

    /// What passed the endpoints of one network or of all.
    ///
    /// # Errors
    /// [`NetError::NoNetwork`].
    pub async fn stats(&self, network: Option<&NetworkId>) -> Result<Vec<EndpointStats>, NetError> {
        self.known(network)?;
        stats::run(self.inner(), network.cloned()).await
    }

    /// Where a packet would go, and what would stop it.
    ///
    /// # Errors
    /// [`NetError::NoSandbox`], or when the kernel can't be asked.
    pub async fn trace(&self, request: TraceRequest) -> Result<Trace, NetError> {
        trace::run(self.inner(), request).await
    }

    fn known(&self, network: Option<&NetworkId>) -> Result<(), NetError> {
        match network {
            Some(id) if !self.inner().state().networks.contains_key(id) => {
                Err(NetError::NoNetwork(id.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// A sandbox with a namespace of its own, as far as it is looked at.
#[derive(Debug, Clone)]
struct Looked {
    sandbox: SandboxId,
    netns: PathBuf,
    attachments: Vec<Attachment>,
    /// A name that shall be answered in it: its own.
    name: Option<String>,
}

/// The sandboxes with an endpoint on a network, or all of them.
fn sandboxes(inner: &Inner, network: Option<&NetworkId>) -> Vec<Looked> {
    let state = inner.state();
    let on = |a: &Attachment| network.is_none_or(|n| a.network == *n);
    let chosen = state.sandboxes.iter().filter(|(_, j)| j.sandbox.attachments.iter().any(on));
    chosen
        .filter_map(|(sandbox, joined)| {
            Some(Looked {
                sandbox: sandbox.clone(),
                netns: joined.sandbox.netns.clone()?,
                attachments: joined.sandbox.attachments.clone(),
                name: joined
                    .spec
                    .endpoints
                    .iter()
                    .filter(|_| joined.spec.dns.serves)
                    .find_map(|e| e.names.first().cloned()),
            })
        })
        .collect()
}

/// The networks that are looked at.
fn networks(inner: &Inner, network: Option<&NetworkId>) -> Vec<Arc<NetworkSpec>> {
    let state = inner.state();
    state.networks.values().filter(|n| network.is_none_or(|id| n.id == *id)).cloned().collect()
}

/// Runs work that blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NetError::Stopped)?
}

/// A socket in a namespace; in the calling thread's without a path.
fn route_in(netns: Option<&std::path::Path>) -> Result<Route, NetError> {
    let Some(path) = netns else {
        return Route::open().map_err(|e| NetError::kernel("look at the host")(e.into()));
    };
    let opened = NetNs::open(path).and_then(|ns| ns.run(Route::open)).and_then(|r| r);
    opened.map_err(|source| NetError::Namespace {
        operation: "look into the network namespace",
        path: path.to_owned(),
        source,
    })
}
