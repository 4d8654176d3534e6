//! Published ports past bridge, firewall and flow tracking, with real packets:
//! who is led so and who is not, that connections survive every change of the
//! way, and that it outlives the process.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Container, HOST, Lab, OUTSIDE, ask, endpoint, network, port, sh};
use sampan_net::names::NoNames;
use sampan_net::policy::{Action, Direction, PolicyRule};
use sampan_net::{NetConfig, Networks, Place, Protocol, Sandbox, TraceRequest};
use sampan_sys::netns::NetNs;

const WEB: &str = "172.17.0.2";

/// How many packets of the host's forwarding were for or from the container:
/// what was led directly is not among them.
struct Seen;

impl Seen {
    /// Counts from now on, in a table that is none of others.
    fn begin() -> Self {
        sh("nft add table ip sampan-seen; \
            nft 'add chain ip sampan-seen c { type filter hook forward priority -300; }'; \
            nft 'add rule ip sampan-seen c ip daddr 172.17.0.0/16 counter'; \
            nft 'add rule ip sampan-seen c ip saddr 172.17.0.0/16 counter'; \
            nft 'add chain ip sampan-seen web { type filter hook forward priority -299; }'; \
            nft 'add rule ip sampan-seen web tcp dport { 80, 81 } counter'; \
            nft 'add rule ip sampan-seen web tcp sport { 80, 81 } counter'");
        Self
    }

    fn packets(chain: &str) -> u64 {
        let text = sh(&format!("nft list chain ip sampan-seen {chain}"));
        let counts = text.split("packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// How many packets were seen while `doing`.
    fn during(doing: impl FnOnce()) -> u64 {
        Self::of("c", doing)
    }

    fn of(chain: &str, doing: impl FnOnce()) -> u64 {
        let before = Self::packets(chain);
        doing();
        Self::packets(chain) - before
    }
}

/// Waits until something is so that the watcher brings about.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks from outside and says whether the answer was right and came directly.
fn is_direct(lab: &Lab, at: u16) -> bool {
    // Another connection may still acknowledge something by the plain way.
    let packets = Seen::of("web", || {
        let answer = ask(&lab.outside, HOST, at);
        assert_eq!(answer, Some(OUTSIDE.to_string()), "the client's own address");
    });
    packets == 0
}

/// What a trace from outside to a port says.
async fn trace(lab: &Lab, at: u16) -> String {
    let (from, to) = (Place::Address(OUTSIDE.into()), Place::Address(HOST.into()));
    let request = TraceRequest { from, to, port: Some((Protocol::Tcp, at)) };
    let trace = lab.networks.trace(request).await.unwrap();
    format!("{trace:?}")
}

fn link(sandbox: &Sandbox) -> &str {
    sandbox.attachments[0].host_interface.as_deref().unwrap_or_default()
}

/// The number of our program on a link, if there is one.
fn program(link: &str, name: &str) -> Option<String> {
    let text = sh(&format!("tc filter show dev {link} ingress 2>/dev/null || true"));
    let line = text.lines().find(|line| line.contains(name))?;
    line.split_once(" id ").map(|(_, id)| id.split(' ').next().unwrap_or("").to_owned())
}

/// A server that sends what it is sent back, a line each, and says something
/// by itself when told `later`.
fn echo(netns: &NetNs, at: u16) {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", at)).unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                    if buffer[..length].starts_with(b"later") {
                        thread::sleep(Duration::from_millis(400));
                        let _ = stream.write_all(b"now");
                    }
                }
            });
        }
    });
}

fn connect(netns: &NetNs, at: u16) -> TcpStream {
    let address = SocketAddr::from((HOST, at));
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).unwrap();
    let stream = netns.run(connect).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn says_back(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    hears(stream, text);
}

fn hears(stream: &mut TcpStream, text: &[u8]) {
    let mut buffer = vec![0; text.len()];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, text);
}

#[test]
fn connections_from_outside_pass_neither_rules_nor_flow_tracking() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let _seen = Seen::begin();
        let ports = ["8080:80", "10.99.0.1:8081:81", "10.99.0.7:8082:82", "9000:90/udp"];
        let spec = lab.spec(WEB, &ports);
        let web = lab.networks.join(spec.clone()).await.unwrap();
        let inside = Container::of(&web);
        inside.serve(80);
        inside.serve(81);
        inside.serve(82);
        inside.serve_udp(90);
        assert!(program("lan0", "sampan_enter").is_some());
        assert!(program(link(&web), "sampan_answer").is_some());
        assert!(is_direct(&lab, 8080));
        assert!(is_direct(&lab, 8081), "of one address");
        assert!(trace(&lab, 8080).await.contains("directly"));
        assert_eq!(ask(&lab.outside, HOST, 8082), None, "of another address");
        assert_eq!(lab::ask_from_host(HOST, 8080).as_deref(), Some("10.99.0.1"), "from the host");
        let udp = lab::udp(&lab.outside);
        assert_eq!(lab::ask_udp(&udp, HOST, 9000), Some(OUTSIDE.to_string()));
        // Much of it, in both directions, segmented by nobody.
        echo(&inside.netns, 7);
        let more: Vec<_> = ports.iter().chain(&["7000:7"]).map(|p| port(p)).collect();
        lab.networks.publish(&spec.sandbox, more).await.unwrap();
        let much: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
        let packets = Seen::during(|| {
            let mut stream = connect(&lab.outside, 7000);
            let mut reading = stream.try_clone().unwrap();
            let sent = much.clone();
            let writer = thread::spawn(move || stream.write_all(&sent).unwrap());
            let mut back = vec![0; much.len()];
            reading.read_exact(&mut back).unwrap();
            writer.join().unwrap();
            assert!(back == much);
        });
        assert_eq!(packets, 0);
        // Another server after it, by the same port.
        lab.networks.leave(&spec.sandbox).await.unwrap();
        assert_eq!(program("lan0", "sampan_enter"), None, "no port, no program");
        assert!(!sh("tc qdisc show dev lan0").contains("clsact"), "nothing is left");
        assert_eq!(ask(&lab.outside, HOST, 8080), None);
        let next = lab.spec("172.17.0.3", &["8080:80"]);
        lab.join(&next).await.serve(80);
        assert!(is_direct(&lab, 8080));
    });
}

#[test]
fn a_port_that_is_taken_back_ends_its_connections_alone() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec(WEB, &["7000:7", "7001:8"]);
        let inside = lab.join(&spec).await;
        echo(&inside.netns, 7);
        echo(&inside.netns, 8);
        let (mut gone, mut stays) = (connect(&lab.outside, 7000), connect(&lab.outside, 7001));
        says_back(&mut gone, b"one");
        says_back(&mut stays, b"one");
        lab.networks.publish(&spec.sandbox, vec![port("7001:8")]).await.unwrap();
        says_back(&mut stays, b"two");
        let ended = gone.write_all(b"two").and_then(|()| gone.read(&mut [0; 8]));
        assert_eq!(ended.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
        assert_eq!(ask(&lab.outside, HOST, 7000), None);
    });
}

#[test]
fn rules_of_others_are_obeyed_and_connections_are_handed_over() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let _seen = Seen::begin();
        let spec = lab.spec(WEB, &["8080:80", "7000:7"]);
        let inside = lab.join(&spec).await;
        inside.serve(80);
        echo(&inside.netns, 7);
        lab.networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        lab.networks.watch().await.unwrap();
        assert!(is_direct(&lab, 8080));
        let mut stream = connect(&lab.outside, 7000);
        says_back(&mut stream, b"directly");
        // What decides nothing about these packets changes nothing.
        sh("nft add table inet other; \
            nft 'add chain inet other i { type filter hook input priority 0; }'; \
            nft add rule inet other i tcp dport 1 drop; \
            nft 'add chain inet other f { type filter hook forward priority 0; }'");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(is_direct(&lab, 8080));
        // A rule, of whatever kind.
        sh("nft add rule inet other f tcp dport 1 drop");
        until("the plain way", || !is_direct(&lab, 8080)).await;
        let packets = Seen::during(|| says_back(&mut stream, b"by the rules"));
        assert!(packets > 0, "the connection was handed over");
        // The server speaks first, too.
        says_back(&mut stream, b"later");
        hears(&mut stream, b"now");
        sh("nft add rule inet other f ct state new tcp dport 80 drop");
        assert_eq!(ask(&lab.outside, HOST, 8080), None, "dropped by the host's rule");
        sh("nft delete table inet other");
        until("the direct way again", || is_direct(&lab, 8080)).await;
        says_back(&mut stream, b"still there");
    });
}

#[test]
fn what_has_to_see_the_packets_gets_them() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let _seen = Seen::begin();
        // A limit of rate.
        let mut slow = lab.spec(WEB, &["8080:80"]);
        slow.endpoints[0].rate.egress = Some(1_000_000_000);
        lab.join(&slow).await.serve(80);
        assert!(!is_direct(&lab, 8080), "a limit of rate");
        // Two ports that lead to the same one.
        let twins = lab.spec("172.17.0.3", &["8090:80", "8091:80"]);
        lab.join(&twins).await.serve(80);
        assert!(!is_direct(&lab, 8090) && !is_direct(&lab, 8091), "twins");
        // A second network, for as long as there is one; the connection stays.
        let spec = lab.spec("172.17.0.4", &["8100:80", "7000:7"]);
        let inside = lab.join(&spec).await;
        inside.serve(80);
        echo(&inside.netns, 7);
        assert!(is_direct(&lab, 8100));
        let mut stream = connect(&lab.outside, 7000);
        says_back(&mut stream, b"one network");
        let other = network("other", "br-other", "172.18.0.1/16");
        lab.networks.create_network(other.clone()).await.unwrap();
        let second = endpoint(&other.id, "172.18.0.2");
        lab.networks.connect(&spec.sandbox, second.clone()).await.unwrap();
        assert!(!is_direct(&lab, 8100), "two networks");
        says_back(&mut stream, b"two networks");
        lab.networks.disconnect(&spec.sandbox, &second.endpoint).await.unwrap();
        assert!(is_direct(&lab, 8100));
        says_back(&mut stream, b"one again");
        // A policy about it.
        let rule = PolicyRule {
            name: "web".to_owned(),
            subjects: vec!["172.17.0.4".parse().unwrap()],
            direction: Direction::Ingress,
            peers: None,
            ports: Vec::new(),
            action: Action::Allow,
        };
        lab.networks.set_policies(vec![rule]).await.unwrap();
        assert!(!is_direct(&lab, 8100), "a policy");
        assert!(!trace(&lab, 8100).await.contains("directly"));
        lab.networks.set_policies(Vec::new()).await.unwrap();
        assert!(is_direct(&lab, 8100));
    });
}

#[test]
fn flow_tracking_keeps_what_it_had() {
    lab::run(|| async {
        let lab = Lab::with(|config| NetConfig { redirect: false, ..config }).await;
        let _seen = Seen::begin();
        let spec = lab.spec(WEB, &["8080:80", "7000:7"]);
        let inside = lab.join(&spec).await;
        inside.serve(80);
        echo(&inside.netns, 7);
        assert!(!is_direct(&lab, 8080), "switched off");
        let mut stream = connect(&lab.outside, 7000);
        says_back(&mut stream, b"plain");
        drop(lab.networks);
        // The next daemon has it switched on.
        let config = NetConfig { redirect: true, ..lab.config.clone() };
        let networks = Networks::open(config, Box::new(NoNames)).await.unwrap();
        networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        let packets = Seen::during(|| says_back(&mut stream, b"still plain"));
        assert!(packets > 0);
        let packets = Seen::during(|| {
            says_back(&mut connect(&lab.outside, 7000), b"direct");
        });
        assert_eq!(packets, 0);
    });
}

#[test]
fn it_outlives_the_process_and_the_next_one_takes_the_connections_over() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let _seen = Seen::begin();
        let spec = lab.spec(WEB, &["8080:80", "7000:7"]);
        let web = lab.networks.join(spec.clone()).await.unwrap();
        let inside = Container::of(&web);
        inside.serve(80);
        echo(&inside.netns, 7);
        let mut stream = connect(&lab.outside, 7000);
        says_back(&mut stream, b"first");
        let first = program("lan0", "sampan_enter").unwrap();
        let (outside, config) = (lab.outside, lab.config.clone());
        // As if killed: nothing is taken down, all descriptors are closed.
        drop(lab.networks);
        let nobody = Seen::during(|| {
            assert_eq!(ask(&outside, HOST, 8080), Some(OUTSIDE.to_string()));
            says_back(&mut stream, b"without a daemon");
        });
        assert_eq!(nobody, 0);
        let networks = Networks::open(config.clone(), Box::new(NoNames)).await.unwrap();
        let repairs = networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(repairs.failed, Vec::<String>::new());
        assert!(!repairs.restored.iter().any(|r| r.what.contains("direct")), "{repairs:?}");
        let second = program("lan0", "sampan_enter").unwrap();
        assert_ne!(first, second, "the next daemon's own program");
        let directly = Seen::during(|| {
            says_back(&mut stream, b"later");
            hears(&mut stream, b"now");
            assert_eq!(ask(&outside, HOST, 8080), Some(OUTSIDE.to_string()));
        });
        assert_eq!(directly, 0, "taken over");
        // Somebody took it off.
        sh("tc qdisc del dev lan0 clsact");
        let repairs = networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        let line = "direct way of published ports by lan0";
        assert!(repairs.restored.iter().any(|r| r.what == line), "{repairs:?}");
        says_back(&mut stream, b"fourth");
        drop(networks);

        // Switched off at the next start.
        let off = NetConfig { redirect: false, ..config };
        let networks = Networks::open(off, Box::new(NoNames)).await.unwrap();
        networks.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(program("lan0", "sampan_enter"), None);
        assert_eq!(program(link(&web), "sampan_answer"), None);
        let plain = Seen::during(|| {
            assert_eq!(ask(&outside, HOST, 8080), Some(OUTSIDE.to_string()));
        });
        assert!(plain > 0);
    });
}

#[test]
fn errors_about_its_packets_reach_the_container() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let _seen = Seen::begin();
        let spec = lab.spec(WEB, &["7000:7"]);
        let inside = lab.join(&spec).await;
        echo(&inside.netns, 7);
        // A client behind a router with a narrow way: the router is the
        // outside, the client behind it in a namespace of its own.
        let (client, _) = NetNs::create(|| ()).unwrap();
        let narrow = "ip link add far type veth peer name near; \
                      ip addr add 10.98.0.1/24 dev far; ip link set far mtu 600 up; \
                      sysctl -qw net.ipv4.ip_forward=1";
        lab.outside.run(|| sh(narrow)).unwrap();
        lab.outside.run(|| move_link("near", &client)).unwrap();
        client
            .run(|| {
                sh("ip link set lo up; ip addr add 10.98.0.2/24 dev near; ip link set near up; \
                    ip route add default via 10.98.0.1")
            })
            .unwrap();
        sh("ip route add 10.98.0.0/24 via 10.99.0.2");
        let mut stream = connect(&client, 7000);
        let much: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let packets = Seen::during(|| {
            let mut reading = stream.try_clone().unwrap();
            let sent = much.clone();
            let writer = thread::spawn(move || stream.write_all(&sent).unwrap());
            let mut back = vec![0; much.len()];
            reading.read_exact(&mut back).unwrap();
            writer.join().unwrap();
            assert!(back == much);
        });
        assert_eq!(packets, 0);
        let cached = inside.netns.run(|| sh("ip route get 10.98.0.2")).unwrap();
        assert!(cached.contains("mtu 600"), "{cached}");
    });
}

fn move_link(name: &str, into: &NetNs) {
    use sampan_sys::netlink::{LinkChange, LinkRef, Route, set_link};
    use std::os::fd::AsFd;
    let change = LinkChange { netns: Some(into.as_fd()), ..LinkChange::default() };
    Route::open().unwrap().run(vec![set_link(LinkRef::Name(name), &change)]).unwrap();
}
