//! Networks of plugins that speak libnetwork's remote driver protocol.
//!
//! ```text
//! attach:  CreateEndpoint ─> Join ─> the plugin's interface moves into the sandbox
//! detach:  the interface moves back to the host ─> Leave ─> DeleteEndpoint
//! ```
//!
//! Be aware:
//! - A plugin may be a container of this engine: the daemon starts without it,
//!   and tells it of a network when that is used at the latest.
//! - Which networks and endpoints a plugin knows of is noted (see [`Notes`]),
//!   so that each is told to it once, and taken back also after a crash.
//! - Addresses are the engine's unless none was allocated; then they are what
//!   the plugin says.
//! - Published ports of a container on such a network lead to its address by
//!   the host's routes, as far as these do.

mod link;
mod protocol;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use sampan_plugin::{Plugin, PluginKind, Plugins};
use sampan_types::NetworkId;

use super::notes::{EndpointNote, NetworkNote, Notes};
use super::{AttachRequest, BoxFuture, DetachRequest, Driver, Observed, ObservedEndpoint};
use crate::config::{
    Attachment, DriverConfig, EndpointSpec, NetworkSpec, RemoteConfig, RouteSpec, Subnet,
};
use crate::error::NetError;
use crate::mac::MacAddr;
use crate::worker::Worker;

use link::Inside;
use protocol::{
    CreateEndpoint, CreateNetwork, CreatedEndpoint, DeleteNetwork, Interface, Join, Joined,
    Nothing, OfEndpoint, StaticRoute,
};

/// The driver of plugins' networks.
#[derive(Debug)]
pub(crate) struct Remote {
    plugins: Plugins,
    notes: Notes,
    /// Where the namespaces' names are.
    namespaces: PathBuf,
    worker: Worker,
}

fn config(network: &NetworkSpec) -> Result<&RemoteConfig, NetError> {
    match &network.driver {
        DriverConfig::Remote(config) => Ok(config),
        _ => Err(NetError::NotSupported {
            what: format!("network {} on a driver plugin", network.name),
        }),
    }
}

impl Remote {
    /// Notes are below `dir`, names of namespaces in `namespaces`.
    pub fn new(plugins: Plugins, dir: PathBuf, namespaces: PathBuf, worker: Worker) -> Self {
        Self { plugins, notes: Notes::new(dir), namespaces, worker }
    }

    async fn plugin(&self, name: &str) -> Result<Arc<Plugin>, NetError> {
        Ok(self.plugins.get(name, PluginKind::Network).await?)
    }

    /// Tells the plugin of a network that it was not told of.
    async fn make_network(&self, network: &NetworkSpec) -> Result<Vec<String>, NetError> {
        let config = config(network)?;
        if self.notes.network(&network.id).await?.is_some() {
            return Ok(Vec::new());
        }
        let plugin = self.plugin(&config.plugin).await?;
        let note = NetworkNote { network: network.id.clone(), driver: network.driver.clone() };
        self.notes.add_network(&note).await?;
        let request = CreateNetwork::new(network, config);
        let made = plugin.call::<_, Nothing>("NetworkDriver.CreateNetwork", &request).await;
        if let Err(e) = made {
            self.notes.remove_network(&network.id).await?;
            return Err(e.into());
        }
        Ok(vec![format!("network {} of plugin {}", network.name, config.plugin)])
    }

    async fn remove_network(&self, id: &NetworkId) -> Result<(), NetError> {
        let Some(note) = self.notes.network(id).await? else { return Ok(()) };
        if let DriverConfig::Remote(config) = &note.driver {
            let plugin = self.plugin(&config.plugin).await?;
            let request = DeleteNetwork { network: id.as_str() };
            plugin.call::<_, Nothing>("NetworkDriver.DeleteNetwork", &request).await?;
        }
        self.notes.remove_network(id).await
    }

    async fn attach_endpoint(&self, request: AttachRequest) -> Result<Attachment, NetError> {
        let network = Arc::clone(&request.network);
        let config = config(&network)?;
        self.make_network(&network).await?;
        let plugin = self.plugin(&config.plugin).await?;
        let mut note = EndpointNote::new(&request)?;
        self.notes.add_endpoint(&note).await?;
        let attached = self.connect(&plugin, config, &request, &mut note).await;
        match attached {
            Ok(attachment) => {
                note.attachment = Some(attachment.clone());
                self.notes.add_endpoint(&note).await?;
                Ok(attachment)
            }
            Err(e) => {
                if let Err(also) = self.undo(&note).await {
                    tracing::warn!(network = network.name, error = %also, "failed to take an endpoint back from a plugin");
                }
                Err(e)
            }
        }
    }

    async fn connect(
        &self,
        plugin: &Plugin,
        config: &RemoteConfig,
        request: &AttachRequest,
        note: &mut EndpointNote,
    ) -> Result<Attachment, NetError> {
        let endpoint = &request.endpoint;
        let asked = wanted(endpoint, &config.subnets);
        let create = CreateEndpoint {
            of: endpoint.into(),
            interface: asked.clone(),
            options: &endpoint.options,
        };
        let created: CreatedEndpoint = plugin.call("NetworkDriver.CreateEndpoint", &create).await?;
        let invalid = |reason| NetError::InvalidEndpoint {
            network: note.network_name.clone(),
            reason: format!("plugin {}: {reason}", config.plugin),
        };
        let chosen = chosen(asked, created.interface.unwrap_or_default()).map_err(invalid)?;
        let sandbox = self.namespaces.join(request.sandbox.as_str());
        let join = Join {
            of: endpoint.into(),
            sandbox: sandbox.display().to_string(),
            options: &endpoint.options,
        };
        let joined: Joined = plugin.call("NetworkDriver.Join", &join).await?;
        let mut attachment = attachment(endpoint, &joined, chosen.addresses).map_err(invalid)?;
        if joined.interface.source.is_empty() {
            return Ok(attachment);
        }
        let prefix = joined.interface.prefix.as_str();
        if endpoint.interface.is_none() && !matches!(prefix, "" | "eth") {
            note.interface = request
                .namespace
                .free_interface(prefix)
                .map_err(NetError::kernel("look for a free name of an interface"))?;
        }
        note.source = Some(joined.interface.source.clone());
        self.notes.add_endpoint(note).await?;
        let inside = Inside {
            name: note.interface.clone(),
            transit: format!("sp-{}", endpoint.endpoint.short()),
            mac: chosen.mac,
            addresses: attachment.addresses.clone(),
        };
        let (namespace, source) = (Arc::clone(&request.namespace), joined.interface.source);
        let link = self
            .worker
            .run(move |kernel| link::enter(kernel, &namespace, &source, &inside))
            .await??;
        attachment.interface = Some(link.name);
        attachment.mac = <[u8; 6]>::try_from(link.mac.as_slice()).ok().map(MacAddr);
        attachment.mtu = link.mtu;
        Ok(attachment)
    }

    /// Takes back what a note says, as far as it is there.
    async fn undo(&self, note: &EndpointNote) -> Result<(), NetError> {
        let DriverConfig::Remote(config) = &note.driver else {
            return self.notes.remove_endpoint(&note.endpoint.endpoint).await;
        };
        if let Some(source) = note.source.clone() {
            let netns = self.namespaces.join(note.sandbox.as_str());
            let name = note.interface.clone();
            self.worker.run(move |_| link::leave(&netns, &name, &source)).await??;
        }
        let plugin = self.plugin(&config.plugin).await?;
        let of = OfEndpoint::from(&note.endpoint);
        if let Err(e) = plugin.call::<_, Nothing>("NetworkDriver.Leave", &of).await {
            // It may never have joined.
            tracing::debug!(error = %e, "a plugin did not let an endpoint leave");
        }
        let deleted = plugin.call::<_, Nothing>("NetworkDriver.DeleteEndpoint", &of).await;
        if let Err(e) = deleted {
            if note.attachment.is_some() {
                return Err(e.into());
            }
            // It may never have been created.
            tracing::debug!(error = %e, "a plugin did not delete an endpoint");
        }
        self.notes.remove_endpoint(&note.endpoint.endpoint).await
    }

    async fn restore_endpoint(
        &self,
        request: AttachRequest,
    ) -> Result<(Attachment, bool), NetError> {
        let note = self.notes.endpoint(&request.endpoint.endpoint).await?;
        if let Some(note) = note {
            let attachment = note.attachment.clone().filter(|_| note.sandbox == request.sandbox);
            if let Some(attachment) = attachment {
                let (namespace, known) = (Arc::clone(&request.namespace), attachment.clone());
                let missing = self.worker.run(move |_| whole(&namespace, &known)).await?;
                if let Some(missing) = missing {
                    return Ok((attachment, missing));
                }
            }
            self.undo(&note).await?;
        }
        Ok((self.attach_endpoint(request).await?, true))
    }

    async fn observe_all(&self) -> Result<Observed, NetError> {
        let networks = self.notes.networks().await?.into_iter().map(|n| n.network).collect();
        let endpoints = self.notes.endpoints().await?;
        let endpoints = endpoints.into_iter().map(EndpointNote::observed);
        Ok(Observed { networks, endpoints: endpoints.collect() })
    }
}

/// Completes an endpoint's interface. Says whether it was switched off or
/// without an address; none when it is gone.
fn whole(namespace: &crate::driver::Namespace, attachment: &Attachment) -> Option<bool> {
    let Some(name) = &attachment.interface else { return Some(false) };
    let mut route = namespace.route();
    let link = route.link(name).ok().flatten()?;
    let present = route.addresses().ok()?;
    let has = |a: &IpNet| present.iter().any(|p| p.link == link.index && p.address == *a);
    if link.up && attachment.addresses.iter().all(has) {
        return Some(false);
    }
    link::complete(&mut route, name, &attachment.addresses).ok().map(|_| true)
}

/// The addresses that the engine allocated, with their prefix lengths.
fn wanted(endpoint: &EndpointSpec, subnets: &[Subnet]) -> Interface {
    let of = |v4: bool| {
        let address = endpoint.addresses.iter().find(|a| a.is_ipv4() == v4)?;
        let subnet = subnets.iter().find(|s| s.net.contains(address));
        let length = subnet.map_or(if v4 { 32 } else { 128 }, |s| s.net.prefix_len());
        Some(format!("{address}/{length}"))
    };
    Interface {
        address: of(true).unwrap_or_default(),
        address6: of(false).unwrap_or_default(),
        mac: endpoint.mac.map(|m| m.to_string()).unwrap_or_default(),
    }
}

/// What an interface shall have.
struct Chosen {
    addresses: Vec<IpNet>,
    mac: Option<MacAddr>,
}

/// What was asked for, and what the plugin chose where nothing was.
fn chosen(asked: Interface, answered: Interface) -> Result<Chosen, String> {
    let both = |what: &str, asked: String, answered: String| {
        if !asked.is_empty() && !answered.is_empty() && asked != answered {
            return Err(format!("it chose {what} {answered} where {asked} was asked for"));
        }
        Ok(if asked.is_empty() { answered } else { asked })
    };
    let mut addresses = Vec::new();
    let four = both("address", asked.address, answered.address)?;
    let six = both("address", asked.address6, answered.address6)?;
    for text in [four, six].into_iter().filter(|t| !t.is_empty()) {
        addresses.push(text.parse().map_err(|_| format!("{text:?} is no address with a length"))?);
    }
    let mac = both("hardware address", asked.mac.to_lowercase(), answered.mac.to_lowercase())?;
    let mac = match mac.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|e| format!("{e}"))?),
    };
    Ok(Chosen { addresses, mac })
}

fn attachment(
    endpoint: &EndpointSpec,
    joined: &Joined,
    addresses: Vec<IpNet>,
) -> Result<Attachment, String> {
    let address = |text: &str| -> Result<IpAddr, String> {
        text.parse().map_err(|_| format!("{text:?} is no address"))
    };
    let mut attachment = Attachment::blank(endpoint);
    for text in [&joined.gateway, &joined.gateway6].into_iter().filter(|t| !t.is_empty()) {
        attachment.gateways.push(address(text)?);
    }
    let route = |route: &StaticRoute| -> Result<RouteSpec, String> {
        let text = &route.destination;
        let destination = text.parse().map_err(|_| format!("{text:?} is no destination"))?;
        let gateway = match route.kind {
            0 => Some(address(&route.next_hop)?),
            _ => None,
        };
        Ok(RouteSpec { destination: Some(destination), gateway })
    };
    let routes: Result<_, String> = joined.routes.iter().flatten().map(route).collect();
    attachment.routes = routes?;
    attachment.addresses = addresses;
    Ok(attachment)
}

impl Driver for Remote {
    fn create_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(self.make_network(network))
    }

    fn delete_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(self.remove_network(&network.id))
    }

    fn discard_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(self.remove_network(network))
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(self.attach_endpoint(request))
    }

    fn restore(
        &self,
        request: AttachRequest,
        _found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(self.restore_endpoint(request))
    }

    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            match self.notes.endpoint(&request.endpoint.endpoint).await? {
                Some(note) => self.undo(&note).await,
                None => Ok(()),
            }
        })
    }

    fn discard_endpoint<'a>(
        &'a self,
        endpoint: &'a ObservedEndpoint,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            match self.notes.endpoint(&endpoint.endpoint).await? {
                Some(note) => self.undo(&note).await,
                None => Ok(()),
            }
        })
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(self.observe_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(address: &str, mac: &str) -> Interface {
        Interface { address: address.to_owned(), mac: mac.to_owned(), ..Interface::default() }
    }

    #[test]
    fn the_plugin_chooses_what_nobody_asked_for() {
        let both = chosen(interface("10.0.0.2/24", ""), interface("", "02:00:00:00:00:01"));
        let both = both.unwrap();
        assert_eq!(both.addresses, ["10.0.0.2/24".parse::<IpNet>().unwrap()]);
        assert!(both.mac.is_some());
        let other = chosen(interface("10.0.0.2/24", ""), interface("10.0.0.3/24", ""));
        assert!(other.err().unwrap().contains("where 10.0.0.2/24 was asked for"));
        assert!(chosen(interface("", ""), interface("10.0.0.3", "")).is_err());
    }
}
