//! Ports of the host that lead to a container: taken at its start, changed
//! while it runs.
//!
//! Be aware:
//! - A port without an address is published on all addresses of each family
//!   that the container has an address of, under the same number.
//! - What is added or taken back on a running container is in its record first;
//!   the daemon's next start makes the kernel agree when this one dies between.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError};

use sampan_net::ports::host_users;
use sampan_net::{DriverConfig, PortError, PortRequest, PublishedPort};
use sampan_types::Kind;
use sampan_types::docker::{PortBinding, PortMap};
use serde_json::Value;

use super::ports::{self, Binding};
use super::state::Status;
use super::{Container, network};
use crate::Engine;
use crate::container_view::port_map;
use crate::error::{EngineError, Result};
use crate::record::{
    ContainerRecord, EndpointRecord, NetworkMode, Networking, PortRecord, WishedPorts,
};

/// What shall be published from now on, and no longer.
#[derive(Debug, Clone, Default)]
pub struct PublishChange {
    /// Ports to publish, as `PortBindings` of a container's creation.
    pub add: PortMap,
    /// Publications to take back: of a port without bindings, all of them.
    pub remove: PortMap,
}

impl Engine {
    /// Publishes ports of a container, and takes published ones back, also
    /// while it runs: connections through other ports are not touched. It
    /// stays so over restarts. Answers with the ports as `inspect` shows them.
    ///
    /// # Errors
    /// No such container; it has no network of its own; a port is in use, or
    /// is not published.
    pub async fn container_publish(&self, id: &str, change: PublishChange) -> Result<Value> {
        let (engine, c) = (self.clone(), self.container(id)?);
        self.detached(async move {
            let _ops = c.ops.lock().await;
            engine.publish_locked(&c, &change).await
        })
        .await
    }

    /// The caller holds the container's `ops`.
    async fn publish_locked(&self, c: &Arc<Container>, change: &PublishChange) -> Result<Value> {
        let record = c.record();
        check_publishable(&record)?;
        let mut bound = record.wished_ports.bindings();
        take_back(&record, &mut bound, &change.remove)?;
        for (port, bindings) in &change.add {
            let all = bound.entry(port.clone()).or_default().get_or_insert_default();
            all.extend(bindings.clone().unwrap_or_else(|| vec![PortBinding::default()]));
        }
        let added = ports::bindings(&[], &change.add, false)?;
        let mut exposed: BTreeSet<String> = record.wished_ports.exposed().into_iter().collect();
        exposed.extend(change.add.keys().map(|k| ports::canonical(k)));

        let exposed: Vec<String> = exposed.into_iter().collect();
        let wished = WishedPorts::new(Some(&exposed), Some(&bound));

        // Also of one that does not run, when others are in its namespace.
        let runs = record.networking.sandbox.clone();
        let (gone, mut kept): (Vec<PortRecord>, Vec<PortRecord>) =
            record.networking.ports.iter().cloned().partition(|p| removes(&change.remove, p));
        let mut new = Vec::new();
        if runs.is_some() {
            new = self.take_bindings(&record, &record.networking, &added)?;
            kept.extend(new.iter().map(port_record));
        }
        let published: Vec<PublishedPort> = kept.iter().map(network::published).collect();
        let written = self
            .commit_change(c, |r| {
                r.wished_ports = wished;
                r.networking.ports = kept;
            })
            .await;
        if let Err(e) = written {
            self.free_ports(&new);
            return Err(e);
        }
        crate::fault!("publish:after-record");
        if let Some(sandbox) = runs {
            if let Err(e) = self.networks().publish(&sandbox, published).await {
                self.commit_change(c, |r| {
                    r.wished_ports = record.wished_ports.clone();
                    r.networking.ports = record.networking.ports.clone();
                })
                .await?;
                self.free_ports(&new);
                return Err(e.into());
            }
            crate::fault!("publish:after-kernel");
        }
        let gone: Vec<PublishedPort> = gone.iter().map(network::published).collect();
        self.free_ports(&gone);
        self.refresh_links_to(&c.record()).await;
        self.container_event(c, "update", &[]);
        Ok(port_map(&c.record()))
    }

    /// Takes the ports that a container's configuration asks for.
    pub(super) fn take_ports(
        &self,
        record: &ContainerRecord,
        networking: &mut Networking,
    ) -> Result<()> {
        if networking.mode == NetworkMode::None || self.is_not_published(networking) {
            return Ok(());
        }
        let wished = &record.wished_ports;
        let all = record.host_config.publish_all_ports.unwrap_or(false);
        let wanted = ports::bindings(&wished.exposed(), &wished.bindings(), all)?;
        let given = self.take_bindings(record, networking, &wanted)?;
        networking.ports = given.iter().map(port_record).collect();
        Ok(())
    }

    /// Whether a container is on no network to which ports of the host can
    /// lead: on macvlan and ipvlan alone it is its host's neighbour.
    pub(super) fn is_not_published(&self, networking: &Networking) -> bool {
        let upper = |endpoint: &EndpointRecord| {
            let network = self.network_table().get(&endpoint.network);
            network.is_some_and(|n| {
                matches!(n.driver, DriverConfig::Macvlan(_) | DriverConfig::Ipvlan(_))
            })
        };
        !networking.endpoints.is_empty() && networking.endpoints.values().all(upper)
    }

    /// Takes ports for a container whose endpoints have their addresses: all
    /// of them, or none.
    fn take_bindings(
        &self,
        record: &ContainerRecord,
        networking: &Networking,
        wanted: &[Binding],
    ) -> Result<Vec<PublishedPort>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let defaults = self.default_addresses(networking);
        let (first, twins): (Vec<PortRequest>, Vec<Option<IpAddr>>) =
            wanted.iter().map(|b| requested(b, &defaults)).unzip();
        let owner = record.id.as_str();
        let in_use = host_users();
        let mut table = self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |e: PortError| refused(record, networking, &e);
        let given = table.allocate(&first, owner, &in_use).map_err(refused)?;
        let twin = |(port, address): (&PublishedPort, Option<IpAddr>)| {
            Some(PortRequest {
                protocol: port.protocol,
                host_ip: address?,
                host_range: Some(port.host_port..=port.host_port),
                container_port: port.container_port,
            })
        };
        let twins: Vec<PortRequest> = given.iter().zip(twins).filter_map(twin).collect();
        let second = table.allocate(&twins, owner, &in_use).map_err(|e| {
            table.free(&given);
            refused(e)
        })?;
        table.rename(owner, record.name.as_str());
        let mut all = [given, second].concat();
        all.sort_by_key(|p| (p.container_port, p.protocol, p.host_port, p.host_ip));
        Ok(all)
    }

    /// Where ports without an address are published: the daemon's choice, the
    /// network's, or all addresses of the families that the container has.
    fn default_addresses(&self, networking: &Networking) -> Vec<IpAddr> {
        if let Some(address) = self.inner.config.publish_address {
            return vec![address];
        }
        let lives = || networking.endpoints.values().filter_map(|e| e.live.as_ref());
        let option = |key: &str| {
            networking.endpoints.values().find_map(|e| {
                self.network_table().get(&e.network)?.options.get(key)?.parse::<IpAddr>().ok()
            })
        };
        let mut all = Vec::new();
        if lives().any(|l| l.address.is_some()) {
            let chosen = option("com.docker.network.bridge.host_binding_ipv4");
            all.push(chosen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        }
        if lives().any(|l| l.address6.is_some()) {
            let chosen = option("com.docker.network.bridge.host_binding_ipv6");
            all.push(chosen.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        }
        if all.is_empty() {
            all.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        }
        all
    }

    fn free_ports(&self, ports: &[PublishedPort]) {
        self.inner.ports.lock().unwrap_or_else(PoisonError::into_inner).free(ports);
    }
}

/// The first place of a binding, and the address of its twin in the other
/// family.
fn requested(binding: &Binding, defaults: &[IpAddr]) -> (PortRequest, Option<IpAddr>) {
    let (host_ip, twin) = match (binding.host_ip, defaults) {
        (Some(ip), _) => (ip, None),
        (None, [first, rest @ ..]) => (*first, rest.first().copied()),
        (None, []) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), None),
    };
    let request = PortRequest {
        protocol: binding.protocol,
        host_ip,
        host_range: binding.host_range.clone(),
        container_port: binding.container_port,
    };
    (request, twin)
}

fn refused(record: &ContainerRecord, networking: &Networking, e: &PortError) -> EngineError {
    let live = networking.endpoints.values().find_map(|e| e.live.as_ref());
    let endpoint = live.map(|l| l.endpoint.short().to_owned()).unwrap_or_default();
    EngineError::Start {
        kind: e.kind(),
        exit_code: 128,
        message: format!(
            "failed to set up container networking: driver failed programming external \
             connectivity on endpoint {} ({endpoint}): {e}",
            record.name
        ),
    }
}

fn port_record(port: &PublishedPort) -> PortRecord {
    PortRecord {
        proto: port.protocol,
        container_port: port.container_port,
        host_ip: port.host_ip,
        host_port: port.host_port,
    }
}

fn check_publishable(record: &ContainerRecord) -> Result<()> {
    if matches!(record.state.status, Status::Removing | Status::Dead) {
        return Err(EngineError::Conflict(format!(
            "container {} is marked for removal: its ports can't be changed",
            record.name
        )));
    }
    let whose = match &record.networking.mode {
        NetworkMode::Private => return Ok(()),
        NetworkMode::Host => "the host's network: its ports are the host's".to_owned(),
        NetworkMode::None => "no network".to_owned(),
        NetworkMode::Container(other) => {
            format!("the network of container {}: change that one's ports", other.short())
        }
    };
    Err(EngineError::Conflict(format!("container {} has {whose}", record.name)))
}

/// Whether a wish to take back is about this port.
fn removes(remove: &PortMap, port: &PortRecord) -> bool {
    let key = format!("{}/{}", port.container_port, port.proto);
    let fits = |b: &PortBinding| {
        let ip = b.host_ip.as_deref().unwrap_or_default();
        let host = b.host_port.as_deref().unwrap_or_default();
        (ip.is_empty() || ip.parse() == Ok(port.host_ip))
            && (host.is_empty() || host.parse() == Ok(port.host_port))
    };
    remove.iter().any(|(wanted, bindings)| {
        ports::canonical(wanted) == key
            && bindings.as_ref().is_none_or(|all| all.is_empty() || all.iter().any(fits))
    })
}

/// Takes bindings out of a configuration.
fn take_back(record: &ContainerRecord, bound: &mut PortMap, remove: &PortMap) -> Result<()> {
    for (port, wanted) in remove {
        let key = ports::canonical(port);
        let wanted = wanted.clone().unwrap_or_default();
        let mut found = record.networking.ports.iter().any(|p| {
            let one = PortMap::from([(port.clone(), Some(wanted.clone()))]);
            removes(&one, p)
        });
        for (name, bindings) in bound.iter_mut().filter(|(name, _)| ports::canonical(name) == key) {
            let all = bindings.get_or_insert_default();
            let before = all.len();
            all.retain(|b| !wanted.is_empty() && !wanted.iter().any(|w| same(w, b, name, record)));
            found |= all.len() < before || before == 0;
        }
        bound.retain(|_, bindings| bindings.as_ref().is_some_and(|all| !all.is_empty()));
        if !found {
            return Err(EngineError::NotFound(format!(
                "container {} does not publish port {}",
                record.name,
                shown(port, &wanted)
            )));
        }
    }
    Ok(())
}

/// Whether a configured binding is the wanted one: by its text, or by what was
/// given for it at the start when it left the host's port open.
fn same(
    wanted: &PortBinding,
    configured: &PortBinding,
    port: &str,
    record: &ContainerRecord,
) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (ip, host) = (text(&wanted.host_ip), text(&wanted.host_port));
    let own = (text(&configured.host_ip), text(&configured.host_port));
    if (ip.is_empty() || ip == own.0) && (host.is_empty() || host == own.1) {
        return true;
    }
    let open = own.1.is_empty() || own.1 == "0" || own.1.contains('-');
    let key = ports::canonical(port);
    open && (ip.is_empty() || ip == own.0)
        && record.networking.ports.iter().any(|p| {
            format!("{}/{}", p.container_port, p.proto) == key && host.parse() == Ok(p.host_port)
        })
}

fn shown(port: &str, wanted: &[PortBinding]) -> String {
    let place = |b: &PortBinding| {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        format!("{}:{}", text(&b.host_ip), text(&b.host_port)).trim_matches(':').to_owned()
    };
    match wanted.first().map(place).filter(|p| !p.is_empty()) {
        Some(place) => format!("{place}->{port}"),
        None => port.to_owned(),
    }
}
