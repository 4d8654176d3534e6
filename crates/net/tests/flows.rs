//! Flows that outlive what they were translated for, and those that must not
//! notice; SCTP; ports by the ten thousand.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod lab;

use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lab::{
    HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, ask, ask_from_host, endpoint, network, port, sandbox, sh,
    udp, with_subnets,
};
use sampan_net::{NetConfig, NetworkSpec, Protocol, PublishedPort};
use sampan_sys::conntrack::{Conntrack, Flow};
use socket2::{Domain, Socket, Type};

fn blue() -> NetworkSpec {
    with_subnets(network("blue", "br-blue", "10.60.0.1/24"), &["fd60::1/64"])
}

fn flows_of(address: &str) -> Vec<Flow> {
    let address: IpAddr = address.parse().unwrap();
    let has = |f: &Flow| {
        [f.original.source, f.original.destination, f.reply.source, f.reply.destination]
            .iter()
            .any(|end| end.ip() == address)
    };
    Conntrack::open().unwrap().flows().unwrap().into_iter().filter(has).collect()
}

/// Sends five packets a second until one is answered, and says how long that
/// took.
fn until_answered(socket: &UdpSocket, to: SocketAddr) -> Duration {
    let start = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    loop {
        socket.send_to(b"?", to).unwrap();
        // A refusal of an earlier packet is reported as well.
        if socket.recv(&mut [0; 64]).is_ok() {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(30), "a black hole");
    }
}

#[test]
fn datagrams_find_the_container_that_came_back_with_another_address() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let client = udp(&lab.outside);
        let to = SocketAddr::new(IpAddr::V6(HOST.to_ipv6_mapped()), 5300);
        for last in 2..6 {
            let spec = lab.spec(&format!("172.17.0.{last}"), &["5300:53/udp"]);
            // Packets come all the while, before, between and after.
            let _ = client.send_to(b"?", to);
            lab.join(&spec).await.serve_udp(53);
            let took = until_answered(&client, to);
            assert!(took < Duration::from_secs(1) * sampan_testkit::busy(), "{took:?}");
            let _ = client.send_to(b"?", to);
            lab.networks.leave(&spec.sandbox).await.unwrap();
        }
    });
}

#[test]
fn only_what_left_is_forgotten() {
    lab::run(|| async {
        // Flow tracking does not know what is led past it.
        let lab = Lab::with(|config| NetConfig { redirect: false, ..config }).await;
        let blue = blue();
        lab.networks.create_network(blue.clone()).await.unwrap();
        let stays = sandbox(vec![endpoint(&blue.id, "10.60.0.3 fd60::3")], &["8081:80"]);
        let staying = lab.join(&stays).await;
        let goes = sandbox(
            vec![endpoint(&blue.id, "10.60.0.2 fd60::2")],
            &["8080:80", "[::]:8080:80", "5300:53/udp"],
        );
        let going = lab.join(&goes).await;
        for container in [&staying, &going] {
            container.serve(80);
            container.serve_udp(53);
        }
        assert!(ask(&lab.outside, HOST, 8081).is_some());
        assert!(ask(&lab.outside, HOST, 8080).is_some());
        assert!(ask(&lab.outside, HOST6, 8080).is_some());
        assert!(lab::ask_udp(&udp(&lab.outside), HOST, 5300).is_some());
        lab::serve(&lab.outside, 7000);
        assert!(going.ask(OUTSIDE, 7000).is_some() && going.ask(OUTSIDE6, 7000).is_some());
        assert!(staying.ask(OUTSIDE, 7000).is_some());
        assert!(ask_from_host("10.60.0.2".parse::<IpAddr>().unwrap(), 80).is_some());
        assert!(flows_of("10.60.0.2").len() >= 4, "{:?}", flows_of("10.60.0.2"));
        assert!(flows_of("fd60::2").len() >= 2);
        let others = flows_of("10.60.0.3").len();
        assert!(others >= 2);
        lab.networks.leave(&goes.sandbox).await.unwrap();
        lab.networks.settle().await;
        assert_eq!(flows_of("10.60.0.2"), []);
        assert_eq!(flows_of("fd60::2"), []);
        assert_eq!(flows_of("10.60.0.3").len(), others, "unrelated flows are untouched");
    });
}

#[test]
fn connections_survive_a_change_of_other_ports() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &["8080:80", "8081:81"]);
        let web = lab.join(&spec).await;
        let listener =
            web.netns.run(|| std::net::TcpListener::bind(("0.0.0.0", 80)).unwrap()).unwrap();
        web.serve(81);
        let open = lab.outside.run(|| TcpStream::connect((HOST, 8080)).unwrap()).unwrap();
        let (mut other_end, _) = listener.accept().unwrap();
        assert!(ask(&lab.outside, HOST, 8081).is_some());
        lab.networks.publish(&spec.sandbox, vec![port("8080:80"), port("8082:81")]).await.unwrap();
        lab.networks.settle().await;
        assert_eq!(ask(&lab.outside, HOST, 8081), None);
        assert!(ask(&lab.outside, HOST, 8082).is_some());
        std::io::Write::write_all(&mut &open, b"still here").unwrap();
        let mut heard = [0; 10];
        other_end.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
    });
}

#[test]
fn sctp_is_led_to_the_container() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let blue = blue();
        lab.networks.create_network(blue.clone()).await.unwrap();
        let ports = ["3868:3869/sctp", "[::]:3868:3869/sctp"];
        let spec = sandbox(vec![endpoint(&blue.id, "10.60.0.2 fd60::2")], &ports);
        let server = lab.join(&spec).await;
        for (host, outside) in
            [(IpAddr::V4(HOST), IpAddr::V4(OUTSIDE)), (HOST6.into(), OUTSIDE6.into())]
        {
            let receiver = server.netns.run(|| raw_sctp(host)).unwrap();
            let sender = lab.outside.run(|| raw_sctp(host)).unwrap();
            sender.send_to(&init(4000, 3868), &SocketAddr::new(host, 0).into()).unwrap();
            let (from, packet) = received(&receiver);
            assert_eq!(from, outside, "the client's address is kept");
            assert_eq!(packet[..4], [4000_u16.to_be_bytes(), 3869_u16.to_be_bytes()].concat());
            assert_eq!(crc32c(&packet), u32::from_le_bytes(packet[8..12].try_into().unwrap()));
        }
    });
}

/// A raw socket, since not every kernel has sockets of SCTP.
fn raw_sctp(like: IpAddr) -> Socket {
    let domain = if like.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let protocol = i32::from(Protocol::Sctp.number());
    let socket = Socket::new(domain, Type::RAW, Some(protocol.into())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Who sent the next packet, and the packet without the header of IP.
fn received(socket: &Socket) -> (IpAddr, Vec<u8>) {
    let mut buffer = [MaybeUninit::uninit(); 256];
    let (_, from) = socket.peek_from(&mut buffer).unwrap();
    let from = from.as_socket().unwrap().ip();
    let mut packet = vec![0; 256];
    let length = (&*socket).read(&mut packet).unwrap();
    packet.truncate(length);
    if from.is_ipv4() {
        packet.drain(..20);
    }
    (from, packet)
}

/// The packet that begins an association (RFC 9260, section 3.3.2).
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    // Verification tag, checksum, chunk INIT of 20 bytes.
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    // Initiate tag, window, streams out and in, first number.
    packet.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// The checksum of a packet, whatever there is in its place (RFC 9260,
/// appendix A).
fn crc32c(packet: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        sum ^= if (8..12).contains(&at) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !sum
}

#[test]
fn ten_thousand_ports_cost_little() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &[]);
        lab.join(&spec).await;
        lab.networks.leave(&spec.sandbox).await.unwrap();
        let mut spec = lab.spec("172.17.0.3", &[]);
        spec.ports = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| (20_000..30_000).map(move |n| (protocol, n)))
            .map(|(protocol, number)| PublishedPort {
                protocol,
                host_ip: Ipv4Addr::UNSPECIFIED.into(),
                host_port: number,
                container_port: number,
            })
            .collect();
        let (start, before) = (Instant::now(), resident());
        let web = lab.join(&spec).await;
        let (took, more) = (start.elapsed(), resident() - before);
        println!("20,000 ports: {took:?}, {more} KiB");
        web.serve(29_999);
        web.serve_udp(20_000);
        assert!(ask(&lab.outside, HOST, 29_999).is_some());
        assert!(lab::ask_udp(&udp(&lab.outside), HOST, 20_000).is_some());
        let start = Instant::now();
        let mut fewer = spec.ports.clone();
        fewer.remove(0);
        lab.networks.publish(&spec.sandbox, fewer).await.unwrap();
        println!("one port less: {:?}", start.elapsed());
        let start = Instant::now();
        lab.networks.leave(&spec.sandbox).await.unwrap();
        println!("leave: {:?}", start.elapsed());
        assert_eq!(sh("nft list map inet sampan ports | grep -c : || true").trim(), "1");
        // In a build without optimisation, on a machine that does other things.
        assert!(took < Duration::from_secs(2) * sampan_testkit::busy(), "{took:?}");
    });
}

/// The memory of this process in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
