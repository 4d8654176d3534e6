//! The program that leads connections by IPv6, hung at the root of the control
//! groups: who is led and who is not, what sockets are shown, and that it is
//! replaced and taken off. Needs root.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sampan_sys::bpf::{Connect, Place, detach_connect, is_connect_attached};
use sampan_sys::netlink::{LinkChange, LinkRef, Route, set_link};
use sampan_sys::netns::{NetNs, cookie};
use socket2::{Domain, Socket, Type};

const LOCAL: Ipv6Addr = Ipv6Addr::LOCALHOST;
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Runs a test on a thread with namespaces of its own, `lo` being up.
fn alone(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = NetNs::create(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let up = LinkChange { up: Some(true), ..Default::default() };
        Route::open().unwrap().run(vec![set_link(LinkRef::Index(1), &up)]).unwrap();
        test(&dir.path().join("connect"));
    });
    made.unwrap();
}

fn mapped(address: [u8; 4]) -> Ipv6Addr {
    Ipv4Addr::from(address).to_ipv6_mapped()
}

/// Serves one TCP connection after the other at an address of IPv4: whoever
/// connects is told where from.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
    port
}

fn ask(to: impl Into<SocketAddr>) -> io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(2))?;
    let (mut said, peer) = (String::new(), stream.peer_addr()?);
    stream.read_to_string(&mut said)?;
    Ok((said, peer))
}

#[test]
fn connections_are_led_to_ipv4() {
    alone(|dir| {
        let port = serve();
        let led = SocketAddr::from((LOCAL, 8080));
        let connect = Connect::load(cookie().unwrap(), dir).unwrap();
        let place = Place { protocol: TCP, address: ANY, port: 8080 };
        connect.set(place, mapped([127, 0, 0, 1]), port).unwrap();
        assert!(ask(led).is_err(), "not hung up");
        connect.attach(dir).unwrap();
        assert!(is_connect_attached(dir));
        assert!(ask(led).is_err(), "no address of the host's own");
        connect.set_own(LOCAL).unwrap();
        assert_eq!(ask(led).unwrap(), ("127.0.0.1".to_owned(), led), "and nobody sees it");
        assert!(ask((LOCAL, 8081)).is_err(), "another port");

        // Who serves it himself has it.
        let own = TcpListener::bind("[::1]:8080").unwrap();
        drop(TcpStream::connect(led).unwrap());
        assert!(own.accept().is_ok());
        drop(own);

        // In other namespaces nothing changes.
        let (elsewhere, _) = NetNs::create(|| ()).unwrap();
        assert!(elsewhere.run(|| ask(led).is_err()).unwrap());

        connect.set(Place { address: LOCAL, ..place }, ANY, 0).unwrap();
        assert!(ask(led).is_err(), "to be left alone");
        connect.remove(Place { address: LOCAL, ..place }).unwrap();
        assert!(ask(led).is_ok());
        connect.remove_own(LOCAL).unwrap();
        assert!(ask(led).is_err());
        connect.set_own(LOCAL).unwrap();
        for _ in 0..2 {
            connect.remove(place).unwrap();
            assert!(ask(led).is_err(), "removed");
        }
        detach_connect(dir).unwrap();
    });
}

#[test]
fn a_socket_that_is_bound_or_of_ipv6_alone_is_told_at_once() {
    alone(|dir| {
        let port = serve();
        let connect = Connect::load(cookie().unwrap(), dir).unwrap();
        let place = Place { protocol: TCP, address: LOCAL, port: 8080 };
        connect.set(place, mapped([127, 0, 0, 1]), port).unwrap();
        connect.attach(dir).unwrap();
        let open = || Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        let to_led = |from: &Socket| from.connect(&SocketAddr::from((LOCAL, 8080)).into());
        let only = open();
        only.set_only_v6(true).unwrap();
        assert_eq!(to_led(&only).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        let bound = open();
        bound.bind(&SocketAddr::from((LOCAL, 0)).into()).unwrap();
        assert_eq!(to_led(&bound).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let free = open();
        free.bind(&SocketAddr::from((ANY, 0)).into()).unwrap();
        to_led(&free).unwrap();
        detach_connect(dir).unwrap();
    });
}

#[test]
fn datagrams_are_led_and_come_from_where_they_were_sent_to() {
    alone(|dir| {
        let server = UdpSocket::bind("[::]:0").unwrap();
        let port = server.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((length, peer)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], peer);
            }
        });
        let connect = Connect::load(cookie().unwrap(), dir).unwrap();
        let place = |port| Place { protocol: UDP, address: LOCAL, port };
        connect.set(place(5300), mapped([127, 0, 0, 1]), port).unwrap();
        connect.set(place(5600), LOCAL, port).unwrap();
        connect.attach(dir).unwrap();
        let socket = || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        };
        let mut buffer = [0; 16];
        for to in [5300, 5600] {
            let (socket, to) = (socket(), SocketAddr::from((LOCAL, to)));
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
            socket.send(b"one").unwrap();
            assert_eq!(socket.recv_from(&mut buffer).unwrap(), (3, to));
        }
        // Without a connection only to IPv6: the kernel wants it so.
        let (socket, to) = (socket(), SocketAddr::from((LOCAL, 5600)));
        socket.send_to(b"two", to).unwrap();
        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (3, to));
        detach_connect(dir).unwrap();
    });
}

#[test]
fn the_next_process_takes_over_and_nothing_is_left() {
    alone(|dir| {
        let (first_port, second_port) = (serve(), serve());
        let place = Place { protocol: TCP, address: LOCAL, port: 8080 };
        let led = SocketAddr::from((LOCAL, 8080));
        let load = |port| {
            let connect = Connect::load(cookie().unwrap(), dir).unwrap();
            connect.set(place, mapped([127, 0, 0, 1]), port).unwrap();
            connect.attach(dir).unwrap();
            connect
        };
        let first = load(first_port);
        let old = TcpStream::connect(led).unwrap();
        drop(first);
        assert!(ask(led).is_ok(), "without its process");
        let second = load(second_port);
        assert_eq!(ask(led).unwrap().1, led);
        assert_eq!(old.peer_addr().unwrap(), led, "the names of earlier sockets");
        second.attach(dir).unwrap();
        drop(second);
        for _ in 0..2 {
            detach_connect(dir).unwrap();
            assert!(ask(led).is_err() && !dir.exists() && !is_connect_attached(dir));
        }
    });
}
