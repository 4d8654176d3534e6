//! Namespaces, links, addresses, rules: against the kernel, in namespaces of
//! the test's own. Needs root.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use ipnet::IpNet;
use sampan_sys::netlink::{
    LinkChange, LinkRef, Neighbour, NewBridge, NewVeth, PortChange, Route, RouteEntry, add_address,
    add_bridge, add_route, add_veth, delete_group, delete_link, replace_neighbour, set_link,
    set_port,
};
use sampan_sys::netns::{self, NetNs};
use sampan_sys::nft::{
    BaseChain, Batch, Chain, ChainKind, CtKey, DataType, Element, ElementValue, Expr, Family, Hook,
    MetaKey, Nft, PayloadBase, Policy, Register, Rule, Ruleset, Set, SetValue, Verdict,
};

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
    }
    root
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

#[test]
fn a_veth_joins_two_namespaces() {
    if !is_root() {
        return;
    }
    let (outside, route) = NetNs::create(Route::open).unwrap();
    let (inside, inner) = NetNs::create(Route::open).unwrap();
    let (mut route, mut inner) = (route.unwrap(), inner.unwrap());
    let mac = [2, 0, 0, 0, 0, 1];
    route.run(vec![add_bridge(&NewBridge { name: "br0", mac, mtu: 1400 })]).unwrap();
    let bridge = route.link("br0").unwrap().unwrap();
    assert_eq!((bridge.kind.as_str(), bridge.mac.as_slice()), ("bridge", &mac[..]));
    let veth = NewVeth {
        name: "veth0",
        peer: "eth0",
        peer_netns: inside.as_fd(),
        peer_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1400,
        group: 7,
    };
    let up = LinkChange { up: Some(true), ..Default::default() };
    let quiet =
        LinkChange { quiet_ipv6: Path::new("/proc/sys/net/ipv6").exists(), ..Default::default() };
    let joined =
        LinkChange { up: Some(true), master: Some(bridge.index), alias: Some("mine"), ..up };
    let isolated = PortChange { isolated: Some(true), hairpin: Some(true) };
    route
        .run(vec![
            add_address(bridge.index, net("10.9.0.1/24")),
            set_link(LinkRef::Name("br0"), &up),
            add_veth(&veth),
            set_link(LinkRef::Name("veth0"), &quiet),
            set_link(LinkRef::Name("veth0"), &joined),
            set_port(LinkRef::Name("veth0"), &isolated),
        ])
        .unwrap();
    let eth0 = inner.link("eth0").unwrap().unwrap();
    assert_eq!(eth0.mac, [2, 0, 0, 0, 0, 2]);
    let default = RouteEntry {
        destination: None,
        gateway: Some(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1))),
        link: eth0.index,
    };
    inner
        .run(vec![
            add_address(eth0.index, net("10.9.0.2/24")),
            set_link(LinkRef::Index(eth0.index), &up),
            add_route(&default).unwrap(),
        ])
        .unwrap();
    assert!(inner.routes(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).unwrap().contains(&default));
    assert!(inner.addresses().unwrap().iter().any(|a| a.address == net("10.9.0.2/24")));
    let listed = route.links().unwrap().into_iter().find(|l| l.name == "veth0").unwrap();
    assert_eq!((listed.alias.as_str(), listed.group), ("mine", 7));
    assert_eq!(listed.master, Some(bridge.index));
    assert!(listed.port.is_some_and(|p| p.isolated && p.hairpin));
    let neighbour = Neighbour {
        link: bridge.index,
        address: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)),
        mac: [2, 0, 0, 0, 0, 2],
    };
    route.run(vec![replace_neighbour(&neighbour), replace_neighbour(&neighbour)]).unwrap();
    let sent = outside.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", "10.9.0.2:9").unwrap()
    });
    assert_eq!(sent.unwrap(), 1);
    // The first request of a batch fails, the second is carried out.
    let results = route
        .run_each(vec![
            delete_link(LinkRef::Name("none")),
            delete_link(LinkRef::Name("none")).absent_ok(),
            delete_group(7),
            delete_group(7).absent_ok(),
        ])
        .unwrap();
    assert!(results[0].as_ref().is_err_and(sampan_sys::netlink::NetlinkError::is_absent));
    assert!(results[1].is_ok() && results[2].is_ok() && results[3].is_ok(), "{results:?}");
    assert!(inner.link("eth0").unwrap().is_none());
}

#[test]
fn names_of_namespaces_come_and_go() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ns");
    let (namespace, ()) = NetNs::create(|| ()).unwrap();
    namespace.bind(&path).unwrap();
    assert_eq!(namespace.bind(&path).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    let again = NetNs::open(&path).unwrap();
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let there = again.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_ne!(here, there);
    netns::remove(&path).unwrap();
    netns::remove(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert_eq!(NetNs::open(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

fn ruleset() -> Ruleset {
    let base = BaseChain {
        kind: ChainKind::Nat,
        hook: Hook::Prerouting,
        priority: -100,
        policy: Policy::Accept,
    };
    let key = [DataType::InetProto, DataType::Ipv4Addr, DataType::InetService];
    let data = SetValue::data(&[DataType::Ipv4Addr, DataType::InetService]);
    let mut ports = Set::new("ports", &key, data);
    for port in 1..=600u16 {
        let mut key = vec![6, 0, 0, 0, 0, 0, 0, 0];
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
        ports.elements.push(Element {
            key,
            value: ElementValue::Data(vec![10, 9, 0, 2, 0, 80, 0, 0]),
            comment: format!("port {port}"),
        });
    }
    let mut links = Set::new("links", &[DataType::Ifname], SetValue::Verdict);
    let mut name = b"br0".to_vec();
    name.resize(16, 0);
    links.elements.push(Element {
        key: name,
        value: ElementValue::Verdict(Verdict::Jump("other".to_owned())),
        comment: String::new(),
    });
    let r = Register;
    let translate = Rule {
        chain: "pre".to_owned(),
        expressions: vec![
            Expr::meta(MetaKey::NfProto, r(0)),
            Expr::compare(r(0), true, &[2]),
            Expr::fib_destination_type(r(0)),
            Expr::compare(r(0), true, &2u32.to_ne_bytes()),
            Expr::meta(MetaKey::L4Proto, r(0)),
            Expr::payload(PayloadBase::Network, 16, 4, r(1)),
            Expr::payload(PayloadBase::Transport, 2, 2, r(2)),
            Expr::lookup_data("ports", r(0), r(4)),
            Expr::counter(),
            Expr::destination_nat(Family::Ipv4, r(4), r(5)),
        ],
        comment: "published".to_owned(),
    };
    let jump = Rule {
        chain: "pre".to_owned(),
        expressions: vec![Expr::meta(MetaKey::IifName, r(0)), Expr::lookup_verdict("links", r(0))],
        comment: "by link".to_owned(),
    };
    let known = Rule {
        chain: "other".to_owned(),
        expressions: vec![
            Expr::ct(CtKey::State, r(0)),
            Expr::mask(r(0), &6u32.to_ne_bytes()),
            Expr::compare(r(0), false, &0u32.to_ne_bytes()),
            Expr::counter(),
            Expr::verdict(&Verdict::Accept),
        ],
        comment: "known flows".to_owned(),
    };
    Ruleset {
        chains: vec![
            Chain { name: "pre".to_owned(), base: Some(base) },
            Chain { name: "other".to_owned(), base: None },
        ],
        sets: vec![ports, links],
        rules: vec![translate, jump, known],
    }
}

#[test]
fn a_ruleset_is_read_back_as_it_was_written() {
    if !is_root() {
        return;
    }
    let (namespace, nft) = NetNs::create(Nft::open).unwrap();
    let mut nft = nft.unwrap();
    assert_eq!(nft.dump("t").unwrap(), None);
    let before = nft.generation().unwrap();
    let mut batch = Batch::new();
    batch.replace_table("t", &ruleset());
    nft.commit(batch).unwrap();
    let dumped = nft.dump("t").unwrap().unwrap();
    let wanted = ruleset().sorted();
    assert_eq!(dumped.chains, wanted.chains);
    assert_eq!(dumped.rules, wanted.rules);
    assert_eq!(dumped, wanted);
    assert_ne!(nft.generation().unwrap(), before);
    let text = namespace.run(|| Command::new("nft").args(["list", "ruleset"]).output()).unwrap();
    if let Ok(output) = text {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("dnat ip to meta l4proto . ip daddr . th dport map @ports"),
            "{text}"
        );
        assert!(text.contains("iifname vmap @links"), "{text}");
    }
    // Stale generation, and a batch of which one change fails.
    let mut batch = Batch::at_generation(before);
    batch.delete_table("t");
    assert!(nft.commit(batch).is_err());
    let ports = &ruleset().sets[0];
    let absent = Element { key: vec![9; 12], ..ports.elements[0].clone() };
    let mut batch = Batch::new();
    batch.delete_elements("t", "ports", &ports.elements[..1]);
    batch.delete_elements("t", "ports", &[absent]);
    let refused = nft.commit(batch).unwrap_err();
    assert!(refused.is_absent(), "{refused}");
    assert_eq!(nft.dump("t").unwrap().unwrap(), wanted);
    let mut batch = Batch::new();
    batch.delete_elements("t", "ports", &ports.elements);
    nft.commit(batch).unwrap();
    assert_eq!(nft.elements(Family::Inet, "t", "ports").unwrap(), []);
}
