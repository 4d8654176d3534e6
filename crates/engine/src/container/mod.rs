//! Containers: one handle each, and the operations of their life cycle, one
//! file per verb.
//!
//! Be aware:
//! - Readers never wait: a record is an immutable snapshot behind a pointer
//!   that is swapped. `ps` and `inspect` work while an operation hangs.
//! - Whoever changes a container's life (start, the end of its process,
//!   remove, rename, update) holds its `ops` lock. Sending a signal needs no
//!   lock, so a start or stop that hangs can always be killed. A start that
//!   waits for a volume is called off, see `call_off`.

mod call_off;
mod chosen;
pub mod create;
pub(crate) mod endpoint;
mod files;
pub mod index;
mod launch;
pub(crate) mod links;
pub mod logging;
mod merge;
pub mod mounts;
mod names;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod owners;
mod pause;
mod persist;
mod ports;
pub mod publish;
mod release;
pub mod remove;
mod resolv;
mod shared;
mod start;
pub mod state;
pub mod stop;
mod supervise;
mod update;
pub mod validate;
pub mod wait;
mod wished;

pub use call_off::CallOff;
pub use wished::WishedPorts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sampan_runtime::Shim;
use sampan_types::ContainerId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use start::{Starter, clear_run, start_failure};

use crate::attach::Waiting;
use crate::record::ContainerRecord;

/// What is known of a container at one moment.
#[derive(Debug, Clone)]
pub struct Live {
    /// The record.
    pub record: Arc<ContainerRecord>,
    /// How many times its process has ended since the daemon started.
    pub exits: u64,
    /// How its process last ended.
    pub last_exit: Option<Exit>,
    /// Whether it is gone.
    pub removed: bool,
}

/// How a container's process ended, for `wait`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: i32,
    /// Why it could not be started; empty when it ran.
    pub error: String,
}

/// One container. See the module's documentation for who locks what.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    /// Written under `ops`, or by the supervisor for what it observed. Read
    /// and awaited by everybody.
    live: watch::Sender<Live>,
    /// Held by whoever changes the container's life. Never held while waiting
    /// for its process to end.
    pub(crate) ops: tokio::sync::Mutex<()>,
    /// Serialises writes of the record to the store, so that an older one
    /// never lands over a newer one. True once the record is deleted.
    pub(crate) persist: tokio::sync::Mutex<bool>,
    /// Whether a change waits to be written by [`Engine::persist_later`](crate::Engine).
    pub(crate) dirty: AtomicBool,
    /// Whether the end of the process is part of a restart by a user.
    held: AtomicBool,
    /// Whether a start is under way.
    starting: AtomicBool,
    /// Who calls off what waits for a volume. Awaited by who waits.
    off: watch::Sender<Vec<CallOff>>,
    /// What belongs to the present run; locked for a copy or a swap only.
    run: Mutex<Run>,
    /// Clients that attached before the start; locked for a push or a take.
    pub(crate) waiting: Mutex<Vec<Waiting>>,
}

/// What belongs to one run of a container.
#[derive(Debug, Default)]
struct Run {
    /// The shim while there is a process.
    shim: Option<Shim>,
    /// Ends the health checks of this run.
    health: Option<CancellationToken>,
    /// Calls off the restart that the policy has planned.
    restart: Option<CancellationToken>,
    /// How long the policy waited before the last restart.
    delay: Option<Duration>,
}

impl Container {
    /// A handle on a record.
    #[must_use]
    pub fn new(record: ContainerRecord) -> Arc<Self> {
        let id = record.id.clone();
        let live = Live { record: Arc::new(record), exits: 0, last_exit: None, removed: false };
        Arc::new(Self {
            id,
            live: watch::Sender::new(live),
            ops: tokio::sync::Mutex::default(),
            persist: tokio::sync::Mutex::default(),
            dirty: AtomicBool::new(false),
            held: AtomicBool::new(false),
            starting: AtomicBool::new(false),
            off: watch::Sender::default(),
            run: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its record as of now. Never waits.
    #[must_use]
    pub fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&self.live.borrow().record)
    }

    /// All that is known as of now, and a way to await changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Live> {
        self.live.subscribe()
    }

    /// Its record and how often it has ended, of one moment.
    pub(crate) fn snapshot(&self) -> (Arc<ContainerRecord>, u64) {
        let live = self.live.borrow();
        (Arc::clone(&live.record), live.exits)
    }

    /// The shim while the container has a process.
    #[must_use]
    pub fn shim(&self) -> Option<Shim> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).shim.clone()
    }

    /// Changes the record in memory. The caller holds `ops` and persists.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut ContainerRecord) -> T) -> T {
        let mut out = None;
        self.live.send_modify(|live| {
            let mut record = (*live.record).clone();
            out = Some(f(&mut record));
            live.record = Arc::new(record);
        });
        // `send_modify` always calls its closure.
        out.unwrap_or_else(|| unreachable!("the closure ran"))
    }

    /// Puts an earlier record back after a failed write.
    pub(crate) fn restore(&self, record: Arc<ContainerRecord>) {
        self.live.send_modify(|live| live.record = record);
    }

    /// Notes an end of the process together with the record's change, so that
    /// no waiter sees the one without the other.
    pub(crate) fn change_at_exit<T>(
        &self,
        exit: Exit,
        f: impl FnOnce(&mut ContainerRecord) -> T,
    ) -> T {
        let mut out = None;
        self.live.send_modify(|live| {
            let mut record = (*live.record).clone();
            out = Some(f(&mut record));
            live.record = Arc::new(record);
            live.exits += 1;
            live.last_exit = Some(exit);
        });
        out.unwrap_or_else(|| unreachable!("the closure ran"))
    }

    /// Keeps a container that removes itself while it is being restarted.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// Whether [`Container::hold`] is in effect.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Takes the clients that attached before the start.
    pub(crate) fn take_waiting(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells those who wait that the container is gone.
    pub(crate) fn mark_removed(&self) {
        self.live.send_modify(|live| live.removed = true);
    }

    /// Sets or clears the shim.
    pub(crate) fn set_shim(&self, shim: Option<Shim>) {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).shim = shim;
    }

    /// A fresh token for the health checks of a new run; ends the old ones.
    pub(crate) fn begin_health(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let old = {
            let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
            run.health.replace(token.clone())
        };
        if let Some(old) = old {
            old.cancel();
        }
        token
    }

    /// Ends the health checks.
    pub(crate) fn end_health(&self) {
        let old = self.run.lock().unwrap_or_else(PoisonError::into_inner).health.take();
        if let Some(old) = old {
            old.cancel();
        }
    }

    /// How long the policy waits before the next restart of a container that
    /// ran for `ran`, and a token that calls the restart off.
    pub(crate) fn plan_restart(&self, ran: Duration) -> (Duration, CancellationToken) {
        let token = CancellationToken::new();
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = crate::restart::next_delay(run.delay, ran);
        run.delay = Some(delay);
        run.restart = Some(token.clone());
        (delay, token)
    }

    /// Lets the next restart by the policy begin with the shortest wait.
    pub(crate) fn reset_delay(&self) {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).delay = None;
    }

    /// Calls a planned restart off. Says whether there was one.
    pub(crate) fn cancel_restart(&self) -> bool {
        let token = self.run.lock().unwrap_or_else(PoisonError::into_inner).restart.take();
        match token {
            Some(token) => {
                token.cancel();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sampan_types::Timestamp;

    use super::*;
    use crate::record::{Desired, NetworkMode, Networking, State};

    /// A record with nothing special about it.
    pub(crate) fn record(id: &str, name: &str) -> ContainerRecord {
        ContainerRecord {
            id: id.parse().unwrap(),
            name: name.parse().unwrap(),
            created: Timestamp::from_nanos(1),
            image: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            os: "linux".to_owned(),
            path: "sh".to_owned(),
            args: Vec::new(),
            config: Default::default(),
            host_config: Default::default(),
            networking: Networking::new(NetworkMode::Private),
            mounts: Vec::new(),
            desired: Desired::Stopped,
            generation: 0,
            boot_id: String::new(),
            state: State::default(),
            restart_count: 0,
            manually_stopped: false,
            restart_wanted: false,
            wished_ports: Default::default(),
        }
    }

    /// A handle on such a record.
    pub(crate) fn container(id: &str, name: &str) -> Arc<Container> {
        Container::new(record(id, name))
    }

    #[test]
    fn readers_see_snapshots() {
        let c = container(&"ab".repeat(32), "web");
        let before = c.record();
        c.change(|r| r.restart_count = 3);
        assert_eq!((before.restart_count, c.record().restart_count), (0, 3));
        c.restore(before);
        assert_eq!(c.record().restart_count, 0);
    }
}
