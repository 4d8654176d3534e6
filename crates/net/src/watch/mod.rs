//! Keeping the kernel true: what somebody else removed or changed is put
//! right as soon as the kernel tells of it, and everything is compared every
//! half a minute.
//!
//! ```text
//! kernel ── events ──> heap ── a moment later: classify ──> scope ──> Inner::repair
//!                          every 30 s: view ── inspect ──────┘            │
//!                                                    Networks::repairs <──┘
//! ```
//!
//! Be aware:
//! - Events only mark; what is wrong, the comparison finds. It is restricted
//!   to what is marked, and runs alone.
//! - What this process does itself marks nothing: an event that shows things
//!   as they shall be is no suspicion, and changes of our table by our own
//!   socket are filtered out in the kernel.
//! - When events are lost, everything is compared.
//! - What is undone again and again is left to the comparison of everything.

mod classify;
mod contest;
mod inspect;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sampan_sys::netlink::{Heard, Route, RouteEvents};
use sampan_sys::netns::NetNs;
use sampan_sys::nft::NftEvents;
use sampan_types::SandboxId;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

pub(crate) use classify::Scope;
use classify::{Heap, Known};
use contest::Contest;
pub use inspect::{Finding, Severity, Subject};
pub(crate) use inspect::{host as inspect_host, inside as inspect_inside};
pub(crate) use view::View;

use crate::care::{Taken, overlaps};
use crate::config::{Attachment, DriverConfig};
use crate::driver::Mark;
use crate::error::NetError;
use crate::manager::Inner;

/// How long further events are waited for after the first one.
const MOMENT: Duration = Duration::from_millis(40);
/// How often everything is compared.
const ROUND: Duration = Duration::from_secs(30);
/// How many sandboxes are looked into before others get their turn.
const SANDBOXES_AT_ONCE: usize = 64;

/// The task that watches, which ends with this handle.
#[derive(Debug)]
pub(crate) struct Watch {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task owns.
struct Watcher {
    inner: Weak<Inner>,
    route_events: RouteEvents,
    nft_events: NftEvents,
    /// As `nft_events`, inside of the sandboxes.
    inner_nft_events: NftEvents,
    /// A socket of the host's namespace, for reading.
    route: Option<Route>,
    known: Known,
    contest: Contest,
    /// What was warned of, until it is no more.
    warned: HashSet<String>,
    /// The sandboxes whose namespaces have a number in `known`.
    numbered: HashMap<SandboxId, i32>,
}

impl Watch {
    /// Begins to watch the calling thread's network namespace and those of
    /// the sandboxes; everything is compared at once.
    pub async fn start(inner: &Arc<Inner>) -> Result<Self, NetError> {
        let failed = |e| NetError::kernel("listen to the kernel's changes")(e);
        let port = inner.worker.run(|kernel| kernel.nft.port()).await?;
        let own = port.map_err(|e| failed(e.into()))?;
        let mut route = Route::open().map_err(|e| failed(e.into()))?;
        let route_events = RouteEvents::open().map_err(|e| failed(e.into()))?;
        let nft_events = NftEvents::open(&[own]).map_err(|e| failed(e.into()))?;
        let inner_nft_events = NftEvents::open_everywhere().map_err(|e| failed(e.into()))?;
        let links = route.links().map_err(failed)?;
        let bridges = links.into_iter().filter(|l| l.kind == "bridge").map(|l| (l.index, l.name));
        let known = Known {
            instance: inner.instance.clone(),
            numbers: HashMap::new(),
            bridges: bridges.collect(),
        };
        let watcher = Watcher {
            inner: Arc::downgrade(inner),
            route_events,
            nft_events,
            inner_nft_events,
            route: Some(route),
            known,
            contest: Contest::default(),
            warned: HashSet::new(),
            numbered: HashMap::new(),
        };
        Ok(Self { task: tokio::spawn(watcher.run()) })
    }
}

impl Watcher {
    async fn run(mut self) {
        let mut rounds = interval_at(Instant::now(), ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let Some(joined) = self.inner.upgrade().map(|inner| Arc::clone(&inner.joined)) else {
                return;
            };
            let told = tokio::select! {
                told = self.route_events.ready() => told,
                told = self.nft_events.ready() => told,
                told = self.inner_nft_events.ready() => told,
                () = joined.notified() => Ok(()),
                _ = rounds.tick() => {
                    self.round().await;
                    continue;
                }
            };
            if let Err(error) = told {
                tracing::error!(%error, "the kernel's changes are heard of no more");
                // Everything is still compared from time to time.
                rounds.tick().await;
                self.round().await;
                continue;
            }
            sleep(MOMENT).await;
            self.look().await;
        }
    }

    /// Deals with what was told until now.
    async fn look(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        self.number_sandboxes(&inner);
        let mut heap = Heap::default();
        let links = self.route_events.drain(|event| heap.route(event));
        let tables = self.nft_events.drain(|event| heap.table(event));
        let inside = self.inner_nft_events.drain(|event| {
            // The host's own are told by the other socket.
            if event.namespace.is_some() {
                heap.table(event);
            }
        });
        let mut scope = self.known.classify(&inner.state(), heap);
        for heard in [links, tables, inside] {
            match heard {
                Ok(Heard::All) => {}
                Ok(Heard::Overrun) => scope.all = true,
                Err(error) => tracing::warn!(%error, "failed to hear of changes"),
            }
        }
        if scope.all {
            tracing::info!("events of the kernel were lost; comparing everything");
            inner.count_overrun();
            self.round().await;
        }
        scope.all = false;
        self.find_owners(&inner, &mut scope).await;
        self.contest.filter(&mut scope, Instant::now().into_std());
        self.repair(&inner, scope).await;
    }

    /// Whose links lost a filter or a queue.
    async fn find_owners(&mut self, inner: &Inner, scope: &mut Scope) {
        let lost = std::mem::take(&mut scope.links);
        if lost.is_empty() {
            return;
        }
        let Some(mut route) = self.route.take() else { return };
        let read = tokio::task::spawn_blocking(move || (route.links(), route));
        let Ok((links, route)) = read.await else { return };
        self.route = Some(route);
        let links = links.unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to read the host's links");
            Vec::new()
        });
        let state = inner.state();
        for link in links.iter().filter(|l| lost.contains(&l.index)) {
            let Some(Mark::Endpoint(sandbox, _)) = Mark::read(&link.alias, &inner.instance) else {
                // Perhaps by which published ports are led directly.
                scope.direct = true;
                continue;
            };
            let Some(joined) = state.sandboxes.get(&sandbox) else { continue };
            if joined.is_limited() {
                scope.sandboxes.insert(sandbox.clone());
            }
            scope.straight.insert(sandbox);
        }
    }

    /// Gives the namespaces of new sandboxes numbers, by which the kernel
    /// tells what happens inside.
    fn number_sandboxes(&mut self, inner: &Inner) {
        let new: Vec<_> = {
            let state = inner.state();
            if self.numbered.len() > state.sandboxes.len() {
                self.numbered.retain(|sandbox, _| state.sandboxes.contains_key(sandbox));
            }
            let unknown = state.sandboxes.iter().filter(|(s, _)| !self.numbered.contains_key(*s));
            unknown
                .filter_map(|(s, joined)| Some((s.clone(), joined.sandbox.netns.clone()?)))
                .collect()
        };
        let Some(route) = &mut self.route else { return };
        for (sandbox, path) in new {
            // One that is gone already needs none.
            let Ok(namespace) = NetNs::open(&path) else { continue };
            match route.number_namespace(std::os::fd::AsFd::as_fd(&namespace)) {
                Ok(number) => {
                    self.known.numbers.insert(number, sandbox.clone());
                    self.numbered.insert(sandbox, number);
                }
                Err(error) => {
                    tracing::warn!(%sandbox, %error, "changes inside a sandbox are not heard of");
                }
            }
        }
    }

    /// Compares everything. Reading disturbs nobody; only what looks wrong is
    /// compared again, alone, and restored.
    async fn round(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        self.number_sandboxes(&inner);
        let mut scope = Scope {
            forwarding: true,
            firewall: true,
            direct: true,
            own_addresses: true,
            ..Scope::default()
        };
        self.look_at_host(&inner, &mut scope).await;
        let sandboxes: Vec<(SandboxId, std::path::PathBuf, Vec<Attachment>)> = {
            let state = inner.state();
            // What these have on the host is for their driver to compare.
            let upper = state
                .networks
                .values()
                .filter(|n| matches!(n.driver, DriverConfig::Macvlan(_) | DriverConfig::Ipvlan(_)));
            scope.networks.extend(upper.map(|n| n.id.clone()));
            let all = state.sandboxes.iter();
            // Limits are seen by nobody but who sets them.
            let limited = all.clone().filter(|(_, joined)| joined.is_limited());
            scope.sandboxes.extend(limited.map(|(sandbox, _)| sandbox.clone()));
            let served = all.clone().filter(|(_, joined)| joined.spec.dns.serves);
            scope.names.extend(served.map(|(sandbox, _)| sandbox.clone()));
            scope.straight.extend(all.clone().map(|(sandbox, _)| sandbox.clone()));
            all.filter_map(|(sandbox, joined)| {
                let path = joined.sandbox.netns.clone()?;
                Some((sandbox.clone(), path, joined.sandbox.attachments.clone()))
            })
            .collect()
        };
        for some in sandboxes.chunks(SANDBOXES_AT_ONCE) {
            let paths = some.iter().map(|(_, path, _)| path.clone()).collect();
            let Ok(views) = tokio::task::spawn_blocking(move || View::read_all(paths)).await else {
                break;
            };
            for ((sandbox, _, attachments), view) in some.iter().zip(views) {
                if let Some(view) = view {
                    suspect(inspect_inside(sandbox, attachments, &view), &mut scope);
                }
            }
        }
        self.repair(&inner, scope).await;
    }

    async fn look_at_host(&mut self, inner: &Inner, scope: &mut Scope) {
        let Some(mut route) = self.route.take() else { return };
        let read = tokio::task::spawn_blocking(move || {
            let read = View::read(&mut route).and_then(|v| Ok((v, route.destinations()?)));
            (read, route)
        });
        let Ok((read, route)) = read.await else { return };
        self.route = Some(route);
        match read {
            Ok((view, destinations)) => {
                suspect(inspect_host(&inner.state(), &view), scope);
                self.warn(inner, &Taken::all(&view, destinations));
            }
            Err(error) => tracing::warn!(%error, "failed to read the host's links"),
        }
    }

    /// Warns of routes that came to the host after a network whose subnet they
    /// overlap, once each.
    fn warn(&mut self, inner: &Inner, taken: &[Taken]) {
        let networks: Vec<_> = inner.state().networks.values().cloned().collect();
        let found = networks.iter().flat_map(|network| overlaps(network, taken));
        let found: HashSet<String> = found.map(|finding| finding.text).collect();
        for text in found.difference(&self.warned) {
            tracing::warn!("{text}");
        }
        self.warned = found;
    }

    async fn repair(&mut self, inner: &Arc<Inner>, scope: Scope) {
        if scope.is_empty() {
            return;
        }
        let repairs = inner.repair(scope).await;
        for failure in &repairs.failed {
            tracing::warn!(failure, "failed to put the network right");
        }
        for repair in repairs.restored {
            tracing::warn!(kind = repair.kind.as_str(), "restored: {repair}");
            self.contest.count(&repair, Instant::now().into_std());
            inner.tell_repair(repair);
        }
    }
}

/// Marks what findings are about.
fn suspect(findings: Vec<Finding>, scope: &mut Scope) {
    for finding in findings {
        match finding.subject {
            Subject::Host => scope.forwarding = true,
            Subject::Firewall => scope.firewall = true,
            Subject::Network(network) => drop(scope.networks.insert(network)),
            Subject::Endpoint(sandbox, _) => drop(scope.sandboxes.insert(sandbox)),
        }
    }
}
