//! Moving a network to other subnets, while containers are on it.
//!
//! ```text
//! endpoints: off ─> record: the new subnets ─> kernel ─> endpoints: on, with new addresses
//! ```
//!
//! Be aware:
//! - Connections through the network end; the containers go on.
//! - An endpoint that is off says so in its record: what a crash leaves off is
//!   switched on at the next start, in whichever subnets the network then has.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sampan_net::{DriverConfig, Subnet};
use serde_json::{Value, json};

use super::host_routes;
use super::ipam::{self, Families};
use super::record::{IpamRecord, NetworkRecord};
use crate::container::Container;
use crate::container::endpoint::wanted_addresses;
use crate::record::{ContainerRecord, NetworkMode, Networking};
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Moves a bridge network to other subnets, chosen ones when none is
    /// named. Its running containers get new addresses.
    ///
    /// # Errors
    /// No such network, or one of another driver; subnets that are in use; a
    /// container with an address of its own choice outside them.
    pub async fn network_migrate(&self, name: &str, subnets: Vec<IpNet>) -> Result<Value> {
        let network = self.network_table().resolve(name)?;
        let engine = self.clone();
        self.detached(async move { engine.migrate(&network.id, &subnets).await }).await
    }

    async fn migrate(&self, id: &sampan_types::NetworkId, wanted: &[IpNet]) -> Result<Value> {
        let table = self.network_table();
        let _change = table.changes.lock().await;
        let network = table
            .get(id)
            .ok_or_else(|| EngineError::NotFound(format!("network {id} not found")))?;
        check_movable(&network)?;
        let on = |c: &Arc<Container>| {
            c.record().networking.endpoints.values().any(|e| e.network == network.id)
        };
        let mut containers: Vec<Arc<Container>> = self.containers();
        containers.retain(on);
        // Nothing may start with an address of the old subnets meanwhile.
        let mut held = Vec::with_capacity(containers.len());
        for c in &containers {
            held.push(c.ops.lock().await);
        }
        let moved = self.moved(&network, wanted).await?;
        for c in &containers {
            check_fixed(&c.record(), &network, &moved.ipam)?;
        }
        crate::fault!("network-migrate:before");
        for c in &containers {
            self.switch_off(c, &network).await?;
        }
        crate::fault!("network-migrate:after-off");
        let moved = table.insert(moved).await?;
        crate::fault!("network-migrate:after-record");
        self.networks().create_network(moved.spec()).await?;
        crate::fault!("network-migrate:after-kernel");
        let mut failed = Vec::new();
        for c in &containers {
            if let Err(e) = self.switch_on(c).await {
                failed.push(format!("{}: {e}", c.record().name));
            }
        }
        self.network_event(&moved, "update");
        if !failed.is_empty() {
            return Err(EngineError::Fault(format!(
                "network {} was moved, but containers are not on it any more: {}",
                moved.name,
                failed.join("; ")
            )));
        }
        let names: Vec<String> = containers.iter().map(|c| c.record().name.to_string()).collect();
        let subnets: Vec<IpNet> = moved.ipam.iter().map(|i| i.subnet).collect();
        Ok(json!({ "Subnets": subnets, "Containers": names }))
    }

    /// The network's record with other subnets.
    async fn moved(&self, network: &NetworkRecord, wanted: &[IpNet]) -> Result<NetworkRecord> {
        let mut subnets = Vec::new();
        for subnet in wanted {
            subnets.push(IpamRecord { chosen: true, ..ipam::unnamed(subnet.trunc())? });
        }
        let families = Families { v4: network.ipv4, v6: network.ipv6 };
        let has = |v6: bool| wanted.iter().any(|s| s.addr().is_ipv6() == v6);
        if (has(false) && !families.v4) || (has(true) && !families.v6) {
            return Err(EngineError::Invalid(format!(
                "network {} has no addresses of that family: it stays as it was created",
                network.name
            )));
        }
        let routes = self.blocking(|| Ok(host_routes::host_routes())).await?;
        self.complete_subnets(&mut subnets, families, &routes)?;
        let all = self.network_table().all();
        let others = all.iter().map(|n| &**n).filter(|n| n.id != network.id);
        ipam::check_networks(&subnets, others)?;
        let mut moved = network.clone();
        if let DriverConfig::Bridge(bridge) = &mut moved.driver {
            let chosen: Vec<IpamRecord> = subnets.iter().filter(|s| s.chosen).cloned().collect();
            ipam::check_routes(&chosen, &routes, &bridge.bridge)?;
            bridge.subnets =
                subnets.iter().map(|i| Subnet { net: i.subnet, gateway: i.gateway }).collect();
            bridge.validate(&network.name)?;
        }
        moved.ipam = subnets;
        Ok(moved)
    }

    /// Takes a container's endpoint on a network out of use. The caller holds
    /// its `ops`.
    async fn switch_off(&self, c: &Arc<Container>, network: &NetworkRecord) -> Result<()> {
        let record = c.record();
        let mut endpoints = record.networking.endpoints.iter();
        let found = endpoints.find(|(_, e)| e.network == network.id);
        let Some((name, endpoint)) = found else { return Ok(()) };
        self.commit_change(c, |r| {
            if let Some(endpoint) = r.networking.endpoints.get_mut(name) {
                endpoint.live = None;
                endpoint.before.clear();
            }
        })
        .await?;
        if let (Some(sandbox), Some(live)) = (&record.networking.sandbox, &endpoint.live) {
            let done = self.networks().disconnect(sandbox, &live.endpoint).await;
            self.change_hosts(&record, live, false).await;
            self.release_addresses(network, Some(live));
            done?;
        }
        Ok(())
    }

    /// Puts endpoints of running containers into use that an interrupted move
    /// left out of use.
    pub(crate) async fn switch_all_on(&self) {
        for c in self.containers() {
            // One that is being started takes all that it needs by itself, and
            // may wait long for a volume.
            if !c.record().state.has_process() {
                continue;
            }
            let _ops = c.ops.lock().await;
            if !c.record().state.has_process() {
                continue;
            }
            if let Err(error) = self.switch_on(&c).await {
                tracing::error!(container = c.id().short(), %error, "the container is not on all of its networks");
            }
        }
    }

    /// Puts the endpoints of a running container that are out of use into use
    /// again, with new addresses. The caller holds its `ops`, or is the only
    /// one there is.
    pub(crate) async fn switch_on(&self, c: &Arc<Container>) -> Result<()> {
        let record = c.record();
        let Some(sandbox) = record.networking.sandbox.clone() else { return Ok(()) };
        if record.networking.mode != NetworkMode::Private {
            return Ok(());
        }
        let mut off = record.networking.endpoints.clone();
        off.retain(|_, e| e.live.is_none());
        if off.is_empty() {
            return Ok(());
        }
        for (name, endpoint) in off {
            let mut only = Networking::new(NetworkMode::Private);
            only.endpoints.insert(name.clone(), endpoint);
            self.take_addresses(&record, &mut only).await?;
            let Some(made) = only.endpoints.remove(&name) else { continue };
            let live = made.live.clone();
            self.commit_change(c, |r| {
                r.networking.endpoints.insert(name.clone(), made);
            })
            .await?;
            self.attach(c, &sandbox, &name).await?;
            if let Some(live) = live {
                self.change_hosts(&record, &live, true).await;
            }
        }
        self.refresh_names(&c.record()).await;
        self.refresh_links_to(&c.record()).await;
        Ok(())
    }
}

/// Refuses networks whose subnets are not this engine's to choose.
fn check_movable(network: &NetworkRecord) -> Result<()> {
    let reason = if network.is_predefined() {
        "it is predefined: its subnet is set by --bip"
    } else if network.config_only {
        "it is a configuration"
    } else if network.ipam_driver.is_some() {
        "a plugin manages its addresses"
    } else if !matches!(network.driver, DriverConfig::Bridge(_)) {
        "only bridge networks have subnets of their own"
    } else {
        return Ok(());
    };
    Err(EngineError::Invalid(format!("network {} can't be moved: {reason}", network.name)))
}

/// Refuses to move a container off the address that a user chose for it.
fn check_fixed(
    record: &ContainerRecord,
    network: &NetworkRecord,
    subnets: &[IpamRecord],
) -> Result<()> {
    let endpoints = record.networking.endpoints.values().filter(|e| e.network == network.id);
    for endpoint in endpoints {
        let outside = |address: &IpAddr| !subnets.iter().any(|s| s.subnet.contains(address));
        if let Some(address) = wanted_addresses(&endpoint.config)?.into_iter().find(outside) {
            return Err(EngineError::Conflict(format!(
                "network {} can't be moved: container {} was given the address {address} there; \
                 disconnect it first",
                network.name, record.name
            )));
        }
    }
    Ok(())
}
