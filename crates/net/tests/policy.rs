//! Network policies with real packets: what a rule says holds on every way,
//! for the flows that exist as for those that come, whether or not the kernel
//! shows bridged packets to the host's filter.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{
    Container, GATEWAY, HOST, Lab, OUTSIDE, ask, ask_from_host, ask_udp, endpoint, network,
    sandbox, serve, sh, udp,
};
use sampan_net::policy::{Action, Direction, Peer, PolicyRule, PortMatch};
use sampan_net::{DriverConfig, Protocol, SandboxSpec, Subnet};
use sampan_sys::netns::NetNs;

const A: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
const C: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 4);

fn rule(name: &str, direction: Direction, subject: Ipv4Addr, action: Action) -> PolicyRule {
    PolicyRule {
        name: name.to_owned(),
        subjects: vec![subject.into()],
        direction,
        peers: None,
        ports: Vec::new(),
        action,
    }
}

fn deny(direction: Direction, subject: Ipv4Addr) -> PolicyRule {
    rule("deny", direction, subject, Action::Deny)
}

fn allow(direction: Direction, subject: Ipv4Addr) -> PolicyRule {
    rule("allow", direction, subject, Action::Allow)
}

fn with(mut rule: PolicyRule, peers: &[&str], ports: &[&str]) -> PolicyRule {
    if !peers.is_empty() {
        rule.peers = Some(peers.iter().map(|p| peer(p)).collect());
    }
    rule.ports = ports
        .iter()
        .map(|text| {
            let (protocol, port) = text.split_once('/').unwrap();
            let (first, last) = port.split_once('-').unwrap_or((port, port));
            let ports = first.parse().unwrap()..=last.parse().unwrap();
            PortMatch { protocol: protocol.parse::<Protocol>().unwrap(), ports }
        })
        .collect();
    rule
}

fn peer(text: &str) -> Peer {
    match (text, text.parse::<ipnet::IpNet>(), text.parse::<IpAddr>()) {
        ("host", ..) => Peer::Host,
        (_, Ok(net), _) => Peer::Net(net),
        (_, _, Ok(address)) => Peer::Net(address.into()),
        _ => Peer::Name(text.to_owned()),
    }
}

/// Makes the kernel show bridged packets to the host's filter, or not.
fn show_bridged(yes: bool) {
    let value = if yes { "1" } else { "0" };
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        // Absent where the module is: then nothing is shown.
        let _ = std::fs::write(format!("/proc/sys/net/bridge/{name}"), value);
    }
}

/// Two containers on the default bridge, which serve port 80 and 81.
async fn pair(lab: &Lab) -> (Container, Container) {
    let a = lab.join(&lab.spec("172.17.0.2", &["8080:80"])).await;
    let b = lab.join(&lab.spec("172.17.0.3", &[])).await;
    for container in [&a, &b] {
        container.serve(80);
        container.serve(81);
        container.serve_udp(90);
    }
    (a, b)
}

fn reached(from: &Container, to: Ipv4Addr, port: u16) -> bool {
    from.ask(to, port).is_some()
}

/// As [`reached`], with the patience that a busy machine needs.
fn gets(from: &Container, to: Ipv4Addr, port: u16) -> bool {
    (0..10).any(|_| reached(from, to, port))
}

/// Whether port 80 of the first container is reached, which is expected or not.
fn way(from: &Container, expected: bool) -> bool {
    if expected { gets(from, A, 80) } else { reached(from, A, 80) }
}

#[test]
fn neighbours_on_a_bridge_are_kept_apart_and_let_together() {
    for bridged in [true, false] {
        lab::run(|| async move {
            show_bridged(bridged);
            let lab = Lab::new().await;
            let (a, b) = pair(&lab).await;
            assert!(gets(&a, B, 80) && gets(&b, A, 80));
            // What a sends.
            lab.networks.set_policies(vec![deny(Direction::Egress, A)]).await.unwrap();
            assert!(!reached(&a, B, 80), "bridged packets shown: {bridged}");
            assert!(gets(&b, A, 80), "answers are not what a begins");
            assert_eq!(ask_udp(&udp(&a.netns), B, 90), None);
            assert_eq!(ask_udp(&udp(&b.netns), A, 90), Some(B.to_string()));
            // What a receives, and of that not all.
            let rules = vec![
                with(allow(Direction::Ingress, A), &["172.17.0.3"], &["tcp/80", "udp/85-95"]),
                deny(Direction::Ingress, A),
            ];
            lab.networks.set_policies(rules).await.unwrap();
            assert!(gets(&a, B, 80) && gets(&b, A, 80));
            assert!(!reached(&b, A, 81));
            assert_eq!(ask_udp(&udp(&b.netns), A, 90), Some(B.to_string()));
            let c = lab.join(&lab.spec("172.17.0.4", &[])).await;
            assert!(!reached(&c, A, 80) && gets(&c, B, 80), "who is not allowed");
            assert!(lab.networks.under_policy(A.into()) && !lab.networks.under_policy(B.into()));
            let counts = lab.networks.policy_counts().await.unwrap();
            assert!(counts.iter().all(|c| c.packets > 0), "{counts:?}");
            assert_eq!(
                counts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
                ["allow", "deny"]
            );
            // Nothing is left of policies without policies.
            lab.networks.set_policies(Vec::new()).await.unwrap();
            assert!(gets(&c, A, 81));
            assert!(!sh("nft list tables").contains("policy"));
        });
    }
}

#[test]
fn every_way_in_and_out_is_judged() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        serve(&lab.outside, 7001);
        let here = NetNs::current().unwrap();
        serve(&here, 9000);
        let (a, _b) = pair(&lab).await;
        let other = network("other", "br-other", "10.50.0.1/24");
        lab.networks.create_network(other.clone()).await.unwrap();
        let away = sandbox(vec![endpoint(&other.id, "10.50.0.2")], &["9090:80"]);
        let away = lab.join(&away).await;
        away.serve(80);
        assert!(gets(&a, OUTSIDE, 7000) && gets(&a, HOST, 9000) && gets(&a, HOST, 9090));
        // Out: to one address and port only.
        let rules = vec![
            with(allow(Direction::Egress, A), &["10.99.0.2"], &["tcp/7000"]),
            deny(Direction::Egress, A),
        ];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(gets(&a, OUTSIDE, 7000));
        assert!(!reached(&a, OUTSIDE, 7001));
        assert!(!reached(&a, HOST, 9000) && !reached(&a, GATEWAY, 9000), "the host itself");
        assert!(!reached(&a, HOST, 9090), "a published port of another network");
        assert!(ask(&lab.outside, HOST, 8080).is_some(), "the way in is not the way out");
        // The host, by name of its own.
        let rules =
            vec![with(allow(Direction::Egress, A), &["host"], &[]), deny(Direction::Egress, A)];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(gets(&a, HOST, 9000) && gets(&a, GATEWAY, 9000));
        assert!(!reached(&a, OUTSIDE, 7000));
        assert!(!reached(&a, HOST, 9090), "behind the host's port is no host");
        // In: by who the client is and by the container's own port.
        let rules = vec![
            with(allow(Direction::Ingress, A), &["10.99.0.2"], &["tcp/80"]),
            deny(Direction::Ingress, A),
        ];
        lab.networks.set_policies(rules).await.unwrap();
        assert_eq!(ask(&lab.outside, HOST, 8080), Some(OUTSIDE.to_string()));
        assert_eq!(ask_from_host(HOST, 8080), None);
        assert_eq!(ask_from_host(A, 80), None);
        assert!(!reached(&away, HOST, 8080), "a container of another network");
        let rules =
            vec![with(allow(Direction::Ingress, A), &["host"], &[]), deny(Direction::Ingress, A)];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(ask_from_host(A, 80).is_some() && ask_from_host(HOST, 8080).is_some());
        assert!(ask_from_host(Ipv4Addr::LOCALHOST, 8080).is_some());
        assert_eq!(ask(&lab.outside, HOST, 8080), None);
        // Several networks and the published way between them.
        let rules = vec![with(deny(Direction::Ingress, A), &["10.50.0.0/24"], &[])];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(!reached(&away, HOST, 8080) && ask(&lab.outside, HOST, 8080).is_some());
    });
}

/// A connection on which one line after another is echoed.
fn talk(from: &NetNs, to: &NetNs, address: SocketAddr) -> TcpStream {
    let listener = to.run(|| TcpListener::bind(address).unwrap()).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let stream = from.run(|| TcpStream::connect(address).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    stream
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

#[test]
fn flows_that_exist_stop_and_go_on_with_the_rules() {
    for bridged in [true, false] {
        lab::run(|| async move {
            show_bridged(bridged);
            let lab = Lab::new().await;
            let (a, b) = pair(&lab).await;
            let mut denied = talk(&a.netns, &b.netns, (B, 700).into());
            let mut kept = talk(&a.netns, &b.netns, (B, 701).into());
            let mut inward = talk(&b.netns, &a.netns, (A, 702).into());
            assert!(echoes(&mut denied) && echoes(&mut kept) && echoes(&mut inward));
            let rules = vec![with(deny(Direction::Egress, A), &[], &["tcp/700"])];
            // The fastest of some: other tests run at the same time.
            let mut fastest = Duration::MAX;
            for _ in 0..5 {
                lab.networks.set_policies(Vec::new()).await.unwrap();
                let began = Instant::now();
                lab.networks.set_policies(rules.clone()).await.unwrap();
                fastest = fastest.min(began.elapsed());
            }
            let bar = Duration::from_millis(100) * sampan_testkit::busy();
            assert!(fastest < bar, "{fastest:?}");
            assert!(!echoes(&mut denied), "bridged packets shown: {bridged}");
            assert!(echoes(&mut kept) && echoes(&mut inward));
            lab.networks.set_policies(Vec::new()).await.unwrap();
            denied.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut byte = [0];
            assert!(denied.read_exact(&mut byte).is_ok(), "the lost byte is sent again");
            assert!(echoes(&mut kept) && echoes(&mut inward));
        });
    }
}

#[test]
fn nothing_passes_before_the_first_rule_of_a_new_endpoint() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let b = lab.join(&lab.spec("172.17.0.3", &[])).await;
        lab.networks.set_policies(vec![deny(Direction::Ingress, A)]).await.unwrap();
        // Somebody knocks all the time, while the endpoint comes into being;
        // the kernel would refuse the connection at once.
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let knocker = thread::spawn(move || {
            b.netns.run(|| {
                let mut answers = 0;
                while !ended.load(Ordering::Relaxed) {
                    let address = SocketAddr::from((A, 81));
                    let refused = TcpStream::connect_timeout(&address, Duration::from_millis(20));
                    let kind = refused.map(|_| ()).map_err(|e| e.kind());
                    answers += usize::from(kind == Err(std::io::ErrorKind::ConnectionRefused));
                }
                answers
            })
        });
        for _ in 0..10 {
            let spec = lab.spec("172.17.0.2", &[]);
            lab.join(&spec).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            lab.networks.leave(&spec.sandbox).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(knocker.join().unwrap().unwrap(), 0, "a refusal is a packet that passed");
    });
}

#[test]
fn a_container_under_policy_can_not_be_another() {
    lab::run(|| async {
        show_bridged(false);
        let lab = Lab::new().await;
        let (a, b) = pair(&lab).await;
        lab.networks.set_policies(vec![deny(Direction::Egress, A)]).await.unwrap();
        a.netns.run(|| sh("ip address add 172.17.0.77/16 dev eth0")).unwrap();
        let from = |address: &str| {
            let socket = a.netns.run(|| UdpSocket::bind(format!("{address}:0")).unwrap()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            ask_udp(&socket, B, 90)
        };
        assert_eq!(from("172.17.0.77"), None, "an address that nobody gave it");
        // Nor by a frame to everybody, with an address of one in it.
        let everybody = "ff:ff:ff:ff:ff:ff";
        a.netns
            .run(|| sh(&format!("ip neigh replace 172.17.0.3 lladdr {everybody} dev eth0")))
            .unwrap();
        assert_eq!(from("172.17.0.2"), None);
        // And nobody reaches it so.
        lab.networks.set_policies(vec![deny(Direction::Ingress, A)]).await.unwrap();
        b.netns
            .run(|| sh(&format!("ip neigh replace 172.17.0.2 lladdr {everybody} dev eth0")))
            .unwrap();
        assert_eq!(ask_udp(&udp(&b.netns), A, 90), None);
        assert_eq!(ask_udp(&udp(&a.netns), GATEWAY, 1), None);
    });
}

#[test]
fn broadcasts_are_judged_as_well() {
    lab::run(|| async {
        show_bridged(false);
        let lab = Lab::new().await;
        let (a, b) = pair(&lab).await;
        let listener = b.netns.run(|| UdpSocket::bind("0.0.0.0:95").unwrap()).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let sender = a.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        sender.set_broadcast(true).unwrap();
        let arrives = || {
            sender.send_to(b"x", "172.17.255.255:95").unwrap();
            listener.recv(&mut [0; 8]).is_ok()
        };
        assert!(arrives());
        let rules = vec![with(deny(Direction::Egress, A), &["172.17.0.3"], &[])];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(arrives(), "nothing is said about broadcasts");
        let rules = vec![with(deny(Direction::Egress, A), &[], &["udp/95"])];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(!arrives());
        let rules = vec![with(deny(Direction::Ingress, B), &["172.17.0.2"], &[])];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(!arrives());
        let rules = vec![with(deny(Direction::Ingress, B), &["172.17.0.4"], &[])];
        lab.networks.set_policies(rules).await.unwrap();
        assert!(arrives());
    });
}

#[test]
fn ipv6_is_judged_like_ipv4() {
    lab::run(|| async {
        show_bridged(false);
        let lab = Lab::new().await;
        let mut six = network("six", "br-six", "10.60.0.1/24");
        if let DriverConfig::Bridge(config) = &mut six.driver {
            let net = "fd00:60::/64".parse().unwrap();
            config.subnets.push(Subnet { net, gateway: "fd00:60::1".parse().unwrap() });
        }
        lab.networks.create_network(six.clone()).await.unwrap();
        let join = async |four: &str, six_address: &str| {
            let mut spec = endpoint(&six.id, four);
            spec.addresses.push(six_address.parse().unwrap());
            lab.join(&sandbox(vec![spec], &[])).await
        };
        let a = join("10.60.0.2", "fd00:60::2").await;
        let b = join("10.60.0.3", "fd00:60::3").await;
        let (at_a, at_b): (Ipv6Addr, Ipv6Addr) =
            ("fd00:60::2".parse().unwrap(), "fd00:60::3".parse().unwrap());
        for (container, address) in [(&a, at_a), (&b, at_b)] {
            let listener =
                container.netns.run(|| TcpListener::bind((address, 80)).unwrap()).unwrap();
            thread::spawn(move || {
                while let Ok((mut stream, peer)) = listener.accept() {
                    let _ = stream.write_all(peer.ip().to_string().as_bytes());
                }
            });
        }
        assert_eq!(a.ask(at_b, 80), Some(at_a.to_string()));
        let mut rule = deny(Direction::Egress, A);
        rule.subjects = vec![at_a.into()];
        lab.networks.set_policies(vec![rule.clone()]).await.unwrap();
        assert_eq!(a.ask(at_b, 80), None);
        assert_eq!(b.ask(at_a, 80), Some(at_b.to_string()));
        rule.peers = Some(vec![peer("fd00:60::4/126")]);
        lab.networks.set_policies(vec![rule.clone()]).await.unwrap();
        assert_eq!(a.ask(at_b, 80), Some(at_a.to_string()), "by the host, and allowed");
        rule.peers = Some(vec![peer("fd00:60::/126")]);
        lab.networks.set_policies(vec![rule]).await.unwrap();
        assert_eq!(a.ask(at_b, 80), None);
    });
}

#[test]
fn a_container_leaves_the_host_with_the_address_of_its_own() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        serve(&lab.outside, 7001);
        sh("ip address add 10.99.0.50/24 dev lan0");
        let (a, b) = pair(&lab).await;
        let source = Action::Source("10.99.0.50".parse().unwrap());
        let rules = vec![with(rule("own", Direction::Egress, A, source), &[], &["tcp/7000"])];
        lab.networks.set_policies(rules).await.unwrap();
        assert_eq!(a.ask(OUTSIDE, 7000), Some("10.99.0.50".to_owned()));
        assert_eq!(a.ask(OUTSIDE, 7001), Some(HOST.to_string()));
        assert_eq!(b.ask(OUTSIDE, 7000), Some(HOST.to_string()));
        assert_eq!(a.ask(B, 80), Some(A.to_string()), "between containers nothing changes");
        let other = network("other", "br-other", "10.50.0.1/24");
        lab.networks.create_network(other.clone()).await.unwrap();
        let counts = lab.networks.policy_counts().await.unwrap();
        assert_eq!((counts.len(), counts[0].packets), (1, 1), "{counts:?}");
    });
}

#[test]
fn what_is_denied_is_counted_for_the_container_that_a_policy_is_about() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let (of_a, of_b) = (lab.spec("172.17.0.2", &[]), lab.spec("172.17.0.3", &[]));
        let (a, b) = (lab.join(&of_a).await, lab.join(&of_b).await);
        for container in [&a, &b] {
            container.serve(80);
            container.serve(81);
            container.serve_udp(90);
        }
        // What was denied to a and to b, in packets.
        let denied = async || {
            let stats = lab.networks.stats(None).await.unwrap();
            let of = |spec: &SandboxSpec| {
                let own = stats.iter().find(|s| s.sandbox == spec.sandbox).unwrap();
                assert_eq!(own.denied.packets == 0, own.denied.bytes == 0);
                own.denied.packets
            };
            (of(&of_a), of(&of_b))
        };
        assert_eq!(denied().await, (0, 0), "there is no policy");
        let sends = with(deny(Direction::Egress, A), &["172.17.0.3"], &["tcp/80", "udp/90"]);
        lab.networks.set_policies(vec![sends.clone()]).await.unwrap();
        assert!(!reached(&a, B, 80) && gets(&a, B, 81) && gets(&b, A, 80));
        let (first, none) = denied().await;
        assert!(first > 0 && none == 0, "{first} {none}");
        assert_eq!(ask_udp(&udp(&a.netns), B, 90), None);
        let (second, none) = denied().await;
        assert!(second > first && none == 0, "{second} {none}");
        // Another policy, about the other one, who receives.
        let mut receives = with(deny(Direction::Ingress, B), &[], &["tcp/81"]);
        receives.peers = None;
        receives.name = "receives".to_owned();
        lab.networks.set_policies(vec![sends, receives.clone()]).await.unwrap();
        assert_eq!(denied().await, (second, 0), "figures go on");
        assert!(!reached(&a, B, 81));
        let (same, received) = denied().await;
        assert!(same == second && received > 0, "{same} {received}");
        // Who is no longer under policy has no figures.
        lab.networks.set_policies(vec![receives]).await.unwrap();
        assert_eq!(denied().await, (0, received));
        lab.networks.set_policies(Vec::new()).await.unwrap();
        assert_eq!(denied().await, (0, 0));
    });
}

#[test]
fn names_are_allowed_by_the_addresses_that_were_told() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let (a, _b) = pair(&lab).await;
        let rules = vec![
            with(allow(Direction::Egress, A), &["*.example.org", "example.org"], &[]),
            deny(Direction::Egress, A),
        ];
        lab.networks.set_policies(rules.clone()).await.unwrap();
        assert!(!reached(&a, OUTSIDE, 7000));
        let add = |timeout: &str| {
            let element = format!("{OUTSIDE} timeout {timeout}");
            sh(&format!("nft add element inet sampan-policy wild4.example.org '{{ {element} }}'"));
        };
        add("5s");
        let mut stream = talk(&a.netns, &lab.outside, (OUTSIDE, 7002).into());
        assert!(gets(&a, OUTSIDE, 7000));
        // The address is forgotten, the flow that it allowed is not.
        let forgotten = || !sh("nft list table inet sampan-policy").contains("10.99.0.2 ");
        while !forgotten() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!reached(&a, OUTSIDE, 7000));
        assert!(echoes(&mut stream));
        // What was told outlives other changes, and is no difference.
        add("1h");
        let mut more = rules;
        more.insert(0, with(allow(Direction::Ingress, A), &["host"], &[]));
        more[0].name = "more".to_owned();
        lab.networks.set_policies(more).await.unwrap();
        assert!(gets(&a, OUTSIDE, 7000));
        assert!(echoes(&mut stream));
        lab.networks.set_policies(Vec::new()).await.unwrap();
        assert!(gets(&a, OUTSIDE, 7000));
    });
}

#[test]
fn what_somebody_flushes_is_there_again_and_a_restart_interrupts_nothing() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let a = lab.spec("172.17.0.2", &[]);
        let b = lab.spec("172.17.0.3", &[]);
        let (in_a, in_b) = (lab.join(&a).await, lab.join(&b).await);
        in_b.serve(80);
        in_a.serve(80);
        let rules = vec![with(deny(Direction::Egress, A), &["172.17.0.3"], &["tcp/80"])];
        lab.networks.set_policies(rules.clone()).await.unwrap();
        assert!(!reached(&in_a, B, 80));
        let before = sh("nft -n list ruleset");
        sh("nft flush ruleset");
        assert!(gets(&in_b, A, 80));
        lab.networks.reconcile(&[a.clone(), b.clone()]).await.unwrap();
        assert!(!reached(&in_a, B, 80));
        let figures = |text: &str| {
            let lines = text.lines().map(|l| l.split(" packets ").next().unwrap_or(l).to_owned());
            let mut lines: Vec<String> = lines.collect();
            lines.sort();
            lines
        };
        assert_eq!(figures(&before), figures(&sh("nft -n list ruleset")));
        // Another process opens: the policies stay, before it knows them.
        let names = Box::new(sampan_net::names::NoNames);
        let again = sampan_net::Networks::open(lab.config.clone(), names).await.unwrap();
        assert!(!reached(&in_a, B, 80));
        again.prepare_policies(rules);
        assert!(!reached(&in_a, B, 80));
        let counted = |networks: sampan_net::Networks| async move {
            networks.policy_counts().await.unwrap()[0].packets
        };
        let packets = counted(again.clone()).await;
        assert!(packets > 0);
        again.reconcile(&[a.clone(), b]).await.unwrap();
        assert!(counted(again.clone()).await >= packets, "nothing was replaced");
        assert!(!reached(&in_a, B, 80));
        again.leave(&a.sandbox).await.unwrap();
        assert!(!sh("nft list table bridge sampan-policy").contains("172.17.0.2"));
    });
}

#[test]
fn changes_of_addresses_are_changes_of_elements() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let (a, b) = pair(&lab).await;
        let c = lab.join(&lab.spec("172.17.0.4", &[])).await;
        let rules = |peers: &[&str]| {
            vec![
                with(allow(Direction::Ingress, A), peers, &["tcp/80"]),
                deny(Direction::Ingress, A),
            ]
        };
        lab.networks.set_policies(rules(&["172.17.0.3"])).await.unwrap();
        assert!(gets(&b, A, 80) && !reached(&c, A, 80));
        let handles = || sh("nft -a list chain inet sampan-policy ingress | grep -o 'handle.*'");
        let before = handles();
        for (peers, of_b, of_c) in [
            (vec!["172.17.0.3", "172.17.0.4"], true, true),
            (vec!["172.17.0.4"], false, true),
            (vec!["172.17.0.0/16"], true, true),
            (vec!["172.17.0.3/32", "10.0.0.0/8"], true, false),
        ] {
            lab.networks.set_policies(rules(&peers)).await.unwrap();
            assert_eq!((way(&b, of_b), way(&c, of_c)), (of_b, of_c), "{peers:?}");
            assert_eq!(handles(), before, "{peers:?}");
        }
        let _ = (a, C);
    });
}

#[test]
fn what_can_not_be_enforced_is_refused() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let bare = lab::network_with(network("bare", "br-bare", "10.50.0.1/24"), |c| {
            c.inhibit_ipv4 = true;
        });
        lab.networks.create_network(bare.clone()).await.unwrap();
        let subject = Ipv4Addr::new(10, 50, 0, 2);
        let rules = vec![deny(Direction::Egress, subject)];
        // Before the container is there, and when it is.
        lab.networks.set_policies(rules.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&bare.id, "10.50.0.2")], &[]);
        let refused = lab.networks.join(spec.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("policy deny on network bare"), "{refused}");
        lab.networks.set_policies(Vec::new()).await.unwrap();
        lab.networks.join(spec).await.unwrap();
        let refused = lab.networks.set_policies(rules).await.unwrap_err().to_string();
        assert!(refused.contains("policy deny on network bare"), "{refused}");
        // Another address of its own needs no way by the host.
        let source = Action::Source("10.99.0.50".parse().unwrap());
        let rules = vec![rule("own", Direction::Egress, subject, source)];
        lab.networks.set_policies(rules).await.unwrap();
    });
}

#[test]
fn a_table_that_somebody_removes_is_restored_at_once() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let (a, _b) = pair(&lab).await;
        lab.networks.set_policies(vec![deny(Direction::Egress, A)]).await.unwrap();
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        for family in ["inet", "bridge"] {
            sh(&format!("nft delete table {family} sampan-policy"));
            let repair = tokio::time::timeout(Duration::from_secs(5), repairs.recv()).await;
            assert!(repair.is_ok(), "{family}");
            assert!(!reached(&a, B, 80), "{family}");
        }
    });
}
