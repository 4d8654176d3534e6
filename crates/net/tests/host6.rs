//! What programs of the host reach by IPv6: containers without it, and `::1`
//! where br_netfilter would lose the answers. With real packets.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use lab::{
    GATEWAY, HOST6, Lab, OUTSIDE6, ask, ask_from_host, endpoint, network, sandbox, sh, with_subnets,
};
use sampan_net::names::NoNames;
use sampan_net::{NetConfig, Networks};
use sampan_sys::bpf::{Connect, detach_connect, is_connect_attached};

const LOCAL: Ipv6Addr = Ipv6Addr::LOCALHOST;
const WEB: &str = "172.17.0.2";

fn says(text: impl ToString) -> Option<String> {
    Some(text.to_string())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hooks(config: &NetConfig) -> std::path::PathBuf {
    config.exec_root.join("host6")
}

/// Whether the kernel lets us hang programs up; says so when it does not.
fn is_possible(test: &str, dir: &Path) -> bool {
    let hung = Connect::load(1, dir).map_err(|e| e.to_string()).and_then(|program| {
        let dir = dir.join("probe");
        let hung = program.attach(&dir).map_err(|e| e.to_string());
        let _ = detach_connect(&dir);
        hung
    });
    hung.inspect_err(|e| sampan_testkit::skip(test, &format!("the kernel can't: {e}"))).is_ok()
}

/// Waits until the program is taken off.
async fn taken_off(dir: &Path) {
    for _ in 0..600 {
        if !is_connect_attached(dir) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} is still there", dir.display());
}

/// Asks by a connected socket for datagrams, whose answers have to come from
/// where it sent to.
fn ask_udp(port: u16) -> Option<String> {
    let socket = UdpSocket::bind("[::]:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let to = SocketAddr::from((LOCAL, port));
    socket.connect(to).ok()?;
    socket.send(b"?").ok()?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(from, to);
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn the_host_reaches_containers_without_ipv6() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let dir = hooks(&lab.config);
        if !is_possible("the_host_reaches_containers_without_ipv6", &lab.config.exec_root) {
            return;
        }
        let ports = ["8080:80", "127.0.0.1:8081:80", "[::1]:8082:80", "5300:53/udp"];
        let spec = lab.spec(WEB, &ports);
        let web = lab.join(&spec).await;
        web.serve(80);
        web.serve_udp(53);
        assert_eq!(ask_from_host(LOCAL, 8080), says(GATEWAY), "as by 127.0.0.1");
        assert_eq!(ask_from_host(HOST6, 8080), says(GATEWAY), "another address of the host");
        assert_eq!(ask_from_host(LOCAL, 8081), None, "a port of IPv4 alone");
        assert_eq!(ask_from_host(LOCAL, 8082), says(GATEWAY), "a port of ::1 alone");
        assert_eq!(ask_from_host(HOST6, 8082), None);
        assert_eq!(ask_udp(5300), says(GATEWAY));
        let stream = TcpStream::connect((LOCAL, 8080)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), SocketAddr::from((LOCAL, 8080)));

        // From elsewhere nothing is different.
        assert_eq!(ask(&lab.outside, HOST6, 8080), None);
        assert_eq!(ask(&lab.outside, LOCAL, 8080), None);
        assert_eq!(web.ask(LOCAL, 8080), None, "its own");
        assert_eq!(ask_from_host(OUTSIDE6, 8080), None, "not the host's address");

        // Who serves it himself has it.
        let own = TcpListener::bind((LOCAL, 8080)).unwrap();
        drop(TcpStream::connect((LOCAL, 8080)).unwrap());
        own.set_nonblocking(true).unwrap();
        assert!(own.accept().is_ok());
        drop(own);

        // Other ports, from one moment to the next.
        let other = [lab::port("8083:80")];
        lab.networks.publish(&spec.sandbox, other.to_vec()).await.unwrap();
        assert_eq!(ask_from_host(LOCAL, 8080), None);
        assert_eq!(ask_from_host(LOCAL, 8083), says(GATEWAY));
        lab.networks.leave(&spec.sandbox).await.unwrap();
        assert_eq!(ask_from_host(LOCAL, 8083), None);
        taken_off(&dir).await;
        assert!(!dir.exists(), "nothing is left");
        // And again.
        lab.join(&spec).await.serve(80);
        assert_eq!(ask_from_host(LOCAL, 8080), says(GATEWAY));
    });
}

#[test]
fn loopback_is_answered_also_where_bridged_packets_are_filtered() {
    lab::run(|| async {
        sh(
            "test ! -e /proc/sys/net/bridge || echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables",
        );
        let lab = Lab::new().await;
        let test = "loopback_is_answered_also_where_bridged_packets_are_filtered";
        if !is_possible(test, &lab.config.exec_root) {
            return;
        }
        let dual = with_subnets(network("dual", "br-dual", "10.60.0.1/24"), &["fd60::1/64"]);
        lab.networks.create_network(dual.clone()).await.unwrap();
        let ports = ["8080:80", "[::]:8080:80", "[::]:5300:53/udp"];
        let spec = sandbox(vec![endpoint(&dual.id, "10.60.0.2 fd60::2")], &ports);
        let web = lab.join(&spec).await;
        web.serve(80);
        web.serve_udp(53);
        assert_eq!(ask_from_host(LOCAL, 8080), says("fd60::1"), "by IPv6 all the way");
        assert_eq!(ask_from_host(HOST6, 8080), says(HOST6), "by itself");
        assert_eq!(ask(&lab.outside, HOST6, 8080), says(OUTSIDE6));
        assert_eq!(ask_udp(5300), says("fd60::1"));
        // Without a connection as well: it stays with IPv6.
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let to = SocketAddr::from((LOCAL, 5300));
        socket.send_to(b"?", to).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 64]).unwrap().1, to);
        // An address that the host has no more is not its own.
        let alone = lab.join(&lab.spec(WEB, &["8090:80"])).await;
        alone.serve(80);
        assert_eq!(ask_from_host(ip("fd60::1"), 8090), says(GATEWAY));
    });
}

#[test]
fn it_outlives_the_process_and_is_taken_over() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let (dir, config) = (hooks(&lab.config), lab.config.clone());
        if !is_possible("it_outlives_the_process_and_is_taken_over", &config.exec_root) {
            return;
        }
        let mut spec = lab.spec(WEB, &["8080:80"]);
        let web = lab.join(&spec).await;
        web.serve(80);
        let old = TcpStream::connect((LOCAL, 8080)).unwrap();
        drop(lab.networks);
        assert_eq!(ask_from_host(LOCAL, 8080), says(GATEWAY), "without its process");

        let next = Networks::open(config.clone(), Box::new(NoNames)).await.unwrap();
        assert_eq!(ask_from_host(LOCAL, 8080), says(GATEWAY), "not compared yet");
        next.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(ask_from_host(LOCAL, 8080), says(GATEWAY));
        assert_eq!(old.peer_addr().unwrap(), SocketAddr::from((LOCAL, 8080)));
        spec.ports = vec![lab::port("8081:80")];
        next.publish(&spec.sandbox, spec.ports.clone()).await.unwrap();
        assert_eq!(ask_from_host(LOCAL, 8080), None, "it is the next one's");
        assert_eq!(ask_from_host(LOCAL, 8081), says(GATEWAY));
        drop(next);

        // One that shall not, takes off what there is.
        let off = NetConfig { host_ipv6_ports: false, ..config.clone() };
        let next = Networks::open(off, Box::new(NoNames)).await.unwrap();
        next.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        taken_off(&dir).await;
        assert_eq!(ask_from_host(LOCAL, 8081), None, "refused");
        drop(next);

        // So does one that has nothing to lead.
        let next = Networks::open(config.clone(), Box::new(NoNames)).await.unwrap();
        next.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!(ask_from_host(LOCAL, 8081), says(GATEWAY));
        drop(next);
        let next = Networks::open(config, Box::new(NoNames)).await.unwrap();
        next.reconcile(&[]).await.unwrap();
        taken_off(&dir).await;
        assert!(!dir.exists());
    });
}
