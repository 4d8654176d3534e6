//! Macvlan networks with real packets: who reaches whom in each mode, the
//! host's access, what is refused, and that nothing is left behind.

#![allow(clippy::unwrap_used)]

mod lab;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;

use lab::{Container, HOST, Lab, OUTSIDE, ask, ask_from_host, sandbox, serve, sh};
use sampan_net::{
    DriverConfig, EndpointSpec, MacvlanConfig, NetError, NetworkSpec, SandboxSpec, Subnet,
};
use sampan_sys::netlink::Route;
use sampan_sys::netns::NetNs;
use sampan_types::{EndpointId, NetworkId};

const RED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 50);
const BLUE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 51);

fn says(address: impl Into<IpAddr>) -> Option<String> {
    Some(address.into().to_string())
}

/// Asks until there is an answer: the kernel hands broadcasts (a question for
/// a hardware address) to macvlans when it has the time.
fn patiently(ask: impl Fn() -> Option<String>) -> Option<String> {
    (0..20).find_map(|_| ask())
}

/// A network on the LAN, whose router is the outside.
fn macvlan(options: &[(&str, &str)]) -> NetworkSpec {
    parsed(options, &["10.99.0.2/24", "fd99::2/64"], false).unwrap()
}

fn parsed(
    options: &[(&str, &str)],
    subnets: &[&str],
    internal: bool,
) -> Result<NetworkSpec, NetError> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let subnet = |text: &&str| {
        let net: ipnet::IpNet = text.parse().unwrap();
        Subnet { net: net.trunc(), gateway: net.addr() }
    };
    let subnets = subnets.iter().map(subnet).collect();
    let config = MacvlanConfig::parse("lan", &options, subnets, internal)?;
    let (id, name) = (NetworkId::random(), "lan".to_owned());
    Ok(NetworkSpec { id, name, driver: DriverConfig::Macvlan(config) })
}

fn on(network: &NetworkSpec, addresses: &[&str]) -> SandboxSpec {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    sandbox(vec![EndpointSpec::new(EndpointId::random(), network.id.clone(), addresses)], &[])
}

/// Two containers that serve on port 80, with their specifications.
async fn two(lab: &Lab, network: &NetworkSpec) -> [(SandboxSpec, Container); 2] {
    let mut both = Vec::new();
    for address in [RED, BLUE] {
        let spec = on(network, &[&address.to_string()]);
        let container = lab.join(&spec).await;
        container.serve(80);
        both.push((spec, container));
    }
    both.try_into().ok().unwrap()
}

/// The host's links that are not there from the start.
fn links() -> Vec<String> {
    let mut names: Vec<String> =
        Route::open().unwrap().links().unwrap().into_iter().map(|l| l.name).collect();
    names.retain(|n| !matches!(n.as_str(), "lo" | "lan0" | "docker0"));
    names
}

#[test]
fn containers_are_on_the_parents_network() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let lan = macvlan(&[("parent", "lan0")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let [(red, first), (_, second)] = two(&lab, &lan).await;
        assert_eq!(patiently(|| first.ask(BLUE, 80)), says(RED), "each other");
        assert_eq!(
            patiently(|| second.ask(OUTSIDE, 7000)),
            says(BLUE),
            "outward, by their own address"
        );
        assert_eq!(
            patiently(|| ask(&lab.outside, RED, 80)),
            says(OUTSIDE),
            "inward, without publishing"
        );
        assert_eq!(ask_from_host(RED, 80), None, "the kernel keeps the host from them");
        let made = lab.networks.sandbox(&red.sandbox).unwrap();
        let attachment = &made.attachments[0];
        assert_eq!(attachment.interface.as_deref(), Some("eth0"));
        assert_eq!((attachment.mtu, attachment.host_interface.as_deref()), (1500, None));
        let mac = attachment.mac.unwrap().to_string();
        first.netns.run(|| assert!(sh("ip link show eth0").contains(&mac))).unwrap();
        let route = first.netns.run(|| sh("ip route show default")).unwrap();
        assert_eq!(route.trim(), "default via 10.99.0.2 dev eth0");
        lab.networks.leave(&red.sandbox).await.unwrap();
        assert_eq!(ask(&lab.outside, RED, 80), None, "its address is free");
        assert_eq!(links(), [""; 0], "nothing of it is on the host");
    });
}

#[test]
fn an_address_that_moves_is_found_at_once() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let lan = macvlan(&[("parent", "lan0")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        for round in 0..5 {
            let spec = on(&lan, &["10.99.0.50"]);
            let container = lab.join(&spec).await;
            container.serve(80);
            assert_eq!(patiently(|| ask(&lab.outside, RED, 80)), says(OUTSIDE), "round {round}");
            lab.networks.leave(&spec.sandbox).await.unwrap();
        }
    });
}

#[test]
fn modes_keep_containers_apart() {
    lab::run(|| async {
        let lab = Lab::new().await;
        for mode in ["private", "vepa"] {
            let lan = macvlan(&[("parent", "lan0"), ("macvlan_mode", mode)]);
            lab.networks.create_network(lan.clone()).await.unwrap();
            let [(red, first), (blue, _)] = two(&lab, &lan).await;
            assert_eq!(first.ask(BLUE, 80), None, "{mode}: no switch sends frames back");
            assert_eq!(patiently(|| ask(&lab.outside, RED, 80)), says(OUTSIDE), "{mode}");
            for spec in [red, blue] {
                lab.networks.leave(&spec.sandbox).await.unwrap();
            }
            lab.networks.delete_network(&lan.id).await.unwrap();
        }
    });
}

#[test]
fn passthru_has_the_parent_for_itself() {
    lab::run(|| async {
        let lab = Lab::new().await;
        sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
        let lan = macvlan(&[("parent", "up0"), ("macvlan_mode", "passthru")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let other = lab.networks.create_network(macvlan(&[("parent", "up0")])).await;
        let said = other.unwrap_err().to_string();
        assert!(said.contains("parent interface up0 is already used by network lan"), "{said}");
        for _ in 0..2 {
            let first = on(&lan, &["10.99.0.50"]);
            let container = lab.join(&first).await;
            let mac = |name: &str| sh(&format!("ip -br link show {name} | awk '{{print $3}}'"));
            let inside = container.netns.run(|| mac("eth0")).unwrap();
            assert_eq!(inside, mac("up0"));
            let second = lab.networks.join(on(&lan, &["10.99.0.51"])).await;
            let said = second.unwrap_err().to_string();
            assert!(said.contains("up0 takes no macvlan"), "{said}");
            lab.networks.leave(&first.sandbox).await.unwrap();
        }
        let mut chosen = on(&lan, &["10.99.0.50"]);
        chosen.endpoints[0].mac = Some("02:00:00:00:00:77".parse().unwrap());
        let said = lab.networks.join(chosen).await.unwrap_err().to_string();
        assert!(said.contains("MAC address"), "{said}");
    });
}

#[test]
fn the_host_has_access_where_it_is_asked_for() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let here = NetNs::current().unwrap();
        serve(&here, 9000);
        serve_six(&here, 9001);
        let lan = macvlan(&[("parent", "lan0"), ("host_access", "true")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let spec = on(&lan, &["10.99.0.50", "fd99::50"]);
        let container = lab.join(&spec).await;
        container.serve(80);
        serve_six(&container.netns, 81);
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(patiently(|| ask_from_host(RED, 80)), says(HOST));
        assert_eq!(patiently(|| container.ask(HOST, 9000)), says(RED));
        assert_eq!(patiently(|| ask_from_host(six("fd99::50"), 81)), says(six("fd99::1")));
        assert_eq!(patiently(|| container.ask(six("fd99::1"), 9001)), says(six("fd99::50")));
        assert_eq!(
            patiently(|| ask(&lab.outside, HOST, 9000)),
            says(OUTSIDE),
            "the host is where it was"
        );
        assert_eq!(patiently(|| ask(&lab.outside, RED, 80)), says(OUTSIDE));
        let routes = || sh("ip route; ip -6 route");
        assert!(routes().contains("10.99.0.50 dev mv-"), "{}", routes());
        lab.networks.leave(&spec.sandbox).await.unwrap();
        assert!(!routes().contains("10.99.0.50") && !routes().contains("fd99::50"), "{}", routes());
        lab.networks.delete_network(&lan.id).await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn the_host_can_have_an_address_of_its_own_there() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let here = NetNs::current().unwrap();
        serve(&here, 9000);
        let options = [("parent", "lan0"), ("host_access", "true")];
        let none = parsed(&options, &["10.77.0.1/24"], false).unwrap();
        let said = lab.networks.create_network(none).await.unwrap_err().to_string();
        assert!(said.contains("host_address"), "{said}");
        assert_eq!(links(), [""; 0]);
        let with = [options[0], options[1], ("host_address", "10.77.0.9")];
        let lan = parsed(&with, &["10.77.0.1/24"], false).unwrap();
        lab.networks.create_network(lan.clone()).await.unwrap();
        let container = lab.join(&on(&lan, &["10.77.0.5"])).await;
        container.serve(80);
        assert_eq!(
            patiently(|| ask_from_host(Ipv4Addr::new(10, 77, 0, 5), 80)).as_deref(),
            Some("10.77.0.9")
        );
        assert_eq!(
            patiently(|| container.ask(Ipv4Addr::new(10, 77, 0, 9), 9000)).as_deref(),
            Some("10.77.0.5")
        );
    });
}

/// Serves TCP by IPv6 until the test's process ends.
fn serve_six(netns: &NetNs, port: u16) {
    let listener = netns.run(|| TcpListener::bind(("::", port)).unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
}

#[test]
fn ipv6_works_from_the_first_packet() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let lan = parsed(&[("parent", "lan0")], &["fd99::2/64"], false).unwrap();
        lab.networks.create_network(lan.clone()).await.unwrap();
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        for round in 0..3 {
            let (first, second) = (on(&lan, &["fd99::50"]), on(&lan, &["fd99::51"]));
            let (red, blue) = (lab.join(&first).await, lab.join(&second).await);
            serve_six(&red.netns, 80);
            assert_eq!(
                patiently(|| blue.ask(six("fd99::50"), 80)),
                says(six("fd99::51")),
                "round {round}"
            );
            assert_eq!(patiently(|| ask(&lab.outside, six("fd99::50"), 80)), says(six("fd99::2")));
            let route = red.netns.run(|| sh("ip -6 route show default")).unwrap();
            assert!(route.starts_with("default via fd99::2 dev eth0"), "{route}");
            for spec in [first, second] {
                lab.networks.leave(&spec.sandbox).await.unwrap();
            }
        }
    });
}

#[test]
fn without_a_parent_containers_are_among_themselves() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let inner = parsed(&[], &["10.77.0.1/24"], true).unwrap();
        lab.networks.create_network(inner.clone()).await.unwrap();
        let first = lab.join(&on(&inner, &["10.77.0.5"])).await;
        let second = lab.join(&on(&inner, &["10.77.0.6"])).await;
        first.serve(80);
        let address = Ipv4Addr::new(10, 77, 0, 5);
        assert_eq!(patiently(|| second.ask(address, 80)).as_deref(), Some("10.77.0.6"));
        assert_eq!(second.netns.run(|| sh("ip route show default")).unwrap(), "", "internal");
        assert_eq!(ask_from_host(address, 80), None);
        assert!(links().iter().any(|l| l.starts_with("dm-")), "{:?}", links());
        lab.networks.delete_network(&inner.id).await.unwrap_err();
        let repairs = lab.networks.reconcile(&[]).await.unwrap();
        assert_eq!(repairs.failed, [""; 0]);
        lab.networks.delete_network(&inner.id).await.unwrap();
        lab.networks.delete_network(&inner.id).await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn what_somebody_took_away_is_made_anew() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let lan = macvlan(&[("parent", "lan0"), ("host_access", "true")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let spec = on(&lan, &["10.99.0.50"]);
        let container = lab.join(&spec).await;
        container.serve(80);
        let desired = [spec.clone()];
        let repairs = lab.networks.reconcile(&desired).await.unwrap();
        assert!(repairs.restored.is_empty() && repairs.failed.is_empty(), "{repairs:?}");
        let inside = |command: &'static str| container.netns.run(|| sh(command)).unwrap();
        let breaks: [&dyn Fn() -> String; 5] = [
            &|| inside("ip link delete eth0"),
            &|| inside("ip addr flush dev eth0"),
            &|| inside("ip link set eth0 down"),
            &|| sh("ip link delete $(ip -o link | grep -o 'mv-[0-9a-f]*')"),
            &|| sh("ip route delete 10.99.0.50"),
        ];
        for (number, break_it) in breaks.iter().enumerate() {
            break_it();
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert_eq!(repairs.failed, [""; 0], "break {number}");
            assert!(!repairs.restored.is_empty(), "break {number}");
            assert_eq!(patiently(|| ask(&lab.outside, RED, 80)), says(OUTSIDE), "break {number}");
            assert_eq!(patiently(|| ask_from_host(RED, 80)), says(HOST), "break {number}");
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert!(repairs.restored.is_empty(), "break {number}: {:?}", repairs.restored);
        }
        let repairs = lab.networks.reconcile(&[]).await.unwrap();
        assert_eq!(repairs.failed, [""; 0]);
    });
}

#[test]
fn a_parent_that_is_gone_is_reported() {
    lab::run(|| async {
        let lab = Lab::new().await;
        sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
        let lan = macvlan(&[("parent", "up0")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let spec = on(&lan, &["10.99.0.50"]);
        lab.join(&spec).await;
        sh("ip link delete up0");
        let repairs = lab.networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert!(repairs.failed.iter().any(|f| f.contains("up0")), "{repairs:?}");
        let said = lab.networks.join(on(&lan, &["10.99.0.51"])).await.unwrap_err().to_string();
        assert!(said.contains("up0 is not on this host any more"), "{said}");
        sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
        let repairs = lab.networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(repairs.failed, [""; 0]);
        assert!(!repairs.restored.is_empty(), "{repairs:?}");
    });
}

#[test]
fn a_daemon_that_comes_back_takes_over_what_is_there() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let lan = macvlan(&[("parent", "lan0"), ("host_access", "true")]);
        let nowhere = parsed(&[], &["10.77.0.1/24"], false).unwrap();
        for network in [&lan, &nowhere] {
            lab.networks.create_network(network.clone()).await.unwrap();
        }
        let spec = on(&lan, &["10.99.0.50"]);
        let container = lab.join(&spec).await;
        container.serve(80);
        // Of `nowhere`, the records know nothing.
        let mut config = lab.config.clone();
        config.networks.push(lan.clone());
        let names = Box::new(sampan_net::names::NoNames);
        let networks = sampan_net::Networks::open(config, names).await.unwrap();
        let repairs = networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert!(repairs.restored.is_empty() && repairs.failed.is_empty(), "{repairs:?}");
        assert_eq!(repairs.removed.len(), 1, "{:?}", repairs.removed);
        assert!(!links().iter().any(|l| l.starts_with("dm-")), "{:?}", links());
        assert_eq!(patiently(|| ask_from_host(RED, 80)), says(HOST));
        networks.leave(&spec.sandbox).await.unwrap();
        networks.delete_network(&lan.id).await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    lab::run(|| async {
        let lab = Lab::new().await;
        sh("ip link add up0 type veth peer name up1 && ip link set up0 master docker0");
        for (options, said) in [
            (&[("parent", "nosuch0")][..], "parent interface nosuch0 is not on this host"),
            (&[("parent", "nosuch0.10")], "no interface nosuch0 on which VLAN 10"),
            (&[("parent", "up0")], "is a port of"),
            (
                &[("parent", "lan0"), ("com.docker.network.driver.mtu", "9000")],
                "more than the 1500",
            ),
        ] {
            let error = lab.networks.create_network(macvlan(options)).await.unwrap_err();
            assert!(error.to_string().contains(said), "{options:?}: {error}");
        }
        sh("ip link delete up0");
        assert_eq!(links(), [""; 0]);
        let lan = macvlan(&[("parent", "lan0")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let shared = macvlan(&[("parent", "lan0"), ("macvlan_mode", "private")]);
        lab.networks.create_network(shared).await.unwrap();
        let exclusive = macvlan(&[("parent", "lan0"), ("macvlan_mode", "passthru")]);
        let error = lab.networks.create_network(exclusive).await.unwrap_err();
        assert!(matches!(error, NetError::InUse { .. }), "{error}");
        let error = lab.networks.join(on(&lan, &["10.98.0.50"])).await.unwrap_err();
        assert!(error.to_string().contains("in no subnet"), "{error}");
        let mut taken = on(&lan, &["10.99.0.50"]);
        taken.endpoints[0].mac = Some("02:00:00:00:00:77".parse().unwrap());
        lab.join(&taken).await;
        let mut again = on(&lan, &["10.99.0.51"]);
        again.endpoints[0].mac = taken.endpoints[0].mac;
        let error = lab.networks.join(again.clone()).await.unwrap_err();
        assert!(error.to_string().contains("has its MAC address"), "{error}");
        lab.networks.leave(&taken.sandbox).await.unwrap();
        lab.join(&again).await;
    });
}

#[test]
fn a_vlan_is_made_and_taken_away() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let vlan = macvlan(&[("parent", "lan0.10")]);
        match lab.networks.create_network(vlan.clone()).await {
            Err(NetError::NotSupported { what }) => {
                assert!(what.contains("8021q"), "{what}");
                assert_eq!(links(), [""; 0]);
                let _ = writeln!(std::io::stderr(), "skipped: this kernel has no VLANs");
                return;
            }
            created => created.unwrap(),
        }
        let other = macvlan(&[("parent", "lan0.10")]);
        lab.networks.create_network(other.clone()).await.unwrap();
        lab.networks.delete_network(&vlan.id).await.unwrap();
        assert_eq!(links(), ["lan0.10"]);
        lab.networks.delete_network(&other.id).await.unwrap();
        assert_eq!(links(), [""; 0]);
    });
}

#[test]
fn a_running_sandbox_is_connected_and_disconnected() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let lan = macvlan(&[("parent", "lan0")]);
        lab.networks.create_network(lan.clone()).await.unwrap();
        let spec = lab.spec("172.17.0.2", &[]);
        let container = lab.join(&spec).await;
        container.serve(80);
        for round in 0..3 {
            let more = on(&lan, &["10.99.0.50"]).endpoints.remove(0);
            let id = more.endpoint.clone();
            let attachment = lab.networks.connect(&spec.sandbox, more).await.unwrap();
            assert_eq!(attachment.interface.as_deref(), Some("eth1"));
            assert_eq!(patiently(|| ask(&lab.outside, RED, 80)), says(OUTSIDE), "round {round}");
            lab.networks.disconnect(&spec.sandbox, &id).await.unwrap();
            assert_eq!(ask(&lab.outside, RED, 80), None, "round {round}");
            container.netns.run(|| assert!(!sh("ip -br link").contains("eth1"))).unwrap();
        }
    });
}
