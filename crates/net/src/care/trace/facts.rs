//! What the way of a packet is decided from.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use sampan_sys::netlink::{Link, Way};
use sampan_sys::netns::NetNs;
use sampan_sys::nft::OtherChain;
use sampan_sys::sockets::Sockets;
use sampan_sys::sysctl;
use sampan_types::{NetworkId, SandboxId};

use super::{Place, TraceRequest};
use crate::care::route_in;
use crate::config::{Attachment, NetworkSpec};
use crate::error::NetError;
use crate::firewall::{Forward, LinkRule};
use crate::manager::Inner;
use crate::policy::PolicyRule;
use crate::ports::Protocol;
use crate::watch::{View, inspect_host, inspect_inside};

/// A sandbox on the way.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub sandbox: SandboxId,
    /// None for the host's own.
    pub netns: Option<PathBuf>,
    pub attachments: Vec<Attachment>,
}

/// What the kernel is asked while deciding.
pub(super) trait Kernel {
    /// Where a packet would go in the host's namespace, or in one with this
    /// name.
    fn way(
        &self,
        netns: Option<&PathBuf>,
        to: IpAddr,
        from: Option<IpAddr>,
        enters_by: Option<&str>,
    ) -> Result<Option<Way>, NetError>;

    /// Where somebody listens in a namespace.
    fn listeners(
        &self,
        netns: Option<&PathBuf>,
        protocol: Protocol,
    ) -> Result<Vec<SocketAddr>, NetError>;

    /// The name of a link of a namespace.
    fn link(&self, netns: Option<&PathBuf>, index: u32) -> Result<Option<String>, NetError>;

    /// What is known of the instance.
    fn known(&self) -> &Instance;
}

/// What is known of the instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Instance {
    pub networks: HashMap<NetworkId, Arc<NetworkSpec>>,
    pub sandboxes: Vec<Known>,
    pub forwards: Vec<Forward>,
    pub policies: Vec<PolicyRule>,
    /// What links open.
    pub links: BTreeSet<LinkRule>,
    /// Chains of others that drop what is forwarded.
    pub dropping: Vec<OtherChain>,
    /// Addresses of containers to which published ports lead directly.
    pub direct: HashSet<IpAddr>,
    /// Whether the host forwards packets.
    pub forwarding: bool,
    /// What is wrong with the host's side of networks.
    pub wrong_networks: HashMap<NetworkId, String>,
    /// What is wrong with endpoints of the sandboxes at both ends.
    pub wrong_endpoints: HashMap<(SandboxId, NetworkId), String>,
}

impl Instance {
    /// What is to be said of the way of a published port besides.
    pub fn shortcut(&self, forward: &Forward, from_outside: bool) -> &'static str {
        let direct = from_outside
            && forward.protocol == Protocol::Tcp
            && self.direct.contains(&forward.target.ip());
        if direct { ", directly: past the rules and the bridge" } else { "" }
    }

    pub fn sandbox(&self, id: &SandboxId) -> Option<&Known> {
        self.sandboxes.iter().find(|s| s.sandbox == *id)
    }

    /// The sandbox that has an address, and its attachment.
    pub fn owner(&self, address: IpAddr) -> Option<(&Known, &Attachment)> {
        self.sandboxes.iter().find_map(|known| {
            let has = |a: &&Attachment| a.addresses.iter().any(|n| n.addr() == address);
            Some((known, known.attachments.iter().find(has)?))
        })
    }
}

/// The facts of this host.
#[derive(Debug)]
pub(super) struct Facts {
    instance: Instance,
    links: Vec<Link>,
}

impl Facts {
    pub async fn collect(inner: &Inner, request: &TraceRequest) -> Result<Self, NetError> {
        let read = inner
            .worker
            .run(|kernel| Ok((View::read(&mut kernel.route)?, kernel.nft.base_chains()?)));
        let (view, chains) =
            read.await?.map_err(NetError::kernel("look at the host's links and rules"))?;
        let mut instance = known(inner);
        let ours = |c: &OtherChain| c.table.starts_with("sampan");
        instance.dropping =
            chains.into_iter().filter(|c| c.is_forward() && c.drops && !ours(c)).collect();
        let direct = inner.direct_sandboxes().await?;
        let direct = instance.sandboxes.iter().filter(|s| direct.contains(&s.sandbox));
        instance.direct = direct
            .flat_map(|s| s.attachments.iter().flat_map(|a| &a.addresses))
            .map(|address| address.addr())
            .filter(IpAddr::is_ipv4)
            .collect();
        instance.forwarding = sysctl::read("net.ipv4.ip_forward").is_ok_and(|v| v != "0");
        for finding in inspect_host(&inner.state(), &view) {
            note(&mut instance, finding);
        }
        let ends: Vec<Known> = [&request.from, &request.to]
            .into_iter()
            .filter_map(|place| match place {
                Place::Sandbox(id) => Some(id),
                _ => None,
            })
            .map(|id| instance.sandbox(id).cloned().ok_or_else(|| NetError::NoSandbox(id.clone())))
            .collect::<Result<_, _>>()?;
        let inside = super::super::blocking(move || {
            let paths: Vec<PathBuf> = ends.iter().filter_map(|e| e.netns.clone()).collect();
            let with_own = ends.iter().filter(|e| e.netns.is_some());
            let views = View::read_all(paths).into_iter().zip(with_own);
            let found = views.filter_map(|(view, known)| {
                Some(inspect_inside(&known.sandbox, &known.attachments, &view?))
            });
            Ok(found.flatten().collect::<Vec<_>>())
        });
        for finding in inside.await? {
            note(&mut instance, finding);
        }
        Ok(Self { instance, links: view.links })
    }
}

fn known(inner: &Inner) -> Instance {
    let state = inner.state();
    let sandboxes = state.sandboxes.iter().map(|(id, joined)| Known {
        sandbox: id.clone(),
        netns: joined.sandbox.netns.clone(),
        attachments: joined.sandbox.attachments.clone(),
    });
    Instance {
        sandboxes: sandboxes.collect(),
        networks: state.networks.clone(),
        forwards: state.sandboxes.values().flat_map(|j| j.forwards.clone()).collect(),
        policies: state.policies.rules().to_vec(),
        links: state.opened_links(),
        ..Instance::default()
    }
}

fn note(instance: &mut Instance, finding: crate::watch::Finding) {
    use crate::watch::Subject;
    match finding.subject {
        Subject::Network(network) => {
            instance.wrong_networks.entry(network).or_insert(finding.text);
        }
        Subject::Endpoint(sandbox, network) => {
            instance.wrong_endpoints.entry((sandbox, network)).or_insert(finding.text);
        }
        Subject::Host | Subject::Firewall => {}
    }
}

impl Kernel for Facts {
    fn way(
        &self,
        netns: Option<&PathBuf>,
        to: IpAddr,
        from: Option<IpAddr>,
        enters_by: Option<&str>,
    ) -> Result<Option<Way>, NetError> {
        let index = |name: &str| self.links.iter().find(|l| l.name == name).map(|l| l.index);
        let enters_by = enters_by.and_then(index);
        let mut route = route_in(netns.map(PathBuf::as_path))?;
        route.way_to(to, from, enters_by).map_err(NetError::kernel("look up a route"))
    }

    fn listeners(
        &self,
        netns: Option<&PathBuf>,
        protocol: Protocol,
    ) -> Result<Vec<SocketAddr>, NetError> {
        let udp = match protocol {
            Protocol::Tcp => false,
            Protocol::Udp => true,
            // Not told by sock_diag of every kernel.
            Protocol::Sctp => return Ok(Vec::new()),
        };
        let opened = match netns {
            None => Sockets::open(),
            Some(path) => NetNs::open(path).and_then(|ns| ns.run(Sockets::open)).and_then(|s| s),
        };
        let failed = || NetError::kernel("look for listeners");
        let mut sockets = opened.map_err(|e| failed()(e.into()))?;
        sockets.listeners(udp).map_err(failed())
    }

    fn link(&self, netns: Option<&PathBuf>, index: u32) -> Result<Option<String>, NetError> {
        let find = |links: &[Link]| links.iter().find(|l| l.index == index).map(|l| l.name.clone());
        if netns.is_none() {
            return Ok(find(&self.links));
        }
        let mut route = route_in(netns.map(PathBuf::as_path))?;
        Ok(find(&route.links().map_err(NetError::kernel("list links"))?))
    }

    fn known(&self) -> &Instance {
        &self.instance
    }
}
