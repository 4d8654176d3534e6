//! What somebody else removes under traffic is restored at once, and what is
//! not ours is left alone.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{HOST, Lab, OUTSIDE, endpoint, network, port, sh};
use sampan_net::policy::{Action, Direction, PolicyRule};
use sampan_net::{
    DriverConfig, MacvlanConfig, NetworkSpec, Place, Protocol, RateLimit, Repair, RepairKind,
    Severity, Subnet, TraceRequest, Verdict,
};
use sampan_sys::netns::NetNs;
use sampan_types::NetworkId;
use tokio::sync::broadcast::Receiver;

/// How long a repair is waited for before the test fails: less than from one
/// comparison of everything to the next.
const PATIENCE: Duration = Duration::from_secs(20);
/// Within which time it is promised. Most of them have to keep it: what else
/// the machine does at the moment, a test can't know.
const PROMISED: Duration = Duration::from_secs(1);

/// As [`lab::run`], with a runtime whose tasks go on while the test blocks.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(2);
    lab::run_with(threads, test);
}

/// Asks through a published port as fast as it can until it is dropped.
struct Traffic {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Traffic {
    fn through(outside: &NetNs, port: u16) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = outside
            .run(|| {
                thread::spawn(move || {
                    while !stopped.load(Ordering::Relaxed) {
                        if lab::ask_here((HOST, port).into()).is_some() {
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .unwrap();
        Self { stop, answers, thread: Some(thread) }
    }

    /// Waits until there is an answer to a question that is asked from now on.
    fn flows(&self) -> bool {
        let (begin, before) = (Instant::now(), self.answers.load(Ordering::Relaxed));
        while begin.elapsed() < PATIENCE {
            // The first may have been asked before.
            if self.answers.load(Ordering::Relaxed) >= before + 2 {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn repaired(repairs: &mut Receiver<Repair>, kind: RepairKind) -> Repair {
    let wait = async {
        loop {
            let repair = repairs.recv().await.unwrap();
            if repair.kind == kind {
                return repair;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("a repair")
}

/// Repairs that come in after the one that was waited for.
fn drain(repairs: &mut Receiver<Repair>) {
    while repairs.try_recv().is_ok() {}
}

#[test]
fn what_is_removed_under_traffic_is_restored() {
    run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &["8080:80"]);
        let web = lab.join(&spec).await;
        web.serve(80);
        sh(
            "nft 'table ip foreign { chain x { type filter hook input priority 5; tcp dport 9 drop; }; }'",
        );
        sh("ip link add foreign0 type veth peer name foreign1; ip link set foreign0 up");
        sh("ip link set foreign1 up; ip address add 10.88.0.1/24 dev foreign0");
        sh("ip route add 10.89.0.0/24 via 10.88.0.2; ip address add 10.90.0.1/24 dev docker0");
        web.netns.run(|| sh("ip address add 10.91.0.1/24 dev eth0")).unwrap();
        let foreign = || {
            let links = "ip -o link show foreign0; ip -o address show foreign0";
            let routes = "ip route show 10.89.0.0/24; ip -o address show to 10.90.0.1";
            let mut all = sh(&format!("nft list table ip foreign; {links}; {routes}"));
            all += &web.netns.run(|| sh("ip -o address show to 10.91.0.1")).unwrap();
            all.replace(" tentative", "")
        };
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        let mut before = foreign();
        let port = || lab.networks.sandbox(&spec.sandbox).unwrap().attachments[0].clone();
        let traffic = Traffic::through(&lab.outside, 8080);
        let host = |damage: &str, kind| (damage.to_owned(), false, kind);
        let inside = |damage: &str| (damage.to_owned(), true, RepairKind::Endpoint);
        let veth = port().host_interface.unwrap();
        use RepairKind::{Endpoint, Firewall, Forwarding, Network};
        let damages = [
            host("nft delete table inet sampan", Firewall),
            host("nft flush map inet sampan ports", Firewall),
            host("nft flush chain inet sampan forward", Firewall),
            host("nft insert rule inet sampan forward drop", Firewall),
            host(&format!("ip link set {veth} nomaster"), Endpoint),
            host(&format!("ip link set {veth} down"), Endpoint),
            host("ip address del 172.17.0.1/16 dev docker0", Network),
            host("ip route del 172.17.0.0/16", Network),
            host("ip link set docker0 down", Network),
            host("echo 0 > /proc/sys/net/ipv4/ip_forward", Forwarding),
            inside("ip address del 172.17.0.2/16 dev eth0"),
            inside("ip route del default"),
            inside("ip route del 172.17.0.0/16"),
            inside("ip link set eth0 down"),
            host(&format!("ip link delete {veth}"), Endpoint),
            inside("ip link delete eth0"),
            host("ip link delete docker0", Network),
        ];
        let mut times = Vec::new();
        for (damage, is_inside, kind) in damages {
            assert!(traffic.flows(), "before: {damage}");
            drain(&mut repairs);
            let begin = Instant::now();
            if is_inside {
                web.netns.run(|| sh(&damage)).unwrap();
            } else {
                sh(&damage);
            }
            let repair = repaired(&mut repairs, kind).await;
            let took = begin.elapsed();
            println!("{damage}: {repair} after {took:?}");
            times.push(took);
            assert!(traffic.flows(), "after: {damage}");
            if damage.starts_with("ip link delete") {
                // What somebody put on the link went with it.
                before = foreign();
            }
            assert_eq!(foreign(), before, "{damage}: what is not ours is as it was");
        }
        times.sort();
        assert!(times[times.len() / 2] < PROMISED * sampan_testkit::busy(), "{times:?}");
    });
}

#[test]
fn ways_past_the_bridge_come_back() {
    run(|| async {
        let lab = Lab::new().await;
        let [one, two] = ["172.17.0.2", "172.17.0.3"].map(|address| lab.spec(address, &[]));
        lab.join(&one).await;
        lab.join(&two).await;
        let veth = lab.networks.sandbox(&one.sandbox).unwrap().attachments[0].clone();
        let veth = veth.host_interface.unwrap();
        let filters = || sh(&format!("tc filter show dev {veth} ingress"));
        if !filters().contains("sampan_redirect") {
            println!("skipped: the kernel has no programs on links");
            return;
        }
        sh("ip link add foreign0 type veth peer name foreign1; tc qdisc add dev foreign0 clsact");
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        for damage in ["tc filter del dev LINK ingress", "tc qdisc del dev LINK clsact"] {
            sh(&damage.replace("LINK", &veth));
            let repair = repaired(&mut repairs, RepairKind::Redirect).await;
            assert_eq!(repair.sandbox.as_ref(), Some(&one.sandbox), "{damage}: {repair}");
            assert_eq!(repair.network.as_ref(), Some(&lab.bridge), "{damage}: {repair}");
            assert!(filters().contains("sampan_redirect"), "{damage}: {}", filters());
        }
        // What others lose is theirs to restore.
        sh("tc qdisc del dev foreign0 clsact");
        sh(&format!("tc qdisc del dev {veth} clsact"));
        repaired(&mut repairs, RepairKind::Redirect).await;
        assert!(!sh("tc qdisc show dev foreign0").contains("clsact"));
        // Nobody loses a way with an endpoint that leaves.
        lab.networks.leave(&two.sandbox).await.unwrap();
        lab.networks.settle().await;
        sh("ip link set docker0 down");
        repaired(&mut repairs, RepairKind::Network).await;
        drain(&mut repairs);
        assert!(filters().contains("sampan_redirect"));
    });
}

#[test]
fn limits_of_bandwidth_come_back() {
    run(|| async {
        let lab = Lab::new().await;
        let mut limited = endpoint(&lab.bridge, "172.17.0.2");
        limited.rate = RateLimit { ingress: Some(8_000_000), egress: Some(8_000_000) };
        let spec = lab::sandbox(vec![limited], &[]);
        let container = lab.join(&spec).await;
        let veth = lab.networks.sandbox(&spec.sandbox).unwrap().attachments[0].clone();
        let veth = veth.host_interface.unwrap();
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        sh(&format!("tc qdisc del dev {veth} root"));
        repaired(&mut repairs, RepairKind::Endpoint).await;
        assert!(sh(&format!("tc qdisc show dev {veth}")).contains("tbf"));
        container.netns.run(|| sh("tc qdisc del dev eth0 root")).unwrap();
        repaired(&mut repairs, RepairKind::Endpoint).await;
        assert!(container.netns.run(|| sh("tc qdisc show dev eth0")).unwrap().contains("tbf"));
    });
}

/// So many addresses go with their link that the kernel's telling of it does
/// not fit into the room for it.
const FLOOD: u32 = 8_000;

#[test]
fn lost_events_are_made_up_for() {
    run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &[]);
        let container = lab.join(&spec).await;
        let veth = lab.networks.sandbox(&spec.sandbox).unwrap().attachments[0].clone();
        let veth = veth.host_interface.unwrap();
        sh("ip link add flood0 type veth peer name flood1; ip link set flood0 up");
        let add = |n: u32| {
            format!(
                "address add 10.{}.{}.{}/32 dev flood0\n",
                128 + (n >> 16),
                n >> 8 & 255,
                n & 255
            )
        };
        let batch = std::env::temp_dir().join(format!("sampan-flood-{}", std::process::id()));
        std::fs::write(&batch, (0..FLOOD).map(add).collect::<String>()).unwrap();
        sh(&format!("ip -force -batch {}", batch.display()));
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        // All that follows the first command is told to nobody.
        let damage = format!(
            "link del flood0\naddress del 172.17.0.1/16 dev docker0\nlink set {veth} nomaster\n"
        );
        std::fs::write(&batch, damage).unwrap();
        sh(&format!("ip -batch {}", batch.display()));
        let _ = std::fs::remove_file(&batch);
        let (mut missing, begin) =
            (vec![RepairKind::Network, RepairKind::Endpoint], Instant::now());
        while !missing.is_empty() {
            let next = tokio::time::timeout(PATIENCE, repairs.recv()).await;
            let repair = next.expect("a repair").unwrap();
            println!("{repair} after {:?}", begin.elapsed());
            missing.retain(|kind| *kind != repair.kind);
        }
        assert!(lab.networks.overruns() > 0, "everything was heard");
        container.serve(80);
        assert!(lab::ask_from_host(std::net::Ipv4Addr::new(172, 17, 0, 2), 80).is_some());
    });
}

#[test]
fn policies_come_back() {
    run(|| async {
        let lab = Lab::new().await;
        let [one, two] = ["172.17.0.2", "172.17.0.3"].map(|address| lab.spec(address, &[]));
        let rule = PolicyRule {
            name: "apart".to_owned(),
            subjects: vec!["172.17.0.3".parse().unwrap()],
            direction: Direction::Ingress,
            peers: None,
            ports: Vec::new(),
            action: Action::Deny,
        };
        lab.networks.set_policies(vec![rule]).await.unwrap();
        let from = lab.join(&one).await;
        lab.join(&two).await.serve(80);
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        let to = std::net::Ipv4Addr::new(172, 17, 0, 3);
        for family in ["inet", "bridge"] {
            assert_eq!(from.ask(to, 80), None, "denied");
            sh(&format!("nft delete table {family} sampan-policy"));
            repaired(&mut repairs, RepairKind::Firewall).await;
            assert_eq!(from.ask(to, 80), None, "denied again, without {family}");
        }
    });
}

#[test]
fn all_ports_come_back_with_their_bridge() {
    run(|| async {
        let lab = Lab::new().await;
        let mut all = Vec::new();
        for number in 2..8 {
            let spec = lab.spec(&format!("172.17.0.{number}"), &[]);
            let made = lab.join(&spec).await;
            made.serve(80);
            all.push((number, made));
        }
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        sh("ip link delete docker0");
        let begin = Instant::now();
        for (number, _) in &all {
            while lab::ask_from_host(std::net::Ipv4Addr::new(172, 17, 0, *number), 80).is_none() {
                assert!(begin.elapsed() < PATIENCE, "container {number}");
            }
        }
        println!("{} ports after {:?}", all.len(), begin.elapsed());
        assert_eq!(repaired(&mut repairs, RepairKind::Network).await.sandbox, None);
        let one = all[0].1.ask(std::net::Ipv4Addr::new(172, 17, 0, 3), 80);
        assert!(one.is_some(), "neighbours reach each other");
    });
}

#[test]
fn own_changes_are_no_damage() {
    run(|| async {
        let lab = Lab::new().await;
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        for round in 0..5 {
            let red = network("red", "br-red", "10.60.0.1/24");
            lab.networks.create_network(red.clone()).await.unwrap();
            let spec = lab.spec("172.17.0.2", &["8080:80"]);
            lab.networks.join(spec.clone()).await.unwrap();
            let more = endpoint(&red.id, "10.60.0.2");
            lab.networks.connect(&spec.sandbox, more.clone()).await.unwrap();
            lab.networks.publish(&spec.sandbox, vec![port("8081:80")]).await.unwrap();
            if round % 2 == 0 {
                // The watcher comes in between.
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            lab.networks.disconnect(&spec.sandbox, &more.endpoint).await.unwrap();
            lab.networks.leave(&spec.sandbox).await.unwrap();
            lab.networks.delete_network(&red.id).await.unwrap();
        }
        // Something that is repaired after all of it was looked at.
        sh("nft flush ruleset");
        let first = repairs.recv().await.unwrap();
        assert_eq!(first.kind, RepairKind::Firewall, "{first:?}");
    });
}

#[test]
fn a_check_says_what_is_wrong() {
    run(|| async {
        let lab = Lab::new().await;
        let web = lab.spec("172.17.0.2", &["8080:80"]);
        lab.join(&web).await;
        let words = || async {
            let findings = lab.networks.check(None).await.unwrap();
            findings.iter().map(|f| f.text.clone()).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(words().await, "", "nothing is wrong");
        let veth = lab.networks.sandbox(&web.sandbox).unwrap().attachments[0].clone();
        let veth = veth.host_interface.unwrap();
        let path = lab.networks.sandbox(&web.sandbox).unwrap().netns.unwrap();
        let inside = NetNs::open(&path).unwrap();
        let damages = [
            ("ip link set docker0 down", "bridge docker0 is switched off"),
            ("ip address flush dev docker0", "docker0 lacks the address 172.17.0.1/16"),
            ("nft flush chain inet sampan forward", "table inet sampan is not what it shall be"),
            ("echo 0 > /proc/sys/net/ipv4/ip_forward", "forwards no packets"),
            (
                "ip link add tun9 type dummy 2>/dev/null || ip link add tun9 type bridge; ip link set tun9 up; ip route add 172.17.0.0/20 dev tun9",
                "172.17.0.0/20 by tun9 overlaps",
            ),
            (
                "nft 'table ip other { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'",
                "chain FORWARD of table ip other drops",
            ),
        ];
        for (damage, says) in damages {
            sh(damage);
            let said = words().await;
            assert!(said.contains(says), "{damage}: {said}");
        }
        sh(&format!("ip link set {veth} nomaster"));
        assert!(words().await.contains(&format!("{veth} is no port of bridge docker0")));
        sh(&format!("ip link delete {veth}"));
        assert!(words().await.contains(&format!("interface {veth} is missing")));
        assert!(words().await.contains("interface eth0 is missing"));
        drop(inside);
        let findings = lab.networks.check(Some(&lab.bridge)).await.unwrap();
        assert_eq!(findings[0].severity, Severity::Error);
        assert_eq!(findings.last().unwrap().severity, Severity::Warning);
        // All of it is repaired but what is somebody else's.
        let desired = [web.clone()];
        lab.networks.reconcile(&desired).await.unwrap();
        let left = lab.networks.check(None).await.unwrap();
        assert!(
            left.iter()
                .all(|f| ["other", "tun9", "br_netfilter"].iter().any(|w| f.text.contains(w))),
            "{left:?}"
        );
    });
}

#[test]
fn statistics_are_of_each_endpoint() {
    run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &[]);
        let web = lab.join(&spec).await;
        let listener =
            web.netns.run(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
        let mut client = std::net::TcpStream::connect("172.17.0.2:80").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut server, &[7; 5000]).unwrap();
        std::io::Read::read_exact(&mut client, &mut [0; 5000]).unwrap();
        let stats = lab.networks.stats(Some(&lab.bridge)).await.unwrap();
        assert_eq!(stats.len(), 1);
        let of = &stats[0];
        assert_eq!((of.interface.as_str(), of.connections), ("eth0", 1));
        assert!(of.link.tx_bytes > 5000 && of.link.rx_packets > 2, "{of:?}");
        assert!(of.rtt_p50.is_some() && of.rtt_p50 <= of.rtt_p99, "{of:?}");
        assert_eq!(of.retransmits, 0);
    });
}

#[test]
fn a_trace_says_what_stops_a_packet() {
    run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        let inner = lab::network_with(network("inner", "br-inner", "10.61.0.1/24"), |c| {
            c.internal = true;
        });
        let apart = lab::network_with(network("apart", "br-apart", "10.62.0.1/24"), |c| {
            c.icc = false;
        });
        for network in [&red, &inner, &apart] {
            lab.networks.create_network(network.clone()).await.unwrap();
        }
        let web = lab.spec("172.17.0.2", &["8080:80"]);
        let mut db = lab.spec("172.17.0.3", &[]);
        db.endpoints.push(endpoint(&apart.id, "10.62.0.3"));
        let far = lab::sandbox(vec![endpoint(&red.id, "10.60.0.2")], &[]);
        let hidden = lab::sandbox(vec![endpoint(&inner.id, "10.61.0.2")], &[]);
        let other = lab::sandbox(vec![endpoint(&apart.id, "10.62.0.2")], &[]);
        lab.join(&web).await.serve(80);
        for spec in [&db, &far, &hidden, &other] {
            lab.join(spec).await;
        }
        let at = |spec: &sampan_net::SandboxSpec| Place::Sandbox(spec.sandbox.clone());
        let tcp = |port| Some((Protocol::Tcp, port));
        let outside = Place::Address(OUTSIDE.into());
        let to_host = Place::Address(HOST.into());
        let cases = [
            ("neighbours", at(&db), at(&web), tcp(80), Ok("listens at")),
            ("ping", at(&db), at(&web), None, Ok("is reached")),
            ("nobody listens", at(&db), at(&web), tcp(81), Err("nothing in the container listens")),
            (
                "another network",
                at(&far),
                at(&web),
                tcp(80),
                Err("entered by published ports only"),
            ),
            ("its published port", at(&far), to_host.clone(), tcp(8080), Ok("listens at")),
            ("from outside", outside.clone(), to_host.clone(), tcp(8080), Ok("listens at")),
            ("not published", outside.clone(), at(&web), tcp(80), Err("published ports only")),
            ("from the host", Place::Host, at(&web), tcp(80), Ok("listens at")),
            ("through localhost", Place::Host, Place::Host, tcp(8080), Ok("listens at")),
            ("internal", at(&hidden), at(&web), None, Err("there is no route to 172.17.0.2")),
            ("into internal", at(&web), at(&hidden), None, Err("is internal: nothing enters it")),
            ("apart", at(&other), at(&db), None, Err("keeps its containers apart")),
            ("out", at(&web), outside.clone(), tcp(80), Ok("beyond the host")),
            ("the host itself", at(&web), Place::Host, tcp(9), Err("nothing in the host listens")),
        ];
        for (name, from, to, port, wanted) in cases {
            let trace = lab.networks.trace(TraceRequest { from, to, port }).await.unwrap();
            let last = trace.hops.last().unwrap();
            let (text, arrives) = match wanted {
                Ok(text) => (text, true),
                Err(text) => (text, false),
            };
            assert!(last.what.contains(text), "{name}: {trace:#?}");
            assert_eq!(trace.arrives(), arrives, "{name}: {trace:#?}");
        }
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let out = TraceRequest { from: at(&web), to: outside, port: None };
        let trace = lab.networks.trace(out).await.unwrap();
        assert!(
            trace.hops.iter().any(|h| h.verdict == Verdict::Stops && h.what.contains("ip_forward")),
            "{trace:#?}"
        );
        let unknown = TraceRequest {
            from: Place::Sandbox(sampan_types::SandboxId::random()),
            to: Place::Host,
            port: None,
        };
        assert!(lab.networks.trace(unknown).await.is_err());
    });
}

#[test]
fn interfaces_on_the_lan_come_back() {
    run(|| async {
        let lab = Lab::new().await;
        let subnet = Subnet { net: "10.99.0.0/24".parse().unwrap(), gateway: OUTSIDE.into() };
        let options = [("parent", "lan0"), ("host_access", "true")];
        let options = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let config = MacvlanConfig::parse("lan", &options, vec![subnet], false).unwrap();
        let driver = DriverConfig::Macvlan(config);
        let lan = NetworkSpec { id: NetworkId::random(), name: "lan".to_owned(), driver };
        lab.networks.create_network(lan.clone()).await.unwrap();
        let spec = lab::sandbox(vec![endpoint(&lan.id, "10.99.0.50")], &[]);
        let on_lan = lab.join(&spec).await;
        on_lan.serve(80);
        let address = std::net::Ipv4Addr::new(10, 99, 0, 50);
        lab.networks.watch().await.unwrap();
        let mut repairs = lab.networks.repairs();
        for damage in ["ip link delete eth0", "ip address flush dev eth0", "ip route del default"] {
            assert!(lab::ask(&lab.outside, address, 80).is_some(), "before: {damage}");
            // The watcher is told of a new namespace a moment after the join.
            tokio::time::sleep(Duration::from_millis(100)).await;
            drain(&mut repairs);
            let begin = Instant::now();
            on_lan.netns.run(|| sh(damage)).unwrap();
            let repair = repaired(&mut repairs, RepairKind::Endpoint).await;
            let took = begin.elapsed();
            assert!(took < PROMISED * sampan_testkit::busy(), "{damage}: {took:?}");
            println!("{damage}: {repair} after {:?}", begin.elapsed());
        }
        assert!(lab::ask(&lab.outside, address, 80).is_some());
        let host_end = sh("ip -o link show type macvlan | grep -o 'mv-[0-9a-f]*' | head -1");
        drain(&mut repairs);
        sh(&format!("ip link delete {host_end}"));
        println!("{}", repaired(&mut repairs, RepairKind::Network).await);
        assert!(lab::ask_from_host(address, 80).is_some(), "the host's access");
    });
}

/// What watching costs: processor time of 100 sandboxes that come and go, with
/// and without. By hand: `cargo test --test watch -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, alone in its process"]
fn what_watching_costs() {
    run(|| async {
        let lab = Lab::new().await;
        let round = async |count: u32| {
            let used = || {
                let usage =
                    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
                let usage = usage.unwrap();
                let micros = |t: nix::sys::time::TimeVal| t.tv_sec() * 1_000_000 + t.tv_usec();
                micros(usage.user_time()) + micros(usage.system_time())
            };
            let (begin, before) = (Instant::now(), used());
            for _ in 0..count {
                let spec = lab.spec("172.17.0.2", &["8080:80"]);
                lab.networks.join(spec.clone()).await.unwrap();
                lab.networks.leave(&spec.sandbox).await.unwrap();
            }
            lab.networks.settle().await;
            (used() - before, begin.elapsed())
        };
        round(20).await;
        let without = round(100).await;
        lab.networks.watch().await.unwrap();
        round(20).await;
        let with = round(100).await;
        println!("100 joins and leaves: {without:?} µs of processor unwatched, {with:?} watched");
        let ports: Vec<String> = (20000..30000).map(|p| format!("{p}:80")).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let spec = lab.spec("172.17.0.2", &ports);
        for _ in 0..3 {
            let begin = Instant::now();
            lab.networks.join(spec.clone()).await.unwrap();
            println!("10,000 ports, watched: {:?}", begin.elapsed());
            lab.networks.leave(&spec.sandbox).await.unwrap();
        }
    });
}
