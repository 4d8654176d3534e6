//! Limits of bandwidth, measured with TCP.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, endpoint, network, sandbox, sh, with_subnets};
use sampan_net::{RateLimit, Repairs};
use sampan_sys::netns::NetNs;

/// How long a stream is measured.
const LONG: Duration = Duration::from_millis(2500);
/// What is let through before: what the bucket held.
const WARM_UP: Duration = Duration::from_millis(300);

/// How many bits a second one stream from a namespace to a server in another
/// one has.
fn measure(from: &NetNs, to: &NetNs, address: &str, port: u16) -> f64 {
    let listener = to.run(|| TcpListener::bind(("::", 0)).unwrap()).unwrap();
    let own = listener.local_addr().unwrap().port();
    let port = if port == 0 { own } else { port };
    let sink = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 16];
        let (begin, mut counted, mut since) = (Instant::now(), 0_usize, None);
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 {
                break;
            }
            if since.is_some() {
                counted += length;
            } else if begin.elapsed() > WARM_UP {
                since = Some(Instant::now());
            }
            if begin.elapsed() > LONG + WARM_UP {
                break;
            }
        }
        counted as f64 * 8.0 / since.unwrap().elapsed().as_secs_f64()
    });
    let target = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let mut stream = from.run(|| TcpStream::connect(target).unwrap()).unwrap();
    let chunk = vec![0; 1 << 16];
    while stream.write_all(&chunk).is_ok() {}
    sink.join().unwrap()
}

/// That a stream has what was wanted, within a tenth. A machine that does other
/// things holds up sender and receiver now and then, so one of a few has to.
fn assert_about(wanted: f64, what: &str, measured: impl Fn() -> f64) {
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let off = (measured() / wanted - 1.0) * 100.0;
        if off.abs() < 10.0 {
            return;
        }
        seen.push(format!("{off:.1} %"));
    }
    panic!("{what}: not {wanted:.0} bit/s, but off by {}", seen.join(", "));
}

#[test]
fn both_directions_are_limited() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let dual = with_subnets(network("dual", "br-dual", "10.70.0.1/24"), &["fd70::1/64"]);
        lab.networks.create_network(dual.clone()).await.unwrap();
        let mut slow = endpoint(&dual.id, "10.70.0.2 fd70::2");
        slow.rate = RateLimit { ingress: Some(30_000_000), egress: Some(60_000_000) };
        let slow = sandbox(vec![slow], &[]);
        let one = lab.join(&slow).await;
        let two = lab.join(&sandbox(vec![endpoint(&dual.id, "10.70.0.3 fd70::3")], &[])).await;
        assert_about(6e7, "sent to a neighbour", || {
            measure(&one.netns, &two.netns, "10.70.0.3", 0)
        });
        assert_about(3e7, "from a neighbour", || measure(&two.netns, &one.netns, "10.70.0.2", 0));
        assert_about(6e7, "sent by IPv6", || measure(&one.netns, &two.netns, "fd70::3", 0));
        assert_about(6e7, "sent outside", || measure(&one.netns, &lab.outside, "10.99.0.2", 0));
        let kept = lab.networks.reconcile(&[slow]).await.unwrap();
        assert_eq!(kept.restored, Repairs::default().restored, "the limits are as they shall be");
    });
}

#[test]
fn slow_and_fast_limits_hold() {
    lab::run(|| async {
        let lab = Lab::new().await;
        for (number, rate) in [(2, 6_000_000), (3, 400_000_000)] {
            let mut spec = lab.spec(&format!("172.17.0.{number}"), &[]);
            spec.endpoints[0].rate = RateLimit { ingress: Some(rate), egress: Some(rate) };
            let one = lab.join(&spec).await;
            let rate = rate as f64;
            assert_about(rate, "sent", || measure(&one.netns, &lab.outside, "10.99.0.2", 0));
            let host = NetNs::current().unwrap();
            let address = format!("172.17.0.{number}");
            assert_about(rate, "received", || measure(&host, &one.netns, &address, 0));
        }
    });
}

#[test]
fn limits_are_repaired() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mut spec = lab.spec("172.17.0.2", &[]);
        let rate = RateLimit { ingress: Some(10_000_000), egress: Some(20_000_000) };
        spec.endpoints[0].rate = rate;
        let one = lab.join(&spec).await;
        let port = || {
            let sandbox = lab.networks.sandbox(&spec.sandbox).unwrap();
            sandbox.attachments[0].host_interface.clone().unwrap()
        };
        let shown = || {
            let outside = sh(&format!("tc qdisc show dev {}", port()));
            outside + &one.netns.run(|| sh("tc qdisc show dev eth0")).unwrap()
        };
        assert!(shown().contains("rate 10Mbit") && shown().contains("rate 20Mbit"), "{}", shown());
        let before = shown();
        let desired = [spec.clone()];
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
        let outside = format!("tc qdisc delete dev {} root", port());
        let other =
            format!("tc qdisc replace dev {} root tbf rate 1mbit burst 9k limit 9k", port());
        for damage in [outside, other, format!("ip link delete {}", port())] {
            sh(&damage);
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert!(!repairs.restored.is_empty(), "{damage}: {repairs:?}");
            assert_eq!(strip(&shown()), strip(&before), "{damage}");
            assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
        }
        one.netns.run(|| sh("tc qdisc delete dev eth0 root")).unwrap();
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap().restored.len(), 1);
        assert_eq!(strip(&shown()), strip(&before));
        let unlimited = lab.join(&lab.spec("172.17.0.3", &[])).await;
        let none = unlimited.netns.run(|| sh("tc qdisc show dev eth0")).unwrap();
        assert!(none.contains("noqueue"), "{none}");
    });
}

/// Without reference counts.
fn strip(shown: &str) -> String {
    shown.split_whitespace().filter(|w| !w.starts_with("refcnt")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_limit_that_makes_no_sense_is_refused() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mut spec = lab.spec("172.17.0.2", &[]);
        spec.endpoints[0].rate = RateLimit { ingress: None, egress: Some(100) };
        let error = lab.networks.join(spec).await.unwrap_err().to_string();
        assert!(error.contains("100 bit/s for egress"), "{error}");
        assert_eq!(lab.leftovers().0, 0);
    });
}

/// A container on the LAN with limits, and the others on it.
#[test]
fn what_comes_in_by_the_lan_is_limited() {
    use sampan_net::{DriverConfig, MacvlanConfig, NetworkSpec, Subnet};

    lab::run(|| async {
        let lab = Lab::new().await;
        let subnet = |text: &str| {
            let net: ipnet::IpNet = text.parse().unwrap();
            Subnet { net: net.trunc(), gateway: net.addr() }
        };
        let subnets = vec![subnet("10.99.0.2/24"), subnet("fd99::2/64")];
        let options = [("parent".to_owned(), "lan0".to_owned())].into();
        let config = MacvlanConfig::parse("lan", &options, subnets, false).unwrap();
        let lan = NetworkSpec {
            id: sampan_types::NetworkId::random(),
            name: "lan".to_owned(),
            driver: DriverConfig::Macvlan(config),
        };
        lab.networks.create_network(lan.clone()).await.unwrap();
        let mut slow = endpoint(&lan.id, "10.99.0.50 fd99::50");
        slow.rate = RateLimit { ingress: Some(20_000_000), egress: Some(40_000_000) };
        let limited = slow.endpoint.clone();
        let spec = sandbox(vec![slow], &[]);
        let one = lab.join(&spec).await;
        let others = sandbox(vec![endpoint(&lan.id, "10.99.0.51")], &[]);
        let two = lab.join(&others).await;
        // The kernel hands broadcasts on when it has the time.
        lab::serve(&lab.outside, 7000);
        assert!((0..20).any(|_| one.ask(lab::OUTSIDE, 7000).is_some()));
        assert_about(2e7, "from the LAN", || measure(&lab.outside, &one.netns, "10.99.0.50", 0));
        assert_about(2e7, "from a neighbour", || measure(&two.netns, &one.netns, "10.99.0.50", 0));
        assert_about(2e7, "by IPv6", || measure(&lab.outside, &one.netns, "fd99::50", 0));
        assert_about(4e7, "sent", || measure(&one.netns, &lab.outside, "10.99.0.2", 0));

        let desired = [spec.clone(), others];
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
        let ifb = format!("ifb-{}", &limited.as_str()[..11]);
        for damage in [
            "tc qdisc delete dev eth0 clsact".to_owned(),
            format!("tc qdisc delete dev {ifb} root"),
            format!("ip link delete {ifb}"),
        ] {
            one.netns.run(|| sh(&damage)).unwrap();
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert_eq!(repairs.restored.len(), 1, "{damage}: {repairs:?}");
            assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
        }
        assert_about(2e7, "after repairs", || measure(&lab.outside, &one.netns, "10.99.0.50", 0));

        // It goes with its endpoint, also when that was interrupted.
        let links = || one.netns.run(|| sh("ip -o link | grep -c ifb- || true")).unwrap();
        lab.networks.disconnect(&spec.sandbox, &limited).await.unwrap();
        assert_eq!(links().trim(), "0");
        one.netns.run(|| sh("ip link add ifb-0123456789a type ifb")).unwrap();
        let mut bare = spec.clone();
        bare.endpoints.clear();
        let swept = lab.networks.reconcile(&[bare, desired[1].clone()]).await.unwrap();
        assert_eq!(swept.removed, ["link ifb-0123456789a"]);
        assert_eq!(links().trim(), "0");
    });
}
