//! Which published ports may be direct: pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use sampan_sys::bpf::PublishedPlace;
use sampan_types::SandboxId;

use crate::config::{Attachment, DriverConfig, NetworkSpec, SandboxSpec};
use crate::firewall::Forwards;
use crate::mac::MacAddr;
use crate::ports::Protocol;

/// A sandbox's published ports, as far as they matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ways {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Where it is; none when all is left to the host's stack.
    pub by: Option<Door>,
    /// The ports, and where they lead.
    pub ports: Vec<(PublishedPlace, SocketAddrV4)>,
}

/// Where a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    /// The host's end of its pair of links.
    pub link: String,
    /// Its bridge.
    pub bridge: String,
    /// Its hardware address.
    pub mac: MacAddr,
}

impl Ways {
    /// Those of a sandbox on these networks. `ruled` says that a policy is
    /// about it.
    pub fn of(
        spec: &SandboxSpec,
        attached: &[(std::sync::Arc<NetworkSpec>, Attachment)],
        forwards: &Forwards,
        ruled: bool,
    ) -> Self {
        let ports: Vec<_> = forwards
            .iter()
            .filter(|f| f.protocol == Protocol::Tcp && !f.routed)
            .filter_map(|f| match (f.host_ip, f.target) {
                (IpAddr::V4(address), SocketAddr::V4(to)) => {
                    Some((PublishedPlace { address, port: f.host_port }, to))
                }
                _ => None,
            })
            .collect();
        // One client could use one port of its own for both, which only the
        // host's stack can tell apart.
        let mut leading = HashMap::<SocketAddrV4, usize>::new();
        ports.iter().for_each(|(_, to)| *leading.entry(*to).or_default() += 1);
        let alone = ports.iter().all(|(_, to)| leading[to] == 1);
        let by = door(spec, attached).filter(|_| alone && !ruled);
        Self { sandbox: spec.sandbox.clone(), by, ports }
    }

    /// Whether there is nothing to do for it.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

/// Of a sandbox with a single endpoint: with several, its answers may leave by
/// another one than the questions came.
fn door(
    spec: &SandboxSpec,
    attached: &[(std::sync::Arc<NetworkSpec>, Attachment)],
) -> Option<Door> {
    let ([endpoint], [(network, attachment)]) = (spec.endpoints.as_slice(), attached) else {
        return None;
    };
    let DriverConfig::Bridge(config) = &network.driver else { return None };
    if config.internal || !endpoint.rate.is_none() {
        return None;
    }
    Some(Door {
        link: attachment.host_interface.clone()?,
        bridge: config.bridge.clone(),
        mac: attachment.mac?,
    })
}
