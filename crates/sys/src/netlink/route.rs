//! The rtnetlink socket: batches of requests, lists of objects.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attr::{HEADER, Message};
use super::link::{self, Link};
use super::socket::{Reply, Socket};
use super::{AddressEntry, NetlinkError, RouteEntry, address, is_absence};

/// More answers than this might not fit into the socket's buffer at once.
const REQUESTS_PER_DATAGRAM: usize = 64;
/// How often a list is read again when it changed meanwhile.
const DUMP_ATTEMPTS: usize = 8;

/// One change that the kernel is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) message: Message,
    pub(crate) what: String,
    absent_ok: bool,
    present_ok: bool,
}

impl Request {
    pub(crate) fn new(message: Message, what: String) -> Self {
        Self { message, what, absent_ok: false, present_ok: false }
    }

    /// Takes the object's absence for success.
    #[must_use]
    pub fn absent_ok(mut self) -> Self {
        self.absent_ok = true;
        self
    }

    /// Takes the object's existence for success.
    #[must_use]
    pub fn present_ok(mut self) -> Self {
        self.present_ok = true;
        self
    }

    fn tolerates(&self, errno: i32) -> bool {
        (self.absent_ok && is_absence(errno)) || (self.present_ok && errno == libc::EEXIST)
    }
}

/// A socket for links, addresses, routes and neighbours of one namespace.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_ROUTE)? })
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Carries all requests out in turn, each whether or not the ones before
    /// it succeeded.
    ///
    /// # Errors
    /// The first refusal that its request does not tolerate.
    pub fn run(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        self.run_each(requests)?.into_iter().collect()
    }

    /// As [`Route::run`], with one result for each request.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn run_each(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests.into_iter().peekable();
        while rest.peek().is_some() {
            let chunk: Vec<Request> = rest.by_ref().take(REQUESTS_PER_DATAGRAM).collect();
            self.run_chunk(chunk, &mut results)?;
        }
        Ok(results)
    }

    fn run_chunk(
        &mut self,
        requests: Vec<Request>,
        results: &mut Vec<Result<(), NetlinkError>>,
    ) -> Result<(), NetlinkError> {
        let mut datagram = Vec::new();
        let mut sent = Vec::with_capacity(requests.len());
        for mut request in requests {
            let sequence = self.socket.next_sequence();
            request.message.add_flags(libc::NLM_F_ACK as u16);
            let empty = Message::new(0, 0, &[]);
            std::mem::replace(&mut request.message, empty).append_to(sequence, &mut datagram);
            sent.push((sequence, request, None));
        }
        self.socket.send(&datagram)?;
        let mut missing = sent.len();
        while missing > 0 {
            self.socket.receive(true, |reply| {
                if let Reply::Ack { sequence, errno, detail } = reply
                    && let Some(entry) = sent.iter_mut().find(|(s, ..)| *s == sequence)
                    && entry.2.is_none()
                {
                    entry.2 = Some((errno, detail));
                    missing -= 1;
                }
            })?;
        }
        results.extend(sent.into_iter().map(|(_, request, answer)| match answer {
            None | Some((0, _)) => Ok(()),
            Some((errno, _)) if request.tolerates(errno) => Ok(()),
            Some((errno, detail)) => Err(NetlinkError::Refused {
                what: request.what,
                source: io::Error::from_raw_os_error(errno),
                detail,
            }),
        }));
        Ok(())
    }

    /// All links.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        dump(&mut self.socket, &link::list_request(), "list links", link::parse)
    }

    /// The link with this name, if there is one.
    ///
    /// # Errors
    /// Other than absence.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let what = format!("find link {name}");
        match self.get(link::get_request(name), &what)? {
            Some(body) => link::parse(&body).map(Some).ok_or(NetlinkError::Malformed(what)),
            None => Ok(None),
        }
    }

    /// All addresses of both families.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn addresses(&mut self) -> Result<Vec<AddressEntry>, NetlinkError> {
        dump(&mut self.socket, &address::addresses_request(), "list addresses", |body| {
            address::parse_address(body)
        })
    }

    /// The addresses of one link, which are not looked for among all of them.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn addresses_of(&mut self, link: u32) -> Result<Vec<AddressEntry>, NetlinkError> {
        let mut list = Vec::new();
        for like in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
            let request = address::addresses_of_request(link, like);
            list.extend(self.filtered(&request, "list addresses", address::parse_address)?);
        }
        // A kernel without the filter lists all of them.
        list.retain(|a| a.link == link);
        Ok(list)
    }

    /// The unicast routes of the main table by one link, of the family of
    /// `like`.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn routes_of(&mut self, link: u32, like: IpAddr) -> Result<Vec<RouteEntry>, NetlinkError> {
        let request = address::routes_of_request(link, like);
        let mut list = self.filtered(&request, "list routes", address::parse_route)?;
        list.retain(|r| r.link == link);
        Ok(list)
    }

    /// Reads a list that the kernel filters, which it does only for a socket
    /// that is checked strictly. It is empty when the link is gone, or there
    /// is no IPv6.
    fn filtered<T>(
        &mut self,
        request: &Message,
        what: &str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.socket.check_strictly(true)?;
        let list = dump(&mut self.socket, request, what, parse);
        self.socket.check_strictly(false)?;
        match list {
            Err(e) if e.is_absent() || e.errno() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            list => list,
        }
    }

    /// All unicast routes of the main table of the family of `like`.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn routes(&mut self, like: IpAddr) -> Result<Vec<RouteEntry>, NetlinkError> {
        let request = address::routes_request(like);
        dump(&mut self.socket, &request, "list routes", address::parse_route)
    }
}

/// Reads a whole list; again when it changed while it was read.
pub(crate) fn dump<T>(
    socket: &mut Socket,
    request: &Message,
    what: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    debug_assert!(request.len() >= HEADER);
    for _ in 0..DUMP_ATTEMPTS {
        let sequence = socket.next_sequence();
        let mut request = request.clone();
        request.add_flags(libc::NLM_F_DUMP as u16);
        let mut datagram = Vec::new();
        request.append_to(sequence, &mut datagram);
        socket.send(&datagram)?;
        let (mut list, mut changed, mut end) = (Vec::new(), false, None);
        while end.is_none() {
            socket.receive(true, |reply| match reply {
                Reply::Object { sequence: s, interrupted, body, .. } if s == sequence => {
                    changed |= interrupted;
                    list.extend(parse(body));
                }
                Reply::Done { sequence: s, errno } | Reply::Ack { sequence: s, errno, .. }
                    if s == sequence =>
                {
                    end = Some(errno);
                }
                _ => {}
            })?;
        }
        match end {
            Some(libc::EINTR) => {}
            Some(0) | None if changed => {}
            Some(0) | None => return Ok(list),
            Some(errno) => {
                return Err(NetlinkError::Refused {
                    what: what.to_owned(),
                    source: io::Error::from_raw_os_error(errno),
                    detail: String::new(),
                });
            }
        }
    }
    Err(NetlinkError::Refused {
        what: what.to_owned(),
        source: io::Error::from_raw_os_error(libc::EAGAIN),
        detail: "the list changed all the while".to_owned(),
    })
}
