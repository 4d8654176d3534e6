//! A host and its surroundings in namespaces of a test's own.
//!
//! ```text
//! outside 10.99.0.2 ── lan0 10.99.0.1  host  172.17.0.1 docker0 ── containers
//!         fd99::2           fd99::1
//! ```
#![allow(dead_code, clippy::unwrap_used)]

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sampan_net::names::NoNames;
use sampan_net::{
    BridgeConfig, DriverConfig, EndpointSpec, NetConfig, NetworkSpec, Networks, Protocol,
    PublishedPort, Sandbox, SandboxSpec, Subnet,
};
use sampan_sys::netlink::{
    LinkChange, LinkRef, NewVeth, Route, RouteEntry, add_address, add_route, add_veth, set_link,
};
use sampan_sys::netns::NetNs;
use sampan_types::{ContainerId, EndpointId, NetworkId, SandboxId};

/// The host's address on the LAN.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The outside's address on the LAN.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The same by IPv6.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);
/// The host's address on the default bridge.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
/// How long a packet that is dropped is waited for, where nobody else wants to
/// run: longer than any answer takes.
const PATIENCE: Duration = Duration::from_millis(400);

fn patience() -> Duration {
    PATIENCE * sampan_testkit::busy()
}

/// A host: the namespace of the thread that made it.
pub struct Lab {
    pub networks: Networks,
    pub outside: NetNs,
    pub bridge: NetworkId,
    pub config: NetConfig,
    pub _dir: tempfile::TempDir,
}

/// Runs a test as a host of its own; skips it, visibly, without root.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    run_with(tokio::runtime::Builder::new_current_thread(), test);
}

/// As [`run`], with another kind of runtime.
pub fn run_with<F: Future<Output = ()>>(
    mut runtime: tokio::runtime::Builder,
    test: impl FnOnce() -> F + Send,
) {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
        return;
    }
    let made = NetNs::create(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        runtime.enable_all().build().unwrap().block_on(test());
    });
    made.unwrap();
}

/// Runs a program in the host and returns what it prints.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program can be run in the host.
pub fn can(command: &str) -> bool {
    Command::new("sh").args(["-c", command]).output().unwrap().status.success()
}

pub fn up() -> LinkChange<'static> {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

/// The namespace outside, joined to the host by a pair of links.
fn make_outside() -> NetNs {
    let (outside, inner) = NetNs::create(Route::open).unwrap();
    let mut inner = inner.unwrap();
    let mut route = Route::open().unwrap();
    let veth = NewVeth {
        name: "lan0",
        peer: "eth0",
        peer_netns: outside.as_fd(),
        peer_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        group: 0,
    };
    route.run(vec![add_veth(&veth), set_link(LinkRef::Name("lo"), &up())]).unwrap();
    let lan = route.link("lan0").unwrap().unwrap().index;
    let host = format!("{HOST}/24").parse().unwrap();
    let host6 = format!("{HOST6}/64").parse().unwrap();
    let host = vec![add_address(lan, host), add_address(lan, host6)];
    route.run(vec![set_link(LinkRef::Index(lan), &up())]).unwrap();
    route.run(host).unwrap();
    let eth = inner.link("eth0").unwrap().unwrap().index;
    let by_host = RouteEntry { destination: None, gateway: Some(HOST.into()), link: eth };
    inner
        .run(vec![
            add_address(eth, format!("{OUTSIDE}/24").parse().unwrap()),
            set_link(LinkRef::Index(eth), &up()),
            add_route(&by_host).unwrap(),
            add_address(eth, format!("{OUTSIDE6}/64").parse().unwrap()),
            add_route(&RouteEntry { gateway: Some(HOST6.into()), ..by_host }).unwrap(),
        ])
        .unwrap();
    // Asking for a link activates it at once.
    route.link("lan0").unwrap();
    inner.link("eth0").unwrap();
    outside
}

/// A bridge network with a subnet.
pub fn network(name: &str, bridge: &str, gateway: &str) -> NetworkSpec {
    let address: ipnet::IpNet = gateway.parse().unwrap();
    let subnet = Subnet { net: address.trunc(), gateway: address.addr() };
    NetworkSpec {
        id: NetworkId::random(),
        name: name.to_owned(),
        driver: DriverConfig::Bridge(BridgeConfig::new(bridge, subnet)),
    }
}

/// The same with other settings.
pub fn network_with(mut spec: NetworkSpec, change: impl FnOnce(&mut BridgeConfig)) -> NetworkSpec {
    if let DriverConfig::Bridge(config) = &mut spec.driver {
        change(config);
    }
    spec
}

/// The same with further subnets, each by its gateway.
pub fn with_subnets(mut spec: NetworkSpec, gateways: &[&str]) -> NetworkSpec {
    if let DriverConfig::Bridge(config) = &mut spec.driver {
        config.subnets.extend(gateways.iter().map(|gateway| {
            let address: ipnet::IpNet = gateway.parse().unwrap();
            Subnet { net: address.trunc(), gateway: address.addr() }
        }));
    }
    spec
}

/// An endpoint with one address, or several, separated by blanks.
pub fn endpoint(network: &NetworkId, addresses: &str) -> EndpointSpec {
    let addresses = addresses.split(' ').map(|a| a.parse().unwrap()).collect();
    EndpointSpec::new(EndpointId::random(), network.clone(), addresses)
}

/// `8080:80`, `127.0.0.1:8080:80/udp`, `[::]:8080:80`
pub fn port(text: &str) -> PublishedPort {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, container_port) = ports.rsplit_once(':').unwrap();
    let (host_ip, host_port) = rest.rsplit_once(':').unwrap_or(("0.0.0.0", rest));
    let host_ip = host_ip.trim_matches(['[', ']']).parse().unwrap();
    let (host_port, container_port) = (host_port.parse().unwrap(), container_port.parse().unwrap());
    let protocol: Protocol = protocol.parse().unwrap();
    PublishedPort { protocol, host_ip, host_port, container_port }
}

pub fn sandbox(endpoints: Vec<EndpointSpec>, ports: &[&str]) -> SandboxSpec {
    let mut spec = SandboxSpec::new(SandboxId::random(), ContainerId::random(), endpoints);
    spec.ports = ports.iter().map(|p| port(p)).collect();
    spec
}

impl Lab {
    pub async fn new() -> Self {
        Self::with(|config| config).await
    }

    pub async fn with(change: impl FnOnce(NetConfig) -> NetConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let outside = make_outside();
        let bridge = NetworkSpec {
            id: NetworkId::random(),
            name: "bridge".to_owned(),
            driver: DriverConfig::Bridge(BridgeConfig::default_bridge(None)),
        };
        let mut config = NetConfig::new("sampan", dir.path());
        let id = bridge.id.clone();
        config.networks.push(bridge);
        let config = change(config);
        let networks = Networks::open(config.clone(), Box::new(NoNames)).await.unwrap();
        Self { networks, outside, bridge: id, config, _dir: dir }
    }

    /// A container on the default bridge.
    pub fn spec(&self, address: &str, ports: &[&str]) -> SandboxSpec {
        sandbox(vec![endpoint(&self.bridge, address)], ports)
    }

    pub async fn join(&self, spec: &SandboxSpec) -> Container {
        Container::of(&self.networks.join(spec.clone()).await.unwrap())
    }

    /// What is left in the kernel of sandboxes: links, namespaces, elements.
    pub fn leftovers(&self) -> (usize, usize, String) {
        let links = Route::open().unwrap().links().unwrap();
        let veths = links.iter().filter(|l| l.name.starts_with("veth")).count();
        let names = std::fs::read_dir(self.config.exec_root.join("netns")).unwrap().count();
        (veths, names, sh("nft list maps | grep -cE '(tcp|udp) ' || true"))
    }
}

/// A namespace from which and to which packets go.
pub struct Container {
    pub netns: NetNs,
}

impl Container {
    pub fn of(sandbox: &Sandbox) -> Self {
        Self { netns: NetNs::open(sandbox.netns.as_ref().unwrap()).unwrap() }
    }

    /// Serves TCP on a port: whoever connects is told its own address.
    pub fn serve(&self, port: u16) {
        serve(&self.netns, port);
    }

    /// Answers UDP on a port in the same way.
    pub fn serve_udp(&self, port: u16) {
        let socket = self.netns.run(|| UdpSocket::bind(("::", port)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
            }
        });
    }

    pub fn ask(&self, ip: impl Into<IpAddr>, port: u16) -> Option<String> {
        ask(&self.netns, ip, port)
    }
}

/// Serves TCP in a namespace until the test's process ends.
pub fn serve(netns: &NetNs, port: u16) {
    let listener = netns.run(|| TcpListener::bind(("::", port)).unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
        }
    });
}

/// As [`ask`], from the calling thread's namespace.
pub fn ask_here(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience()).ok()?;
    stream.set_read_timeout(Some(patience())).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// What a server tells a client in a namespace that its address is; none
/// when it can't be reached.
pub fn ask(netns: &NetNs, ip: impl Into<IpAddr>, port: u16) -> Option<String> {
    let address = SocketAddr::new(ip.into(), port);
    netns.run(|| ask_here(address)).unwrap()
}

/// Whether somebody says no to a client in the calling thread's namespace: what
/// is dropped gets no answer at all.
pub fn refused_here(ip: impl Into<IpAddr>, port: u16) -> bool {
    let answer = TcpStream::connect_timeout(&SocketAddr::new(ip.into(), port), patience());
    answer.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// As [`ask`], from the host itself.
pub fn ask_from_host(ip: impl Into<IpAddr>, port: u16) -> Option<String> {
    ask_here(SocketAddr::new(ip.into(), port))
}

/// A socket in a namespace for several questions of one UDP flow.
pub fn udp(netns: &NetNs) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind(("::", 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(patience())).unwrap();
    socket
}

pub fn ask_udp(socket: &UdpSocket, ip: impl Into<IpAddr>, port: u16) -> Option<String> {
    let ip = match ip.into() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    socket.send_to(b"?", SocketAddr::new(ip.into(), port)).ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Where golden files are.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden").join(name)
}
