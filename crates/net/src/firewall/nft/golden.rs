//! The rulesets of every kind of network, as the kernel has them and `nft`
//! prints them: compared with golden files, and shown in the documentation.
//! `UPDATE_GOLDEN=1` writes both anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sampan_sys::netns::NetNs;
use sampan_sys::nft::Nft;
use sampan_types::NetworkId;

use super::{Mirror, Wanted, enforce};
use crate::config::GatewayMode;
use crate::firewall::{Forward, LinkRule, NetworkRules};
use crate::ports::Protocol;

/// A ruleset with what is said about it.
struct Page {
    file: &'static str,
    title: &'static str,
    text: &'static str,
    networks: Vec<NetworkRules>,
    forwards: Vec<Forward>,
    links: Vec<LinkRule>,
    /// The host's own rules, which are obeyed.
    host: &'static str,
}

fn network(name: &str, bridge: &str, subnets: &[&str]) -> NetworkRules {
    NetworkRules {
        network: NetworkId::random(),
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
        icc: true,
        masquerade: true,
        internal: false,
        gateway_mode_ipv4: GatewayMode::Nat,
        gateway_mode_ipv6: GatewayMode::Nat,
        host_ipv4: None,
        host_ipv6: None,
        trusted: Vec::new(),
    }
}

fn default_bridge() -> NetworkRules {
    network("bridge", "docker0", &["172.17.0.0/16"])
}

const BLUE: &str = "br-6cbc4e49c2f0";
const DUAL: &[&str] = &["172.18.0.0/16", "fd00:18::/64"];

/// A user's network with other settings.
fn blue(change: impl FnOnce(&mut NetworkRules)) -> NetworkRules {
    let mut rules = network("blue", BLUE, DUAL);
    change(&mut rules);
    rules
}

fn forward(protocol: Protocol, host: &str, target: &str) -> Forward {
    let host: std::net::SocketAddr = host.parse().unwrap();
    Forward {
        protocol,
        host_ip: host.ip(),
        host_port: host.port(),
        target: target.parse().unwrap(),
        routed: false,
        owner: Arc::from("c0ffeec0ffee"),
    }
}

fn link(protocol: Protocol, source: &str, target: &str) -> LinkRule {
    let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
    LinkRule { protocol, source, target, owner: Arc::from("c0ffeec0ffee") }
}

fn routed(protocol: Protocol, target: &str) -> Forward {
    let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    Forward { routed: true, ..forward(protocol, any, target) }
}

fn page(
    file: &'static str,
    title: &'static str,
    text: &'static str,
    networks: Vec<NetworkRules>,
) -> Page {
    let (forwards, links) = Default::default();
    Page { file, title, text, networks, forwards, links, host: "" }
}

fn of_networks() -> Vec<Page> {
    vec![
        page(
            "clean",
            "Without a network",
            "Base chains and empty maps: what is left when the last network is removed. A packet \
             leaves each base chain after one or two lookups.",
            vec![],
        ),
        page(
            "default-bridge",
            "The default bridge",
            "A network is one element in each of the verdict maps and a chain for each of them. \
             Into it goes what belongs to known flows, what came through a published port, and \
             what its own containers send; out of it everything, with the host's address.",
            vec![default_bridge()],
        ),
        page(
            "dual-stack",
            "A user's network with both families",
            "The verdict maps know interfaces, not families: the rules are the same, with one of \
             each kind that translates addresses for each subnet. Containers of other networks \
             come in as little as anybody else, by IPv6 neither.",
            vec![default_bridge(), blue(|_| {})],
        ),
        page(
            "internal",
            "An internal network",
            "Nothing but known flows enters from elsewhere, nothing leaves, and nothing is \
             translated. Containers reach each other and the host.",
            vec![blue(|n| n.internal = true)],
        ),
        page(
            "icc-off",
            "A network whose containers are kept from each other",
            "With `enable_icc=false` the bridge's ports are isolated from each other, so that \
             frames between them never get here; where br_netfilter hands them over, this rule \
             drops them. Published ports stay open to neighbours.",
            vec![blue(|n| n.icc = false)],
        ),
        Page {
            links: vec![
                link(Protocol::Tcp, "172.18.0.3", "172.18.0.2:80"),
                link(Protocol::Tcp, "fd00:18::3", "[fd00:18::2]:80"),
            ],
            ..page(
                "links",
                "Links between containers that are kept from each other",
                "A link opens the ports that its target exposes, one element of `links` or \
                 `links6` each: protocol, source, destination and port. The host routes what the \
                 two send each other, since the ports of the bridge stay isolated; answers are \
                 known flows.",
                vec![blue(|n| n.icc = false)],
            )
        },
        page(
            "trusted-interfaces",
            "A network that trusts interfaces of the host",
            "What enters the host by an interface that `trusted_host_interfaces` names reaches \
             every port of the containers, by their own addresses.",
            vec![blue(|n| n.trusted = vec!["eth1".to_owned()])],
        ),
    ]
}

/// Networks that treat addresses in a way of their own.
fn of_addresses() -> Vec<Page> {
    vec![
        page(
            "no-masquerade",
            "A network whose containers keep their addresses",
            "With `enable_ip_masquerade=false` there is no chain for packets that leave. What a \
             container sends to a port of its own network still gets the host's address, or the \
             answer would not come back to the host.",
            vec![blue(|n| n.masquerade = false)],
        ),
        page(
            "source-address",
            "A network with source addresses of its own",
            "`host_ipv4` and `host_ipv6` name the addresses that packets leave with. Otherwise \
             it is the address of the interface that they leave by.",
            vec![blue(|n| {
                n.host_ipv4 = Some("203.0.113.7".parse().unwrap());
                n.host_ipv6 = Some("2001:db8::7".parse().unwrap());
            })],
        ),
        page(
            "nat-unprotected",
            "Gateway mode nat-unprotected",
            "Who has a route to the containers' addresses reaches every port of them. The rest is \
             as in mode `nat`; each family has a mode of its own, here both are unprotected.",
            vec![blue(|n| {
                n.gateway_mode_ipv4 = GatewayMode::NatUnprotected;
                n.gateway_mode_ipv6 = GatewayMode::NatUnprotected;
            })],
        ),
    ]
}

fn of_ports() -> Vec<Page> {
    let (tcp, udp, sctp) = (Protocol::Tcp, Protocol::Udp, Protocol::Sctp);
    vec![
        Page {
            file: "routed",
            title: "Gateway mode routed",
            text: "Nothing is translated: a published port is an element of `routed_ports`, and \
                   who has a route to the container's address reaches that port and no other. \
                   Messages of ICMP pass, among them those that say how large a packet may be.",
            networks: vec![blue(|n| {
                n.gateway_mode_ipv4 = GatewayMode::Routed;
                n.gateway_mode_ipv6 = GatewayMode::Routed;
            })],
            forwards: vec![routed(tcp, "172.18.0.2:80"), routed(tcp, "[fd00:18::2]:80")],
            links: vec![],
            host: "",
        },
        Page {
            file: "published-ports",
            title: "Published ports",
            text: "A published port is one element: of `ports` for all of the host's addresses, \
                   of `address_ports` for a single one, looked up first. The comment says whose \
                   it is; a packet's way is as long with ten thousand of them as with one.",
            networks: vec![default_bridge(), blue(|_| {})],
            forwards: vec![
                forward(tcp, "0.0.0.0:8080", "172.17.0.2:80"),
                forward(udp, "127.0.0.1:5300", "172.17.0.2:53"),
                forward(sctp, "0.0.0.0:3868", "172.18.0.2:3868"),
                forward(tcp, "[::]:8081", "[fd00:18::2]:80"),
                forward(udp, "[2001:db8::7]:53", "[fd00:18::2]:53"),
            ],
            links: vec![],
            host: "",
        },
        Page {
            file: "host-firewall",
            title: "The host's own firewall, obeyed",
            text: "With `respect-host-firewall` each table of others that filters at the hook \
                   `input` has a copy beside Sampan's table, just before the destination is \
                   translated. Only new flows to published ports get there; what the copy lets \
                   through is led to the container.",
            networks: vec![default_bridge()],
            forwards: vec![forward(tcp, "0.0.0.0:8080", "172.17.0.2:80")],
            links: vec![],
            host: "table ip filter {
                chain INPUT {
                    type filter hook input priority filter; policy drop;
                    ct state established,related accept
                    ip saddr 192.0.2.0/24 jump services
                }
                chain services { tcp dport { 22, 8080 } accept; }
            }",
        },
    ]
}

/// The text of a ruleset, counters at zero.
fn listed(page: Page) -> String {
    let listed = NetNs::create(move || {
        // As on a host without br_netfilter, whether or not there is one.
        let _ = sampan_sys::sysctl::write("net/bridge/bridge-nf-call-ip6tables", "0");
        let forwards = page.forwards.into_iter().collect();
        let mirror = (!page.host.is_empty()).then(Mirror::default);
        let (networks, links) = (page.networks, page.links.into_iter().collect());
        let mut wanted = Wanted { networks, forwards, links, mirror, verified: None };
        if !page.host.is_empty() {
            let loaded = Command::new("nft").arg(page.host).output().unwrap();
            assert!(loaded.status.success(), "{loaded:?}");
        }
        let mut nft = Nft::open().unwrap();
        assert!(enforce(&mut nft, "sampan", &mut wanted).unwrap());
        assert!(!enforce(&mut nft, "sampan", &mut wanted).unwrap(), "the kernel has it as written");
        let list: &[&str] = match page.host {
            "" => &["list", "table", "inet", "sampan"],
            _ => &["list", "ruleset"],
        };
        let output = Command::new("nft").args(list).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    });
    let (_, text) = listed.unwrap();
    assert!(!text.contains("packets 1"), "{text}");
    text
}

/// Compares a file with what it shall say; writes it when that is asked for.
pub(super) fn compare(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, found, "{} is out of date; UPDATE_GOLDEN=1 writes it", path.display());
}

const INTRODUCTION: &str = "# Rulesets\n\n\
    What `nft list table inet sampan` says, by kind of network. The pages are written by a test, \
    from the kernel's own copy (`UPDATE_GOLDEN=1 cargo test -p sampan-net golden`).\n\n\
    Networks of the drivers host, none, macvlan and ipvlan have no rules: their packets don't \
    pass the host's stack. Another instance has another table.\n\n";

#[test]
fn rulesets_are_golden_and_documented() {
    if !nix::unistd::geteuid().is_root() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
        return;
    }
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let (golden, docs) = (here.join("tests/golden"), here.join("../../docs/rulesets"));
    let mut index = INTRODUCTION.to_owned();
    for page in of_networks().into_iter().chain(of_addresses()).chain(of_ports()) {
        let (file, title, text) = (page.file, page.title, page.text);
        let ruleset = listed(page);
        compare(&golden.join(format!("{file}.nft")), &ruleset);
        let ruleset = ruleset.replace("counter packets 0 bytes 0", "counter");
        let page = format!("# {title}\n\n{}\n\n```\n{ruleset}```\n", wrapped(text));
        compare(&docs.join(format!("{file}.md")), &page);
        let _ = writeln!(index, "- [{title}]({file}.md)");
    }
    let _ = writeln!(index, "- [Network policies](policy.md), which have tables of their own");
    compare(&docs.join("README.md"), &index);
}

/// A text in lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
