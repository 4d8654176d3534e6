//! Base chains, and the rules of each network.
//!
//! ```text
//! prerouting (raw)      iifname ─guard_from───> guard-<bridge>      nobody reaches 127.0.0.0/8
//! prerouting, output    to the host ─────────> published           the ports
//! forward               iifname ─forward_from─> forward-from-<bridge>   internal networks only
//!                       oifname ─forward_to───> forward-to-<bridge>
//! postrouting           oifname ─nat_to───────> nat-to-<bridge>
//!                       iifname ─nat_from─────> nat-from-<bridge>   the host's address
//! ```
//!
//! Be aware: base chains only look an interface up. Adding or removing a
//! network touches no rule of another one, and packets of interfaces that
//! are not ours leave a base chain after two failed lookups.

use ipnet::IpNet;
use sampan_sys::nft::{
    BaseChain, Batch, Chain, ChainKind, DataType, Element, Expr, Family, Hook, MetaKey, Policy,
    Rule, Ruleset, Set, SetValue, Verdict,
};

use super::forwards::{PUBLISHED, when_routed};
use super::links::when_linked;
use super::rules::{FAMILIES, When, by_interface, family_of, interface_jump};
use crate::config::GatewayMode;
use crate::firewall::NetworkRules;

/// Priorities of nft's own names `raw`, `dstnat`, `filter` and `srcnat`.
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const GUARD_FROM: &str = "guard_from";
const FORWARD_FROM: &str = "forward_from";
const FORWARD_TO: &str = "forward_to";
const NAT_FROM: &str = "nat_from";
const NAT_TO: &str = "nat_to";
const MAPS: [&str; 5] = [GUARD_FROM, FORWARD_FROM, FORWARD_TO, NAT_FROM, NAT_TO];

/// Base chains and maps, with everything of `networks` in them. `loopback6`
/// says whether what is sent to `::1` can be answered by a container.
pub(super) fn ruleset(networks: &[NetworkRules], loopback6: bool) -> Ruleset {
    let rules = base_rules(loopback6);
    let mut ruleset = Ruleset { chains: base_chains(), sets: Vec::new(), rules };
    let parts: Vec<Part> = networks.iter().flat_map(parts).collect();
    for map in MAPS {
        let mut set = Set::new(map, &[DataType::Ifname], SetValue::Verdict);
        set.elements = parts.iter().filter(|p| p.map == map).map(|p| p.element.clone()).collect();
        ruleset.sets.push(set);
    }
    for part in parts {
        ruleset.chains.push(Chain { name: part.chain, base: None });
        ruleset.rules.extend(part.rules);
    }
    ruleset
}

/// The changes that add a network.
pub(super) fn add(batch: &mut Batch, table: &str, network: &NetworkRules) {
    for part in parts(network) {
        batch.add_chain(table, &Chain { name: part.chain, base: None });
        for rule in &part.rules {
            batch.add_rule(table, rule);
        }
        batch.add_elements(table, part.map, &[part.element]);
    }
}

/// The changes that remove a network.
pub(super) fn remove(batch: &mut Batch, table: &str, network: &NetworkRules) {
    for part in parts(network) {
        batch.delete_elements(table, part.map, &[part.element]);
        batch.delete_chain(table, &part.chain);
    }
}

fn base_chains() -> Vec<Chain> {
    let base = |name: &str, kind, hook, priority| Chain {
        name: name.to_owned(),
        base: Some(BaseChain { kind, hook, priority, policy: Policy::Accept }),
    };
    vec![
        base("guard", ChainKind::Filter, Hook::Prerouting, RAW),
        base("prerouting", ChainKind::Nat, Hook::Prerouting, DSTNAT),
        base("output", ChainKind::Nat, Hook::Output, DSTNAT),
        base("forward", ChainKind::Filter, Hook::Forward, FILTER),
        base("postrouting", ChainKind::Nat, Hook::Postrouting, SRCNAT),
        Chain { name: PUBLISHED.to_owned(), base: None },
    ]
}

fn base_rules(loopback6: bool) -> Vec<Rule> {
    let to_published = || Verdict::Jump(PUBLISHED.to_owned());
    let mut rules = vec![
        by_interface("guard", MetaKey::IifName, GUARD_FROM, "from containers"),
        // Before routing, a packet to a loopback address can only be forged.
        When::always().destination_is_loopback(Family::Ipv4, false).destination_is_host().verdict(
            "prerouting",
            "from outside and from containers",
            to_published(),
        ),
        When::always().of(Family::Ipv6).destination_is_host().verdict(
            "prerouting",
            "from outside and from containers",
            to_published(),
        ),
    ];
    if !loopback6 {
        rules.push(When::always().destination_is_loopback(Family::Ipv6, true).verdict(
            "output",
            "br_netfilter would lose the answers",
            Verdict::Return,
        ));
    }
    rules.extend([
        When::always().destination_is_host().verdict(
            "output",
            "from the host itself",
            to_published(),
        ),
        by_interface("forward", MetaKey::IifName, FORWARD_FROM, "out of internal networks"),
        by_interface("forward", MetaKey::OifName, FORWARD_TO, "into networks"),
        by_interface("postrouting", MetaKey::OifName, NAT_TO, "into networks"),
        by_interface("postrouting", MetaKey::IifName, NAT_FROM, "out of networks"),
    ]);
    rules
}

/// A chain of a network, and the element that leads to it.
struct Part {
    map: &'static str,
    chain: String,
    element: Element,
    rules: Vec<Rule>,
}

fn part(network: &NetworkRules, map: &'static str, rules: impl FnOnce(&str) -> Vec<Rule>) -> Part {
    let chain = format!("{}-{}", map.replace('_', "-"), network.bridge);
    let element = interface_jump(&network.bridge, chain.clone(), &network.name);
    Part { map, element, rules: rules(&chain), chain }
}

fn parts(network: &NetworkRules) -> Vec<Part> {
    let mut parts = vec![
        part(network, GUARD_FROM, |chain| guard(network, chain)),
        part(network, FORWARD_TO, |chain| forward_to(network, chain)),
    ];
    if network.internal {
        parts.push(part(network, FORWARD_FROM, |chain| {
            let out = When::always().leaves_elsewhere_than(&network.bridge);
            vec![out.verdict(chain, "no way out of an internal network", Verdict::Drop)]
        }));
        return parts;
    }
    parts.push(part(network, NAT_TO, |chain| nat_to(network, chain)));
    if network.subnets.iter().any(|s| translates_source(network, *s)) {
        parts.push(part(network, NAT_FROM, |chain| nat_from(network, chain)));
    }
    parts
}

/// The families that the network has addresses of.
fn families(network: &NetworkRules) -> impl Iterator<Item = Family> {
    let has = |family: &Family| network.subnets.iter().any(|s| family_of(s.addr()) == *family);
    FAMILIES.into_iter().filter(has)
}

/// The families that the network is open to others by, in one of `modes`.
fn open(network: &NetworkRules, modes: &'static [GatewayMode]) -> impl Iterator<Item = Family> {
    families(network)
        .filter(move |family| !network.internal && modes.contains(&mode(network, *family)))
}

fn mode(network: &NetworkRules, family: Family) -> GatewayMode {
    match family {
        Family::Ipv6 => network.gateway_mode_ipv6,
        _ => network.gateway_mode_ipv4,
    }
}

const TRANSLATED: &[GatewayMode] = &[GatewayMode::Nat, GatewayMode::NatUnprotected];

/// Whether what comes from a subnet leaves with the host's address.
fn translates_source(network: &NetworkRules, subnet: IpNet) -> bool {
    network.masquerade && TRANSLATED.contains(&mode(network, family_of(subnet.addr())))
}

fn guard(network: &NetworkRules, chain: &str) -> Vec<Rule> {
    let rule = |family| {
        let comment = "loopback addresses are the host's own";
        When::always().destination_is_loopback(family, true).verdict(chain, comment, Verdict::Drop)
    };
    families(network).map(rule).collect()
}

/// What is forwarded into a network: answers, published ports, and neighbours.
fn forward_to(network: &NetworkRules, chain: &str) -> Vec<Rule> {
    let mut rules =
        vec![When::always().known_flow().verdict(chain, "known flows", Verdict::Accept)];
    if open(network, TRANSLATED).next().is_some() {
        rules.push(When::always().published().verdict(chain, "published ports", Verdict::Accept));
    }
    for family in open(network, &[GatewayMode::Routed]) {
        rules.push(when_routed(family).verdict(chain, "published ports, routed", Verdict::Accept));
        let icmp = When::always().icmp(family);
        rules.push(icmp.verdict(chain, "errors and echoes, routed", Verdict::Accept));
    }
    if !network.icc {
        let linked =
            |family| when_linked(family, &network.bridge).verdict(chain, "links", Verdict::Accept);
        rules.extend(families(network).map(linked));
    }
    let (comment, verdict) = if network.icc {
        ("containers on the same network", Verdict::Accept)
    } else {
        ("containers are kept from each other", Verdict::Drop)
    };
    let neighbours = When::always().enters_by(&network.bridge);
    rules.push(neighbours.verdict(chain, comment, verdict));
    for interface in &network.trusted {
        let from = When::always().enters_by(interface);
        rules.push(from.verdict(chain, "from an interface that is trusted", Verdict::Accept));
    }
    for family in open(network, &[GatewayMode::NatUnprotected]) {
        let all = When::always().of(family);
        rules.push(all.verdict(chain, "every port: not protected", Verdict::Accept));
    }
    let comment =
        if network.internal { "no way into an internal network" } else { "not published" };
    rules.push(When::always().verdict(chain, comment, Verdict::Drop));
    rules
}

/// What has to look as if the host had sent it, so that the answer comes back
/// to the host. The network's own packets are known by their source: where
/// br_netfilter hands them over, they have no interface of origin here.
fn nat_to(network: &NetworkRules, chain: &str) -> Vec<Rule> {
    let from_host = |family| {
        let name = if family == Family::Ipv6 { "::1" } else { "127.0.0.1" };
        let comment = format!("from {name} to a published port");
        When::always().source_is_loopback(family).then(chain, &comment, Expr::masquerade())
    };
    let from_inside = |subnet: &IpNet| {
        When::always().source_is_in(*subnet).published().then(
            chain,
            "from a container to a port published on its own network",
            Expr::masquerade(),
        )
    };
    let translated: Vec<Family> = open(network, TRANSLATED).collect();
    let subnets = network.subnets.iter().filter(|s| translated.contains(&family_of(s.addr())));
    translated.iter().copied().map(from_host).chain(subnets.map(from_inside)).collect()
}

/// What leaves with an address of the host.
fn nat_from(network: &NetworkRules, chain: &str) -> Vec<Rule> {
    let rule = |subnet: &IpNet| {
        let out = When::always().source_is_in(*subnet).leaves_elsewhere_than(&network.bridge);
        let chosen = match subnet {
            IpNet::V4(_) => network.host_ipv4.map(Into::into),
            IpNet::V6(_) => network.host_ipv6.map(Into::into),
        };
        match chosen {
            Some(address) => out.source_nat(chain, "out with the chosen address", address),
            None => out.then(chain, "out with the host's address", Expr::masquerade()),
        }
    };
    network.subnets.iter().filter(|s| translates_source(network, **s)).map(rule).collect()
}
