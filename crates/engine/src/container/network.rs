//! A container's network: planning, addresses and ports at start, giving them
//! back at the end.
//!
//! Be aware: addresses and ports are taken in memory, then written with the
//! record, then made in the kernel. A crash between any two of these leaves
//! nothing: pools are rebuilt from the records, the kernel from the records too.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use sampan_net::{DnsSpec, DriverConfig, EndpointSpec, MacAddr, PublishedPort, SandboxSpec};
use sampan_types::docker::{ContainerCreateBody, HostConfig};
use sampan_types::{ContainerId, EndpointId, EventType, Kind, SandboxId};

use super::endpoint::{self, EndpointOptions, check_endpoint, wanted_addresses};
use super::{Container, validate};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::networks::{NetworkRecord, PREDEFINED, Wanted};
use crate::record::{
    ContainerRecord, EndpointLive, EndpointRecord, NetworkMode, Networking, PortRecord,
};

/// Which namespace a container is put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetPlan {
    /// The host's.
    Host,
    /// A new one, made by the networks' manager.
    Sandbox(SandboxSpec),
    /// That of the run before, which others are in.
    Kept(PathBuf),
    /// Another container's.
    Join(PathBuf),
}

impl Engine {
    /// Reads the network part of a request. The network mode in `host` is
    /// made explicit.
    pub(super) fn plan_networking(
        &self,
        body: &ContainerCreateBody,
        host: &mut HostConfig,
    ) -> Result<Networking> {
        let asked = host.network_mode.clone().unwrap_or_default();
        let mut mode = if asked.is_empty() || asked == "default" { "bridge" } else { &asked };
        if body.network_disabled.unwrap_or(false) {
            mode = "none";
        }
        let mode = mode.to_owned();
        host.network_mode = Some(mode.clone());
        let mut given = body
            .networking_config
            .as_ref()
            .and_then(|n| n.endpoints_config.clone())
            .unwrap_or_default();
        let mut networking = Networking::new(NetworkMode::Private);
        if let Some(other) = validate::container_mode(&mode) {
            let other = self.container(other).map_err(|e| EngineError::Invalid(e.to_string()))?;
            // Of one that shares, the owner's: it may be there for longer.
            let owner = self.namespace_owner(&other.record()).unwrap_or_else(|| Arc::clone(&other));
            networking.mode = NetworkMode::Container(owner.id().clone());
            host.network_mode = Some(format!("container:{}", other.id()));
            return Ok(networking);
        }
        let main = self.find_network(&mode)?;
        networking.mode = match main.driver {
            DriverConfig::Host => NetworkMode::Host,
            DriverConfig::None => NetworkMode::None,
            _ => NetworkMode::Private,
        };
        // Settings may stand under the mode's name, the network's name or "default".
        let own = [mode.as_str(), main.name.as_str(), main.id.as_str(), "default"]
            .iter()
            .find_map(|key| given.remove(*key))
            .unwrap_or_default();
        let mut wanted = vec![(main, own)];
        for (name, settings) in given {
            wanted.push((self.find_network(&name)?, settings));
        }
        let isolated = networking.mode != NetworkMode::Private;
        if isolated && wanted.len() > 1 {
            return Err(EngineError::Invalid(format!(
                "conflicting options: network mode {mode} and further networks"
            )));
        }
        let links = host.links.take().unwrap_or_default();
        if wanted[0].0.name == "bridge" {
            networking.links = self.plan_links(&links)?;
        } else if !isolated {
            // What is said of the container is meant for its own network.
            let own = wanted[0].1.links.get_or_insert_default();
            own.extend(links.iter().filter(|l| !own.contains(l)).cloned().collect::<Vec<_>>());
        }
        wanted[1..].sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        for (order, (network, settings)) in (0..).zip(wanted) {
            if networking.endpoints.contains_key(&network.name) {
                return Err(EngineError::Invalid(format!(
                    "network {:?} is specified multiple times",
                    network.name
                )));
            }
            check_endpoint(&network, &settings)?;
            self.check_links(&network, &settings)?;
            self.check_link_locals(&network, &settings, None)?;
            let endpoint = EndpointRecord::new(network.id.clone(), settings, order);
            networking.endpoints.insert(network.name.clone(), endpoint);
        }
        Ok(networking)
    }

    fn find_network(&self, name: &str) -> Result<std::sync::Arc<NetworkRecord>> {
        // Not 404: a client would take that for a missing image and pull.
        self.network_table().resolve(name).map_err(|e| EngineError::Invalid(e.to_string()))
    }

    /// Takes addresses and ports for a start and says where the container
    /// goes. On failure nothing stays taken.
    pub(super) async fn allocate_network(
        &self,
        record: &ContainerRecord,
    ) -> Result<(Networking, NetPlan)> {
        if let Some(path) = self.kept_namespace(record) {
            return Ok((record.networking.clone(), NetPlan::Kept(path)));
        }
        let mut networking = record.networking.clone();
        networking.sandbox = None;
        networking.ports = Vec::new();
        for endpoint in networking.endpoints.values_mut() {
            endpoint.live = None;
        }
        match &networking.mode {
            NetworkMode::Host => {
                for endpoint in networking.endpoints.values_mut() {
                    endpoint.live = Some(blank());
                }
                return Ok((networking, NetPlan::Host));
            }
            NetworkMode::Container(other) => {
                let path = self.joined_namespace(other, "net")?;
                return Ok((networking, NetPlan::Join(path)));
            }
            NetworkMode::Private | NetworkMode::None => {}
        }
        let taken = self.take_addresses(record, &mut networking).await;
        let taken = taken.and_then(|()| self.take_ports(record, &mut networking));
        if let Err(e) = taken {
            self.give_back(&record.id, &networking);
            return Err(e);
        }
        networking.sandbox = Some(SandboxId::random());
        let mut planned = record.clone();
        planned.networking = networking;
        match self.sandbox_spec(&planned) {
            Some(spec) => Ok((planned.networking, NetPlan::Sandbox(spec))),
            None => Ok((planned.networking, NetPlan::Host)),
        }
    }

    pub(crate) async fn take_addresses(
        &self,
        record: &ContainerRecord,
        networking: &mut Networking,
    ) -> Result<()> {
        for (name, endpoint) in &mut networking.endpoints {
            let network = self
                .network_table()
                .resolve(endpoint.network.as_str())
                .or_else(|_| self.network_table().resolve(name))?;
            endpoint.network = network.id.clone();
            let fixed = wanted_addresses(&endpoint.config)?;
            let leased = self.lease(&network, &fixed).await?;
            let wanted =
                Wanted { fixed: leased.clone().unwrap_or(fixed), before: endpoint.before.clone() };
            let owner = record.id.as_str();
            let describe = |owner: &str| self.describe_owner(owner);
            let taken = self.network_table().allocate(&network.id, &wanted, owner, &describe);
            let addresses = taken.inspect_err(|_| {
                for address in leased.into_iter().flatten() {
                    self.unlease(&network, address);
                }
            })?;
            endpoint.before.clone_from(&addresses);
            let fixed = endpoint.config.mac_address.clone().filter(|m| !m.is_empty());
            let own = network.driver.has_own_mac();
            let mac = match fixed {
                Some(text) => Some(text.parse::<MacAddr>().map_err(invalid)?.to_string()),
                None if own => {
                    let made = || MacAddr::random().to_string();
                    Some(endpoint.mac.get_or_insert_with(made).clone())
                }
                None => None,
            };
            let live = EndpointLive::new(EndpointId::random(), &addresses, &network, mac);
            endpoint.live = Some(live);
        }
        Ok(())
    }

    /// Whose an address is: the container's name, when it is a container's.
    fn describe_owner(&self, owner: &str) -> String {
        let found = owner.parse().ok().and_then(|id| self.container_by_id(&id));
        found.map_or_else(|| owner.to_owned(), |c| format!("container {}", c.record().name))
    }

    /// What the networks' manager is told about a running container; `None`
    /// when it has no namespace of its own.
    #[must_use]
    pub(crate) fn sandbox_spec(&self, record: &ContainerRecord) -> Option<SandboxSpec> {
        let networking = &record.networking;
        let sandbox = networking.sandbox.clone()?;
        let mut endpoints: Vec<(&String, &EndpointRecord)> = networking.endpoints.iter().collect();
        // The network of the mode comes first: it becomes eth0.
        let main = record.host_config.network_mode.as_deref().unwrap_or_default();
        endpoints.sort_by_key(|(name, e)| {
            let first = name.as_str() == main || e.network.as_str() == main;
            (!first, e.order, name.as_str())
        });
        let endpoints =
            endpoints.into_iter().filter_map(|(n, e)| self.endpoint_spec(record, n, e)).collect();
        // The runtime sets the container's kernel parameters.
        let mut spec = SandboxSpec::new(sandbox, record.id.clone(), endpoints);
        spec.ports = networking.ports.iter().map(published).collect();
        spec.dns = self.dns_spec(record);
        spec.links = self.opened_links(networking);
        Some(spec)
    }

    /// What the networks' manager is told about one connection; `None` while
    /// there is none.
    pub(crate) fn endpoint_spec(
        &self,
        record: &ContainerRecord,
        name: &str,
        e: &EndpointRecord,
    ) -> Option<EndpointSpec> {
        let live = e.live.as_ref()?;
        let addresses = [live.address, live.address6].iter().flatten().map(IpNet::addr).collect();
        let mut spec = EndpointSpec::new(live.endpoint.clone(), e.network.clone(), addresses);
        spec.link_locals = endpoint::link_locals(&e.config).unwrap_or_default();
        spec.mac = live.mac.as_deref().and_then(|m| m.parse().ok());
        spec.names = endpoint::names(record, name, e);
        spec.gateway_priority = e.config.gw_priority.unwrap_or_default();
        // What was checked when it was asked for; a network that is gone has none.
        let network = self.network_table().get(&e.network);
        let options = network.and_then(|n| EndpointOptions::read(&n, &e.config).ok());
        let options = options.unwrap_or_default();
        spec.interface = options.interface;
        spec.sysctls = options.sysctls;
        spec.rate = options.rate;
        spec.options = options.others;
        Some(spec)
    }

    /// How names are looked up in a container.
    pub(crate) fn dns_spec(&self, record: &ContainerRecord) -> DnsSpec {
        let networking = &record.networking;
        let own = record.host_config.dns.iter().flatten().filter_map(|s| s.parse().ok());
        let own: Vec<_> = own.collect();
        let servers = if own.is_empty() { self.inner.config.dns.clone() } else { own };
        let serves = networking.endpoints.keys().any(|n| !PREDEFINED.contains(&n.as_str()));
        DnsSpec { serves, servers, links: self.link_specs(networking) }
    }

    /// Gives addresses and ports of a run back. Repeatable.
    pub(super) fn give_back(&self, id: &ContainerId, networking: &Networking) {
        for endpoint in networking.endpoints.values() {
            let live = endpoint.live.as_ref();
            for net in live.into_iter().flat_map(|l| [l.address, l.address6]).flatten() {
                self.network_table().release(&endpoint.network, net.addr());
                if let Some(network) = self.network_table().get(&endpoint.network) {
                    self.unlease(&network, net.addr());
                }
            }
        }
        let mut table = self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner);
        table.release(id.as_str());
    }

    /// Marks what a running container's record says that it has.
    pub(crate) fn reserve_network(&self, record: &ContainerRecord) {
        let name = record.id.short();
        for endpoint in record.networking.endpoints.values() {
            let live = endpoint.live.as_ref();
            for net in live.into_iter().flat_map(|l| [l.address, l.address6]).flatten() {
                let network = self.network_table().get(&endpoint.network);
                if network.is_some_and(|n| !n.ipam.iter().any(|i| i.subnet.contains(&net.addr()))) {
                    // The network has other subnets now, which it will follow.
                    continue;
                }
                let owner = record.id.as_str();
                if let Err(error) =
                    self.network_table().reserve(&endpoint.network, net.addr(), owner)
                {
                    tracing::error!(container = name, %error, "an address is not the record's");
                }
            }
        }
        let ports: Vec<PublishedPort> = record.networking.ports.iter().map(published).collect();
        let mut table = self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = table.reserve(&ports, record.id.as_str()) {
            tracing::error!(container = name, %error, "a port is not the record's");
        }
        table.rename(record.id.as_str(), record.name.as_str());
    }

    /// Tells the port table a container's new name, for its messages.
    pub(super) fn rename_ports(&self, record: &ContainerRecord) {
        let mut table = self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner);
        table.rename(record.id.as_str(), record.name.as_str());
    }

    /// `/proc/<pid>/ns/<kind>` of another container, which must run.
    pub(super) fn joined_namespace(&self, other: &ContainerId, kind: &str) -> Result<PathBuf> {
        let what = match kind {
            "net" => "network",
            "pid" => "PID",
            other => other,
        };
        let c = self.container_by_id(other).ok_or_else(|| {
            EngineError::Conflict(format!(
                "cannot join {what} of a non running container: No such container: {other}"
            ))
        })?;
        let state = &c.record().state;
        if !state.has_process() && kind == "net" {
            // Others may be in its namespace, which is then still there.
            let owner = self.namespace_owner(&c.record()).unwrap_or_else(|| Arc::clone(&c));
            if let Some(path) = self.kept_namespace(&owner.record()) {
                return Ok(path);
            }
        }
        if !state.has_process() {
            return Err(EngineError::Conflict(format!(
                "cannot join {what} of a non running container: {other}"
            )));
        }
        Ok(PathBuf::from(format!("/proc/{}/ns/{kind}", state.pid)))
    }

    /// Publishes `connect` or `disconnect` for each of a run's endpoints.
    pub(super) fn network_events(&self, c: &Container, networking: &Networking, action: &str) {
        for (name, endpoint) in &networking.endpoints {
            if endpoint.live.is_none() {
                continue;
            }
            let kind = self.network_table().get(&endpoint.network);
            let kind = kind.as_ref().map_or("bridge", |n| n.driver_name());
            self.event_bus().publish(
                EventType::Network,
                action,
                endpoint.network.as_str(),
                [("container", c.id().as_str()), ("name", name.as_str()), ("type", kind)],
            );
        }
    }
}

fn blank() -> EndpointLive {
    EndpointLive {
        endpoint: EndpointId::random(),
        address: None,
        address6: None,
        gateway: None,
        gateway6: None,
        mac: None,
    }
}

fn invalid(e: impl std::fmt::Display) -> EngineError {
    EngineError::Invalid(e.to_string())
}

/// A port of the record as the kernel's part knows it.
pub(super) fn published(port: &PortRecord) -> PublishedPort {
    PublishedPort {
        protocol: port.proto,
        host_ip: port.host_ip,
        host_port: port.host_port,
        container_port: port.container_port,
    }
}

/// A failure to make the network, as the API shows it.
pub(super) fn network_failure(e: &sampan_net::NetError) -> EngineError {
    EngineError::Start {
        kind: e.kind(),
        exit_code: 128,
        message: format!("failed to set up container networking: {e}"),
    }
}
