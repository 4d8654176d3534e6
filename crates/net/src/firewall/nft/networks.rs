//! Base chains, and the rules of each network.
//!
//! ```text
//! prerouting (raw)      iifname ─guard_from───> guard-<bridge>      nobody reaches 127.0.0.0/8
//! prerouting, output    to the host ─────────> published           the ports
//! forward               iifname ─forward_from─> forward-from-<bridge>   internal networks only
//!                       oifname ─forward_to───> forward-to-<bridge>
//! postrouting           oifname ─nat_to───────> nat-to-<bridge>
//!                       iifname ─nat_from─────> nat-from-<bridge>   masquerade
//! ```
//!
//! Be aware: base chains only look an interface up. Adding or removing a
//! network touches no rule of another one, and packets of interfaces that
//! are not ours leave a base chain after two failed lookups.

use ipnet::IpNet;
use sampan_sys::nft::{
    BaseChain, Batch, Chain, ChainKind, DataType, Element, Expr, Hook, MetaKey, Policy, Rule,
    Ruleset, Set, SetValue, Verdict,
};

use super::forwards::PUBLISHED;
use super::rules::{When, by_interface, interface_jump};
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

/// Base chains and maps, with everything of `networks` in them.
pub(super) fn ruleset(networks: &[NetworkRules]) -> Ruleset {
    let mut ruleset = Ruleset { chains: base_chains(), sets: Vec::new(), rules: base_rules() };
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

fn base_rules() -> Vec<Rule> {
    let to_published = || Verdict::Jump(PUBLISHED.to_owned());
    vec![
        by_interface("guard", MetaKey::IifName, GUARD_FROM, "from containers"),
        // Before routing, a packet to 127.0.0.0/8 can only be forged.
        When::always().destination_is_not_loopback().destination_is_host().verdict(
            "prerouting",
            "from outside and from containers",
            to_published(),
        ),
        When::always().destination_is_host().verdict(
            "output",
            "from the host itself",
            to_published(),
        ),
        by_interface("forward", MetaKey::IifName, FORWARD_FROM, "out of internal networks"),
        by_interface("forward", MetaKey::OifName, FORWARD_TO, "into networks"),
        by_interface("postrouting", MetaKey::OifName, NAT_TO, "into networks"),
        by_interface("postrouting", MetaKey::IifName, NAT_FROM, "out of networks"),
    ]
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
    let bridge = network.bridge.as_str();
    let mut parts = vec![
        part(network, GUARD_FROM, |chain| {
            let comment = "loopback addresses are the host's own";
            vec![When::always().destination_is_loopback().verdict(chain, comment, Verdict::Drop)]
        }),
        part(network, FORWARD_TO, |chain| forward_to(network, chain)),
        part(network, NAT_TO, |chain| nat_to(network, chain)),
    ];
    if network.internal {
        parts.push(part(network, FORWARD_FROM, |chain| {
            let out = When::always().leaves_elsewhere_than(bridge);
            vec![out.verdict(chain, "no way out of an internal network", Verdict::Drop)]
        }));
    } else if network.masquerade {
        parts.push(part(network, NAT_FROM, |chain| {
            let out = When::always().leaves_elsewhere_than(bridge);
            vec![out.then(chain, "out with the host's address", Expr::masquerade())]
        }));
    }
    parts
}

/// What is forwarded into a network: answers, published ports, and neighbours.
fn forward_to(network: &NetworkRules, chain: &str) -> Vec<Rule> {
    let mut rules =
        vec![When::always().known_flow().verdict(chain, "known flows", Verdict::Accept)];
    if !network.internal {
        rules.push(When::always().published().verdict(chain, "published ports", Verdict::Accept));
    }
    let (comment, verdict) = if network.icc {
        ("containers on the same network", Verdict::Accept)
    } else {
        ("containers are kept from each other", Verdict::Drop)
    };
    let neighbours = When::always().enters_by(&network.bridge);
    rules.push(neighbours.verdict(chain, comment, verdict));
    let comment =
        if network.internal { "no way into an internal network" } else { "not published" };
    rules.push(When::always().verdict(chain, comment, Verdict::Drop));
    rules
}

/// What has to look as if the host had sent it, so that the answer comes back
/// to the host. The network's own packets are known by their source: where
/// br_netfilter hands them over, they have no interface of origin here.
fn nat_to(network: &NetworkRules, chain: &str) -> Vec<Rule> {
    let mut rules = vec![When::always().source_is_loopback().then(
        chain,
        "from 127.0.0.1 to a published port",
        Expr::masquerade(),
    )];
    let subnets = network.subnets.iter().filter_map(|subnet| match subnet {
        IpNet::V4(v4) => Some(*v4),
        IpNet::V6(_) => None,
    });
    rules.extend(subnets.map(|subnet| {
        When::always().source_is_in(subnet).published().then(
            chain,
            "from a container to a port published on its own network",
            Expr::masquerade(),
        )
    }));
    rules
}
