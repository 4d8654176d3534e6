//! A host, sandboxes and name servers in namespaces of a test's own.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sampan_net::DnsSpec;
use sampan_net::names::{EndpointNames, SandboxNames};
use sampan_proxy::dns::query::{Query, ask};
use sampan_proxy::dns::{kind, records};
use sampan_proxy::{Client, ClientConfig};
use sampan_sys::netlink::{LinkChange, LinkRef, Route, set_link};
use sampan_sys::netns::NetNs;
use sampan_types::{ContainerId, NetworkId, SandboxId};

/// The process under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sampan-proxy-under-test");
/// Where names are answered.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A host: the namespace of the thread that made it.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub client: Client,
}

/// Runs a test as a host of its own; skips it, visibly, without root.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
        return;
    }
    let made = NetNs::create(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        loopback();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
    });
    made.unwrap();
}

fn loopback() {
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    Route::open().unwrap().run(vec![set_link(LinkRef::Name("lo"), &up)]).unwrap();
}

impl Lab {
    pub fn new(resolv_conf: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("netns")).unwrap();
        std::fs::write(dir.path().join("resolv.conf"), resolv_conf).unwrap();
        let client = Self::client_of(&dir, PROGRAM.into());
        Self { dir, client }
    }

    fn client_of(dir: &tempfile::TempDir, program: PathBuf) -> Client {
        Client::new(ClientConfig {
            program,
            exec_root: dir.path().to_owned(),
            resolv_conf: Some(dir.path().join("resolv.conf")),
        })
    }

    /// A daemon that was started again.
    pub fn restart_daemon(&mut self) {
        self.client = Self::client_of(&self.dir, PROGRAM.into());
    }

    /// A daemon of another build.
    pub fn upgrade(&mut self, program: PathBuf) {
        self.client = Self::client_of(&self.dir, program);
    }

    /// A namespace with a name.
    pub fn namespace(&self, sandbox: &SandboxId) -> (NetNs, PathBuf) {
        let (netns, ()) = NetNs::create(loopback).unwrap();
        let path = self.dir.path().join("netns").join(sandbox.as_str());
        netns.bind(&path).unwrap();
        (netns, path)
    }

    /// A sandbox on the network `net`, which is not known yet.
    pub fn sandbox(&self, network: &NetworkId, names: &[&str], address: &str) -> Sandbox {
        let sandbox = SandboxId::random();
        let (netns, path) = self.namespace(&sandbox);
        let names = SandboxNames {
            sandbox,
            container: ContainerId::random(),
            netns: path,
            dns: DnsSpec { serves: true, ..DnsSpec::default() },
            leads_out: true,
            endpoints: vec![EndpointNames {
                network: network.clone(),
                network_name: "net".to_owned(),
                names: names.iter().map(|n| (*n).to_owned()).collect(),
                addresses: vec![address.parse().unwrap()],
            }],
        };
        Sandbox { netns, names }
    }

    /// The process that listens at the socket.
    pub fn pid(&self) -> Option<i32> {
        use std::os::fd::AsFd;
        let path = self.dir.path().join("proxy.sock");
        let stream = std::os::unix::net::UnixStream::connect(path).ok()?;
        let peer = nix::sys::socket::getsockopt(
            &stream.as_fd(),
            nix::sys::socket::sockopt::PeerCredentials,
        );
        peer.ok().map(|p| p.pid()).filter(|p| *p > 0)
    }

    /// What the process says of itself.
    pub fn status(&self) -> String {
        let output = std::process::Command::new(PROGRAM)
            .args(["proxy", "--show", "--exec-root"])
            .arg(self.dir.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn set_resolv_conf(&self, text: &str) {
        // Replaced, as programs do that write it.
        let path = self.dir.path().join("resolv.conf");
        let other = self.dir.path().join("resolv.conf.new");
        std::fs::write(&other, text).unwrap();
        std::fs::rename(other, path).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Without its directory a process ends, also one that the client is
        // about to start in the place of this one.
        if let Some(pid) = self.pid() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        for entry in std::fs::read_dir(self.dir.path().join("netns")).unwrap() {
            let _ = sampan_sys::netns::remove(&entry.unwrap().path());
        }
    }
}

/// A namespace, and what is said of it.
pub struct Sandbox {
    pub netns: NetNs,
    pub names: SandboxNames,
}

impl Sandbox {
    pub fn udp(&self) -> UdpSocket {
        udp(&self.netns)
    }

    /// The addresses of a name as text, sorted; none without an answer.
    pub fn look(&self, name: &str) -> Option<(u16, Vec<String>)> {
        look(&self.udp(), SERVER, name)
    }
}

/// A socket in a namespace.
pub fn udp(netns: &NetNs) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket
}

pub fn look(socket: &UdpSocket, server: SocketAddr, name: &str) -> Option<(u16, Vec<String>)> {
    exchange(socket, server, &ask(7, name, kind::A)).map(|m| addresses(&m))
}

pub fn exchange(socket: &UdpSocket, server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    socket.send_to(question, server).ok()?;
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from, server, "an answer from elsewhere");
        if buffer[..2] == question[..2] {
            return Some(buffer[..length].to_vec());
        }
    }
}

/// The same over TCP.
pub fn exchange_tcp(netns: &NetNs, server: SocketAddr, questions: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut stream = netns.run(|| TcpStream::connect(server).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for question in questions {
        let length = u16::try_from(question.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], question].concat()).unwrap();
    }
    questions.iter().map(|_| read_framed(&mut stream).unwrap()).collect()
}

fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// An answer's code and the addresses in it, sorted.
pub fn addresses(message: &[u8]) -> (u16, Vec<String>) {
    let end = sampan_proxy::dns::name::end(message, 12).unwrap() + 4;
    let list = records::records(message, end).unwrap();
    let (found, _) = records::addresses(message, &list);
    let mut text: Vec<String> = found.iter().map(ToString::to_string).collect();
    text.sort();
    (records::rcode(message), text)
}

/// A name server that knows some names, in the calling thread's namespace.
pub struct Upstream {
    /// How many questions it was asked.
    pub asked: Arc<AtomicUsize>,
    names: Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>,
}

/// What an upstream does with questions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Answers,
    Silent,
    Refuses,
    /// Answers `TC` over UDP.
    Cuts,
}

impl Upstream {
    /// Answers at `address` port 53 until the test ends.
    pub fn start(address: &str, mood: Mood) -> Self {
        let (udp, tcp) = (UdpSocket::bind((address, 53)), TcpListener::bind((address, 53)));
        Self::serve(udp.unwrap(), tcp.unwrap(), mood)
    }

    pub fn start_in(netns: &NetNs, address: &str, mood: Mood) -> Self {
        netns.run(|| Self::start(address, mood)).unwrap()
    }

    fn serve(udp: UdpSocket, tcp: TcpListener, mood: Mood) -> Self {
        let this = Self { asked: Arc::default(), names: Arc::default() };
        let (asked, names) = (Arc::clone(&this.asked), Arc::clone(&this.names));
        let _ =
            nix::sys::socket::setsockopt(&udp, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::Relaxed);
                let reply = match mood {
                    Mood::Silent => continue,
                    Mood::Refuses => code(&buffer[..length], 5),
                    Mood::Cuts => {
                        let mut reply = code(&buffer[..length], 0);
                        reply[2] |= 2;
                        reply
                    }
                    Mood::Answers => respond(&names.lock().unwrap(), &buffer[..length]),
                };
                let _ = udp.send_to(&reply, peer);
            }
        });
        let (asked, names) = (Arc::clone(&this.asked), Arc::clone(&this.names));
        thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                while let Some(message) = read_framed(&mut stream) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let reply = respond(&names.lock().unwrap(), &message);
                    let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &reply].concat());
                }
            }
        });
        this
    }

    pub fn name(self, name: &str, addresses: &[[u8; 4]]) -> Self {
        let list = addresses.iter().map(|a| Ipv4Addr::from(*a)).collect();
        self.names.lock().unwrap().insert(name.to_owned(), list);
        self
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn code(question: &[u8], code: u8) -> Vec<u8> {
    let Ok(query) = Query::read(question) else { return Vec::new() };
    let mut reply = question[..query.end].to_vec();
    (reply[2], reply[3]) = (0x81, 0x80 | code);
    reply[6..12].fill(0);
    reply
}

/// `*` knows every name below it.
fn respond(names: &BTreeMap<String, Vec<Ipv4Addr>>, question: &[u8]) -> Vec<u8> {
    let Ok(query) = Query::read(question) else { return Vec::new() };
    let name = sampan_proxy::dns::name::to_text(query.name).to_lowercase();
    let known = names.get(&name).or_else(|| names.get("*"));
    let Some(known) = known else { return code(question, 3) };
    let mut reply = code(question, 0);
    if query.kind != kind::A {
        return reply;
    }
    reply[7] = u8::try_from(known.len()).unwrap();
    for address in known {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    reply
}
