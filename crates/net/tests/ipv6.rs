//! Dual-stack and IPv6-only bridge networks with real packets.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpStream};

use lab::{
    HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, ask, ask_from_host, endpoint, network, sandbox, serve, sh,
    with_subnets,
};
use sampan_net::{Attachment, Repairs};
use sampan_sys::netlink::Route;
use sampan_sys::netns::NetNs;

fn says(address: &str) -> Option<String> {
    Some(address.to_owned())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn links() -> String {
    // Numbers and times differ, and the host's LAN changes nothing.
    sh("ip -o address | grep -v lan0 | awk '{print $2, $3, $4}'")
}

#[test]
fn containers_have_both_families() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let dual = with_subnets(network("dual", "br-dual", "10.70.0.1/24"), &["fd70::1/64"]);
        lab.networks.create_network(dual.clone()).await.unwrap();
        let one = sandbox(vec![endpoint(&dual.id, "10.70.0.2 fd70::2")], &["8080:80"]);
        let one = lab.join(&one).await;
        let two = sandbox(vec![endpoint(&dual.id, "10.70.0.3 fd70::3")], &[]);
        let two = lab.join(&two).await;
        one.serve(80);
        two.serve(81);
        // At once: no time for asking whether an address is unique.
        assert_eq!(two.ask(ip("fd70::2"), 80), says("fd70::3"));
        assert_eq!(two.ask(ip("10.70.0.2"), 80), says("10.70.0.3"));
        assert_eq!(one.ask(ip("fd70::3"), 81), says("fd70::2"));
        assert_eq!(ask_from_host(ip("fd70::2"), 80), says("fd70::1"));
        assert_eq!(one.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        assert_eq!(one.ask(OUTSIDE6, 7000), says(&HOST6.to_string()), "masqueraded");
        assert_eq!(ask(&lab.outside, ip("fd70::2"), 80), None, "not published");
        assert_eq!(ask(&lab.outside, HOST, 8080), says(&OUTSIDE.to_string()));
        let own = NetNs::current().unwrap();
        serve(&own, 9000);
        assert_eq!(one.ask(ip("fd70::1"), 9000), says("fd70::2"), "a service of the host");
        let routes = one.netns.run(|| sh("ip -6 route show default")).unwrap();
        assert!(routes.contains("via fd70::1 dev eth0"), "{routes}");
    });
}

#[test]
fn a_network_may_have_ipv6_only() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let before = links();
        serve(&lab.outside, 7000);
        let six = network("six", "br-six", "fd71::1/64");
        lab.networks.create_network(six.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&six.id, "fd71::2")], &[]);
        let one = lab.join(&spec).await;
        let two = lab.join(&sandbox(vec![endpoint(&six.id, "fd71::3")], &[])).await;
        two.serve(80);
        assert_eq!(one.ask(ip("fd71::3"), 80), says("fd71::2"));
        assert_eq!(one.ask(OUTSIDE6, 7000), says(&HOST6.to_string()));
        assert_eq!(one.ask(OUTSIDE, 7000), None);
        let inside = one.netns.run(|| sh("ip -4 address show eth0")).unwrap();
        assert_eq!(inside, "");
        let attachment = &lab.networks.sandbox(&spec.sandbox).unwrap().attachments[0];
        assert_eq!(attachment.gateways, [ip("fd71::1")]);
        for left in [&spec.sandbox] {
            lab.networks.leave(left).await.unwrap();
        }
        assert!(lab.networks.delete_network(&six.id).await.is_err(), "one is left");
        let second = lab.networks.clone();
        drop((one, two));
        second.reconcile(&[]).await.unwrap();
        lab.networks.delete_network(&six.id).await.unwrap();
        lab.networks.settle().await;
        assert_eq!(links(), before, "nothing is left");
    });
}

#[test]
fn where_there_is_no_ipv6_there_is_none() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let six = network("six", "br-six", "fd71::1/64");
        lab.networks.create_network(six.clone()).await.unwrap();
        let both = vec![endpoint(&lab.bridge, "172.17.0.2"), endpoint(&six.id, "fd71::2")];
        let web = lab.join(&sandbox(both, &[])).await;
        let addresses = web.netns.run(|| sh("ip -6 -o address | awk '{print $2, $4}'")).unwrap();
        assert!(!addresses.contains("eth0"), "{addresses}");
        assert!(addresses.contains("eth1 fd71::2/64"), "{addresses}");
        let tentative = web.netns.run(|| sh("ip -6 address show tentative")).unwrap();
        assert_eq!(tentative, "");
        let ra = web.netns.run(|| sh("cat /proc/sys/net/ipv6/conf/eth1/accept_ra")).unwrap();
        assert_eq!(ra, "0\n");
        // Each family leaves by the network that has it.
        serve(&lab.outside, 7000);
        assert_eq!(web.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        assert_eq!(web.ask(OUTSIDE6, 7000), says(&HOST6.to_string()));
    });
}

#[test]
fn an_ipv6_address_is_reused_at_once() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let dual = with_subnets(network("dual", "br-dual", "10.70.0.1/24"), &["fd70::1/64"]);
        lab.networks.create_network(dual.clone()).await.unwrap();
        let neighbour =
            lab.join(&sandbox(vec![endpoint(&dual.id, "10.70.0.9 fd70::9")], &[])).await;
        for round in 0..5 {
            let spec = sandbox(vec![endpoint(&dual.id, "10.70.0.2 fd70::2")], &[]);
            lab.join(&spec).await.serve(80);
            assert_eq!(neighbour.ask(ip("fd70::2"), 80), says("fd70::9"), "round {round}");
            assert_eq!(ask_from_host(ip("fd70::2"), 80), says("fd70::1"));
            lab.networks.leave(&spec.sandbox).await.unwrap();
        }
    });
}

#[test]
fn ipv6_is_repaired() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let dual = with_subnets(network("dual", "br-dual", "10.70.0.1/24"), &["fd70::1/64"]);
        lab.networks.create_network(dual.clone()).await.unwrap();
        serve(&lab.outside, 7000);
        let spec = sandbox(vec![endpoint(&dual.id, "10.70.0.2 fd70::2")], &[]);
        let web = lab.join(&spec).await;
        let desired = [spec.clone()];
        let kept = lab.networks.reconcile(&desired).await.unwrap();
        assert_eq!(kept, Repairs::default(), "the kernel's own addresses are no difference");
        let on_host = [
            "ip -6 address flush dev br-dual scope global",
            "echo 1 > /proc/sys/net/ipv6/conf/br-dual/disable_ipv6",
            "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
            "ip link set br-dual down",
            "ip link delete br-dual",
        ];
        let inside = [
            "ip -6 route delete default",
            "ip route delete default",
            "ip -6 address delete fd70::2/64 dev eth0",
            "ip link set eth0 down",
            "ip link set eth0 mtu 1400",
            "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6",
        ];
        let damages = on_host.map(|d| (false, d)).into_iter().chain(inside.map(|d| (true, d)));
        for (within, damage) in damages {
            if within {
                web.netns.run(|| sh(damage)).unwrap();
            } else {
                sh(damage);
            }
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert!(!repairs.restored.is_empty(), "{damage}: {repairs:?}");
            assert!(repairs.failed.is_empty(), "{damage}: {repairs:?}");
            assert_eq!(web.ask(OUTSIDE6, 7000), says(&HOST6.to_string()), "{damage}");
            assert_eq!(web.ask(OUTSIDE, 7000), says(&HOST.to_string()), "{damage}");
            let again = lab.networks.reconcile(&desired).await.unwrap();
            assert_eq!(again, Repairs::default(), "{damage}");
        }
    });
}

#[test]
fn a_host_that_listens_to_routers_goes_on_doing_so() {
    lab::run(|| async {
        let lab = Lab::new().await;
        sh("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        sh("echo 1 > /proc/sys/net/ipv6/conf/lan0/accept_ra");
        let six = network("six", "br-six", "fd71::1/64");
        lab.networks.create_network(six.clone()).await.unwrap();
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/lan0/accept_ra"), "2\n");
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/all/forwarding"), "1\n");
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/br-six/accept_ra"), "0\n");
    });
}

#[test]
fn link_local_subnets_work() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let local = with_subnets(network("local", "br-local", "10.72.0.1/24"), &["fe80::1/64"]);
        lab.networks.create_network(local.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&local.id, "10.72.0.2 fe80::2")], &[]);
        let web = lab.join(&spec).await;
        let shown = |what: &'static str| web.netns.run(move || sh(what)).unwrap();
        assert!(shown("ip -6 route show default").contains("via fe80::1 dev eth0"));
        assert!(shown("ip -6 -o address show eth0").contains("fe80::2/64"));
        serve(&NetNs::current().unwrap(), 9000);
        let reached = web.netns.run(|| {
            let link = Route::open().unwrap().link("eth0").unwrap().unwrap().index;
            let gateway = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
            TcpStream::connect(SocketAddrV6::new(gateway, 9000, 0, link)).is_ok()
        });
        assert!(reached.unwrap());
        let kept = lab.networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(kept, Repairs::default());
        let attachments: Vec<Attachment> = lab.networks.sandbox(&spec.sandbox).unwrap().attachments;
        assert!(
            attachments[0]
                .gateways
                .contains(&IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)))
        );
    });
}
