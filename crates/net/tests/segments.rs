//! How much TCP hands to a link at once, seen in what the links count.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use lab::{Container, Lab, endpoint, network, network_with, sandbox, sh, with_subnets};
use sampan_net::{NetConfig, NetworkSpec, Repairs};
use sampan_sys::netns::NetNs;

/// What one stream carries.
const LENGTH: usize = 64 << 20;
/// `GSO_LEGACY_MAX_SIZE`.
const USUAL: u64 = 65_536;

/// Byte `at` of a stream, for what is lost or doubled to be seen.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

/// Sends a stream, which has to come whole.
fn send(from: &NetNs, to: &NetNs, address: &str) {
    let listener = to.run(|| TcpListener::bind(("::", 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sink = thread::spawn(move || {
        let mut received = Vec::with_capacity(LENGTH);
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let target = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let mut stream = from.run(|| TcpStream::connect(target).unwrap()).unwrap();
    let sent: Vec<u8> = (0..LENGTH).map(byte).collect();
    stream.write_all(&sent).unwrap();
    drop(stream);
    assert!(sink.join().unwrap() == sent, "what was sent came whole");
}

/// Bytes and pieces that a container has handed to its link.
fn sent(container: &Container) -> (u64, u64) {
    let counted = container.netns.run(|| sh("grep eth0 /proc/net/dev")).unwrap();
    let fields: Vec<u64> = counted.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    (fields[8], fields[9])
}

/// The mean piece of a stream. Other tests hold up the sender now and then,
/// which hands over less at once; so it is the largest of a few.
fn mean_piece(from: &Container, to: &NetNs, address: &str, enough: u64) -> u64 {
    let mut largest = 0;
    for _ in 0..5 {
        let before = sent(from);
        send(&from.netns, to, address);
        let after = sent(from);
        largest = largest.max((after.0 - before.0) / (after.1 - before.1));
        if largest > enough {
            break;
        }
    }
    largest
}

async fn two(lab: &Lab, net: &NetworkSpec, addresses: [&str; 2]) -> (Container, Container) {
    lab.networks.create_network(net.clone()).await.unwrap();
    let mut joined = Vec::new();
    for address in addresses {
        let one = lab.join(&sandbox(vec![endpoint(&net.id, address)], &[])).await;
        // BBR paces, and hands over what a thousandth of a second needs.
        let reno = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control";
        one.netns.run(|| sh(reno)).unwrap();
        joined.push(one);
    }
    let second = joined.pop().unwrap();
    (joined.pop().unwrap(), second)
}

#[test]
fn containers_that_talk_to_each_other_alone_hand_over_more_at_once() {
    for redirect in [true, false] {
        lab::run(move || async move {
            let lab = Lab::with(|config| NetConfig { redirect, ..config }).await;
            let inner = network_with(network("inner", "br-inner", "10.71.0.1/24"), |config| {
                config.internal = true;
            });
            let inner = with_subnets(inner, &["fd71::1/64"]);
            let ends = ["10.71.0.2 fd71::2", "10.71.0.3 fd71::3"];
            let (one, two) = two(&lab, &inner, ends).await;
            for address in ["10.71.0.3", "fd71::3"] {
                let mean = mean_piece(&one, &two.netns, address, USUAL);
                assert!(mean > USUAL, "{address}, redirected: {redirect}: {mean} bytes");
            }
        });
    }
}

#[test]
fn what_leaves_the_host_is_cut_to_what_its_interface_takes() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let usual = network("usual", "br-usual", "10.72.0.1/24");
        let (one, other) = two(&lab, &usual, ["10.72.0.2", "10.72.0.3"]).await;
        assert!(mean_piece(&one, &other.netns, "10.72.0.3", 0) <= USUAL);
        let large = network_with(network("large", "br-large", "10.73.0.1/24"), |config| {
            config.gso_max_size = Some(131_072);
        });
        let (one, other) = two(&lab, &large, ["10.73.0.2", "10.73.0.3"]).await;
        let mean = mean_piece(&one, &other.netns, "10.73.0.3", USUAL);
        assert!(mean > USUAL && mean <= 131_072, "{mean} bytes");
        send(&one.netns, &lab.outside, "10.99.0.2");
    });
}

#[test]
fn a_size_that_was_changed_is_repaired() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let large = network_with(network("large", "br-large", "10.73.0.1/24"), |config| {
            config.gso_max_size = Some(131_072);
        });
        lab.networks.create_network(large.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&large.id, "10.73.0.2")], &[]);
        let one = lab.join(&spec).await;
        let port = lab.networks.sandbox(&spec.sandbox).unwrap();
        let port = port.attachments[0].host_interface.clone().unwrap();
        let shown = || {
            let inside = one.netns.run(|| sh("ip -d link show eth0")).unwrap();
            format!("{inside}\n{}", sh(&format!("ip -d link show {port}")))
        };
        let whole = |text: &str| text.matches("gso_max_size 131072").count() == 2;
        assert!(whole(&shown()), "{}", shown());
        let desired = [spec];
        for inside in [true, false] {
            let link = if inside { "eth0" } else { &port };
            let change = format!("ip link set {link} gso_max_size 65536");
            if inside {
                one.netns.run(|| sh(&change)).unwrap();
            } else {
                sh(&change);
            }
            assert!(!whole(&shown()), "{}", shown());
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert_eq!(repairs.restored.len(), 1, "{repairs:?}");
            assert!(whole(&shown()), "{}", shown());
            assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
        }
    });
}
