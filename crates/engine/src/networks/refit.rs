//! Endpoints of running containers on a network that changed while no daemon
//! ran: the default bridge has other settings.
//!
//! ```text
//! a family more:         record: an address of it as well ─> the link that is there gets it
//! anything else differs: record: off ─> link removed ─> on again, with addresses that fit
//! ```
//!
//! Be aware: both are written before the kernel is touched. What is off is
//! switched on by [`Engine::switch_all_on`], after a crash in between too.

use std::sync::Arc;

use sampan_net::DriverConfig;

use super::{NetworkRecord, Wanted};
use crate::container::Container;
use crate::container::endpoint::wanted_addresses;
use crate::record::{EndpointLive, EndpointRecord};
use crate::{Engine, Result};

/// How an endpoint's addresses fit its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// They do.
    Well,
    /// It lacks one of a family that the network has.
    Lacking,
    /// One is in no subnet, or leads out by another gateway.
    Badly,
}

fn fit(live: &EndpointLive, network: &NetworkRecord) -> Fit {
    let of_family = |v6: bool| network.ipam.iter().filter(move |i| i.subnet.addr().is_ipv6() == v6);
    let mut fit = Fit::Well;
    let families = [(false, live.address, live.gateway), (true, live.address6, live.gateway6)];
    for (v6, address, gateway) in families {
        let Some(address) = address else {
            if of_family(v6).next().is_some() && fit == Fit::Well {
                fit = Fit::Lacking;
            }
            continue;
        };
        let its = of_family(v6).find(|i| i.subnet == address.trunc());
        if its.is_none_or(|i| gateway.is_some_and(|g| g != i.gateway)) {
            fit = Fit::Badly;
        }
    }
    fit
}

impl Engine {
    /// Makes the records of running containers fit the networks as they are
    /// configured now. Says whether endpoints were switched off. Every address
    /// that fits is reserved already.
    pub(crate) async fn refit_endpoints(&self, containers: &[Arc<Container>]) -> bool {
        let mut off = false;
        for c in containers {
            for (name, endpoint) in c.record().networking.endpoints.clone() {
                let Some(network) = self.network_table().get(&endpoint.network) else { continue };
                let movable = matches!(network.driver, DriverConfig::Bridge(_));
                let Some(live) = endpoint.live.clone().filter(|_| movable) else { continue };
                let done = match fit(&live, &network) {
                    Fit::Well => continue,
                    Fit::Lacking => self.add_family(c, &name, &endpoint, &live, &network).await,
                    Fit::Badly => {
                        off = true;
                        self.leave_subnet(c, &name, &live, &network).await
                    }
                };
                let (container, network) = (c.id().short(), &network.name);
                match done {
                    Ok(()) => tracing::info!(container, network, "follows the network's settings"),
                    Err(error) => {
                        tracing::error!(container, network, %error, "does not follow the network's settings: restart it");
                    }
                }
            }
        }
        off
    }

    /// Takes an address of the family that an endpoint lacks.
    async fn add_family(
        &self,
        c: &Arc<Container>,
        name: &str,
        endpoint: &EndpointRecord,
        live: &EndpointLive,
        network: &NetworkRecord,
    ) -> Result<()> {
        let now = [live.address, live.address6].into_iter().flatten().map(|n| n.addr());
        let fixed = wanted_addresses(&endpoint.config)?;
        let before = now.chain(endpoint.before.iter().copied()).collect();
        self.release_addresses(network, Some(live));
        let wanted = Wanted { fixed, before };
        let taken =
            self.network_table().allocate(&network.id, &wanted, c.id().as_str(), &str::to_owned);
        let addresses = match taken {
            Ok(addresses) => addresses,
            Err(error) => {
                self.reserve_network(&c.record());
                return Err(error);
            }
        };
        let made = EndpointLive::new(live.endpoint.clone(), &addresses, network, live.mac.clone());
        let written = self.commit_change(c, |r| {
            if let Some(endpoint) = r.networking.endpoints.get_mut(name) {
                endpoint.live = Some(made.clone());
                endpoint.before.clone_from(&addresses);
            }
        });
        written.await?;
        self.change_hosts(&c.record(), &made, true).await;
        self.refresh_resolv(&c.record()).await;
        Ok(())
    }

    /// Takes an endpoint out of use whose addresses are none of the network's.
    async fn leave_subnet(
        &self,
        c: &Arc<Container>,
        name: &str,
        live: &EndpointLive,
        network: &NetworkRecord,
    ) -> Result<()> {
        let written = self.commit_change(c, |r| {
            if let Some(endpoint) = r.networking.endpoints.get_mut(name) {
                endpoint.live = None;
            }
        });
        written.await?;
        self.release_addresses(network, Some(live));
        self.change_hosts(&c.record(), live, false).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sampan_net::{BridgeConfig, Subnet};
    use sampan_types::EndpointId;

    use super::*;
    use crate::networks::ipam;
    use crate::networks::tests::network;

    #[test]
    fn an_endpoint_fits_or_lacks_a_family_or_has_to_move() {
        let net = "10.5.0.0/24".parse().unwrap();
        let subnet = Subnet { net, gateway: "10.5.0.1".parse().unwrap() };
        let bridge = DriverConfig::Bridge(BridgeConfig::new("docker0", subnet));
        let mut network = network("bridge", bridge);
        network.ipam = vec![ipam::unnamed(net).unwrap()];
        let of = |list: &[&str], network: &NetworkRecord| {
            let list: Vec<_> = list.iter().map(|a| a.parse().unwrap()).collect();
            EndpointLive::new(EndpointId::random(), &list, network, None)
        };
        let four = of(&["10.5.0.2"], &network);
        assert_eq!(fit(&four, &network), Fit::Well);
        let mut dual = network.clone();
        dual.ipam.push(ipam::unnamed("fd00:5::/64".parse().unwrap()).unwrap());
        assert_eq!(fit(&four, &dual), Fit::Lacking);
        let both = of(&["10.5.0.2", "fd00:5::2"], &dual);
        assert_eq!(fit(&both, &dual), Fit::Well);
        assert_eq!(fit(&both, &network), Fit::Badly, "IPv6 was switched off");
        let mut wider = network.clone();
        wider.ipam[0] = ipam::unnamed("10.5.0.0/16".parse().unwrap()).unwrap();
        assert_eq!(fit(&four, &wider), Fit::Badly);
        let mut moved = network.clone();
        moved.ipam[0].gateway = "10.5.0.9".parse().unwrap();
        assert_eq!(fit(&four, &moved), Fit::Badly);
    }
}
