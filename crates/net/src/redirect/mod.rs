//! Straight ways between the containers of one bridge network: what one sends
//! to another is handed over in the kernel, past the bridge
//! (`bpf/redirect.bpf.c`).
//!
//! ```text
//! plain:      eth0 ─ veth ─ bridge ─ veth ─ eth0
//! redirected: eth0 ─ veth ───────────────── eth0
//! ```
//!
//! Be aware:
//! - Only an acceleration: without it, with a kernel that can't, or when an
//!   entry is missing, frames go by the bridge, and nobody notices but by
//!   speed. No failure here fails an operation.
//! - What has to see the frames switches it off for the endpoint: a network
//!   that keeps containers from each other, a limit of rate, a policy.
//! - An entry names a link by number. It is removed before its link is.
//! - The programs on the links outlive this process, with the maps of its
//!   time. The next one loads its own, fills them, and takes the place on
//!   each link; see [`Turn::restore`].

mod table;

use std::sync::{Arc, Mutex, PoisonError};

use sampan_sys::netlink::Route;
use sampan_types::{EndpointId, NetworkId};

use crate::config::{Attachment, DriverConfig, EndpointSpec, NetworkSpec};
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::{Kernel, Worker};

use table::Table;

/// An endpoint as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Straight {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// The host's link.
    pub link: String,
    /// The hardware address inside.
    pub mac: MacAddr,
    /// Whether it may be redirected to and from.
    pub allowed: bool,
}

impl Straight {
    /// None for an endpoint without a link on the host.
    pub fn of(
        network: &NetworkSpec,
        endpoint: &EndpointSpec,
        attachment: &Attachment,
        under_policy: bool,
    ) -> Option<Self> {
        let DriverConfig::Bridge(config) = &network.driver else { return None };
        Some(Self {
            endpoint: endpoint.endpoint.clone(),
            network: network.id.clone(),
            link: attachment.host_interface.clone()?,
            mac: attachment.mac?,
            allowed: config.icc && endpoint.rate.is_none() && !under_policy,
        })
    }
}

/// What there is of the program.
#[derive(Debug)]
enum State {
    /// Switched off, or the kernel can't.
    Off,
    /// Not needed so far.
    Wanted,
    /// In use.
    Loaded(Box<Table>),
}

impl State {
    /// The table, loaded when it is first asked for.
    fn table(&mut self) -> Option<&mut Table> {
        if matches!(self, Self::Wanted) {
            *self = match Table::load() {
                Ok(table) => Self::Loaded(Box::new(table)),
                Err(e) => {
                    tracing::info!(reason = %e, "containers reach each other by the bridge alone");
                    Self::Off
                }
            };
        }
        match self {
            Self::Loaded(table) => Some(table),
            Self::Off | Self::Wanted => None,
        }
    }
}

/// The straight ways of an instance.
#[derive(Debug)]
pub(crate) struct Redirect {
    worker: Worker,
    /// Locked by jobs of the network thread only, hence never contended.
    state: Arc<Mutex<State>>,
    /// Held from a decision about endpoints until it is carried out.
    turn: tokio::sync::Mutex<()>,
}

/// The right to decide what is redirected; nobody else has it meanwhile.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    redirect: &'a Redirect,
    _held: tokio::sync::MutexGuard<'a, ()>,
}

impl Redirect {
    /// Nothing is loaded before [`Turn::restore`] or [`Turn::add`].
    pub fn new(wanted: bool, worker: Worker) -> Self {
        let state = if wanted { State::Wanted } else { State::Off };
        Self { worker, state: Arc::new(Mutex::new(state)), turn: tokio::sync::Mutex::default() }
    }

    /// Waits for its turn.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { redirect: self, _held: self.turn.lock().await }
    }

    /// Ends it for an endpoint whose link is about to go.
    pub async fn remove(&self, endpoint: &EndpointId) -> Result<(), NetError> {
        let _turn = self.turn().await;
        let endpoint = endpoint.clone();
        self.with(move |table, _| table.map_or(Ok(()), |table| table.remove(&endpoint))).await?
    }

    /// Does something with the table, if there is one, on the network thread.
    async fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(Option<&mut Table>, &mut Route) -> T + Send + 'static,
    ) -> Result<T, NetError> {
        let state = Arc::clone(&self.state);
        let run = move |kernel: &mut Kernel| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            job(state.table(), &mut kernel.route)
        };
        self.worker.run(run).await
    }
}

impl Turn<'_> {
    /// Redirects to and from endpoints that were attached.
    pub async fn add(&self, endpoints: Vec<Straight>) {
        let endpoints: Vec<_> = endpoints.into_iter().filter(|e| e.allowed).collect();
        if endpoints.is_empty() {
            return;
        }
        let job = move |table: Option<&mut Table>, route: &mut Route| {
            let Some(table) = table else { return };
            for endpoint in &endpoints {
                if let Err(e) = table.add(route, endpoint) {
                    tracing::warn!(link = endpoint.link, error = %e, "failed to lead frames past the bridge");
                }
            }
        };
        // Without the thread there is nothing to speed up either.
        let _ = self.redirect.with(job).await;
    }

    /// Compares what was set for `endpoints` with the kernel, and restores it.
    /// Says for which of them it was missing. Loads nothing.
    pub async fn verify(&self, endpoints: Vec<Straight>) -> Result<Vec<Straight>, NetError> {
        let state = Arc::clone(&self.redirect.state);
        let job = move |kernel: &mut Kernel| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let State::Loaded(table) = &mut *state else { return Ok(Vec::new()) };
            let mut missing = Vec::new();
            for endpoint in endpoints {
                if endpoint.allowed && table.complete(&mut kernel.route, &endpoint)? {
                    missing.push(endpoint);
                }
            }
            Ok(missing)
        };
        self.redirect.worker.run(job).await?
    }

    /// Makes `endpoints` the only ones that are redirected, as far as they may
    /// be, and takes the program of an earlier process off the others. Says
    /// what was missing, a line each.
    pub async fn restore(&self, endpoints: Vec<Straight>) -> Result<Vec<String>, NetError> {
        let job = move |table: Option<&mut Table>, route: &mut Route| match table {
            Some(table) => table.restore(route, &endpoints),
            None => table::clear(route, &endpoints).map(|()| Vec::new()),
        };
        self.redirect.with(job).await?
    }
}
