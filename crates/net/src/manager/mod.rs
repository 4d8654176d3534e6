//! The manager of networks and sandboxes.
//!
//! ```text
//! join:  check ─> namespace (made ahead) ─> driver.attach, each endpoint ─> firewall: one batch
//! leave: firewall: one batch ─> driver.detach, each endpoint ─> the reaper does the slow rest
//! ```
//!
//! Be aware:
//! - An operation that began runs to its end, also when its caller goes away.
//! - `join`, `leave` and the like run side by side; `reconcile` and changes of
//!   networks run alone, since they look at everything.

mod direct;
mod exposure;
mod limits;
mod link_local;
mod links;
mod names;
mod plan;
mod policies;
mod reconcile;
mod repair;
mod routes;
mod sandbox;
mod straight;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_plugin::Plugins;
use sampan_sys::sysctl::{self, SysctlError};
use sampan_types::{EndpointId, NetworkId, SandboxId};
use tokio::sync::{Notify, RwLock, broadcast};

use crate::config::{Attachment, DriverConfig, EndpointSpec, NetConfig, NetworkSpec, SandboxSpec};
use crate::direct::Direct;
use crate::driver::{Bridge, Cni, Driver, Flavour, Linkless, Remote, Upper, dead_group};
use crate::error::NetError;
use crate::firewall::{Firewall, Forwards, NftFirewall};
use crate::host6::Host6;
use crate::names::NameService;
use crate::ports::PublishedPort;
use crate::redirect::Redirect;
use crate::sandbox::Namespaces;
use crate::watch::Watch;
use crate::worker::{Reaper, Worker};

pub use repair::{Repair, RepairKind};

/// How many repairs a slow listener may be behind.
const REPAIRS_KEPT: usize = 1024;

/// A sandbox that is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The namespace's file; none for the host's own namespace.
    pub netns: Option<PathBuf>,
    /// One for each endpoint, in the order of the specification.
    pub attachments: Vec<Attachment>,
}

/// What [`Networks::reconcile`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// What was missing or different and is restored.
    pub restored: Vec<Repair>,
    /// What nobody wants any more and is removed, one line each.
    pub removed: Vec<String>,
    /// What could not be restored and why, one line each.
    pub failed: Vec<String>,
    /// Sandboxes whose namespace is gone: their containers can't have a
    /// network before they are started again.
    pub lost: Vec<SandboxId>,
}

/// All networks and sandboxes of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks").field("state", &self.inner.state).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    /// The name by which this instance's objects are known.
    pub(crate) instance: String,
    ip_forward: bool,
    /// Read by what concerns one sandbox, written by what looks at all.
    whole: RwLock<()>,
    /// Held for a moment at a time, never across a wait.
    state: Mutex<State>,
    /// Held by whoever tells the firewall of policies: what is told last was
    /// true last.
    policy_turn: tokio::sync::Mutex<()>,
    /// What links open. Held while it is changed: what is compared last was
    /// true last.
    links: tokio::sync::Mutex<links::Opened>,
    drivers: Drivers,
    firewall: Box<dyn Firewall>,
    names: Box<dyn NameService>,
    namespaces: Namespaces,
    redirect: Redirect,
    direct: Direct,
    host6: Host6,
    pub(crate) worker: Worker,
    reaper: Reaper,
    /// Told when a sandbox has a new namespace.
    pub(crate) joined: Arc<Notify>,
    /// What the watcher restored.
    repairs: broadcast::Sender<Repair>,
    /// How often the watcher was too slow to hear all of the kernel's events.
    overruns: AtomicU64,
    /// Locked for the moment in which it is started.
    watch: Mutex<Option<Watch>>,
}

/// One driver of each kind.
struct Drivers {
    bridge: Box<dyn Driver>,
    linkless: Box<dyn Driver>,
    macvlan: Box<dyn Driver>,
    ipvlan: Box<dyn Driver>,
    remote: Box<dyn Driver>,
    cni: Box<dyn Driver>,
}

impl Drivers {
    fn all(&self) -> [&dyn Driver; 6] {
        [&*self.bridge, &*self.linkless, &*self.macvlan, &*self.ipvlan, &*self.remote, &*self.cni]
    }
}

/// What is set up, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) networks: HashMap<NetworkId, Arc<NetworkSpec>>,
    pub(crate) sandboxes: HashMap<SandboxId, Joined>,
    pub(crate) policies: policies::Policies,
}

/// A sandbox that is set up, with what it came from.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) spec: SandboxSpec,
    pub(crate) sandbox: Sandbox,
    pub(crate) forwards: Forwards,
}

impl Joined {
    /// Whether an endpoint has a limit of bandwidth.
    pub(crate) fn is_limited(&self) -> bool {
        self.spec.endpoints.iter().any(|endpoint| !endpoint.rate.is_none())
    }
}

impl Networks {
    /// Brings the configured networks up: bridges, addresses, the nftables
    /// table, kernel parameters. Repeatable: what exists is taken over, and
    /// published ports that an earlier run left keep working until
    /// [`Networks::reconcile`] says what they shall be.
    ///
    /// `config.networks` has to name every network that exists, the users'
    /// among them: rules of others are not kept. `names` answers for the
    /// containers' names.
    ///
    /// # Errors
    /// [`NetError`]; what was made until then stays, a repetition takes it over.
    pub async fn open(config: NetConfig, names: Box<dyn NameService>) -> Result<Self, NetError> {
        let worker = Worker::start()?;
        let reaper = Reaper::start(dead_group(&config.instance))?;
        let (name, respects_host) = (config.instance.clone(), config.respect_host_firewall);
        let firewall = NftFirewall::new(name, respects_host, worker.clone(), reaper.clone());
        let upper = |flavour| {
            let namespaces = config.exec_root.join("netns");
            Upper::new(flavour, config.instance.clone(), namespaces, worker.clone())
        };
        let drivers = Drivers {
            bridge: Box::new(Bridge::new(config.instance.clone(), worker.clone(), reaper.clone())),
            linkless: Box::new(Linkless),
            macvlan: Box::new(upper(Flavour::Macvlan)),
            ipvlan: Box::new(upper(Flavour::Ipvlan)),
            remote: Box::new(Remote::new(
                Plugins::new(config.plugin_dirs.clone()),
                config.exec_root.join("plugins"),
                config.exec_root.join("netns"),
                worker.clone(),
            )),
            cni: Box::new(Cni::new(
                config.cni_path.clone(),
                config.exec_root.join("cni"),
                config.exec_root.join("netns"),
            )),
        };
        Self::open_with(config, (worker, reaper), drivers, Box::new(firewall), names).await
    }

    /// As [`Networks::open`], with the seams given.
    async fn open_with(
        config: NetConfig,
        (worker, reaper): (Worker, Reaper),
        drivers: Drivers,
        firewall: Box<dyn Firewall>,
        names: Box<dyn NameService>,
    ) -> Result<Self, NetError> {
        let dir = config.exec_root.join("netns");
        let namespaces = Namespaces::open(dir, config.namespaces_ahead)?;
        // What comes directly has passed no firewall.
        let direct = config.redirect && !config.respect_host_firewall;
        let direct = Direct::new(direct, config.instance.clone(), worker.clone());
        let hooks = config.exec_root.join("host6");
        let host6 = Host6::new(config.host_ipv6_ports, hooks, worker.clone());
        let inner = Inner {
            instance: config.instance,
            ip_forward: config.ip_forward,
            whole: RwLock::default(),
            state: Mutex::default(),
            policy_turn: tokio::sync::Mutex::default(),
            links: tokio::sync::Mutex::default(),
            drivers,
            firewall,
            names,
            namespaces,
            redirect: Redirect::new(config.redirect, worker.clone()),
            direct,
            host6,
            worker,
            reaper,
            joined: Arc::default(),
            repairs: broadcast::channel(REPAIRS_KEPT).0,
            overruns: AtomicU64::new(0),
            watch: Mutex::default(),
        };
        inner.forward_packets()?;
        for network in &config.networks {
            plan::check_network(&inner.state(), network)?;
            inner.forward_packets_of(network)?;
            match inner.driver(network).create_network(network).await {
                // A parent that is gone, or not there yet, is no reason to do
                // without the other networks: reconciliation tries again.
                Err(e) if plan::may_be_absent(network) => {
                    tracing::warn!(network = network.name, error = %e, "a network can't be used");
                }
                created => drop(created?),
            }
            inner.state().networks.insert(network.id.clone(), Arc::new(network.clone()));
        }
        let rules = config.networks.iter().filter_map(plan::network_rules).collect();
        inner.firewall.adopt(rules).await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Creates a network. Success when the same one exists.
    ///
    /// # Errors
    /// [`NetError::InvalidNetwork`], [`NetError::InUse`], or the kernel's.
    pub async fn create_network(&self, network: NetworkSpec) -> Result<(), NetError> {
        self.detached(|inner| async move {
            let _alone = inner.whole.write().await;
            plan::check_network(&inner.state(), &network)?;
            inner.forward_packets_of(&network)?;
            inner.create_network(&network).await?;
            inner.state().networks.insert(network.id.clone(), Arc::new(network));
            inner.follow_links(false).await;
            inner.refresh_policies().await;
            Ok(())
        })
        .await
    }

    /// Removes a network. Success when there is none.
    ///
    /// # Errors
    /// [`NetError::ActiveEndpoints`], or the kernel's.
    pub async fn delete_network(&self, network: &NetworkId) -> Result<(), NetError> {
        let network = network.clone();
        self.detached(|inner| async move {
            let _alone = inner.whole.write().await;
            let spec = inner.state().networks.get(&network).cloned();
            let Some(spec) = spec else { return Ok(()) };
            let count = inner.state().endpoints_of(&network);
            if count > 0 {
                return Err(NetError::ActiveEndpoints { network: spec.name.clone(), count });
            }
            let rules = inner.firewall.remove_network(&network).await;
            let links = inner.driver(&spec).delete_network(&spec).await;
            rules.and(links)?;
            inner.state().networks.remove(&network);
            inner.refresh_policies().await;
            Ok(())
        })
        .await
    }

    /// The network with this id.
    #[must_use]
    pub fn network(&self, network: &NetworkId) -> Option<NetworkSpec> {
        self.inner.state().networks.get(network).map(|n| (**n).clone())
    }

    /// The sandbox as it is set up.
    #[must_use]
    pub fn sandbox(&self, sandbox: &SandboxId) -> Option<Sandbox> {
        self.inner.state().sandboxes.get(sandbox).map(|j| j.sandbox.clone())
    }

    /// Makes a sandbox: namespace, interfaces, routes, published ports. What
    /// an interrupted attempt left is replaced. On failure nothing is left.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn join(&self, spec: SandboxSpec) -> Result<Sandbox, NetError> {
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            let id = spec.sandbox.clone();
            let sandbox = inner.join_guarded(spec).await?;
            if let Err(e) = inner.refresh_links(false).await {
                inner.take_back(&id).await;
                return Err(e);
            }
            Ok(sandbox)
        })
        .await
    }

    /// Takes a sandbox away. Its ports and addresses are out of use on
    /// return; what the kernel is slow to remove goes on in the background.
    /// Success when there is none.
    ///
    /// # Errors
    /// [`NetError`], after everything was tried.
    pub async fn leave(&self, sandbox: &SandboxId) -> Result<(), NetError> {
        let sandbox = sandbox.clone();
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            let left = inner.leave(&sandbox).await;
            inner.follow_links(false).await;
            inner.refresh_policies().await;
            left
        })
        .await
    }

    /// Connects a sandbox to one more network.
    ///
    /// # Errors
    /// [`NetError::NoSandbox`] and as [`Networks::join`].
    pub async fn connect(
        &self,
        sandbox: &SandboxId,
        endpoint: EndpointSpec,
    ) -> Result<Attachment, NetError> {
        let sandbox = sandbox.clone();
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            let made = inner.connect_guarded(&sandbox, endpoint).await?;
            inner.follow_links(false).await;
            Ok(made)
        })
        .await
    }

    /// Takes one endpoint of a sandbox away. Success when it has none such.
    ///
    /// # Errors
    /// As [`Networks::leave`].
    pub async fn disconnect(
        &self,
        sandbox: &SandboxId,
        endpoint: &EndpointId,
    ) -> Result<(), NetError> {
        let (sandbox, endpoint) = (sandbox.clone(), endpoint.clone());
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            let left = inner.disconnect(&sandbox, &endpoint).await;
            inner.follow_links(false).await;
            inner.refresh_policies().await;
            left
        })
        .await
    }

    /// Makes `ports` the published ports of a sandbox; those that stay are not
    /// touched.
    ///
    /// # Errors
    /// [`NetError::NoSandbox`], or the kernel's.
    pub async fn publish(
        &self,
        sandbox: &SandboxId,
        ports: Vec<PublishedPort>,
    ) -> Result<(), NetError> {
        let sandbox = sandbox.clone();
        self.detached(|inner| async move {
            let _shared = inner.whole.read().await;
            inner.publish(&sandbox, ports).await
        })
        .await
    }

    /// Compares the kernel with `desired`: adopts what is right, restores
    /// what is missing, removes what is left over. Called once after
    /// [`Networks::open`], before the first [`Networks::join`]; repeatable.
    ///
    /// # Errors
    /// Only when nothing could be compared at all; single failures are in
    /// [`Repairs::failed`].
    pub async fn reconcile(&self, desired: &[SandboxSpec]) -> Result<Repairs, NetError> {
        let desired = desired.to_vec();
        self.detached(|inner| async move {
            let _alone = inner.whole.write().await;
            inner.reconcile(desired).await
        })
        .await
    }

    /// Begins to watch the kernel: what somebody else removes or changes is
    /// restored as soon as the kernel tells of it. Called after
    /// [`Networks::reconcile`], in the host's network namespace. What is
    /// different already is restored at once.
    ///
    /// # Errors
    /// When the kernel's changes can't be listened to.
    pub async fn watch(&self) -> Result<(), NetError> {
        let watch = Watch::start(&self.inner).await?;
        *self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
        Ok(())
    }

    /// What is restored from now on.
    #[must_use]
    pub fn repairs(&self) -> broadcast::Receiver<Repair> {
        self.inner.repairs.subscribe()
    }

    /// How often events of the kernel were lost since the start; each time
    /// everything was compared.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.inner.overruns.load(Ordering::Relaxed)
    }

    /// Waits until the background work that was begun is done: links and
    /// namespaces that are out of use are gone from the kernel.
    pub async fn settle(&self) {
        self.inner.reaper.flush().await;
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Runs an operation on a task of its own, so that a caller that goes
    /// away does not leave it half done.
    async fn detached<T, F>(&self, operation: impl FnOnce(Arc<Inner>) -> F) -> Result<T, NetError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NetError>> + Send + 'static,
    {
        let task = tokio::spawn(operation(Arc::clone(&self.inner)));
        match task.await {
            Ok(result) => result,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(NetError::Stopped),
            },
        }
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn driver(&self, network: &NetworkSpec) -> &dyn Driver {
        match network.driver {
            DriverConfig::Bridge(_) => &*self.drivers.bridge,
            DriverConfig::Host | DriverConfig::None => &*self.drivers.linkless,
            DriverConfig::Macvlan(_) => &*self.drivers.macvlan,
            DriverConfig::Ipvlan(_) => &*self.drivers.ipvlan,
            DriverConfig::Remote(_) => &*self.drivers.remote,
            DriverConfig::Cni(_) => &*self.drivers.cni,
        }
    }

    /// Switches the host's forwarding on as the networks need it, if that is
    /// wanted. Says whether it was off.
    fn forward_packets(&self) -> Result<bool, NetError> {
        let networks: Vec<_> = self.state().networks.values().cloned().collect();
        let mut was_off = self.ip_forward && sysctl::write("net.ipv4.ip_forward", "1")?;
        for network in networks {
            was_off |= self.forward_packets_of(&network)?;
        }
        Ok(was_off)
    }

    /// As [`Inner::forward_packets`], for what one network needs beyond IPv4.
    fn forward_packets_of(&self, network: &NetworkSpec) -> Result<bool, NetError> {
        Ok(self.ip_forward && plan::forwards_ipv6(network) && forward_ipv6()?)
    }

    /// Links first, then rules; without rules there is no network.
    async fn create_network(&self, network: &NetworkSpec) -> Result<(), NetError> {
        self.driver(network).create_network(network).await?;
        if let Some(rules) = plan::network_rules(network)
            && let Err(e) = self.firewall.add_network(rules).await
        {
            if let Err(also) = self.driver(network).delete_network(network).await {
                tracing::warn!(network = network.name, error = %also, "failed to remove a network that could not be completed");
            }
            return Err(e);
        }
        Ok(())
    }
}

/// Switches the forwarding of IPv6 on. A host that forwards does not listen to
/// routers any more unless it is told to all the same: interfaces that did
/// keep what they have by them.
fn forward_ipv6() -> Result<bool, SysctlError> {
    const FORWARDING: &str = "net.ipv6.conf.all.forwarding";
    if sysctl::read(FORWARDING)? == "1" {
        return Ok(false);
    }
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten();
    for interface in interfaces.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let name = format!("net/ipv6/conf/{interface}/accept_ra");
        if sysctl::read(&name).is_ok_and(|value| value == "1") {
            sysctl::write(&name, "2")?;
        }
    }
    sysctl::write(FORWARDING, "1")
}

impl State {
    fn endpoints_of(&self, network: &NetworkId) -> usize {
        let endpoints = self.sandboxes.values().flat_map(|j| &j.spec.endpoints);
        endpoints.filter(|e| e.network == *network).count()
    }
}

#[cfg(test)]
mod tests;
