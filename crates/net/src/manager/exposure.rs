//! Who can reach the published ports of a sandbox.

use std::collections::HashMap;
use std::net::IpAddr;

use sampan_types::SandboxId;

use super::{Inner, Networks};
use crate::error::NetError;
use crate::firewall::{Exposure, Forward};
use crate::ports::{Protocol, PublishedPort};

/// What a published port and its way have in common.
type Key = (Protocol, IpAddr, u16);

impl Networks {
    /// Who can reach the published ports of a sandbox, in their order. Takes
    /// as long as reading the host's rules when somebody changed any.
    ///
    /// # Errors
    /// [`NetError::NoSandbox`], or the kernel's.
    pub async fn exposure(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Vec<(PublishedPort, Exposure)>, NetError> {
        let sandbox = sandbox.clone();
        self.detached(|inner| async move { inner.exposure(&sandbox).await }).await
    }
}

impl Inner {
    async fn exposure(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Vec<(PublishedPort, Exposure)>, NetError> {
        let (ports, ways) = {
            let state = self.state();
            let joined = state.sandboxes.get(sandbox);
            let joined = joined.ok_or_else(|| NetError::NoSandbox(sandbox.clone()))?;
            let ports = joined.spec.ports.clone();
            let ways: HashMap<Key, Forward> =
                joined.forwards.iter().map(|f| (key_of(&f), f)).collect();
            (ports, ways)
        };
        let way = |port: &PublishedPort| {
            let translated = ways.get(&(port.protocol, port.host_ip, port.host_port));
            let routed = || {
                let any = unspecified(port.host_ip);
                ways.get(&(port.protocol, any, port.container_port)).filter(|f| f.routed)
            };
            translated.filter(|f| !f.routed).or_else(routed).cloned()
        };
        let (with, without): (Vec<_>, Vec<_>) =
            ports.into_iter().map(|port| (way(&port), port)).partition(|(way, _)| way.is_some());
        let known = with.iter().filter_map(|(way, _)| way.clone()).collect();
        let exposures = self.firewall.exposure(known).await?;
        let reached = with.into_iter().map(|(_, port)| port).zip(exposures);
        let all = reached.chain(without.into_iter().map(|(_, port)| (port, Exposure::Nobody)));
        Ok(all.collect())
    }
}

fn key_of(forward: &Forward) -> Key {
    if forward.routed {
        (forward.protocol, unspecified(forward.target.ip()), forward.target.port())
    } else {
        (forward.protocol, forward.host_ip, forward.host_port)
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
