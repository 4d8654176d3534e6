//! What links open on networks whose containers are kept from each other, and
//! interfaces of the host that such networks trust, with real packets.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::IpAddr;

use lab::{Container, Lab, OUTSIDE, OUTSIDE6, ask, ask_udp, endpoint, network, network_with};
use lab::{sandbox, sh, udp, with_subnets};
use sampan_net::names::NoNames;
use sampan_net::{NetworkSpec, Networks, OpenedLink, Protocol, SandboxSpec};

const TARGET: [&str; 2] = ["10.61.0.2", "fd61::2"];
const SOURCE: [&str; 2] = ["10.61.0.3", "fd61::3"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn shy() -> NetworkSpec {
    let dual = with_subnets(network("shy", "br-shy", "10.61.0.1/24"), &["fd61::1/64"]);
    network_with(dual, |c| c.icc = false)
}

fn linked(network: &NetworkSpec, target: &SandboxSpec) -> SandboxSpec {
    let mut spec = sandbox(vec![endpoint(&network.id, &SOURCE.join(" "))], &[]);
    spec.links.push(OpenedLink {
        target: target.container.clone(),
        network: network.id.clone(),
        ports: vec![(Protocol::Tcp, 80), (Protocol::Udp, 53)],
    });
    spec
}

fn served(container: &Container) {
    for port in [80, 81] {
        container.serve(port);
    }
    container.serve_udp(53);
}

/// What `from` reaches at the target by each family: ports 80, 81 and 53.
fn reached(from: &Container) -> [[bool; 3]; 2] {
    TARGET.map(|address| {
        let socket = udp(&from.netns);
        [
            from.ask(ip(address), 80).is_some(),
            from.ask(ip(address), 81).is_some(),
            ask_udp(&socket, ip(address), 53).is_some(),
        ]
    })
}

const LINKED: [[bool; 3]; 2] = [[true, false, true]; 2];
const NOTHING: [[bool; 3]; 2] = [[false; 3]; 2];

#[test]
fn a_link_opens_exactly_the_exposed_ports() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let shy = shy();
        lab.networks.create_network(shy.clone()).await.unwrap();
        let target_spec = sandbox(vec![endpoint(&shy.id, &TARGET.join(" "))], &[]);
        let target = lab.join(&target_spec).await;
        served(&target);
        let source_spec = linked(&shy, &target_spec);
        let source = lab.join(&source_spec).await;
        let stranger = lab.join(&sandbox(vec![endpoint(&shy.id, "10.61.0.4 fd61::4")], &[])).await;
        assert_eq!(reached(&source), LINKED);
        assert_eq!(reached(&source), LINKED, "again: no redirect led it astray");
        assert_eq!(source.ask(ip(TARGET[0]), 80).as_deref(), Some(SOURCE[0]), "its own address");
        assert_eq!(source.ask(ip(TARGET[1]), 80).as_deref(), Some(SOURCE[1]));
        assert_eq!(reached(&stranger), NOTHING);
        source.serve(80);
        for address in SOURCE {
            assert_eq!(target.ask(ip(address), 80), None, "the other way");
        }
        let one = source.netns.run(|| std::net::TcpStream::connect((TARGET[0], 80))).unwrap();
        drop(one.unwrap());

        // The names' update carries the links: one that is gone closes its ways.
        let mut without = source_spec.clone();
        without.links.clear();
        let socket = udp(&source.netns);
        assert!(ask_udp(&socket, ip(TARGET[0]), 53).is_some());
        lab.networks.update_names(without).await.unwrap();
        lab.networks.settle().await;
        assert!(ask_udp(&socket, ip(TARGET[0]), 53).is_none(), "a flow that was known");
        assert_eq!(reached(&source), NOTHING);
        let pinned = source.netns.run(|| sh("ip neighbour show nud permanent")).unwrap();
        assert_eq!(pinned, "", "nothing of it is left inside");
        lab.networks.update_names(source_spec.clone()).await.unwrap();
        assert_eq!(reached(&source), LINKED);

        // A target that comes back elsewhere is found there.
        lab.networks.leave(&target_spec.sandbox).await.unwrap();
        assert!(!sh("nft list set inet sampan links").contains("10.61.0.2"));
        let mut moved = sandbox(vec![endpoint(&shy.id, "10.61.0.9 fd61::9")], &[]);
        moved.container = target_spec.container.clone();
        let target = lab.join(&moved).await;
        served(&target);
        assert!(source.ask(ip("10.61.0.9"), 80).is_some());
        assert!(source.ask(ip("fd61::9"), 80).is_some());
        assert_eq!(source.ask(ip("fd61::9"), 81), None);
        lab.networks.leave(&source_spec.sandbox).await.unwrap();
        let left = sh("nft list set inet sampan links; nft list set inet sampan links6");
        assert!(!left.contains("elements"), "{left}");
    });
}

#[test]
fn links_outlive_the_daemon_and_damage() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let shy = shy();
        lab.networks.create_network(shy.clone()).await.unwrap();
        let target_spec = sandbox(vec![endpoint(&shy.id, &TARGET.join(" "))], &[]);
        let target = lab.join(&target_spec).await;
        served(&target);
        let source_spec = linked(&shy, &target_spec);
        let source = lab.join(&source_spec).await;
        assert_eq!(reached(&source), LINKED);

        let Lab { networks, mut config, outside: _outside, _dir, .. } = lab;
        drop(networks);
        config.networks.push(shy);
        assert_eq!(reached(&source), LINKED, "without a daemon");
        let networks = Networks::open(config, Box::new(NoNames)).await.unwrap();
        assert_eq!(reached(&source), LINKED, "before the new one knows of containers");
        let desired = [target_spec.clone(), source_spec.clone()];
        let repairs = networks.reconcile(&desired).await.unwrap();
        assert!(repairs.restored.is_empty(), "{repairs:?}");
        assert_eq!(reached(&source), LINKED);
        for damage in ["nft flush ruleset", "nft flush set inet sampan links"] {
            sh(damage);
            let repairs = networks.reconcile(&desired).await.unwrap();
            assert!(!repairs.restored.is_empty(), "{damage}");
            assert_eq!(reached(&source), LINKED, "{damage}");
        }
        source.netns.run(|| sh("ip neighbour delete 10.61.0.2 dev eth0")).unwrap();
        networks.reconcile(&desired).await.unwrap();
        assert_eq!(reached(&source), LINKED, "neighbours");
        // One that the records don't name any more is closed.
        let mut without = source_spec;
        without.links.clear();
        let repairs = networks.reconcile(&[target_spec, without]).await.unwrap();
        assert!(!repairs.restored.is_empty(), "{repairs:?}");
        assert_eq!(reached(&source), NOTHING);
    });
}

#[test]
fn trusted_interfaces_lead_to_every_port() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let dual = |name, bridge, gateways: [&str; 2]| {
            with_subnets(network(name, bridge, gateways[0]), &gateways[1..])
        };
        let open = network_with(dual("open", "br-open", ["10.62.0.1/24", "fd62::1/64"]), |c| {
            c.trusted = vec!["wg0".to_owned(), "lan0".to_owned()];
        });
        let closed = dual("closed", "br-closed", ["10.63.0.1/24", "fd63::1/64"]);
        for spec in [&open, &closed] {
            lab.networks.create_network(spec.clone()).await.unwrap();
        }
        let one = lab.join(&sandbox(vec![endpoint(&open.id, "10.62.0.2 fd62::2")], &[])).await;
        let two = lab.join(&sandbox(vec![endpoint(&closed.id, "10.63.0.2 fd63::2")], &[])).await;
        one.serve(80);
        two.serve(80);
        let says = |address: IpAddr| Some(address.to_string());
        assert_eq!(ask(&lab.outside, ip("10.62.0.2"), 80), says(OUTSIDE.into()));
        assert_eq!(ask(&lab.outside, ip("fd62::2"), 80), says(OUTSIDE6.into()));
        for address in ["10.63.0.2", "fd63::2"] {
            assert_eq!(ask(&lab.outside, ip(address), 80), None, "not trusted");
        }
        for address in ["10.62.0.2", "fd62::2"] {
            assert_eq!(two.ask(ip(address), 80), None, "another network");
        }
        // Trust ends with the setting.
        let closed_again = network_with(open, |c| c.trusted.clear());
        lab.networks.create_network(closed_again).await.unwrap();
        assert_eq!(ask(&lab.outside, ip("10.62.0.2"), 80), None);
    });
}
