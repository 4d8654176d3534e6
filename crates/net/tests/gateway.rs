//! Both families and every gateway mode, with real packets.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lab::{
    Container, GATEWAY, HOST, Lab, OUTSIDE, ask, ask_from_host, ask_udp, network, network_with,
    sandbox, serve, sh, udp,
};
use sampan_net::{
    BridgeConfig, EndpointSpec, GatewayMode, NetConfig, NetworkSpec, SandboxSpec, Subnet,
};
use sampan_types::EndpointId;

/// The host's address and the outside's on the LAN.
const HOST6: &str = "fd99::1";
const OUTSIDE6: &str = "fd99::2";
/// The host's address on the network.
const GATEWAY6: &str = "fd60::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn says(text: impl ToString) -> Option<String> {
    Some(text.to_string())
}

fn blue(change: impl FnOnce(&mut BridgeConfig)) -> NetworkSpec {
    network_with(network("blue", "br-blue", "10.60.0.1/24"), |c| {
        let net: IpNet = "fd60::/64".parse().unwrap();
        c.subnets.push(Subnet { net, gateway: ip(GATEWAY6) });
        change(c);
    })
}

/// A container with an address of each family.
fn on(network: &NetworkSpec, last: u8, ports: &[&str]) -> SandboxSpec {
    let bridge = match &network.driver {
        sampan_net::DriverConfig::Bridge(c) => c,
        _ => unreachable!(),
    };
    let address = |s: &Subnet| match s.net {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(u32::from(net.network()) + u32::from(last))),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from(u128::from(net.network()) + u128::from(last))),
    };
    let addresses = bridge.subnets.iter().map(address).collect();
    sandbox(vec![EndpointSpec::new(EndpointId::random(), network.id.clone(), addresses)], ports)
}

async fn started(lab: &Lab, spec: &SandboxSpec) -> Container {
    let container = lab.join(spec).await;
    for port in [80, 81] {
        container.serve(port);
    }
    container
}

fn filter_bridged_ipv6(on: bool) {
    let value = u8::from(on);
    sh(&format!(
        "f=/proc/sys/net/bridge/bridge-nf-call-ip6tables; test ! -e $f || echo {value} > $f"
    ));
}

#[test]
fn ports_of_ipv6_are_reached_from_everywhere() {
    lab::run(|| async {
        filter_bridged_ipv6(false);
        let lab = Lab::new().await;
        let blue = blue(|_| {});
        lab.networks.create_network(blue.clone()).await.unwrap();
        let ports = ["8080:80", "[::]:8080:80", "[fd99::1]:8081:80", "[::]:5300:53/udp"];
        let web = started(&lab, &on(&blue, 2, &ports)).await;
        web.serve_udp(53);
        let other = lab.join(&on(&blue, 3, &[])).await;
        assert_eq!(ask(&lab.outside, ip(HOST6), 8080), says(OUTSIDE6), "the client is kept");
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE), "IPv4 beside it");
        assert_eq!(ask_from_host(ip(HOST6), 8080), says(HOST6));
        assert_eq!(ask_from_host(ip(GATEWAY6), 8080), says(GATEWAY6));
        assert_eq!(web.ask(ip(HOST6), 8080), says(GATEWAY6), "from itself");
        assert_eq!(web.ask(ip(GATEWAY6), 8080), says(GATEWAY6), "from itself");
        assert_eq!(other.ask(ip(HOST6), 8080), says(GATEWAY6), "from its neighbour");
        assert_eq!(other.ask(ip("fd60::2"), 80), says("fd60::3"));
        assert_eq!(ask(&lab.outside, ip(HOST6), 8081), says(OUTSIDE6), "one address");
        assert_eq!(ask_from_host(ip(GATEWAY6), 8081), None);
        assert_eq!(ask_udp(&udp(&lab.outside), ip(HOST6), 5300), says(OUTSIDE6));
        assert_eq!(ask(&lab.outside, ip("fd60::2"), 80), None, "by direct routing");
        serve(&lab.outside, 7000);
        assert_eq!(web.ask(ip(OUTSIDE6), 7000), says(HOST6), "out with the host's address");
        // ::1, which only works where br_netfilter is not in the way.
        assert_eq!(ask_from_host(Ipv6Addr::LOCALHOST, 8080), says(GATEWAY6));
    });
}

#[test]
fn networks_are_kept_apart_by_ipv6() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let blue = blue(|_| {});
        let red = network_with(network("red", "br-red", "10.61.0.1/24"), |c| {
            let net: IpNet = "fd61::/64".parse().unwrap();
            c.subnets.push(Subnet { net, gateway: ip("fd61::1") });
        });
        let inner = network_with(network("inner", "br-inner", "10.62.0.1/24"), |c| {
            let net: IpNet = "fd62::/64".parse().unwrap();
            c.subnets.push(Subnet { net, gateway: ip("fd62::1") });
            c.internal = true;
        });
        for spec in [&blue, &red, &inner] {
            lab.networks.create_network(spec.clone()).await.unwrap();
        }
        let _web = started(&lab, &on(&blue, 2, &["[::]:8080:80"])).await;
        let stranger = lab.join(&on(&red, 2, &[])).await;
        let inside = started(&lab, &on(&inner, 2, &[])).await;
        let beside = lab.join(&on(&inner, 3, &[])).await;
        assert_eq!(stranger.ask(ip("fd60::2"), 80), None);
        assert_eq!(stranger.ask(ip(GATEWAY6), 80), None, "nobody there");
        assert_eq!(stranger.ask(ip(GATEWAY6), 8080), says("fd60::1"), "published");
        assert_eq!(beside.ask(ip("fd62::2"), 80), says("fd62::3"));
        inside.netns.run(|| sh("ip -6 route add default via fd62::1")).unwrap();
        serve(&lab.outside, 7000);
        assert_eq!(inside.ask(ip(OUTSIDE6), 7000), None);
        assert_eq!(inside.ask(ip(GATEWAY6), 8080), None, "not even published");
        assert_eq!(stranger.ask(ip("fd62::2"), 80), None);
        assert_eq!(ask(&lab.outside, ip("fd62::2"), 80), None);
    });
}

#[test]
fn what_cannot_be_answered_is_refused_at_once() {
    lab::run(|| async {
        filter_bridged_ipv6(true);
        let lab = Lab::with(|c| NetConfig { host_ipv6_ports: false, ..c }).await;
        let blue = blue(|_| {});
        lab.networks.create_network(blue.clone()).await.unwrap();
        let _web = started(&lab, &on(&blue, 2, &["8080:80", "[::]:8080:80"])).await;
        if sh("ls /proc/sys/net | grep -c bridge || true").trim() == "1" {
            assert!(lab::refused_here(Ipv6Addr::LOCALHOST, 8080), "clients need not wait");
        }
        assert_eq!(ask_from_host(Ipv4Addr::LOCALHOST, 8080), says("10.60.0.1"));
    });
}

#[test]
fn routed_containers_are_reached_by_their_own_address() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let blue = blue(|c| {
            c.gateway_mode_ipv4 = GatewayMode::Routed;
            c.gateway_mode_ipv6 = GatewayMode::Routed;
        });
        lab.networks.create_network(blue.clone()).await.unwrap();
        let spec = on(&blue, 2, &["8080:80", "[::]:8080:80"]);
        let web = started(&lab, &spec).await;
        for (own, host, outside) in [
            (ip("10.60.0.2"), IpAddr::V4(HOST), IpAddr::V4(OUTSIDE)),
            (ip("fd60::2"), ip(HOST6), ip(OUTSIDE6)),
        ] {
            assert_eq!(ask(&lab.outside, own, 80), says(outside));
            assert_eq!(ask(&lab.outside, own, 81), None, "not published");
            assert_eq!(ask(&lab.outside, host, 8080), None, "nothing is translated");
            assert!(ask_from_host(own, 81).is_some(), "the host itself may");
            serve(&lab.outside, if own.is_ipv4() { 7000 } else { 7001 });
            let port = if own.is_ipv4() { 7000 } else { 7001 };
            assert_eq!(web.ask(outside, port), says(own), "out with its own address");
        }
        let neighbour = lab.join(&lab.spec("172.17.0.2", &[])).await;
        assert!(neighbour.ask(ip("10.60.0.2"), 80).is_some(), "from another network");
        assert_eq!(neighbour.ask(ip("10.60.0.2"), 81), None);
        lab.outside.run(|| sh("ping -c 1 -W 1 10.60.0.2 || true")).unwrap();
        lab.networks.publish(&spec.sandbox, vec![]).await.unwrap();
        assert_eq!(ask(&lab.outside, ip("10.60.0.2"), 80), None, "published no more");
    });
}

#[test]
fn unprotected_containers_are_reached_on_every_port() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let blue = blue(|c| c.gateway_mode_ipv6 = GatewayMode::NatUnprotected);
        lab.networks.create_network(blue.clone()).await.unwrap();
        let web = started(&lab, &on(&blue, 2, &["[::]:8080:80"])).await;
        assert_eq!(ask(&lab.outside, ip("fd60::2"), 81), says(OUTSIDE6));
        assert_eq!(ask(&lab.outside, ip(HOST6), 8080), says(OUTSIDE6));
        assert_eq!(ask(&lab.outside, ip("10.60.0.2"), 81), None, "the other family is protected");
        serve(&lab.outside, 7000);
        assert_eq!(web.ask(ip(OUTSIDE6), 7000), says(HOST6));
    });
}

#[test]
fn packets_leave_with_the_chosen_address() {
    lab::run(|| async {
        let lab = Lab::new().await;
        sh("ip address add 10.99.0.7/24 dev lan0");
        sh("ip -6 address add fd99::7/64 dev lan0 nodad");
        let blue = blue(|c| {
            c.host_ipv4 = Some(Ipv4Addr::new(10, 99, 0, 7));
            c.host_ipv6 = Some("fd99::7".parse().unwrap());
        });
        lab.networks.create_network(blue.clone()).await.unwrap();
        let web = lab.join(&on(&blue, 2, &[])).await;
        serve(&lab.outside, 7000);
        assert_eq!(web.ask(OUTSIDE, 7000), says("10.99.0.7"));
        assert_eq!(web.ask(ip(OUTSIDE6), 7000), says("fd99::7"));
        let plain = lab.join(&lab.spec("172.17.0.2", &[])).await;
        assert_eq!(plain.ask(OUTSIDE, 7000), says(HOST));
        assert_eq!(plain.ask(GATEWAY, 7000), None);
    });
}
