//! The `syslog` driver: messages to a receiver over a socket.
//!
//! Be aware:
//! - A receiver that is slow or away must not stop the container: messages
//!   wait in a bounded buffer, the oldest are dropped and counted.
//! - Connecting is tried again at most once in [`RETRY`], with the next
//!   message; a TCP connection attempt is given [`CONNECT`] at most.
//! - Host names are looked up by the system's resolver, which may take its
//!   time once per connection; addresses need no look-up.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use sampan_types::Timestamp;

use super::{LogSink, Record, StdStream, SyslogAddress, SyslogFormat};

/// How long a failed connection is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_millis(200);
/// What is used when the setup names no size.
pub(super) const DEFAULT_BUFFER: u64 = 1 << 20;
/// Where the machine's own receiver listens.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

const SEVERITY_ERROR: u8 = 3;
const SEVERITY_INFO: u8 = 6;

/// Sends records to a receiver.
pub(super) struct SyslogSink {
    address: SyslogAddress,
    style: Style,
    limit: usize,
    /// Messages that wait; the first may be sent in part (streams).
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// Bytes of the first message that are sent.
    sent: usize,
    socket: Option<Socket>,
    retry_at: Option<Instant>,
    dropped: u64,
}

/// What all messages have in common.
struct Style {
    facility: u8,
    tag: String,
    format: SyslogFormat,
    hostname: String,
    pid: u32,
    /// Streams need an end of each message.
    stream: bool,
}

enum Socket {
    Datagram(UnixDatagram),
    Udp(UdpSocket),
    Stream(UnixStream),
    Tcp(TcpStream),
}

impl SyslogSink {
    pub fn new(
        address: SyslogAddress,
        facility: u8,
        tag: &str,
        format: SyslogFormat,
        buffer: u64,
    ) -> Self {
        let stream = matches!(address, SyslogAddress::Tcp(_) | SyslogAddress::Unix(_));
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|h| h.into_string().ok())
            .filter(|h| !h.is_empty())
            .unwrap_or_else(|| "-".into());
        let style = Style {
            facility,
            tag: tag.to_owned(),
            format,
            hostname,
            pid: std::process::id(),
            stream,
        };
        let limit = usize::try_from(buffer).unwrap_or(usize::MAX);
        Self {
            address,
            style,
            limit,
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            socket: None,
            retry_at: None,
            dropped: 0,
        }
    }

    fn make_room(&mut self, bytes: usize) {
        while self.queued + bytes > self.limit {
            // The first one stays when its beginning is sent already.
            let oldest = usize::from(self.sent > 0);
            let Some(message) = self.queue.remove(oldest) else { return };
            self.queued -= message.len();
            self.dropped += 1;
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        while let Some(message) = self.queue.front() {
            if self.socket.is_none() {
                if self.retry_at.is_some_and(|t| Instant::now() < t) {
                    return Ok(());
                }
                match connect(&self.address) {
                    Ok(socket) => self.socket = Some(socket),
                    Err(_) => {
                        self.retry_at = Some(Instant::now() + RETRY);
                        return Ok(());
                    }
                }
            }
            let Some(socket) = &mut self.socket else { return Ok(()) };
            match socket.send(&message[self.sent..]) {
                Ok(n) if self.style.stream && self.sent + n < message.len() => self.sent += n,
                Ok(_) => self.pop(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Too long for a datagram: it will never fit.
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                    self.pop();
                    self.dropped += 1;
                    return Err(e);
                }
                Err(_) => {
                    // The receiver is gone; a message sent in part begins anew.
                    self.socket = None;
                    self.sent = 0;
                    self.retry_at = Some(Instant::now() + RETRY);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn pop(&mut self) {
        if let Some(message) = self.queue.pop_front() {
            self.queued -= message.len();
        }
        self.sent = 0;
    }
}

impl LogSink for SyslogSink {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let message = self.style.message(record);
        self.make_room(message.len());
        if self.queued + message.len() > self.limit {
            self.dropped += 1;
            return self.drain();
        }
        self.queued += message.len();
        self.queue.push_back(message);
        self.drain()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Style {
    fn message(&self, record: &Record<'_>) -> Vec<u8> {
        let severity =
            if record.stream == StdStream::Stderr { SEVERITY_ERROR } else { SEVERITY_INFO };
        let priority = self.facility * 8 + severity;
        let Self { tag, hostname, pid, .. } = self;
        let header = match self.format {
            SyslogFormat::Local => {
                format!("<{priority}>{} {tag}[{pid}]: ", stamp(record.time, "%b %e %H:%M:%S"))
            }
            SyslogFormat::Rfc3164 => format!(
                "<{priority}>{} {hostname} {tag}[{pid}]: ",
                stamp(record.time, "%b %e %H:%M:%S")
            ),
            SyslogFormat::Rfc5424 => format!(
                "<{priority}>1 {} {hostname} {tag} {pid} {tag} - ",
                stamp(record.time, "%Y-%m-%dT%H:%M:%S%:z")
            ),
            SyslogFormat::Rfc5424Micro => format!(
                "<{priority}>1 {} {hostname} {tag} {pid} {tag} - ",
                stamp(record.time, "%Y-%m-%dT%H:%M:%S.%6f%:z")
            ),
        };
        let mut message = header.into_bytes();
        message.extend_from_slice(record.line);
        if self.stream {
            message.push(b'\n');
        }
        message
    }
}

/// The time in the machine's zone.
fn stamp(time: Timestamp, format: &str) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.nanos()))
        .map(|t| t.to_zoned(jiff::tz::TimeZone::system()).strftime(format).to_string())
        .unwrap_or_else(|_| "-".into())
}

fn connect(address: &SyslogAddress) -> io::Result<Socket> {
    let socket = match address {
        SyslogAddress::Local => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            let found =
                LOCAL.iter().find_map(|p| datagram(Path::new(p)).map_err(|e| last = e).ok());
            found.ok_or(last)?
        }
        SyslogAddress::UnixGram(path) => datagram(path)?,
        SyslogAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            Socket::Stream(stream)
        }
        SyslogAddress::Udp(host) => {
            let target = resolve(host)?;
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(target)?;
            socket.set_nonblocking(true)?;
            Socket::Udp(socket)
        }
        SyslogAddress::Tcp(host) => {
            let stream = TcpStream::connect_timeout(&resolve(host)?, CONNECT)?;
            stream.set_nonblocking(true)?;
            Socket::Tcp(stream)
        }
    };
    Ok(socket)
}

fn datagram(path: &Path) -> io::Result<Socket> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(Socket::Datagram(socket))
}

fn resolve(host: &str) -> io::Result<std::net::SocketAddr> {
    host.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

impl Socket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Datagram(s) => s.send(bytes),
            Self::Udp(s) => match s.send(bytes) {
                // The answer to an earlier message; this one may well arrive.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => s.send(bytes),
                other => other,
            },
            Self::Stream(s) => s.write(bytes),
            Self::Tcp(s) => s.write(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(line: &[u8]) -> Record<'_> {
        Record {
            stream: StdStream::Stdout,
            time: Timestamp::from_nanos(1_700_000_000_123_456_789),
            line,
            partial: false,
        }
    }

    fn sink(address: SyslogAddress, format: SyslogFormat, buffer: u64) -> SyslogSink {
        SyslogSink::new(address, 3, "tag", format, buffer)
    }

    #[test]
    fn datagrams_arrive_in_each_format() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = SyslogAddress::Udp(receiver.local_addr().unwrap().to_string());
        for (format, middle) in [
            (SyslogFormat::Rfc3164, format!(" tag[{}]: hello", std::process::id())),
            (SyslogFormat::Rfc5424, format!(" tag {} tag - hello", std::process::id())),
            (SyslogFormat::Rfc5424Micro, format!(" tag {} tag - hello", std::process::id())),
        ] {
            sink(address.clone(), format, 1000).write(&record(b"hello")).unwrap();
            let mut bytes = [0; 200];
            let n = receiver.recv(&mut bytes).unwrap();
            let text = std::str::from_utf8(&bytes[..n]).unwrap();
            assert!(text.starts_with("<30>") && text.ends_with(&middle), "{text}");
        }
    }

    #[test]
    fn a_receiver_that_is_away_costs_the_oldest_messages_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut sink = sink(SyslogAddress::UnixGram(path.clone()), SyslogFormat::Local, 200);
        for n in 0..20 {
            sink.write(&record(format!("message {n}").as_bytes())).unwrap();
        }
        assert!(sink.dropped() > 10);
        let receiver = UnixDatagram::bind(&path).unwrap();
        sink.retry_at = None;
        sink.flush().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let mut last = String::new();
        let mut bytes = [0; 200];
        while let Ok(n) = receiver.recv(&mut bytes) {
            last = String::from_utf8_lossy(&bytes[..n]).into_owned();
        }
        assert!(last.ends_with("message 19"), "{last}");
    }

    #[test]
    fn a_receiver_that_does_not_read_stops_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SyslogAddress::Tcp(listener.local_addr().unwrap().to_string());
        let mut sink = sink(address, SyslogFormat::Rfc3164, 10_000);
        let line = vec![b'x'; 8000];
        for _ in 0..2000 {
            sink.write(&record(&line)).unwrap();
        }
        assert!(sink.dropped() > 0);
    }
}
