//! Bridge networks with real packets: what is published is reached from
//! everywhere, what is not is not, and nothing is left behind.
#![allow(clippy::print_stdout)]

mod lab;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lab::{
    GATEWAY, HOST, Lab, OUTSIDE, ask, ask_from_host, ask_udp, endpoint, network, network_with,
    sandbox, serve, sh, udp,
};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn says(address: Ipv4Addr) -> Option<String> {
    Some(address.to_string())
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let web = lab.join(&lab.spec("172.17.0.2", &["8080:80", "127.0.0.1:8081:80"])).await;
        let other = lab.join(&lab.spec("172.17.0.3", &["10.99.0.1:8082:80"])).await;
        web.serve(80);
        other.serve(80);
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE), "the client's address is kept");
        assert_eq!(ask_from_host(HOST, 8080), says(HOST));
        assert_eq!(ask_from_host(GATEWAY, 8080), says(GATEWAY));
        assert_eq!(ask_from_host(LOCALHOST, 8080), says(GATEWAY));
        assert_eq!(ask_from_host(Ipv4Addr::new(127, 0, 0, 5), 8080), says(GATEWAY));
        assert_eq!(web.ask(HOST, 8080), says(GATEWAY), "from itself");
        assert_eq!(other.ask(HOST, 8080), says(GATEWAY), "from its neighbour");
        assert_eq!(other.ask(GATEWAY, 8080), says(GATEWAY));
        let direct = other.ask(Ipv4Addr::new(172, 17, 0, 2), 80);
        assert_eq!(direct, says(Ipv4Addr::new(172, 17, 0, 3)));
        // Published for one address only.
        assert_eq!(ask_from_host(LOCALHOST, 8081), says(GATEWAY));
        assert_eq!(ask_from_host(HOST, 8081), None);
        assert_eq!(ask(&lab.outside, HOST, 8081), None);
        assert_eq!(ask(&lab.outside, HOST, 8082), says(OUTSIDE));
        assert_eq!(ask_from_host(LOCALHOST, 8082), None);
        // By name and by no name: TCP only.
        assert_eq!(ask_udp(&udp(&lab.outside), HOST, 8080), None);
    });
}

#[test]
fn what_is_not_published_is_not_reached() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let address = Ipv4Addr::new(172, 17, 0, 2);
        let web = lab.join(&lab.spec("172.17.0.2", &["8080:80", "127.0.0.1:8081:81"])).await;
        for port in [80, 81, 82] {
            web.serve(port);
        }
        assert_eq!(ask_from_host(address, 82), says(GATEWAY), "the host itself may");
        for port in [80, 81, 82] {
            assert_eq!(ask(&lab.outside, address, port), None, "by direct routing, port {port}");
        }
        assert_eq!(ask(&lab.outside, HOST, 82), None);
        // A packet for 127.0.0.1 that comes by the wire.
        lab.outside
            .run(|| {
                sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
                sh("ip route add 127.0.0.1/32 via 10.99.0.1");
            })
            .unwrap();
        assert_eq!(ask(&lab.outside, LOCALHOST, 8081), None);
        let guarded = || sh("nft list chain inet sampan guard-from-docker0");
        assert!(guarded().contains("packets 0"), "{}", guarded());
        let here = sampan_sys::netns::NetNs::current().unwrap();
        serve(&here, 9000);
        assert_eq!(web.ask(GATEWAY, 9000), says(address), "a service of the host");
        web.netns
            .run(|| {
                sh("ip address flush dev lo");
                sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
                sh("ip route add 127.0.0.1/32 via 172.17.0.1");
            })
            .unwrap();
        assert_eq!(web.ask(LOCALHOST, 9000), None, "the host's loopback is its own");
        assert!(!guarded().contains("packets 0"), "{}", guarded());
    });
}

#[test]
fn containers_get_out_with_the_hosts_address() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let web = lab.join(&lab.spec("172.17.0.2", &[])).await;
        assert_eq!(web.ask(OUTSIDE, 7000), says(HOST));
        let plain = network_with(network("plain", "br-plain", "10.50.0.1/24"), |c| {
            c.masquerade = false;
        });
        lab.networks.create_network(plain.clone()).await.unwrap();
        let on_plain = lab.join(&sandbox(vec![endpoint(&plain.id, "10.50.0.2")], &[])).await;
        let own = Ipv4Addr::new(10, 50, 0, 2);
        assert_eq!(on_plain.ask(OUTSIDE, 7000), says(own), "without masquerade");
    });
}

#[test]
fn udp_flows_follow_the_container() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let client = udp(&lab.outside);
        assert_eq!(ask_udp(&client, HOST, 5300), None, "nobody there: the flow is known as such");
        let first = lab.spec("172.17.0.2", &["5300:53/udp"]);
        lab.join(&first).await.serve_udp(53);
        lab.networks.settle().await;
        assert_eq!(ask_udp(&client, HOST, 5300), says(OUTSIDE));
        lab.networks.leave(&first.sandbox).await.unwrap();
        let second = lab.spec("172.17.0.3", &["5300:53/udp"]);
        lab.join(&second).await.serve_udp(53);
        lab.networks.settle().await;
        assert_eq!(ask_udp(&client, HOST, 5300), says(OUTSIDE), "the same socket, the next one");
    });
}

#[test]
fn the_first_packet_is_not_lost() {
    lab::run(|| async {
        let lab = Lab::new().await;
        for i in 0..30 {
            let spec = lab.spec(&format!("172.17.1.{}", i + 1), &["8080:80"]);
            let web = lab.join(&spec).await;
            web.serve(80);
            // TCP would send it again after a second.
            assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE), "join {i}");
            lab.networks.leave(&spec.sandbox).await.unwrap();
            lab.networks.settle().await;
        }
    });
}

#[test]
fn an_address_is_reused_at_once() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let neighbour = lab.join(&lab.spec("172.17.0.9", &[])).await;
        let address = Ipv4Addr::new(172, 17, 0, 2);
        for _ in 0..5 {
            let spec = lab.spec("172.17.0.2", &["8080:80"]);
            lab.join(&spec).await.serve(80);
            assert_eq!(neighbour.ask(address, 80), says(Ipv4Addr::new(172, 17, 0, 9)));
            assert_eq!(ask_from_host(address, 80), says(GATEWAY));
            assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE));
            lab.networks.leave(&spec.sandbox).await.unwrap();
            assert_eq!(ask_from_host(HOST, 8080), None);
        }
    });
}

#[test]
fn leaving_leaves_nothing() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let clean = sh("nft list table inet sampan");
        let spec = lab.spec("172.17.0.2", &["8080:80", "8080:80/udp"]);
        let container = lab.join(&spec).await;
        assert_eq!(lab.leftovers(), (1, 1, "2\n".to_owned()));
        let link = lab.networks.sandbox(&spec.sandbox).unwrap();
        assert_eq!(link.attachments[0].interface.as_deref(), Some("eth0"));
        lab.networks.leave(&spec.sandbox).await.unwrap();
        lab.networks.leave(&spec.sandbox).await.unwrap();
        lab.networks.settle().await;
        assert_eq!(lab.leftovers(), (0, 0, "0\n".to_owned()));
        drop(container);
        // A failure takes everything back: the second address is nobody's.
        let mut wrong = lab.spec("172.17.0.2", &["8080:80"]);
        wrong.endpoints.push(endpoint(&lab.bridge, "172.17.0.3"));
        wrong.sysctls.insert("net.ipv4.no_such_thing".to_owned(), "1".to_owned());
        let error = lab.networks.join(wrong).await.unwrap_err();
        assert!(error.to_string().contains("no_such_thing"), "{error}");
        lab.networks.settle().await;
        assert_eq!(lab.leftovers(), (0, 0, "0\n".to_owned()));
        assert_eq!(strip_counters(&sh("nft list table inet sampan")), strip_counters(&clean));
    });
}

#[test]
fn kernel_parameters_are_set_inside() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mut spec = lab.spec("172.17.0.2", &[]);
        let name = "net.ipv4.ip_unprivileged_port_start";
        spec.sysctls.insert(name.to_owned(), "0".to_owned());
        let web = lab.join(&spec).await;
        let inside = web.netns.run(|| sampan_sys::sysctl::read(name).unwrap()).unwrap();
        assert_eq!(inside, "0");
        spec.sysctls.insert("kernel.hostname".to_owned(), "x".to_owned());
        let error = lab.networks.join(spec).await.unwrap_err().to_string();
        assert!(error.contains("kernel.hostname"), "{error}");
    });
}

#[test]
fn networks_are_kept_apart() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        let shy = network_with(network("shy", "br-shy", "10.61.0.1/24"), |c| c.icc = false);
        let inner = network_with(network("inner", "br-inner", "10.62.0.1/24"), |c| {
            c.internal = true;
        });
        for spec in [&red, &shy, &inner] {
            lab.networks.create_network(spec.clone()).await.unwrap();
            lab.networks.create_network(spec.clone()).await.unwrap();
        }
        let same = network("copy", "br-copy", "10.60.0.129/25");
        let error = lab.networks.create_network(same).await.unwrap_err().to_string();
        assert!(error.contains("already used by network red"), "{error}");
        serve(&lab.outside, 7000);
        let web = lab.join(&lab.spec("172.17.0.2", &["8080:80"])).await;
        web.serve(80);
        let of = |id, address: &str| sandbox(vec![endpoint(id, address)], &[]);
        let on_red = lab.join(&of(&red.id, "10.60.0.2")).await;
        let on_shy = lab.join(&of(&shy.id, "10.61.0.2")).await;
        let shy_spec = sandbox(vec![endpoint(&shy.id, "10.61.0.3")], &["8083:80"]);
        lab.join(&shy_spec).await.serve(80);
        let on_inner = lab.join(&of(&inner.id, "10.62.0.2")).await;
        let inner_too = lab.join(&of(&inner.id, "10.62.0.3")).await;
        inner_too.serve(80);
        on_inner.serve(80);
        let web_address = Ipv4Addr::new(172, 17, 0, 2);
        assert_eq!(on_red.ask(web_address, 80), None, "another network");
        assert_eq!(on_red.ask(OUTSIDE, 7000), says(HOST));
        assert!(on_red.ask(HOST, 8080).is_some(), "another network's published port");
        assert_eq!(on_shy.ask(Ipv4Addr::new(10, 61, 0, 3), 80), None, "icc is off");
        if sh("cat /proc/sys/net/bridge/bridge-nf-call-iptables || true").trim() != "1" {
            assert!(on_shy.ask(HOST, 8083).is_some(), "but published");
        }
        assert_eq!(
            on_inner.ask(Ipv4Addr::new(10, 62, 0, 3), 80),
            says(Ipv4Addr::new(10, 62, 0, 2))
        );
        assert_eq!(on_inner.ask(OUTSIDE, 7000), None, "internal");
        on_inner.netns.run(|| sh("ip route add default via 10.62.0.1")).unwrap();
        assert_eq!(on_inner.ask(OUTSIDE, 7000), None, "internal, with a route");
        assert_eq!(on_inner.ask(web_address, 80), None);
        assert_eq!(ask(&lab.outside, Ipv4Addr::new(10, 62, 0, 2), 80), None);
        assert!(lab.networks.delete_network(&red.id).await.is_err(), "in use");
    });
}

#[test]
fn networks_come_and_go() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let before = strip_counters(&sh("nft list table inet sampan"));
        let red = network("red", "br-red", "10.60.0.1/24");
        for _ in 0..3 {
            lab.networks.create_network(red.clone()).await.unwrap();
            assert!(sh("ip -4 address show br-red").contains("10.60.0.1/24"));
            lab.networks.delete_network(&red.id).await.unwrap();
            assert!(!sh("ip -4 route").contains("10.60.0.0"));
        }
        lab.networks.delete_network(&red.id).await.unwrap();
        lab.networks.settle().await;
        assert!(!sh("ip -br link").contains("br-red"));
        assert_eq!(strip_counters(&sh("nft list table inet sampan")), before);
        sh("ip link add mine type bridge");
        let mine = network("mine", "mine", "10.63.0.1/24");
        lab.networks.create_network(mine.clone()).await.unwrap();
        lab.networks.delete_network(&mine.id).await.unwrap();
        lab.networks.settle().await;
        assert!(sh("ip -br link").contains("mine"), "a bridge of somebody else stays");
        sh("ip link add thing type veth peer name thong");
        let error = lab.networks.create_network(network("thing", "thing", "10.64.0.1/24")).await;
        assert!(error.unwrap_err().to_string().contains("is no bridge"));
    });
}

#[test]
fn endpoints_come_and_go() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        lab.networks.create_network(red.clone()).await.unwrap();
        let spec = lab.spec("172.17.0.2", &["8080:80"]);
        let web = lab.join(&spec).await;
        web.serve(80);
        let peer = lab.join(&sandbox(vec![endpoint(&red.id, "10.60.0.3")], &[])).await;
        let second = endpoint(&red.id, "10.60.0.2");
        let attachment = lab.networks.connect(&spec.sandbox, second.clone()).await.unwrap();
        assert_eq!(attachment.interface.as_deref(), Some("eth1"));
        assert_eq!(lab.networks.connect(&spec.sandbox, second.clone()).await.unwrap(), attachment);
        let own = Ipv4Addr::new(10, 60, 0, 2);
        assert_eq!(peer.ask(own, 80), says(Ipv4Addr::new(10, 60, 0, 3)));
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE));
        let first = &spec.endpoints[0].endpoint;
        lab.networks.disconnect(&spec.sandbox, first).await.unwrap();
        lab.networks.disconnect(&spec.sandbox, first).await.unwrap();
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE), "by the other network now");
        serve(&lab.outside, 7000);
        assert_eq!(web.ask(OUTSIDE, 7000), says(HOST));
        lab.networks.disconnect(&spec.sandbox, &second.endpoint).await.unwrap();
        assert_eq!(ask(&lab.outside, HOST, 8080), None);
        lab.networks.leave(&spec.sandbox).await.unwrap();
    });
}

#[test]
fn joins_are_fast_and_run_side_by_side() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mut times: Vec<Duration> = Vec::new();
        let mut leaves: Vec<Duration> = Vec::new();
        for i in 0..40 {
            let spec = lab.spec(&format!("172.17.1.{}", i + 1), &[&format!("{}:80", 9000 + i)]);
            let start = Instant::now();
            lab.join(&spec).await;
            times.push(start.elapsed());
            let start = Instant::now();
            lab.networks.leave(&spec.sandbox).await.unwrap();
            leaves.push(start.elapsed());
            lab.networks.settle().await;
        }
        times.sort();
        leaves.sort();
        let specs: Vec<_> = (0..50)
            .map(|i| lab.spec(&format!("172.17.2.{}", i + 1), &[&format!("{}:80", 9100 + i)]))
            .collect();
        let start = Instant::now();
        let tasks: Vec<_> = specs
            .iter()
            .cloned()
            .map(|spec| {
                let networks = lab.networks.clone();
                tokio::spawn(async move { networks.join(spec).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let fifty = start.elapsed();
        println!(
            "join p50 {:?} max {:?}; leave p50 {:?}; 50 joins side by side {fifty:?}",
            times[20], times[39], leaves[20]
        );
        let start = Instant::now();
        for spec in &specs {
            lab.networks.leave(&spec.sandbox).await.unwrap();
        }
        let left = start.elapsed();
        lab.networks.settle().await;
        println!("50 leaves {left:?}, gone from the kernel after {:?}", start.elapsed());
        assert_eq!(lab.leftovers(), (0, 0, "0\n".to_owned()));
        let many: Vec<String> = (0..500).map(|i| format!("{}:80", 10000 + i)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let spec = lab.spec("172.17.3.1", &many);
        let start = Instant::now();
        lab.join(&spec).await;
        println!("join with 500 ports {:?}", start.elapsed());
    });
}

fn strip_counters(text: &str) -> String {
    let mut out = String::new();
    let mut words = text.split_inclusive(char::is_whitespace);
    while let Some(word) = words.next() {
        out.push_str(word);
        if matches!(word.trim(), "packets" | "bytes") {
            words.next();
            out.push_str("0 ");
        }
    }
    out
}

#[test]
fn the_ruleset_is_the_golden_one() {
    lab::run(|| async {
        // As on a host without br_netfilter, whether or not there is one.
        sh("f=/proc/sys/net/bridge/bridge-nf-call-ip6tables; test ! -e $f || echo 0 > $f");
        let lab = Lab::new().await;
        let inner = network_with(network("inner", "br-inner", "10.62.0.1/24"), |c| {
            c.internal = true;
            c.icc = false;
        });
        lab.networks.create_network(inner).await.unwrap();
        let mut spec = lab.spec("172.17.0.2", &["8080:80", "127.0.0.1:5300:53/udp"]);
        spec.container = "c0ffee".repeat(11)[..64].parse().unwrap();
        lab.join(&spec).await;
        let text = strip_counters(&sh("nft list table inet sampan"));
        let path = lab::golden("ruleset.nft");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap());
    });
}
