//! Direct ways of published ports: what comes for one from outside goes to its
//! container in the kernel, past the bridge, the firewall and flow tracking,
//! and the answers likewise (`bpf/published.bpf.c`).
//!
//! ```text
//! plain:   eth0 ─ tracking, rules, routes ─ bridge ─ veth ─ container
//! direct:  eth0 ─────────────────────────────────────────── container
//! ```
//!
//! Be aware:
//! - Only an acceleration of TCP by IPv4: without it, with a kernel that
//!   can't, or when an entry is missing, packets take the plain way, and
//!   nobody notices but by speed. No failure here fails an operation.
//! - What has to see the packets switches it off: for a container a policy, a
//!   limit of rate, a second network; for all of them any rule of somebody
//!   else's that packets on the plain way would meet. Connections that run are
//!   handed over then, each with the next packet of its client.
//! - Connections keep the way on which they began, but for that.
//! - An entry names links by number. It is removed before they are.
//! - The programs outlive this process. The next one loads its own, takes
//!   over the connections, and takes the place on each link.

mod foreign;
mod table;
mod ways;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_sys::netlink::FilterSlot;
use sampan_types::SandboxId;

use crate::error::NetError;
use crate::worker::{Kernel, Worker};

use foreign::Foreign;
use table::Table;
pub(crate) use ways::Ways;

/// What there is of the programs.
#[derive(Debug)]
enum State {
    /// Switched off, or the kernel can't.
    Off,
    /// Not needed so far.
    Wanted,
    /// In use.
    Loaded(Box<Table>),
}

/// State and surroundings, as jobs of the network thread see them.
#[derive(Debug)]
struct Shared {
    state: State,
    foreign: Foreign,
    instance: String,
    slot: FilterSlot,
}

/// The direct ways of an instance.
#[derive(Debug)]
pub(crate) struct Direct {
    worker: Worker,
    /// Locked by jobs of the network thread only, hence never contended.
    shared: Arc<Mutex<Shared>>,
    /// Held from a decision about sandboxes until it is carried out.
    turn: tokio::sync::Mutex<()>,
}

/// The right to decide what is direct; nobody else has it meanwhile.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    direct: &'a Direct,
    _held: tokio::sync::MutexGuard<'a, ()>,
}

impl Direct {
    /// Nothing is loaded before there is a port.
    pub fn new(wanted: bool, instance: String, worker: Worker) -> Self {
        let state = if wanted { State::Wanted } else { State::Off };
        let slot = FilterSlot::published(number_of(&instance));
        let shared = Shared { state, foreign: Foreign::default(), instance, slot };
        let shared = Arc::new(Mutex::new(shared));
        Self { worker, shared, turn: tokio::sync::Mutex::default() }
    }

    /// Waits for its turn.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { direct: self, _held: self.turn.lock().await }
    }

    /// Ends it for a sandbox whose links are about to go.
    pub async fn remove(&self, sandbox: &SandboxId) -> Result<(), NetError> {
        let _turn = self.turn().await;
        let sandbox = sandbox.clone();
        self.with(move |shared, kernel| match &mut shared.state {
            State::Loaded(table) => table.remove(&mut kernel.route, &sandbox),
            State::Off | State::Wanted => Ok(()),
        })
        .await?
    }

    /// Looks again at the host's interfaces and at what rules others have.
    /// Says what was missing, a line each.
    pub async fn refresh(&self) -> Result<Vec<String>, NetError> {
        let _turn = self.turn().await;
        self.with(|shared, kernel| {
            if !matches!(shared.state, State::Loaded(_)) {
                return Ok(Vec::new());
            }
            let open = shared.look(kernel)?;
            let State::Loaded(table) = &mut shared.state else { return Ok(Vec::new()) };
            table.set_open(open)?;
            table.refresh(&mut kernel.route, &shared.instance)
        })
        .await?
    }

    /// The sandboxes to which connections are led directly now.
    pub async fn sandboxes(&self) -> Result<HashSet<SandboxId>, NetError> {
        self.with(|shared, _| match &shared.state {
            State::Loaded(table) => table.reached(),
            State::Off | State::Wanted => HashSet::new(),
        })
        .await
    }

    /// Does something with the state on the network thread.
    async fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Shared, &mut Kernel) -> T + Send + 'static,
    ) -> Result<T, NetError> {
        let shared = Arc::clone(&self.shared);
        let run = move |kernel: &mut Kernel| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            job(&mut shared, kernel)
        };
        self.worker.run(run).await
    }
}

impl Turn<'_> {
    /// Makes a sandbox's ports direct, as far as they may be.
    pub async fn set(&self, ways: Ways) {
        let job = move |shared: &mut Shared, kernel: &mut Kernel| {
            if let Err(error) = shared.set(kernel, &ways) {
                let sandbox = &ways.sandbox;
                tracing::warn!(%sandbox, %error, "published ports stay on the plain way");
            }
        };
        // Without the thread there is nothing to speed up either.
        let _ = self.direct.with(job).await;
    }

    /// Makes `all` the only sandboxes with direct ways. Says what was missing,
    /// a line each.
    pub async fn restore(&self, all: Vec<Ways>) -> Result<Vec<String>, NetError> {
        self.direct.with(move |shared, kernel| shared.restore(kernel, &all)).await?
    }
}

impl Shared {
    /// Whether nobody else has rules on the plain way.
    fn look(&mut self, kernel: &mut Kernel) -> Result<bool, NetError> {
        self.foreign.look(&mut kernel.nft, &self.instance)
    }

    /// The table, loaded when it is first asked for.
    fn table(&mut self, kernel: &mut Kernel) -> Result<Option<&mut Table>, NetError> {
        if matches!(self.state, State::Wanted) {
            let open = self.look(kernel)?;
            let earlier = table::earlier(&mut kernel.route, self.slot, &self.instance)?;
            self.state = match Table::load(self.slot, open, earlier) {
                Ok(table) => State::Loaded(Box::new(table)),
                Err(e) => {
                    tracing::info!(reason = %e, "published ports have the plain way alone");
                    State::Off
                }
            };
        }
        Ok(match &mut self.state {
            State::Loaded(table) => Some(table),
            State::Off | State::Wanted => None,
        })
    }

    fn set(&mut self, kernel: &mut Kernel, ways: &Ways) -> Result<(), NetError> {
        if ways.is_empty() && !matches!(self.state, State::Loaded(_)) {
            return Ok(());
        }
        let instance = self.instance.clone();
        let Some(table) = self.table(kernel)? else { return Ok(()) };
        let first = table.is_empty();
        table.set(&mut kernel.route, ways)?;
        if first || table.is_empty() {
            table.refresh(&mut kernel.route, &instance)?;
        }
        Ok(())
    }

    fn restore(&mut self, kernel: &mut Kernel, all: &[Ways]) -> Result<Vec<String>, NetError> {
        let instance = self.instance.clone();
        if matches!(self.state, State::Wanted) && all.iter().all(Ways::is_empty) {
            table::clear(&mut kernel.route, self.slot, &instance, all)?;
            return Ok(Vec::new());
        }
        let Some(table) = self.table(kernel)? else {
            table::clear(&mut kernel.route, self.slot, &instance, all)?;
            return Ok(Vec::new());
        };
        let mut restored = table.restore(&mut kernel.route, all)?;
        restored.extend(table.refresh(&mut kernel.route, &instance)?);
        Ok(restored)
    }
}

/// A number for an instance's name (FNV-1a).
fn number_of(instance: &str) -> u32 {
    instance
        .bytes()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
