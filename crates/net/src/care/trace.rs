//! Where a packet would go, and what would stop it.
//!
//! ```text
//! facts (the kernel's routes and sockets, our state) ──> decide (pure) ──> hops
//! ```
//!
//! Be aware:
//! - It is computed, not sent: what a program in the kernel or a switch beyond
//!   the host does is not seen.
//! - The kernel's own decision is asked for wherever it can be: routes with
//!   all their tables and rules.

mod decide;
mod facts;
mod policies;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use sampan_types::SandboxId;

use crate::error::NetError;
use crate::manager::Inner;
use crate::ports::Protocol;

/// One end of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A sandbox.
    Sandbox(SandboxId),
    /// The host itself.
    Host,
    /// An address elsewhere, or of anything here.
    Address(IpAddr),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRequest {
    /// Who sends.
    pub from: Place,
    /// To whom.
    pub to: Place,
    /// The port that it is sent to; none for a packet without ports (ping).
    pub port: Option<(Protocol, u16)>,
}

/// What becomes of the packet at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Passes,
    /// It goes on unless something decides otherwise that is not known here.
    MayPass,
    /// It ends here, where it shall.
    Arrives,
    /// It ends here.
    Stops,
}

/// One place on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The place: `sandbox 0123456789ab`, `bridge br-…`, `host`.
    pub place: String,
    /// The sandbox, when the place is one.
    pub sandbox: Option<SandboxId>,
    /// What happens there, in words.
    pub what: String,
    /// What becomes of the packet.
    pub verdict: Verdict,
}

/// A packet's way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The sender's address, when it is known.
    pub source: Option<IpAddr>,
    /// The address that it is sent to.
    pub destination: Option<IpAddr>,
    /// The places that it comes to, the first one first.
    pub hops: Vec<Hop>,
}

impl Trace {
    /// Whether nothing that is known stops the packet.
    #[must_use]
    pub fn arrives(&self) -> bool {
        self.hops.last().is_some_and(|hop| hop.verdict == Verdict::Arrives)
    }
}

pub(super) async fn run(inner: &Inner, request: TraceRequest) -> Result<Trace, NetError> {
    let facts = facts::Facts::collect(inner, &request).await?;
    super::blocking(move || {
        let facts = Arc::new(facts);
        decide::decide(&*facts, &request)
    })
    .await
}
