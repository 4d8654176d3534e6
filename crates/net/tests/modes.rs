//! What else a bridge network can be: of several subnets, without the host,
//! with somebody else's gateway, on somebody else's bridge.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::{
    HOST, Lab, OUTSIDE, OUTSIDE6, ask, ask_from_host, endpoint, network, network_with, sandbox,
    serve, sh, with_subnets,
};
use sampan_net::{GatewayMode, NetworkSpec, Repairs};
use sampan_sys::netns::NetNs;
use std::net::IpAddr;

fn says(address: &str) -> Option<String> {
    Some(address.to_owned())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Links, addresses, routes and rules of the host, without numbers and counters.
fn world() -> String {
    let links = sh("ip -o link | awk -F': ' '{print $2}'; ip -o address | awk '{print $2, $4}'");
    let routes = sh("ip -6 route show table local | grep '^local ::1' || true");
    links + &routes + &sh("nft -s list table inet sampan")
}

/// Removes a network, on which nothing is any more, and compares.
async fn removed(lab: &Lab, network: &NetworkSpec, before: &str) {
    lab.networks.reconcile(&[]).await.unwrap();
    lab.networks.delete_network(&network.id).await.unwrap();
    lab.networks.settle().await;
    assert_eq!(world(), before, "the clean state");
}

#[test]
fn subnets_of_one_family_are_neighbours() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let before = world();
        serve(&lab.outside, 7000);
        let wide = with_subnets(
            network("wide", "br-wide", "10.60.0.1/24"),
            &["10.61.0.1/24", "fd60::1/64", "fd61::1/64"],
        );
        lab.networks.create_network(wide.clone()).await.unwrap();
        let one = lab.join(&sandbox(vec![endpoint(&wide.id, "10.60.0.2 fd60::2")], &[])).await;
        let second = sandbox(vec![endpoint(&wide.id, "10.61.0.2 fd61::2")], &["8080:80"]);
        let two = lab.join(&second).await;
        two.serve(80);
        assert_eq!(one.ask(ip("10.61.0.2"), 80), says("10.60.0.2"));
        assert_eq!(one.ask(ip("fd61::2"), 80), says("fd60::2"));
        let way = one.netns.run(|| sh("ip route get 10.61.0.2")).unwrap();
        assert!(!way.contains("via"), "directly: {way}");
        assert_eq!(two.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        let routes = two.netns.run(|| sh("ip route show default; ip -6 route show default"));
        let routes = routes.unwrap();
        assert!(routes.contains("10.61.0.1") && routes.contains("fd61::1"), "{routes}");
        assert_eq!(ask(&lab.outside, HOST, 8080), says(&OUTSIDE.to_string()));
        let twice = sandbox(vec![endpoint(&wide.id, "10.60.0.9 10.61.0.9")], &[]);
        let error = lab.networks.join(twice).await.unwrap_err().to_string();
        assert!(error.contains("more than one IPv4 address"), "{error}");
        two.netns.run(|| sh("ip route delete 10.60.0.0/24")).unwrap();
        drop(one);
        let repairs = lab.networks.reconcile(&[second]).await.unwrap();
        assert_eq!(repairs.restored.len(), 1, "{repairs:?}");
        assert!(two.netns.run(|| sh("ip route")).unwrap().contains("10.60.0.0/24 dev eth0"));
        removed(&lab, &wide, &before).await;
    });
}

#[test]
fn an_isolated_network_is_without_the_host() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let before = world();
        let alone = with_subnets(network("alone", "br-alone", "10.60.0.1/24"), &["fd60::1/64"]);
        let alone = network_with(alone, |c| {
            c.internal = true;
            c.gateway_mode_ipv4 = GatewayMode::Isolated;
            c.gateway_mode_ipv6 = GatewayMode::Isolated;
        });
        lab.networks.create_network(alone.clone()).await.unwrap();
        assert_eq!(sh("ip -o address show dev br-alone"), "", "not even a link-local address");
        let one = lab.join(&sandbox(vec![endpoint(&alone.id, "10.60.0.2 fd60::2")], &[])).await;
        // The gateway's address is free for a container.
        let spec = sandbox(vec![endpoint(&alone.id, "10.60.0.1 fd60::1")], &[]);
        let two = lab.join(&spec).await;
        two.serve(80);
        assert_eq!(one.ask(ip("10.60.0.1"), 80), says("10.60.0.2"));
        assert_eq!(one.ask(ip("fd60::1"), 80), says("fd60::2"));
        assert_eq!(one.ask(OUTSIDE, 7000), None);
        assert_eq!(one.netns.run(|| sh("ip route show default")).unwrap(), "");
        assert_eq!(ask_from_host(ip("10.60.0.1"), 80), None);
        let kept = lab.networks.reconcile(&[spec]).await.unwrap();
        assert_eq!(kept.restored, vec![]);
        drop((one, two));
        removed(&lab, &alone, &before).await;
        let wrong = network_with(network("wrong", "br-wrong", "10.61.0.1/24"), |c| {
            c.gateway_mode_ipv4 = GatewayMode::Isolated;
        });
        let error = lab.networks.create_network(wrong).await.unwrap_err().to_string();
        assert!(error.contains("internal networks only"), "{error}");
    });
}

#[test]
fn an_internal_network_keeps_ipv6_in() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let inner = with_subnets(network("inner", "br-inner", "10.60.0.1/24"), &["fd60::1/64"]);
        let inner = network_with(inner, |c| c.internal = true);
        lab.networks.create_network(inner.clone()).await.unwrap();
        let one = lab.join(&sandbox(vec![endpoint(&inner.id, "10.60.0.2 fd60::2")], &[])).await;
        let two = lab.join(&sandbox(vec![endpoint(&inner.id, "10.60.0.3 fd60::3")], &[])).await;
        two.serve(80);
        assert_eq!(one.ask(ip("fd60::3"), 80), says("fd60::2"));
        assert_eq!(ask_from_host(ip("fd60::3"), 80), says("fd60::1"), "the host may");
        one.netns
            .run(|| {
                sh("ip -6 route add default via fd60::1");
                sh("ip route add default via 10.60.0.1");
            })
            .unwrap();
        assert_eq!(one.ask(OUTSIDE6, 7000), None, "not even with a route");
        assert_eq!(one.ask(OUTSIDE, 7000), None);
        assert_eq!(ask(&lab.outside, ip("fd60::3"), 80), None);
    });
}

#[test]
fn the_gateway_may_be_somebody_else() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let theirs = network_with(network("theirs", "br-theirs", "10.60.0.1/24"), |c| {
            c.inhibit_ipv4 = true;
        });
        lab.networks.create_network(theirs.clone()).await.unwrap();
        assert_eq!(sh("ip -4 -o address show dev br-theirs"), "");
        let gateway = lab.join(&sandbox(vec![endpoint(&theirs.id, "10.60.0.1")], &[])).await;
        let one = lab.join(&sandbox(vec![endpoint(&theirs.id, "10.60.0.2")], &[])).await;
        gateway.netns.run(|| sh("ip address add 10.250.0.1/32 dev lo")).unwrap();
        gateway.serve(80);
        assert_eq!(one.ask(ip("10.250.0.1"), 80), says("10.60.0.2"), "through the gateway");
    });
}

#[test]
fn a_bridge_of_somebody_else_is_used_and_left() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        sh("ip link add mine type bridge && ip link set mine mtu 1400 up");
        sh("ip address add 192.168.77.1/24 dev mine");
        sh("ip address add 10.60.0.1/24 dev mine && ip -6 address add fd60::1/64 dev mine nodad");
        let before = world();
        let net =
            with_subnets(network("net", "mine", "10.60.0.1/24"), &["10.61.0.1/24", "fd61::1/64"]);
        lab.networks.create_network(net.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&net.id, "10.61.0.2 fd61::2")], &["8080:80"]);
        let web = lab.join(&spec).await;
        web.serve(80);
        assert_eq!(web.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        assert_eq!(ask(&lab.outside, HOST, 8080), says(&OUTSIDE.to_string()));
        let shown = sh("ip link show mine");
        assert!(shown.contains("mtu 1400") && !shown.contains("alias"), "{shown}");
        let kept = lab.networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(kept, Repairs::default());
        lab.networks.leave(&spec.sandbox).await.unwrap();
        drop(web);
        removed(&lab, &net, &before).await;
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/mine/route_localnet"), "0\n");
        // What is no bridge is not used.
        let wrong = network("wrong", "lan0", "10.62.0.1/24");
        let error = lab.networks.create_network(wrong).await.unwrap_err().to_string();
        assert!(error.contains("lan0 exists and is no bridge"), "{error}");
    });
}

#[test]
fn packets_are_as_large_as_was_said() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let large = network_with(network("large", "br-large", "10.60.0.1/24"), |c| c.mtu = 9000);
        lab.networks.create_network(large.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&large.id, "10.60.0.2")], &[]);
        let web = lab.join(&spec).await;
        let mtu = |netns: &NetNs, link: &str| {
            let file = format!("ip -o link show {link}");
            let shown = netns.run(move || sh(&file)).unwrap();
            shown.split("mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
        };
        let host = NetNs::current().unwrap();
        let port = || {
            let sandbox = lab.networks.sandbox(&spec.sandbox).unwrap();
            sandbox.attachments[0].host_interface.clone().unwrap()
        };
        let all = || [mtu(&host, "br-large"), mtu(&host, &port()), mtu(&web.netns, "eth0")];
        assert_eq!(all(), ["9000", "9000", "9000"]);
        sh(&format!("ip link set {} mtu 1300", port()));
        web.netns.run(|| sh("ip link set eth0 mtu 1200")).unwrap();
        let desired = [spec.clone()];
        assert!(!lab.networks.reconcile(&desired).await.unwrap().restored.is_empty());
        assert_eq!(all(), ["9000", "9000", "9000"]);
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
    });
}

#[test]
fn a_changed_hardware_address_is_set_back() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mut spec = lab.spec("172.17.0.2", &[]);
        spec.endpoints[0].mac = Some("02:42:ac:11:00:99".parse().unwrap());
        let web = lab.join(&spec).await;
        web.serve(80);
        web.netns.run(|| sh("ip link set eth0 address 02:00:00:00:00:77")).unwrap();
        let desired = [spec.clone()];
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap().restored.len(), 1);
        assert!(web.netns.run(|| sh("ip link show eth0")).unwrap().contains("02:42:ac:11:00:99"));
        assert_eq!(ask_from_host(ip("172.17.0.2"), 80), says("172.17.0.1"));
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
    });
}
