//! Frames that pass the bridge by, with real packets: who is led so and who
//! is not, that nobody else is reached, and that it outlives the process.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use lab::{Container, GATEWAY, HOST, Lab, endpoint, network, network_with, sandbox, sh};
use sampan_net::names::NoNames;
use sampan_net::policy::{Action, Direction, PolicyRule};
use sampan_net::{MacAddr, NetConfig, Networks, RateLimit, Sandbox, SandboxSpec};

const WEB: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
/// Questions of one measurement; each takes four packets at least either way.
const QUESTIONS: u64 = 20;
/// Packets that the bridge may carry meanwhile: neighbours are asked for.
const STRAY: u64 = 6;

fn link(sandbox: &Sandbox) -> &str {
    sandbox.attachments[0].host_interface.as_deref().unwrap_or_default()
}

/// How many frames a link of the host has handed to its container.
fn handed_over(link: &str) -> u64 {
    let text = sh(&format!("ip -s -j link show dev {link}"));
    let tx = text.split_once("\"tx\":").map_or("", |(_, tx)| tx);
    let packets = tx.split_once("\"packets\":").map_or("", |(_, packets)| packets);
    packets.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().unwrap()
}

fn filters(link: &str) -> String {
    sh(&format!("tc filter show dev {link} ingress"))
}

/// Packets that come to `to` by the bridge while `from` asks it, its answers
/// being right.
fn by_bridge(from: &Container, to: &Sandbox, address: impl Into<IpAddr> + Copy) -> u64 {
    assert!(from.ask(address, 80).is_some(), "the first question finds the neighbour");
    let before = handed_over(link(to));
    for _ in 0..QUESTIONS {
        assert!(from.ask(address, 80).is_some());
    }
    handed_over(link(to)) - before
}

struct Pair {
    web: Sandbox,
    client: Sandbox,
    specs: Vec<SandboxSpec>,
}

/// A server and a client on the default bridge.
async fn pair(lab: &Lab) -> Pair {
    let specs = vec![lab.spec(&WEB.to_string(), &["8080:80"]), lab.spec(&CLIENT.to_string(), &[])];
    let web = lab.networks.join(specs[0].clone()).await.unwrap();
    let client = lab.networks.join(specs[1].clone()).await.unwrap();
    Container::of(&web).serve(80);
    Pair { web, client, specs }
}

#[test]
fn neighbours_reach_each_other_past_the_bridge() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let pair = pair(&lab).await;
        let (web, client) = (Container::of(&pair.web), Container::of(&pair.client));
        let said = client.ask(WEB, 80);
        assert_eq!(said, Some(CLIENT.to_string()));
        assert!(by_bridge(&client, &pair.web, WEB) <= STRAY);
        assert!(
            filters(link(&pair.web)).contains("sampan_redirect"),
            "{}",
            filters(link(&pair.web))
        );
        // What the container counts, nobody misses.
        let counted = web.netns.run(|| sh("cat /proc/net/dev | grep eth0")).unwrap();
        let received: u64 = counted.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(received >= 4 * QUESTIONS, "{counted}");
        // By the host's address, and back from there.
        assert_eq!(client.ask(HOST, 8080), Some(GATEWAY.to_string()));
        assert_eq!(lab::ask(&lab.outside, HOST, 8080), Some(lab::OUTSIDE.to_string()));
        assert_eq!(web.ask(HOST, 8080), Some(GATEWAY.to_string()), "its own published port");
    });
}

#[test]
fn it_can_be_switched_off() {
    lab::run(|| async {
        let lab = Lab::with(|config| NetConfig { redirect: false, ..config }).await;
        let pair = pair(&lab).await;
        assert!(by_bridge(&Container::of(&pair.client), &pair.web, WEB) >= 4 * QUESTIONS);
        assert_eq!(filters(link(&pair.web)), "");
    });
}

#[test]
fn what_others_have_to_see_goes_by_the_bridge() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let pair = pair(&lab).await;
        let mut limited = endpoint(&lab.bridge, "172.17.0.4");
        limited.rate = RateLimit { ingress: Some(1_000_000_000), egress: None };
        let limited = lab.networks.join(sandbox(vec![limited], &[])).await.unwrap();
        Container::of(&limited).serve(80);
        let address = Ipv4Addr::new(172, 17, 0, 4);
        assert!(by_bridge(&Container::of(&pair.client), &limited, address) >= 4 * QUESTIONS);
        assert!(by_bridge(&Container::of(&limited), &pair.web, WEB) >= 4 * QUESTIONS);
        assert!(!filters(link(&limited)).contains("sampan_redirect"));
        let apart = network_with(network("apart", "br-apart", "10.50.0.1/24"), |c| c.icc = false);
        lab.networks.create_network(apart.clone()).await.unwrap();
        let one = sandbox(vec![endpoint(&apart.id, "10.50.0.2")], &[]);
        let other = sandbox(vec![endpoint(&apart.id, "10.50.0.3")], &[]);
        let one = lab.networks.join(one).await.unwrap();
        let other = lab.networks.join(other).await.unwrap();
        Container::of(&one).serve(80);
        assert_eq!(Container::of(&other).ask(Ipv4Addr::new(10, 50, 0, 2), 80), None);
        assert_eq!(filters(link(&one)), "");
    });
}

#[test]
fn policies_decide_on_the_bridge() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let pair = pair(&lab).await;
        let client = Container::of(&pair.client);
        assert!(by_bridge(&client, &pair.web, WEB) <= STRAY);
        let allow = PolicyRule {
            name: "web".to_owned(),
            subjects: vec![WEB.into()],
            direction: Direction::Ingress,
            peers: None,
            ports: Vec::new(),
            action: Action::Allow,
        };
        let deny = PolicyRule { action: Action::Deny, ..allow.clone() };
        for _ in 0..2 {
            lab.networks.set_policies(vec![allow.clone()]).await.unwrap();
            assert!(by_bridge(&client, &pair.web, WEB) >= 4 * QUESTIONS);
            lab.networks.set_policies(vec![deny.clone()]).await.unwrap();
            assert_eq!(client.ask(WEB, 80), None);
            lab.networks.set_policies(Vec::new()).await.unwrap();
            assert!(by_bridge(&client, &pair.web, WEB) <= STRAY);
        }
    });
}

/// Whether what `from` sends to a hardware address arrives at a socket of
/// `to`, which takes it for its own.
fn arrives(from: &Container, to: &Container, mac: MacAddr) -> bool {
    const NOBODY: Ipv4Addr = Ipv4Addr::new(172, 17, 99, 99);
    to.netns.run(|| sh(&format!("ip address replace {NOBODY}/32 dev lo"))).unwrap();
    let socket = to.netns.run(|| UdpSocket::bind((NOBODY, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    from.netns
        .run(|| {
            sh(&format!("ip route replace {NOBODY}/32 dev eth0"));
            sh(&format!("ip neighbour replace {NOBODY} lladdr {mac} dev eth0"));
        })
        .unwrap();
    let out = lab::udp(&from.netns);
    out.send_to(b"?", (NOBODY, socket.local_addr().unwrap().port())).unwrap();
    socket.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_hardware_address_leads_into_no_other_network() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let pair = pair(&lab).await;
        let other = network("other", "br-other", "172.18.0.1/16");
        lab.networks.create_network(other.clone()).await.unwrap();
        let stranger = sandbox(vec![endpoint(&other.id, "172.18.0.2")], &[]);
        let stranger = lab.networks.join(stranger).await.unwrap();
        let client = Container::of(&pair.client);
        let mac = |sandbox: &Sandbox| sandbox.attachments[0].mac.unwrap();
        assert!(arrives(&client, &Container::of(&pair.web), mac(&pair.web)), "the neighbour's");
        assert!(!arrives(&client, &Container::of(&stranger), mac(&stranger)));
    });
}

#[test]
fn groups_and_neighbour_discovery_go_by_the_bridge() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let pair = pair(&lab).await;
        let (web, client) = (Container::of(&pair.web), Container::of(&pair.client));
        let socket = web.netns.run(|| UdpSocket::bind(("0.0.0.0", 9000)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let out = lab::udp(&client.netns);
        out.set_broadcast(true).unwrap();
        out.send_to(b"all", ("172.17.255.255", 9000)).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 3, "a broadcast");
        for (netns, address) in [(&web, "fd00::2/64"), (&client, "fd00::3/64")] {
            netns
                .netns
                .run(|| {
                    sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
                    sh(&format!("ip address add {address} dev eth0 nodad"));
                })
                .unwrap();
        }
        let address: IpAddr = "fd00::2".parse().unwrap();
        assert!(by_bridge(&client, &pair.web, address) <= STRAY);
    });
}

#[test]
fn an_entry_goes_before_its_link() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mac: MacAddr = "02:11:22:33:44:55".parse().unwrap();
        let client = lab.join(&lab.spec(&CLIENT.to_string(), &[])).await;
        for round in 0..4 {
            let mut spec = lab.spec(&WEB.to_string(), &[]);
            spec.endpoints[0].mac = Some(mac);
            // Every other time by the bridge: no entry of before is in the way.
            let straight = round % 2 == 0;
            if !straight {
                spec.endpoints[0].rate.egress = Some(1_000_000_000);
            }
            let web = lab.networks.join(spec.clone()).await.unwrap();
            Container::of(&web).serve(80);
            let packets = by_bridge(&client, &web, WEB);
            assert_eq!(packets <= STRAY, straight, "{packets} packets in round {round}");
            lab.networks.leave(&spec.sandbox).await.unwrap();
            assert_eq!(client.ask(WEB, 80), None, "gone in round {round}");
        }
        // Connected to another network of the same sandbox, and taken off it.
        let other = network("other", "br-other", "172.18.0.1/16");
        lab.networks.create_network(other.clone()).await.unwrap();
        let spec = sandbox(vec![endpoint(&lab.bridge, "172.17.0.5")], &[]);
        let moving = lab.networks.join(spec.clone()).await.unwrap();
        let stays = sandbox(vec![endpoint(&other.id, "172.18.0.3")], &[]);
        let stays = lab.join(&stays).await;
        Container::of(&moving).serve(80);
        for _ in 0..3 {
            let second = endpoint(&other.id, "172.18.0.2");
            let id = second.endpoint.clone();
            let attached = lab.networks.connect(&spec.sandbox, second).await.unwrap();
            let there = Sandbox { netns: None, attachments: vec![attached] };
            assert!(by_bridge(&stays, &there, Ipv4Addr::new(172, 18, 0, 2)) <= STRAY);
            lab.networks.disconnect(&spec.sandbox, &id).await.unwrap();
            assert_eq!(stays.ask(Ipv4Addr::new(172, 18, 0, 2), 80), None);
        }
    });
}

#[test]
fn it_outlives_the_process_and_the_next_one_takes_over() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let pair = pair(&lab).await;
        let client = Container::of(&pair.client);
        let config = lab.config.clone();
        let program = |link: &str| {
            // The link has another program for published ports.
            let text = filters(link);
            let text = text.lines().find(|line| line.contains(" handle 0x1 "))?.to_owned();
            text.split_once(" id ").map(|(_, id)| id.split(' ').next().unwrap_or("").to_owned())
        };
        let first = program(link(&pair.web)).unwrap();
        // As if killed: nothing is taken down, all descriptors are closed.
        drop(lab.networks);
        assert!(by_bridge(&client, &pair.web, WEB) <= STRAY, "without a daemon");

        let networks = Networks::open(config.clone(), Box::new(NoNames)).await.unwrap();
        let repairs = networks.reconcile(&pair.specs).await.unwrap();
        assert_eq!(repairs.failed, Vec::<String>::new());
        assert!(!repairs.restored.iter().any(|r| r.what.contains("straight")), "{repairs:?}");
        let second = program(link(&pair.web)).unwrap();
        assert_ne!(first, second, "the next daemon's own program");
        assert_eq!(program(link(&pair.client)), Some(second.clone()));
        assert!(by_bridge(&client, &pair.web, WEB) <= STRAY);
        // Somebody took it off.
        sh(&format!("tc qdisc del dev {} clsact", link(&pair.web)));
        let repairs = networks.reconcile(&pair.specs).await.unwrap();
        let line = format!("straight way by {}", link(&pair.web));
        assert!(repairs.restored.iter().any(|r| r.what == line), "{repairs:?}");
        assert_eq!(program(link(&pair.web)), Some(second));
        drop(networks);

        // Switched off at the next start.
        let off = NetConfig { redirect: false, ..config };
        let networks = Networks::open(off, Box::new(NoNames)).await.unwrap();
        networks.reconcile(&pair.specs).await.unwrap();
        assert_eq!(program(link(&pair.web)), None);
        assert_eq!(program(link(&pair.client)), None);
        assert!(by_bridge(&client, &pair.web, WEB) >= 4 * QUESTIONS);
    });
}
