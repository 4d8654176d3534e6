//! Addresses that IPAM plugins gave to endpoints.
//!
//! Be aware:
//! - A lease is written down as soon as it is known and taken out when the
//!   plugin has it back. What a crash leaves is given back at the next start.
//! - Giving back waits for nobody: the plugin may be slow, or away.

use std::net::IpAddr;
use std::sync::Arc;

use sampan_store::{Op, Transaction};
use sampan_types::NetworkId;

use super::NetworkRecord;
use super::ipam_plugin::Ipam;
use crate::{Engine, Result};

/// The store's prefix of leases: `leases/<network>/<address>`.
const PREFIX: &str = "leases/";

fn key(network: &NetworkId, address: IpAddr) -> String {
    format!("{PREFIX}{network}/{address}")
}

impl Engine {
    async fn ipam_of(&self, network: &NetworkRecord) -> Result<Option<Ipam>> {
        match &network.ipam_driver {
            Some(driver) => Ipam::find(self, driver, network.ipam_options.clone()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Addresses of a plugin's for an endpoint: `fixed` ones, and any of the
    /// families that these leave out. None when no plugin manages the network.
    pub(crate) async fn lease(
        &self,
        network: &NetworkRecord,
        fixed: &[IpAddr],
    ) -> Result<Option<Vec<IpAddr>>> {
        let Some(ipam) = self.ipam_of(network).await? else { return Ok(None) };
        let mut leased = Vec::new();
        for v6 in [false, true] {
            let wanted = fixed.iter().find(|a| a.is_ipv6() == v6).copied();
            let fits = |s: &&super::IpamRecord| match wanted {
                Some(address) => s.subnet.contains(&address),
                None => s.subnet.addr().is_ipv6() == v6,
            };
            let subnet = network.ipam.iter().find(fits);
            let Some(pool) = subnet.and_then(|s| s.pool.as_deref()) else { continue };
            let taken = match ipam.address(pool, wanted, false).await {
                Ok(address) => {
                    leased.push(address);
                    self.note_lease(&network.id, address).await
                }
                Err(e) => Err(e),
            };
            if let Err(e) = taken {
                for address in leased {
                    self.unlease(network, address);
                }
                return Err(e);
            }
        }
        Ok(Some(leased))
    }

    async fn note_lease(&self, network: &NetworkId, address: IpAddr) -> Result<()> {
        let put = Op::Put { key: key(network, address), value: Vec::new() };
        self.inner.store.commit(Transaction { conditions: Vec::new(), ops: vec![put] }).await?;
        Ok(())
    }

    /// Gives an endpoint's address back to the plugin, if one manages the
    /// network, in the background.
    pub(crate) fn unlease(&self, network: &NetworkRecord, address: IpAddr) {
        if network.ipam_driver.is_none() {
            return;
        }
        let (engine, network) = (self.clone(), network.clone());
        self.inner.tasks.spawn(async move {
            if let Err(error) = engine.end_lease(&network, address).await {
                tracing::warn!(network = network.name, %address, %error, "an address is given back to its plugin at the next start");
            }
        });
    }

    async fn end_lease(&self, network: &NetworkRecord, address: IpAddr) -> Result<()> {
        // One at a time: what ends and what was left over may be the same, and
        // the plugin may have given the address to somebody else since.
        let _ending = self.inner.leases.lock().await;
        if self.inner.store.get(&key(&network.id, address)).await?.is_none() {
            return Ok(());
        }
        let Some(ipam) = self.ipam_of(network).await? else { return Ok(()) };
        let subnet = network.ipam.iter().find(|s| s.subnet.contains(&address));
        if let Some(pool) = subnet.and_then(|s| s.pool.as_deref()) {
            ipam.release(pool, address).await?;
        }
        self.inner.store.commit(Transaction::delete(key(&network.id, address))).await?;
        Ok(())
    }

    /// Gives the leases back that no container has: what an earlier daemon did
    /// not come to. The records' addresses are reserved already.
    pub(crate) async fn end_stale_leases(&self) -> Result<()> {
        for (key, _) in self.inner.store.list(PREFIX).await?.entries {
            let parts = key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'));
            let parsed = parts.and_then(|(network, address)| {
                Some((network.parse::<NetworkId>().ok()?, address.parse::<IpAddr>().ok()?))
            });
            let network: Option<Arc<NetworkRecord>> =
                parsed.as_ref().and_then(|(id, _)| self.network_table().get(id));
            match (network, parsed) {
                (Some(network), Some((id, address))) => {
                    if !self.network_table().is_taken(&id, address) {
                        self.unlease(&network, address);
                    }
                }
                // Of a network that is gone, and its pool with it.
                _ => drop(self.inner.store.commit(Transaction::delete(key)).await?),
            }
        }
        Ok(())
    }

    /// Gives a network's pools back to their plugin.
    pub(super) async fn release_pools(&self, network: &NetworkRecord) {
        match self.ipam_of(network).await {
            Ok(Some(ipam)) => ipam.give_back(&network.ipam).await,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(network = network.name, %error, "the pools are not given back");
            }
        }
    }

    /// The plugins of this host.
    pub(crate) fn plugins(&self) -> &sampan_plugin::Plugins {
        &self.inner.plugins
    }
}
