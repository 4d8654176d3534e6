//! Deciding where a packet goes: pure but for the kernel's own decisions,
//! which are asked for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sampan_sys::netlink::Way;
use sampan_types::NetworkId;

use super::facts::{Instance, Kernel, Known};
use super::policies::Flow;
use super::{Hop, Place, Trace, TraceRequest, Verdict};
use crate::config::{Attachment, BridgeConfig, DriverConfig, GatewayMode, NetworkSpec};
use crate::error::NetError;
use crate::firewall::{Forward, LinkRule};
use crate::ports::Protocol;

/// A packet on its way.
struct Walk<'a, K> {
    kernel: &'a K,
    port: Option<(Protocol, u16)>,
    source: Option<IpAddr>,
    destination: IpAddr,
    /// Whether it came through a published port.
    published: bool,
    hops: Vec<Hop>,
}

/// Where it is next.
enum Next<'a> {
    /// Nowhere: the last hop says why.
    Ended,
    /// The host, from outside of it: by the bridge of a network, or by
    /// another link.
    Host(Option<&'a NetworkSpec>),
    /// A sandbox, at one of its endpoints.
    Sandbox(&'a Known, &'a Attachment),
}

pub(super) fn decide<K: Kernel>(kernel: &K, request: &TraceRequest) -> Result<Trace, NetError> {
    let known = kernel.known();
    let Some(destination) = target(kernel, request)? else {
        let what = format!("{} has no address that it could be sent to", describe(&request.to));
        let hops = vec![hop(describe(&request.to), what, Verdict::Stops)];
        return Ok(Trace { hops, ..Trace::default() });
    };
    let source = match &request.from {
        Place::Address(address) => Some(*address),
        _ => None,
    };
    let port = request.port;
    let mut walk = Walk { kernel, port, source, destination, published: false, hops: Vec::new() };
    let from = match &request.from {
        Place::Sandbox(id) => known.sandbox(id).filter(|k| k.netns.is_some()),
        _ => None,
    };
    let next = match (&request.from, from) {
        (_, Some(sender)) => walk.leave(sender)?,
        (Place::Address(address), None) => {
            let what = "comes to the host from elsewhere".to_owned();
            walk.hops.push(hop(address.to_string(), what, Verdict::Passes));
            Next::Host(None)
        }
        (_, None) => walk.host(None, false)?,
    };
    let next = match next {
        Next::Host(network) => walk.host(network, true)?,
        other => other,
    };
    if let Next::Sandbox(owner, attachment) = next {
        walk.arrive(owner, attachment)?;
    }
    let (source, destination) = (walk.source, Some(destination));
    Ok(Trace { source, destination, hops: walk.hops })
}

fn hop(place: impl Into<String>, what: impl Into<String>, verdict: Verdict) -> Hop {
    Hop { place: place.into(), sandbox: None, what: what.into(), verdict }
}

fn describe(place: &Place) -> String {
    match place {
        Place::Sandbox(id) => format!("sandbox {}", id.short()),
        Place::Host => "host".to_owned(),
        Place::Address(address) => address.to_string(),
    }
}

/// The address that a packet is sent to: on a common network if there is one.
fn target(kernel: &impl Kernel, request: &TraceRequest) -> Result<Option<IpAddr>, NetError> {
    let known = kernel.known();
    let attachments = |place: &Place| match place {
        Place::Sandbox(id) => known.sandbox(id).map(|k| k.attachments.as_slice()),
        _ => None,
    };
    let of = |a: &Attachment| a.addresses.first().map(ipnet::IpNet::addr);
    let own = attachments(&request.from).unwrap_or_default();
    match &request.to {
        Place::Address(address) => Ok(Some(*address)),
        Place::Sandbox(id) if known.sandbox(id).is_some_and(|k| k.netns.is_some()) => {
            let theirs = attachments(&request.to).unwrap_or_default();
            let common = theirs.iter().find(|t| own.iter().any(|o| o.network == t.network));
            Ok(common.and_then(of).or_else(|| theirs.iter().find_map(of)))
        }
        Place::Sandbox(_) | Place::Host => match &request.from {
            Place::Sandbox(_) => Ok(own.iter().find_map(|a| a.gateways.first().copied())),
            Place::Host => Ok(Some(Ipv4Addr::LOCALHOST.into())),
            Place::Address(address) => {
                let way = kernel.way(None, *address, None, None)?;
                Ok(way.and_then(|w| w.source))
            }
        },
    }
}

impl<'a, K: Kernel> Walk<'a, K> {
    fn known(&self) -> &'a Instance {
        self.kernel.known()
    }

    fn at(&mut self, sandbox: &Known, what: impl Into<String>, verdict: Verdict) {
        let place = format!("sandbox {}", sandbox.sandbox.short());
        let sandbox = Some(sandbox.sandbox.clone());
        self.hops.push(Hop { place, sandbox, what: what.into(), verdict });
    }

    fn push(&mut self, place: impl Into<String>, what: impl Into<String>, verdict: Verdict) {
        self.hops.push(hop(place, what, verdict));
    }

    fn stop<'n>(&mut self, place: impl Into<String>, what: impl Into<String>) -> Next<'n> {
        self.push(place, what, Verdict::Stops);
        Next::Ended
    }

    /// Out of the sandbox that sends.
    fn leave(&mut self, sender: &'a Known) -> Result<Next<'a>, NetError> {
        let (netns, to) = (sender.netns.as_ref(), self.destination);
        let Some(way) = self.kernel.way(netns, to, None, None)? else {
            let text = format!("there is no route to {to}: no network that it is on leads there");
            self.at(sender, text, Verdict::Stops);
            return Ok(Next::Ended);
        };
        self.source = way.source;
        if way.is_local() {
            let own = sender.attachments.first();
            self.at(sender, format!("{to} is its own address"), Verdict::Passes);
            return Ok(own.map_or(Next::Ended, |a| Next::Sandbox(sender, a)));
        }
        let name = match way.link {
            Some(index) => self.kernel.link(netns, index)?.unwrap_or_default(),
            None => String::new(),
        };
        if !way.is_unicast() {
            self.at(sender, format!("a route refuses packets to {to}"), Verdict::Stops);
            return Ok(Next::Ended);
        }
        let by = |a: &&Attachment| a.interface.as_deref() == Some(name.as_str());
        let Some(attachment) = sender.attachments.iter().find(by) else {
            let text = format!("leaves by {name}, which is the container's own");
            self.at(sender, text, Verdict::Arrives);
            return Ok(Next::Ended);
        };
        let via = match way.gateway {
            Some(gateway) => format!("leaves by {name} to the gateway {gateway}"),
            None => format!("leaves by {name}, {to} is a neighbour"),
        };
        if let Some(wrong) = self.wrong(sender, attachment) {
            self.at(sender, format!("{via}; {wrong}"), Verdict::Stops);
            return Ok(Next::Ended);
        }
        self.at(sender, via, Verdict::Passes);
        let Some(network) = self.known().networks.get(&attachment.network) else {
            return Ok(self.stop("host", "its network is gone"));
        };
        Ok(self.through(network, attachment, way))
    }

    fn wrong(&self, of: &Known, attachment: &Attachment) -> Option<&'a String> {
        let key = (of.sandbox.clone(), attachment.network.clone());
        self.known().wrong_endpoints.get(&key)
    }

    /// Through the network of the sender's endpoint.
    fn through(&mut self, network: &'a NetworkSpec, from: &Attachment, way: Way) -> Next<'a> {
        let neighbour = self
            .known()
            .owner(self.destination)
            .filter(|(_, a)| way.gateway.is_none() && a.network == network.id);
        let config = match &network.driver {
            DriverConfig::Bridge(config) => config,
            driver => return self.lan(network, driver, neighbour, from),
        };
        let place = format!("bridge {}", config.bridge);
        if let Some(wrong) = self.wrong_network(&network.id) {
            return self.stop(place, wrong);
        }
        let Some((owner, to)) = neighbour else {
            let host = config.gateways().any(|g| g.addr() == self.destination);
            if way.gateway.is_none() && !host {
                let text = format!("nobody on network {} has {}", network.name, self.destination);
                return self.stop(place, text);
            }
            return Next::Host(Some(network));
        };
        if !config.icc && self.is_linked(from) {
            let text = format!("network {}: a link opens the way, by the host", network.name);
            self.push(place, text, Verdict::Passes);
            return Next::Sandbox(owner, to);
        }
        if !config.icc {
            let text = format!("network {} keeps its containers apart (icc off)", network.name);
            return self.stop(place, text);
        }
        let port = |a: &Attachment| a.host_interface.clone().unwrap_or_default();
        let text = format!("network {}: from {} to {}", network.name, port(from), port(to));
        self.push(place, text, Verdict::Passes);
        Next::Sandbox(owner, to)
    }

    /// Whether a link of the sender opens the port.
    fn is_linked(&self, from: &Attachment) -> bool {
        let Some((protocol, port)) = self.port else { return false };
        let target = (self.destination, port).into();
        let sender = |source| from.addresses.iter().any(|a| a.addr() == source);
        let open = |l: &LinkRule| l.protocol == protocol && l.target == target && sender(l.source);
        self.known().links.iter().any(open)
    }

    fn wrong_network(&self, network: &NetworkId) -> Option<String> {
        self.known().wrong_networks.get(network).cloned()
    }

    /// Through a network whose packets don't pass the host's stack.
    fn lan(
        &mut self,
        network: &NetworkSpec,
        driver: &DriverConfig,
        neighbour: Option<(&'a Known, &'a Attachment)>,
        from: &Attachment,
    ) -> Next<'a> {
        let place = format!("network {}", network.name);
        if let Some((owner, to)) = neighbour {
            self.push(place, "handed over by its driver", Verdict::MayPass);
            return Next::Sandbox(owner, to);
        }
        let text = match driver {
            DriverConfig::Macvlan(_) | DriverConfig::Ipvlan(_) => {
                "leaves to the LAN; what is beyond, the host itself among it, is not known here"
            }
            _ => "leaves by the network's plugin; what is beyond is not known here",
        };
        let interface = from.interface.clone().unwrap_or_default();
        self.push(place, format!("{interface}: {text}"), Verdict::Arrives);
        Next::Ended
    }

    /// Through the host: translated, routed and filtered when it comes from
    /// outside of it.
    fn host(
        &mut self,
        from: Option<&'a NetworkSpec>,
        forwarded: bool,
    ) -> Result<Next<'a>, NetError> {
        let mut way = self.host_way(from, forwarded)?;
        let local = way.as_ref().is_some_and(Way::is_local);
        if let Some(forward) = local.then(|| self.published_port()).flatten() {
            let (port, owner, target) = (forward.host_port, &forward.owner, forward.target);
            let how = self.known().shortcut(forward, forwarded && from.is_none());
            let text =
                format!("port {port} is published by container {owner}: goes to {target}{how}");
            self.push("host", text, Verdict::Passes);
            self.destination = forward.target.ip();
            self.port = Some((forward.protocol, forward.target.port()));
            self.published = true;
            way = self.host_way(from, forwarded)?;
        } else if local {
            return self.for_host();
        }
        if forwarded && !self.known().forwarding {
            return Ok(self.stop("host", "forwards no packets: net.ipv4.ip_forward is 0"));
        }
        let Some(way) = way.filter(Way::is_unicast) else {
            return Ok(self.stop("host", format!("there is no route to {}", self.destination)));
        };
        if !forwarded && self.source.is_none() {
            self.source = way.source;
        }
        let link = match way.link {
            Some(index) => self.kernel.link(None, index)?.unwrap_or_default(),
            None => String::new(),
        };
        let into = self.known().networks.values().find_map(|network| match &network.driver {
            DriverConfig::Bridge(config) if config.bridge == link => Some((&**network, config)),
            _ => None,
        });
        if let Some(network) =
            from.filter(|n| is_internal(n) && into.is_none_or(|(i, _)| i.id != n.id))
        {
            let text = format!("network {} is internal: nothing leaves it", network.name);
            return Ok(self.stop("host", text));
        }
        match into {
            Some((network, config)) => Ok(self.enter(network, config, from, forwarded)),
            None => Ok(self.go_out(&link, &way, from, forwarded)),
        }
    }

    fn host_way(
        &self,
        from: Option<&NetworkSpec>,
        forwarded: bool,
    ) -> Result<Option<Way>, NetError> {
        let bridge = from.and_then(|n| match &n.driver {
            DriverConfig::Bridge(config) => Some(config.bridge.as_str()),
            _ => None,
        });
        // A source is looked at together with the link that it comes by.
        let source = self.source.filter(|_| forwarded && bridge.is_some());
        self.kernel.way(None, self.destination, source, bridge)
    }

    fn published_port(&self) -> Option<&'a Forward> {
        let (protocol, port) = self.port?;
        let to = self.destination;
        let fits = |f: &&Forward| {
            let address = f.host_ip == to
                || (f.host_ip.is_unspecified() && f.host_ip.is_ipv4() == to.is_ipv4());
            !f.routed && f.protocol == protocol && f.host_port == port && address
        };
        self.known().forwards.iter().find(fits)
    }

    /// For a process of the host.
    fn for_host(&mut self) -> Result<Next<'a>, NetError> {
        if let Some(text) = self.denied(true) {
            return Ok(self.stop("policies", text));
        }
        let (text, verdict) = self.listening(None, "the host")?;
        self.push("host", text, verdict);
        Ok(Next::Ended)
    }

    /// Into a bridge network.
    fn enter(
        &mut self,
        network: &'a NetworkSpec,
        config: &BridgeConfig,
        from: Option<&NetworkSpec>,
        forwarded: bool,
    ) -> Next<'a> {
        let name = &network.name;
        if let Some(wrong) = self.wrong_network(&network.id) {
            return self.stop(format!("bridge {}", config.bridge), wrong);
        }
        let Some((owner, to)) = self.known().owner(self.destination) else {
            let text = format!("nobody on network {name} has {}", self.destination);
            return self.stop(format!("bridge {}", config.bridge), text);
        };
        if forwarded && let Some(refusal) = self.refused(network, config, from) {
            return self.stop("host", refusal);
        }
        let text = format!("goes to network {name} by bridge {}", config.bridge);
        self.pass_others(text, forwarded);
        Next::Sandbox(owner, to)
    }

    /// Why our own rules keep a forwarded packet out of a network.
    fn refused(
        &self,
        network: &NetworkSpec,
        config: &BridgeConfig,
        from: Option<&NetworkSpec>,
    ) -> Option<String> {
        let name = &network.name;
        if from.is_some_and(|f| f.id == network.id) {
            let apart = || format!("network {name} keeps its containers apart (icc off)");
            return (!config.icc && !self.published).then(apart);
        }
        if config.internal {
            return Some(format!("network {name} is internal: nothing enters it"));
        }
        if self.published {
            return None;
        }
        let target = self.port.map(|(protocol, port)| (protocol, (self.destination, port).into()));
        let routed = |f: &&Forward| Some((f.protocol, f.target)) == target;
        match config.gateway_mode(self.destination.is_ipv6()) {
            GatewayMode::NatUnprotected => None,
            GatewayMode::Routed if self.known().forwards.iter().any(|f| routed(&f)) => None,
            GatewayMode::Nat | GatewayMode::Routed | GatewayMode::Isolated => Some(format!(
                "network {name} is entered by published ports only; connect the sender to it, or \
                 publish the port"
            )),
        }
    }

    /// A hop through the host's rules, with those of others.
    fn pass_others(&mut self, text: String, forwarded: bool) {
        match self.known().dropping.first().filter(|_| forwarded) {
            None => self.push("host", text, Verdict::Passes),
            Some(chain) => {
                let text = format!(
                    "{text}, if a rule in chain {} of table {} {} accepts it: it drops the rest",
                    chain.name, chain.family, chain.table
                );
                self.push("host", text, Verdict::MayPass);
            }
        }
    }

    /// Out of the host.
    fn go_out(
        &mut self,
        link: &str,
        way: &Way,
        from: Option<&NetworkSpec>,
        forwarded: bool,
    ) -> Next<'a> {
        if let Some(text) = self.denied(false) {
            return self.stop("policies", text);
        }
        let masked = from.is_some_and(|n| match &n.driver {
            DriverConfig::Bridge(c) => {
                c.masquerade && c.gateway_mode(self.destination.is_ipv6()) == GatewayMode::Nat
            }
            _ => false,
        });
        let via = way.gateway.map(|g| format!(" to {g}")).unwrap_or_default();
        let how = if masked { " with the host's address" } else { "" };
        let text = format!("leaves the host by {link}{via}{how}");
        self.pass_others(text, forwarded);
        let what = "what is beyond the host is not known here";
        self.push(self.destination.to_string(), what, Verdict::Arrives);
        Next::Ended
    }

    /// At the sandbox that it is for.
    fn arrive(&mut self, owner: &Known, attachment: &Attachment) -> Result<(), NetError> {
        if let Some(text) = self.denied(false) {
            self.push("policies", text, Verdict::Stops);
            return Ok(());
        }
        if let Some(wrong) = self.wrong(owner, attachment) {
            self.at(owner, wrong.clone(), Verdict::Stops);
            return Ok(());
        }
        if let Some(source) = self.source.filter(|_| !self.published)
            && self.kernel.way(owner.netns.as_ref(), source, None, None)?.is_none()
        {
            self.at(owner, format!("has no route back to {source}"), Verdict::Stops);
            return Ok(());
        }
        let (text, verdict) = self.listening(owner.netns.as_ref(), "the container")?;
        self.at(owner, text, verdict);
        Ok(())
    }

    /// The policy that denies the flow.
    fn denied(&self, to_host: bool) -> Option<String> {
        let (source, destination, port) = (self.source, self.destination, self.port);
        Flow { source, destination, port, to_host }.denied(&self.known().policies)
    }

    /// Whether somebody waits for the packet in a namespace.
    fn listening(
        &self,
        netns: Option<&std::path::PathBuf>,
        whose: &str,
    ) -> Result<(String, Verdict), NetError> {
        let Some((protocol, port)) = self.port else {
            return Ok((format!("{whose} is reached"), Verdict::Arrives));
        };
        if protocol == Protocol::Sctp {
            let text =
                format!("{whose} is reached; whether it listens on {port}/sctp is not known");
            return Ok((text, Verdict::Arrives));
        }
        let all = self.kernel.listeners(netns, protocol)?;
        let on_port: Vec<&SocketAddr> = all.iter().filter(|l| l.port() == port).collect();
        let fits = |l: &&&SocketAddr| {
            l.ip() == self.destination
                || (l.ip().is_unspecified() && (l.is_ipv6() || self.destination.is_ipv4()))
        };
        if let Some(at) = on_port.iter().find(fits) {
            return Ok((format!("{whose} listens at {at}/{protocol}"), Verdict::Arrives));
        }
        let text = match on_port.first() {
            Some(other) => {
                format!("{whose} listens at {other}/{protocol} only, not at {}", self.destination)
            }
            None => format!("nothing in {whose} listens on port {port}/{protocol}"),
        };
        Ok((text, Verdict::Stops))
    }
}

fn is_internal(network: &NetworkSpec) -> bool {
    matches!(&network.driver, DriverConfig::Bridge(config) if config.internal)
}
