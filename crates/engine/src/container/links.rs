//! Links (`--link NAME:ALIAS`): names of other containers for one alone.
//!
//! On the default bridge a link is a line in the hosts file and variables in
//! the environment; on users' networks it is a name that the name service
//! answers (see [`Engine::link_specs`]). Where containers are kept from each
//! other (`icc=false`), it opens the target's exposed ports as well.
//!
//! Be aware:
//! - A target's new address is written into the hosts files of those that
//!   link to it when it starts. Their environment stays that of their start.
//! - The target of a link on the default bridge is kept by its id: a rename
//!   changes nothing. On users' networks it is found by its name each time.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use sampan_net::{DriverConfig, GatewayMode, LinkSpec, OpenedLink, Protocol};
use sampan_types::docker::{ContainerConfig, EndpointSettings};
use sampan_types::{ContainerId, NetworkId};

use super::Container;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::networks::{NetworkRecord, PREDEFINED};
use crate::record::{ContainerRecord, LinkRecord, NetworkMode, Networking};

/// `name:alias`, or `name`, which is its own alias.
fn parse(text: &str) -> Result<(&str, &str)> {
    let (name, alias) = match text.split_once(':') {
        Some(pair) => pair,
        None => (text, text),
    };
    // `inspect` shows `/target:/container/alias`, which is taken back as well.
    let (name, alias) = (name.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or(alias));
    if name.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(EngineError::Invalid(format!("bad format for links: {text}")));
    }
    Ok((name, alias))
}

impl Engine {
    /// Reads the links of a container on the default bridge.
    pub(super) fn plan_links(&self, links: &[String]) -> Result<Vec<LinkRecord>> {
        let mut planned: Vec<LinkRecord> = Vec::new();
        for text in links {
            let (name, alias) = parse(text)?;
            let mut target = self.link_target(name)?;
            // Of a shared namespace the owner has the addresses.
            while let NetworkMode::Container(owner) = &target.record().networking.mode {
                target = self.container(owner.as_str())?;
            }
            if target.record().networking.mode == NetworkMode::Host {
                return Err(EngineError::Invalid(
                    "conflicting options: host type networking can't be used with links. This \
                     would result in undefined behavior"
                        .to_owned(),
                ));
            }
            if planned.iter().any(|l| l.alias == alias && l.target != *target.id()) {
                return Err(EngineError::Conflict(format!(
                    "cannot link to {name} as {alias}: another link has that alias"
                )));
            }
            planned.retain(|l| l.alias != alias);
            planned.push(LinkRecord { target: target.id().clone(), alias: alias.to_owned() });
        }
        if !planned.is_empty() {
            let bridge = self.network_table().resolve("bridge")?;
            check_reachable(&bridge)?;
        }
        Ok(planned)
    }

    fn link_target(&self, name: &str) -> Result<Arc<Container>> {
        self.container(name)
            .map_err(|e| EngineError::Invalid(format!("could not get container for {name}: {e}")))
    }

    /// Checks the links of an endpoint on a user's network.
    ///
    /// # Errors
    /// A wrong format, or no such container; nobody could hand packets on.
    pub(crate) fn check_links(
        &self,
        network: &NetworkRecord,
        config: &EndpointSettings,
    ) -> Result<()> {
        if config.links.iter().flatten().next().is_some() {
            check_reachable(network)?;
        }
        for text in config.links.iter().flatten() {
            let (name, _) = parse(text)?;
            self.link_target(name)?;
        }
        Ok(())
    }

    /// What a container's links open where containers are kept from each other.
    pub(super) fn opened_links(&self, networking: &Networking) -> Vec<OpenedLink> {
        let open = |target: &ContainerId, network: &NetworkId| {
            let target = self.container_by_id(target)?.record();
            let ports = exposed(&target);
            let link = OpenedLink { target: target.id.clone(), network: network.clone(), ports };
            (!link.ports.is_empty()).then_some(link)
        };
        let apart = |id: &NetworkId| {
            let network = self.network_table().get(id);
            network.is_some_and(|n| matches!(&n.driver, DriverConfig::Bridge(c) if !c.icc))
        };
        let bridge = networking.endpoints.get("bridge").filter(|e| apart(&e.network));
        let legacy = networking.links.iter();
        let legacy = legacy.filter_map(|l| open(&l.target, &bridge?.network));
        let named = self.link_specs(networking).into_iter();
        let named = named.filter_map(|l| open(&l.target, l.network.as_ref().filter(|n| apart(n))?));
        legacy.chain(named).collect()
    }

    /// The links of a container on users' networks, as the name service is
    /// told of them. Those whose target is gone are left out.
    pub(super) fn link_specs(&self, networking: &Networking) -> Vec<LinkSpec> {
        let user = networking.endpoints.iter().filter(|(n, _)| !PREDEFINED.contains(&n.as_str()));
        user.flat_map(|(_, e)| e.config.links.iter().flatten().map(move |text| (text, e)))
            .filter_map(|(text, endpoint)| {
                let (name, alias) = parse(text).ok()?;
                let target = self.container(name).ok()?.id().clone();
                let network = Some(endpoint.network.clone());
                Some(LinkSpec { alias: alias.to_owned(), target, network })
            })
            .collect()
    }

    /// The lines that a container's links are in its hosts file: names and
    /// address.
    ///
    /// # Errors
    /// A target does not run.
    pub(super) fn link_hosts(&self, record: &ContainerRecord) -> Result<Vec<(String, IpAddr)>> {
        let mut lines = Vec::new();
        for link in &record.networking.links {
            let Some(target) = self.container_by_id(&link.target) else { continue };
            let target = target.record();
            if !target.state.has_process() {
                return Err(EngineError::Conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    target.name, record.name, link.alias
                )));
            }
            let names = host_names(&target, &link.alias);
            lines.extend(addresses(&target).map(|address| (names.clone(), address)));
        }
        Ok(lines)
    }

    /// What a container's environment says of its links, under what it says
    /// itself.
    fn link_environment(&self, record: &ContainerRecord) -> Vec<String> {
        let own = record.config.env.iter().flatten();
        let own: Vec<&str> = own.filter_map(|v| v.split('=').next()).collect();
        let mut variables = Vec::new();
        for link in &record.networking.links {
            let Some(target) = self.container_by_id(&link.target) else { continue };
            variables.extend(environment(record, &target.record(), &link.alias));
        }
        variables.retain(|v| !own.iter().any(|o| v.split('=').next() == Some(o)));
        variables
    }

    /// A container's configuration, with what its links add to the
    /// environment of its processes.
    pub(crate) fn linked_config(&self, record: &ContainerRecord) -> ContainerConfig {
        let mut config = record.config.clone();
        let linked = self.link_environment(record);
        if !linked.is_empty() {
            config.env.get_or_insert_default().splice(0..0, linked);
        }
        config
    }

    /// `/target:/container/alias`, a line for each link on the default bridge.
    pub(crate) fn shown_links(&self, record: &ContainerRecord) -> Vec<String> {
        let shown = |link: &LinkRecord| {
            let target = self.container_by_id(&link.target)?.record();
            Some(format!("/{}:/{}/{}", target.name, record.name, link.alias))
        };
        record.networking.links.iter().filter_map(shown).collect()
    }

    /// After a container's start: those that link to it learn where it is now.
    pub(crate) async fn refresh_links_to(&self, target: &ContainerRecord) {
        for c in self.containers() {
            let record = c.record();
            if !record.state.has_process() || record.id == target.id {
                continue;
            }
            for link in record.networking.links.iter().filter(|l| l.target == target.id) {
                let names = host_names(target, &link.alias);
                let lines = addresses(target).map(|a| (names.clone(), a)).collect();
                self.rewrite_link(&record, names, lines).await;
            }
            let by_name = |text: &String| {
                parse(text).is_ok_and(|(name, _)| {
                    name == target.name.as_str() || target.id.as_str().starts_with(name)
                })
            };
            let endpoints = record.networking.endpoints.values();
            let named = endpoints.flat_map(|e| e.config.links.iter().flatten()).any(by_name);
            if named || record.networking.links.iter().any(|l| l.target == target.id) {
                self.refresh_names(&record).await;
            }
        }
    }

    /// Tells the name service of a container's names and links as they are
    /// now, if it runs.
    pub(crate) async fn refresh_names(&self, record: &ContainerRecord) {
        let Some(spec) = self.sandbox_spec(record) else { return };
        if let Err(error) = self.networks().update_names(spec).await {
            tracing::warn!(container = record.id.short(), %error, "its names are as before");
        }
        self.refresh_resolv(record).await;
    }

    async fn rewrite_link(
        &self,
        record: &ContainerRecord,
        names: String,
        lines: Vec<(String, IpAddr)>,
    ) {
        let path = record.data_dir(&self.config().data_root).join("hosts");
        let changed = self
            .blocking(move || {
                rewrite(&path, &names, &lines)
                    .map_err(|e| EngineError::io("change", path.display(), e))
            })
            .await;
        if let Err(error) = changed {
            tracing::warn!(container = record.id.short(), %error, "the hosts file is as before");
        }
    }

    /// Removes a link (`docker rm --link CONTAINER/ALIAS`).
    ///
    /// # Errors
    /// No such container or link.
    pub async fn link_remove(&self, name: &str) -> Result<()> {
        let (parent, alias) = match name.trim_matches('/').split_once('/') {
            Some((parent, alias)) if !alias.is_empty() => (parent.to_owned(), alias.to_owned()),
            _ => {
                return Err(EngineError::Conflict(
                    "Conflict, cannot remove the default link name of the container".to_owned(),
                ));
            }
        };
        let c = self.container(&parent).map_err(|_| {
            EngineError::NotFound(format!("Cannot get parent {parent} for link name {alias}"))
        })?;
        let engine = self.clone();
        self.detached(async move {
            let _ops = c.ops.lock().await;
            let record = c.record();
            let found = record.networking.links.iter().find(|l| l.alias == alias).cloned();
            let Some(link) = found else {
                return Err(EngineError::NotFound(format!(
                    "No such link: /{}/{alias}",
                    record.name
                )));
            };
            engine.commit_change(&c, |r| r.networking.links.retain(|l| l.alias != alias)).await?;
            if record.state.has_process() {
                engine.refresh_names(&c.record()).await;
            }
            if let Some(target) = engine.container_by_id(&link.target)
                && record.state.has_process()
            {
                let names = host_names(&target.record(), &alias);
                engine.rewrite_link(&record, names, Vec::new()).await;
            }
            Ok(())
        })
        .await
    }
}

/// Where containers are kept from each other, the host hands on what a link
/// lets through: it needs an address of its own there.
fn check_reachable(network: &NetworkRecord) -> Result<()> {
    let DriverConfig::Bridge(config) = &network.driver else { return Ok(()) };
    if config.icc {
        return Ok(());
    }
    let isolated = [config.gateway_mode_ipv4, config.gateway_mode_ipv6]
        .iter()
        .zip([network.ipv4, network.ipv6])
        .any(|(mode, has)| has && *mode == GatewayMode::Isolated);
    if isolated || (config.inhibit_ipv4 && network.ipv4) {
        return Err(EngineError::NotSupported(format!(
            "--link on network {}, which keeps its containers apart and has no address on the \
             host that could hand packets on: leave inhibit_ipv4 and gateway mode isolated out",
            network.name
        )));
    }
    Ok(())
}

/// The ports that a container exposes, those that it publishes among them.
fn exposed(target: &ContainerRecord) -> Vec<(Protocol, u16)> {
    let wished = &target.wished_ports;
    let all = wished.exposed().into_iter().chain(wished.bindings().into_keys());
    let mut ports: Vec<(Protocol, u16)> =
        all.filter_map(|p| port(&p)).map(|(port, protocol)| (protocol, port)).collect();
    ports.sort_unstable_by_key(|(protocol, port)| (*port, protocol.number()));
    ports.dedup();
    ports
}

/// By what a link's target is known: the alias, its host name, its name.
fn host_names(target: &ContainerRecord, alias: &str) -> String {
    let hostname = target.config.hostname.as_deref().unwrap_or_default();
    let mut names = vec![alias];
    for name in [hostname, target.name.as_str()] {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}

/// A target's addresses on the default bridge.
fn addresses(target: &ContainerRecord) -> impl Iterator<Item = IpAddr> + use<> {
    let live = target.networking.endpoints.get("bridge").and_then(|e| e.live.clone());
    live.into_iter().flat_map(|l| [l.address, l.address6]).flatten().map(|net| net.addr())
}

/// The variables of one link.
fn environment(parent: &ContainerRecord, target: &ContainerRecord, alias: &str) -> Vec<String> {
    let prefix = alias.to_ascii_uppercase().replace('-', "_");
    let mut out = Vec::new();
    let exposed = target.wished_ports.exposed();
    let mut ports: Vec<(u16, Protocol)> = exposed.iter().filter_map(|p| port(p)).collect();
    ports.sort_by_key(|(port, protocol)| (*port, *protocol != Protocol::Tcp, protocol.to_string()));
    if let Some(address) = addresses(target).next() {
        let to = |(port, protocol): &(u16, Protocol)| {
            format!("{protocol}://{}", std::net::SocketAddr::new(address, *port))
        };
        out.extend(ports.first().map(|first| format!("{prefix}_PORT={}", to(first))));
        for pair in &ports {
            let (port, protocol) = pair;
            let one = format!("{prefix}_PORT_{port}_{}", protocol.to_string().to_uppercase());
            out.push(format!("{one}={}", to(pair)));
            out.push(format!("{one}_ADDR={address}"));
            out.push(format!("{one}_PORT={port}"));
            out.push(format!("{one}_PROTO={protocol}"));
        }
    }
    out.push(format!("{prefix}_NAME=/{}/{alias}", parent.name));
    for variable in target.config.env.iter().flatten() {
        if let Some((key, value)) = variable.split_once('=')
            && !matches!(key, "HOME" | "PATH")
        {
            out.push(format!("{prefix}_ENV_{key}={value}"));
        }
    }
    out
}

fn port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    Some((port.parse().ok()?, protocol.parse().ok()?))
}

/// Puts `lines` in the place of those with the first two of these names, the
/// alias and the host name: the third is another one after a rename. The file
/// is changed in place: it is mounted into the container by its inode.
fn rewrite(path: &Path, names: &str, lines: &[(String, IpAddr)]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let other = |line: &&str| {
        let found = line.split_whitespace().skip(1).take(2);
        line.starts_with('#') || !found.eq(names.split_whitespace().take(2))
    };
    let mut out: String = text.lines().filter(other).flat_map(|l| [l, "\n"]).collect();
    for (names, address) in lines {
        out.push_str(&format!("{address}\t{names}\n"));
    }
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(out.as_bytes())
}

#[cfg(test)]
mod tests {
    use sampan_types::EndpointId;
    use sampan_types::docker::EndpointSettings;

    use super::*;
    use crate::container::tests::record;
    use crate::record::{EndpointLive, EndpointRecord, WishedPorts};

    fn target() -> ContainerRecord {
        let mut r = record(&"cd".repeat(32), "web01");
        r.config.hostname = Some("cdcdcdcdcdcd".to_owned());
        let exposed = ["443/tcp", "80/udp", "80/tcp"].map(str::to_owned);
        r.wished_ports = WishedPorts::new(Some(&exposed), None);
        r.config.env = Some(vec!["PATH=/bin".into(), "COLOUR=red".into()]);
        let mut endpoint = EndpointRecord::new(NetworkId::random(), EndpointSettings::default(), 0);
        endpoint.live = Some(EndpointLive {
            endpoint: EndpointId::random(),
            address: Some("172.17.0.5/16".parse().unwrap()),
            address6: None,
            gateway: None,
            gateway6: None,
            mac: None,
        });
        r.networking.endpoints.insert("bridge".to_owned(), endpoint);
        r
    }

    #[test]
    fn links_are_read() {
        assert_eq!(parse("web:db").unwrap(), ("web", "db"));
        assert_eq!(parse("web").unwrap(), ("web", "web"));
        assert_eq!(parse("/web:/other/db").unwrap(), ("web", "db"));
        assert!(parse(":db").is_err() && parse("web:").is_err() && parse("a:b:c").is_err());
    }

    #[test]
    fn the_environment_is_dockers() {
        let parent = record(&"ab".repeat(32), "web02");
        let variables = environment(&parent, &target(), "my-web");
        assert_eq!(
            variables,
            [
                "MY_WEB_PORT=tcp://172.17.0.5:80",
                "MY_WEB_PORT_80_TCP=tcp://172.17.0.5:80",
                "MY_WEB_PORT_80_TCP_ADDR=172.17.0.5",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_PORT_80_UDP=udp://172.17.0.5:80",
                "MY_WEB_PORT_80_UDP_ADDR=172.17.0.5",
                "MY_WEB_PORT_80_UDP_PORT=80",
                "MY_WEB_PORT_80_UDP_PROTO=udp",
                "MY_WEB_PORT_443_TCP=tcp://172.17.0.5:443",
                "MY_WEB_PORT_443_TCP_ADDR=172.17.0.5",
                "MY_WEB_PORT_443_TCP_PORT=443",
                "MY_WEB_PORT_443_TCP_PROTO=tcp",
                "MY_WEB_NAME=/web02/my-web",
                "MY_WEB_ENV_COLOUR=red",
            ]
        );
    }

    #[test]
    fn hosts_lines_follow_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let names = host_names(&target(), "db");
        assert_eq!(names, "db cdcdcdcdcdcd web01");
        std::fs::write(&path, format!("127.0.0.1\tlocalhost\n172.17.0.2\t{names}\n")).unwrap();
        let moved = [(names.clone(), "172.17.0.5".parse().unwrap())];
        rewrite(&path, &names, &moved).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("127.0.0.1\tlocalhost\n172.17.0.5\t{names}\n"));
        rewrite(&path, &names, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1\tlocalhost\n");
    }
}
