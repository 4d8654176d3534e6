//! What differs between the kernel and what shall be: pure.

use std::collections::HashMap;
use std::fmt;

use ipnet::IpNet;
use sampan_sys::netlink::Link;
use sampan_types::{NetworkId, SandboxId};

use super::view::View;
use crate::config::{Attachment, BridgeConfig, DriverConfig, NetworkSpec};
use crate::manager::State;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but not as somebody may expect.
    Warning,
    /// Packets don't get where they shall.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The host.
    Host,
    /// The instance's table of rules.
    Firewall,
    /// A network.
    Network(NetworkId),
    /// An endpoint of a sandbox on a network.
    Endpoint(SandboxId, NetworkId),
}

/// Something that is not as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// What is wrong, in words.
    pub text: String,
}

impl Finding {
    pub(crate) fn error(subject: Subject, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, subject, text: text.into() }
    }

    pub(crate) fn warning(subject: Subject, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, subject, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is wrong on the host with our networks and the host's ends of
/// endpoints.
pub(crate) fn host(state: &State, view: &View) -> Vec<Finding> {
    let links: HashMap<&str, &Link> = view.links.iter().map(|l| (l.name.as_str(), l)).collect();
    let mut findings = Vec::new();
    for network in state.networks.values() {
        if let DriverConfig::Bridge(config) = &network.driver {
            bridge(
                network,
                config,
                view,
                links.get(config.bridge.as_str()).copied(),
                &mut findings,
            );
        }
    }
    for (sandbox, joined) in &state.sandboxes {
        for attachment in &joined.sandbox.attachments {
            let Some(network) = state.networks.get(&attachment.network) else { continue };
            let subject = Subject::Endpoint(sandbox.clone(), attachment.network.clone());
            let found = port(network, attachment, &links);
            findings.extend(found.map(|text| Finding::error(subject, text)));
        }
    }
    findings
}

fn bridge(
    network: &NetworkSpec,
    config: &BridgeConfig,
    view: &View,
    link: Option<&Link>,
    findings: &mut Vec<Finding>,
) {
    let name = &config.bridge;
    let mut wrong =
        |text: String| findings.push(Finding::error(Subject::Network(network.id.clone()), text));
    let Some(link) = link else { return wrong(format!("bridge {name} is missing")) };
    if link.kind != "bridge" {
        return wrong(format!("interface {name} is no bridge"));
    }
    if !link.up {
        wrong(format!("bridge {name} is switched off"));
    }
    for address in config.gateways() {
        let has = view.addresses.iter().any(|a| a.link == link.index && a.address == address);
        if !has {
            wrong(format!("bridge {name} lacks the address {address}"));
        } else if link.up && !has_own_net(view, link.index, address) {
            wrong(format!("the route to {} by bridge {name} is missing", address.trunc()));
        }
    }
}

/// Whether there is the route that comes with an address.
fn has_own_net(view: &View, link: u32, address: IpNet) -> bool {
    address.prefix_len() == address.max_prefix_len()
        || view.routes.iter().any(|r| {
            r.link == link && r.gateway.is_none() && r.destination == Some(address.trunc())
        })
}

/// What is wrong with the host's end of an endpoint.
fn port(
    network: &NetworkSpec,
    attachment: &Attachment,
    links: &HashMap<&str, &Link>,
) -> Option<String> {
    let name = attachment.host_interface.as_deref()?;
    let Some(link) = links.get(name) else { return Some(format!("interface {name} is missing")) };
    if !link.up {
        return Some(format!("interface {name} is switched off"));
    }
    let DriverConfig::Bridge(config) = &network.driver else { return None };
    let bridge = links.get(config.bridge.as_str()).map(|b| b.index);
    if link.master.is_none() || link.master != bridge {
        return Some(format!("interface {name} is no port of bridge {}", config.bridge));
    }
    if link.mtu != config.mtu {
        return Some(format!(
            "the MTU of interface {name} is {}, that of the network {}",
            link.mtu, config.mtu
        ));
    }
    if link.port.is_some_and(|p| !p.forwarding) {
        return Some(format!("bridge {} blocks its port {name}", config.bridge));
    }
    None
}

/// What is wrong inside a sandbox with its attachments.
pub(crate) fn inside(sandbox: &SandboxId, attachments: &[Attachment], view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    for attachment in attachments {
        let Some(name) = &attachment.interface else { continue };
        let subject = || Subject::Endpoint(sandbox.clone(), attachment.network.clone());
        let mut wrong = |text| findings.push(Finding::error(subject(), text));
        let Some(link) = view.link(name) else {
            wrong(format!("interface {name} is missing"));
            continue;
        };
        if !link.up {
            wrong(format!("interface {name} is switched off"));
        }
        for address in attachment.addresses.iter().chain(&attachment.link_locals) {
            let has = view.addresses.iter().any(|a| a.link == link.index && a.address == *address);
            if !has {
                wrong(format!("interface {name} lacks the address {address}"));
            } else if link.up && !has_own_net(view, link.index, *address) {
                wrong(format!("the route to {} by {name} is missing", address.trunc()));
            }
        }
    }
    findings.extend(no_way_out(sandbox, attachments, view));
    findings
}

/// A sandbox that has gateways and no default route of the family at all. One
/// by another gateway is the container's own choice.
fn no_way_out<'a>(
    sandbox: &'a SandboxId,
    attachments: &'a [Attachment],
    view: &'a View,
) -> impl Iterator<Item = Finding> + 'a {
    [false, true].into_iter().filter_map(move |v6| {
        let leads = |a: &&Attachment| a.gateways.iter().any(|g| g.is_ipv6() == v6);
        let attachment = attachments.iter().find(leads)?;
        let is_default = |destination: Option<IpNet>| {
            destination.is_none_or(|d| d.prefix_len() == 0 && d.addr().is_ipv6() == v6)
        };
        let mut defaults = view.routes.iter().filter(|r| is_default(r.destination));
        if defaults.any(|r| r.gateway.is_none_or(|g| g.is_ipv6() == v6)) {
            return None;
        }
        let subject = Subject::Endpoint(sandbox.clone(), attachment.network.clone());
        let family = if v6 { "IPv6" } else { "IPv4" };
        Some(Finding::error(subject, format!("there is no default route of {family}")))
    })
}
