//! Connecting containers to networks, and disconnecting them.
//!
//! Be aware: the record says it first. What a crash leaves undone in the
//! kernel is made, or taken away, when the sandboxes are compared at start.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use sampan_types::docker::EndpointSettings;
use sampan_types::{ContainerId, EventType, SandboxId};

use super::forbidden;
use super::record::NetworkRecord;
use crate::container::Container;
use crate::container::endpoint::{check_endpoint, link_locals};
use crate::record::{
    ContainerRecord, EndpointLive, EndpointRecord, NetworkMode, Networking, Status,
};
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Connects a container to a network.
    ///
    /// # Errors
    /// No such network or container; it is on the network already; addresses
    /// in use.
    pub async fn network_connect(
        &self,
        network: &str,
        container: &str,
        endpoint: Option<EndpointSettings>,
    ) -> Result<()> {
        let network = self.network_table().resolve(network)?;
        let container = self.container(container)?;
        let engine = self.clone();
        self.detached(async move {
            let _ops = container.ops.lock().await;
            engine.connect(&network, &container, endpoint.unwrap_or_default()).await
        })
        .await
    }

    /// The caller holds the container's `ops`.
    async fn connect(
        &self,
        network: &Arc<NetworkRecord>,
        container: &Container,
        config: EndpointSettings,
    ) -> Result<()> {
        let record = container.record();
        check_connectable(&record, network)?;
        if record.networking.endpoints.contains_key(&network.name) {
            return Err(forbidden(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        check_endpoint(network, &config)?;
        self.check_links(network, &config)?;
        self.check_link_locals(network, &config, Some(&record.id))?;
        let name = network.name.clone();
        let order = record.networking.endpoints.values().map(|e| e.order + 1).max();
        let mut endpoint = EndpointRecord::new(network.id.clone(), config, order.unwrap_or(0));
        // Also that of a container that does not run, when others are in it.
        let sandbox = record.networking.sandbox.clone();
        if sandbox.is_some() {
            let mut only = Networking::new(NetworkMode::Private);
            only.endpoints.insert(name.clone(), endpoint.clone());
            self.take_addresses(&record, &mut only).await?;
            endpoint = only.endpoints.remove(&name).unwrap_or(endpoint);
        }
        let live = endpoint.live.clone();
        crate::fault!("network-connect:before-record");
        let written = self
            .commit_change(container, |r| {
                r.networking.endpoints.insert(name.clone(), endpoint);
            })
            .await;
        if let Err(error) = written {
            self.release_addresses(network, live.as_ref());
            return Err(error);
        }
        crate::fault!("network-connect:after-record");
        if let (Some(sandbox), Some(live)) = (sandbox, live) {
            if let Err(error) = self.attach(container, &sandbox, &name).await {
                let undone = self
                    .commit_change(container, |r| {
                        r.networking.endpoints.remove(&name);
                    })
                    .await;
                if let Err(error) = undone {
                    tracing::error!(container = record.id.short(), %error, "a failed connection stays in the record");
                }
                self.relax_policies().await;
                self.release_addresses(network, Some(&live));
                return Err(error);
            }
            crate::fault!("network-connect:after-kernel");
            self.change_hosts(&record, &live, true).await;
        }
        self.connection_event(network, &record, "connect");
        Ok(())
    }

    /// Refuses an address of a link alone that another container on the same
    /// network has: nobody allocates these.
    ///
    /// # Errors
    /// Whose it is.
    pub(crate) fn check_link_locals(
        &self,
        network: &NetworkRecord,
        config: &EndpointSettings,
        own: Option<&ContainerId>,
    ) -> Result<()> {
        let wanted = link_locals(config)?;
        if wanted.is_empty() {
            return Ok(());
        }
        for other in self.containers() {
            let record = other.record();
            let endpoints = record.networking.endpoints.values();
            let on = endpoints.filter(|e| e.network == network.id && Some(&record.id) != own);
            let mut theirs = on.filter_map(|e| link_locals(&e.config).ok()).flatten();
            if let Some(taken) = theirs.find(|a| wanted.contains(a)) {
                return Err(EngineError::Conflict(format!(
                    "link-local address {taken} on network {} is that of container {}",
                    network.name, record.name
                )));
            }
        }
        Ok(())
    }

    /// Makes in the kernel what the record says of a connection.
    pub(super) async fn attach(
        &self,
        container: &Container,
        sandbox: &SandboxId,
        name: &str,
    ) -> Result<()> {
        let record = container.record();
        let endpoint = record.networking.endpoints.get(name);
        let spec = endpoint.and_then(|e| self.endpoint_spec(&record, name, e));
        let Some(spec) = spec else { return Ok(()) };
        // Before there is an interface that could send anything.
        self.refresh_policies().await?;
        let made = self.networks().connect(sandbox, spec).await?;
        self.note_chosen(container, &[made]).await;
        // The first network of the users' own brings the name service.
        self.refresh_names(&record).await;
        Ok(())
    }

    /// Disconnects a container from a network.
    ///
    /// # Errors
    /// No such network or container; it is not on the network.
    pub async fn network_disconnect(
        &self,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<()> {
        let network = self.network_table().resolve(network)?;
        let container = match self.container(container) {
            // Of a container that is gone nothing is left on the network.
            Err(EngineError::NoSuchContainer(_)) if force => return Ok(()),
            found => found?,
        };
        let engine = self.clone();
        self.detached(async move {
            let _ops = container.ops.lock().await;
            engine.disconnect(&network, &container).await
        })
        .await
    }

    /// The caller holds the container's `ops`.
    async fn disconnect(&self, network: &Arc<NetworkRecord>, container: &Container) -> Result<()> {
        let record = container.record();
        if record.networking.mode == NetworkMode::Host {
            return Err(forbidden(
                "container cannot be disconnected from host network or connected to host network"
                    .to_owned(),
            ));
        }
        let mut endpoints = record.networking.endpoints.iter();
        let Some((name, endpoint)) = endpoints.find(|(_, e)| e.network == network.id) else {
            return Err(forbidden(format!(
                "container {} is not connected to the network {}",
                record.id, network.name
            )));
        };
        crate::fault!("network-disconnect:before-record");
        self.commit_change(container, |r| {
            r.networking.endpoints.remove(name);
        })
        .await?;
        crate::fault!("network-disconnect:after-record");
        if let (Some(sandbox), Some(live)) = (&record.networking.sandbox, &endpoint.live) {
            let done = self.networks().disconnect(sandbox, &live.endpoint).await;
            crate::fault!("network-disconnect:after-kernel");
            self.change_hosts(&record, live, false).await;
            self.refresh_names(&container.record()).await;
            self.relax_policies().await;
            self.release_addresses(network, Some(live));
            done?;
        }
        self.connection_event(network, &record, "disconnect");
        Ok(())
    }

    pub(super) fn release_addresses(&self, network: &NetworkRecord, live: Option<&EndpointLive>) {
        for address in live.into_iter().flat_map(addresses) {
            self.network_table().release(&network.id, address.addr());
            self.unlease(network, address.addr());
        }
    }

    fn connection_event(&self, network: &NetworkRecord, record: &ContainerRecord, action: &str) {
        let carried = [
            ("container", record.id.as_str()),
            ("name", network.name.as_str()),
            ("type", network.driver_name()),
        ];
        self.event_bus().publish(EventType::Network, action, network.id.as_str(), carried);
    }

    /// Adds an endpoint's addresses to a running container's hosts file, or
    /// takes them out. A failure is no reason to undo the connection.
    pub(crate) async fn change_hosts(
        &self,
        record: &ContainerRecord,
        live: &EndpointLive,
        add: bool,
    ) {
        let path = record.data_dir(&self.config().data_root).join("hosts");
        let name = record.config.hostname.clone().unwrap_or_default();
        let addresses: Vec<String> = addresses(live).map(|a| a.addr().to_string()).collect();
        let changed = self
            .blocking(move || {
                rewrite_hosts(&path, &name, &addresses, add)
                    .map_err(|e| EngineError::io("change", path.display(), e))
            })
            .await;
        if let Err(error) = changed {
            tracing::warn!(container = record.id.short(), %error, "the hosts file is as before");
        }
    }
}

fn addresses(live: &EndpointLive) -> impl Iterator<Item = IpNet> + use<> {
    [live.address, live.address6].into_iter().flatten()
}

/// Refuses what Docker refuses, with its words.
fn check_connectable(record: &ContainerRecord, network: &NetworkRecord) -> Result<()> {
    if matches!(record.state.status, Status::Removing | Status::Dead) {
        return Err(EngineError::Conflict(format!(
            "Container {} is marked for removal and cannot be connected or disconnected to the \
             network",
            record.id
        )));
    }
    let refused = match (&record.networking.mode, network.driver_name()) {
        (NetworkMode::Host, _) | (_, "host") => {
            "container cannot be disconnected from host network or connected to host network"
        }
        (NetworkMode::Container(_), _) => {
            "container sharing network namespace with another container or host cannot be \
             connected to any other network"
        }
        (NetworkMode::None, _) | (_, "null") => {
            "container cannot be connected to multiple networks with one of the networks in \
             private (none) mode"
        }
        _ => return Ok(()),
    };
    Err(forbidden(refused.to_owned()))
}

/// Changes a hosts file in place: it is mounted into the container by its
/// inode.
fn rewrite_hosts(path: &Path, name: &str, addresses: &[String], add: bool) -> io::Result<()> {
    let mut file: File = OpenOptions::new().read(true).write(true).open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let is_ours = |line: &&str| {
        !line.split_whitespace().next().is_some_and(|a| addresses.iter().any(|o| o == a))
    };
    let mut out: String = text.lines().filter(is_ours).flat_map(|l| [l, "\n"]).collect();
    if add {
        out.extend(addresses.iter().map(|a| format!("{a}\t{name}\n")));
    }
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(out.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files_are_changed_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "127.0.0.1\tlocalhost\n172.17.0.2\tweb\n").unwrap();
        let watched = File::open(&path).unwrap();
        rewrite_hosts(&path, "web", &["172.18.0.2".to_owned()], true).unwrap();
        rewrite_hosts(&path, "web", &["172.18.0.2".to_owned()], true).unwrap();
        let text = io::read_to_string(&watched).unwrap();
        assert_eq!(text, "127.0.0.1\tlocalhost\n172.17.0.2\tweb\n172.18.0.2\tweb\n");
        rewrite_hosts(&path, "web", &["172.18.0.2".to_owned()], false).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "127.0.0.1\tlocalhost\n172.17.0.2\tweb\n");
    }
}
