//! Connections of the host's own programs by IPv6 to published ports, where
//! packets would find no way: to containers without IPv6, and to `::1` where
//! br_netfilter would lose the answers. Sockets are sent elsewhere when they
//! connect (`bpf/connect.bpf.c`); no process stands between.
//!
//! ```text
//! [::1]:8080, [the host's own]:8080 ─> ::ffff:127.0.0.1, port 8080 ─> as by IPv4
//!                                   └> the container's own address and port
//! ```
//!
//! Be aware:
//! - Without it such a connection is refused at once, and clients go on with
//!   127.0.0.1. So no failure here fails an operation.
//! - The program is hung up with the first place that leads somewhere, and
//!   taken off some seconds after the last is gone: taking off is slow.
//! - It outlives this process, as the table of the firewall does. The next one
//!   takes its place before the first change, in [`Host6::restore`].

mod places;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_sys::bpf::{Connect, Place, detach_connect, is_connect_attached};
use sampan_sys::netlink::Route;
use sampan_sys::netns;

use crate::firewall::{Forwards, answers_reach_loopback6};
use crate::ports::Protocol;
use crate::worker::{Kernel, Worker};

use places::{Led, leads, places};

/// How long the program stays without a place that leads anywhere.
const LINGER: Duration = Duration::from_secs(5);

/// What leads the host's connections, of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Host6 {
    worker: Worker,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Where the hooks have their names.
    dir: PathBuf,
    /// Held for each change, and for as long as the program is taken off.
    turn: tokio::sync::Mutex<()>,
    /// Locked by who has the turn only, hence never contended.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Switched off, or the kernel can't.
    off: bool,
    /// Loaded when it is first needed.
    program: Option<Connect>,
    /// Whether it is hung up.
    hung: bool,
    forwards: Forwards,
    /// The host's addresses, as the program knows them.
    own: HashSet<Ipv6Addr>,
    /// Whether what is sent to `::1` can be answered by a container.
    loopback6: bool,
}

impl Host6 {
    /// Nothing is loaded before the first port. `dir` is made when it is
    /// needed.
    pub fn new(wanted: bool, dir: PathBuf, worker: Worker) -> Self {
        let state = State {
            off: !wanted,
            program: None,
            hung: false,
            forwards: Forwards::default(),
            own: HashSet::new(),
            loopback6: answers_reach_loopback6(),
        };
        let (turn, state) = (tokio::sync::Mutex::default(), Mutex::new(state));
        Self { worker, shared: Arc::new(Shared { dir, turn, state }) }
    }

    /// Makes `forwards` the only published ports, after a start. What an
    /// earlier process hung up goes on until then.
    pub async fn restore(&self, forwards: Forwards) {
        self.run(move |state, shared, route| {
            let old = std::mem::replace(&mut state.forwards, forwards);
            state.hung |= is_connect_attached(&shared.dir);
            state.loopback6 = answers_reach_loopback6();
            let ports: BTreeSet<_> = ports(&old).chain(ports(&state.forwards)).collect();
            state.update(shared, route, &old, &ports, true);
        })
        .await;
    }

    /// Ports that lead nowhere any more, and others that do from now on.
    pub async fn change(&self, gone: Forwards, new: Forwards) {
        if gone.is_empty() && new.is_empty() {
            return;
        }
        self.run(move |state, shared, route| {
            let ports: BTreeSet<_> = ports(&gone).chain(ports(&new)).collect();
            let of = |f: &Forwards| ports.iter().flat_map(|(p, n)| f.by_port(*p, *n)).collect();
            let old: Forwards = of(&state.forwards);
            for forward in gone.iter() {
                state.forwards.remove(&forward);
            }
            for forward in new.iter() {
                state.forwards.insert(&forward);
            }
            state.update(shared, route, &old, &ports, false);
        })
        .await;
    }

    /// The host's addresses may be others, or `::1` may be answered now.
    pub async fn refresh(&self) {
        self.run(|state, shared, route| {
            let loopback6 = answers_reach_loopback6();
            if state.loopback6 == loopback6 {
                return state.refresh_own(route);
            }
            let ports: BTreeSet<_> = ports(&state.forwards).collect();
            let before = state.places(&state.forwards, &ports);
            state.loopback6 = loopback6;
            state.set(shared, route, before.into_keys().collect(), &ports, false);
        })
        .await;
    }

    /// Does something on the network thread, in its turn, and takes the
    /// program off later where it is not needed any more.
    async fn run(&self, job: impl FnOnce(&mut State, &Shared, &mut Route) + Send + 'static) {
        let _turn = self.shared.turn.lock().await;
        let shared = Arc::clone(&self.shared);
        let run = move |kernel: &mut Kernel| {
            let state = &mut *shared.state();
            job(state, &shared, &mut kernel.route);
            state.hung && !state.is_needed()
        };
        if self.worker.run(run).await.unwrap_or(false) {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move { shared.take_off().await });
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the program off, unless it is needed again by then. The kernel
    /// waits for whoever runs it, so that this takes up to a tenth of a second.
    async fn take_off(self: Arc<Self>) {
        tokio::time::sleep(LINGER).await;
        let _turn = self.turn.lock().await;
        if self.state().is_needed() {
            return;
        }
        self.state().hung = false;
        let dir = self.dir.clone();
        let done = tokio::task::spawn_blocking(move || detach_connect(&dir)).await;
        if let Ok(Err(error)) = done {
            let dir = self.dir.display();
            tracing::warn!(%error, %dir, "failed to take off what leads connections by IPv6");
        }
    }
}

/// Each protocol and port once or more.
fn ports(forwards: &Forwards) -> impl Iterator<Item = (Protocol, u16)> + '_ {
    forwards.iter().filter(|f| !f.routed).map(|f| (f.protocol, f.host_port))
}

impl State {
    fn places(
        &self,
        forwards: &Forwards,
        ports: &BTreeSet<(Protocol, u16)>,
    ) -> BTreeMap<Place, Led> {
        let of = |(p, n): &(Protocol, u16)| {
            let all: Vec<_> = forwards.by_port(*p, *n).collect();
            places(all.into_iter(), self.loopback6)
        };
        ports.iter().flat_map(of).collect()
    }

    /// Whether any place leads anywhere.
    fn is_needed(&self) -> bool {
        let ports: BTreeSet<_> = ports(&self.forwards).collect();
        let one = |port| self.places(&self.forwards, &BTreeSet::from([port]));
        !self.off && ports.into_iter().any(|port| !one(port).is_empty())
    }

    /// Sets what differs for these ports from what there was.
    fn update(
        &mut self,
        shared: &Shared,
        route: &mut Route,
        old: &Forwards,
        ports: &BTreeSet<(Protocol, u16)>,
        afresh: bool,
    ) {
        let before = self.places(old, ports).into_keys().collect();
        self.set(shared, route, before, ports, afresh);
    }

    /// Makes the places of these ports true; `before` are those that there
    /// were. With `afresh`, the program is hung up also where there is one,
    /// since that may be another process's.
    fn set(
        &mut self,
        shared: &Shared,
        route: &mut Route,
        before: BTreeSet<Place>,
        ports: &BTreeSet<(Protocol, u16)>,
        afresh: bool,
    ) {
        if self.off {
            return;
        }
        let mut after = self.places(&self.forwards, ports);
        let leads_somewhere = after.values().any(|led| leads(*led));
        if leads_somewhere && self.program.is_none() {
            // Of other ports, none led anywhere until now.
            self.load(shared);
            let all = self::ports(&self.forwards).collect();
            after = self.places(&self.forwards, &all);
        }
        let Some(program) = &self.program else { return };
        let gone = before.iter().filter(|place| !after.contains_key(place));
        let removed = gone.map(|place| program.remove(*place));
        let set = after.iter().map(|(place, (address, port))| program.set(*place, *address, *port));
        if let Some(Err(error)) = removed.chain(set).find(Result::is_err) {
            tracing::warn!(%error, "published ports are not reached by IPv6 from the host");
        }
        if !leads_somewhere || (self.hung && !afresh) {
            return;
        }
        self.refresh_own(route);
        let Some(program) = &self.program else { return };
        match program.attach(&shared.dir) {
            Ok(()) => self.hung = true,
            Err(error) => self.give_up(shared, &error),
        }
    }

    fn load(&mut self, shared: &Shared) {
        let cookie = netns::cookie().map_err(|e| e.to_string());
        let load = |cookie| Connect::load(cookie, &shared.dir).map_err(|e| e.to_string());
        match cookie.and_then(load) {
            Ok(program) => self.program = Some(program),
            Err(reason) => self.give_up(shared, &reason),
        }
    }

    /// Goes on without. What an earlier process hung up would lead astray.
    fn give_up(&mut self, shared: &Shared, reason: &dyn std::fmt::Display) {
        tracing::info!(%reason, "the host's connections by IPv6 to containers without it are refused");
        self.off = true;
        self.program = None;
        if let Err(error) = detach_connect(&shared.dir) {
            tracing::warn!(%error, "failed to take off what leads connections by IPv6");
        }
        self.hung = false;
    }

    /// Tells the program which addresses are the host's. Those of a single
    /// link mean nothing without it.
    fn refresh_own(&mut self, route: &mut Route) {
        let Some(program) = &self.program else { return };
        let addresses = match route.addresses() {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(%error, "failed to read the host's addresses");
                return;
            }
        };
        let global = |address| match address {
            IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(v6),
            _ => None,
        };
        let own: HashSet<Ipv6Addr> =
            addresses.into_iter().filter_map(|a| global(a.address.addr())).collect();
        let gone = self.own.difference(&own).map(|a| program.remove_own(*a));
        let new = own.difference(&self.own).map(|a| program.set_own(*a));
        if let Some(Err(error)) = gone.chain(new).find(Result::is_err) {
            tracing::warn!(%error, "published ports are not reached by IPv6 from the host");
        }
        self.own = own;
    }
}
