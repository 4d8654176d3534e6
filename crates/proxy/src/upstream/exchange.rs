//! One socket to one server: numbers that are in use, and who waits for them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use sampan_sys::datagram::Inbox;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::mailbox::Mailbox;
use super::random;
use crate::dns::query::Query;
use crate::dns::{LARGEST_UDP, TC, answer, u16_at};

/// How long, and for how many questions, a socket is used.
const SOCKET_AGE: Duration = Duration::from_secs(20);
const SOCKET_USES: u32 = 500;
/// How long the last answers to a socket that is not used any more are waited
/// for at a time.
const LINGER: Duration = Duration::from_secs(5);

/// What came of a question.
#[derive(Debug)]
pub(super) enum Said {
    /// An answer.
    Answer(Vec<u8>),
    /// The server can't be reached.
    Unreachable,
}

/// Where to say what came of it, with the server's number.
pub(super) type Channel = Rc<Mailbox<(usize, Said)>>;

/// A question to a server.
pub(super) struct Ask {
    /// The question.
    pub message: Rc<[u8]>,
    /// The server's number.
    pub server: usize,
    /// Where the answer goes.
    pub to: Channel,
}

/// A socket to one server.
#[derive(Debug)]
pub(super) struct Exchange {
    socket: UdpSocket,
    waiting: RefCell<HashMap<u16, Waiting>>,
    uses: Cell<u32>,
    broken: Cell<bool>,
    born: Instant,
    done: Notify,
}

#[derive(Debug)]
struct Waiting {
    message: Rc<[u8]>,
    server: usize,
    to: Channel,
}

/// A number in use, which is free again when this is dropped.
pub(super) struct Ticket {
    exchange: Rc<Exchange>,
    id: u16,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.exchange.waiting.borrow_mut().remove(&self.id);
        if self.exchange.is_done() {
            self.exchange.done.notify_one();
        }
    }
}

thread_local! {
    /// Room for what comes in: one for all sockets, used between two waits.
    static INBOX: RefCell<Inbox> = RefCell::new(Inbox::new(LARGEST_UDP));
}

impl Exchange {
    /// Takes a connected socket and listens to it for as long as it is used.
    pub(super) fn start(socket: OwnedFd) -> io::Result<Rc<Self>> {
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        let exchange = Rc::new(Self {
            socket,
            waiting: RefCell::default(),
            uses: Cell::new(0),
            broken: Cell::new(false),
            born: Instant::now(),
            done: Notify::new(),
        });
        tokio::task::spawn_local(listen(Rc::clone(&exchange)));
        Ok(exchange)
    }

    /// Whether more questions may be asked by it.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        !self.broken.get()
            && self.uses.get() < SOCKET_USES
            && now.saturating_duration_since(self.born) < SOCKET_AGE
    }

    /// Whether it was used as often as it may be, and nobody waits at it.
    fn is_done(&self) -> bool {
        self.uses.get() >= SOCKET_USES && self.waiting() == 0
    }

    /// How many questions wait at it.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Sends a question under a number of its own.
    pub(super) fn send(self: Rc<Self>, ask: Ask) -> io::Result<Ticket> {
        self.uses.set(self.uses.get() + 1);
        let mut message = ask.message.to_vec();
        let id = self.free_id()?;
        if let Some(number) = message.get_mut(..2) {
            number.copy_from_slice(&id.to_be_bytes());
        }
        let waiting = Waiting { message: ask.message, server: ask.server, to: ask.to };
        self.waiting.borrow_mut().insert(id, waiting);
        let ticket = Ticket { exchange: Rc::clone(&self), id };
        // Past the runtime, which knows nothing yet of a socket that is new.
        match send(self.socket.as_raw_fd(), &message, MsgFlags::MSG_DONTWAIT) {
            // Without room it is lost, as it may be on its way, and sent again.
            Ok(_) | Err(Errno::EAGAIN) => Ok(ticket),
            Err(e) => Err(e.into()),
        }
    }

    fn free_id(&self) -> io::Result<u16> {
        let waiting = self.waiting.borrow();
        // A socket is left alone long before its numbers are used up.
        for _ in 0..64 {
            let id = random::id()?;
            if !waiting.contains_key(&id) {
                return Ok(id);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn take(&self, bytes: &[u8], cut: bool) {
        let Some(id) = u16_at(bytes, 0) else { return };
        let waiting = self.waiting.borrow();
        let Some(waiter) = waiting.get(&id) else { return };
        let Ok(query) = Query::read(&waiter.message) else { return };
        if !answer::is_answer(bytes, &query) {
            return;
        }
        let mut message = bytes.to_vec();
        if cut {
            message[2] |= (TC >> 8) as u8;
        }
        waiter.to.put((waiter.server, Said::Answer(message)));
    }

    fn fail(&self) {
        self.broken.set(true);
        for (_, waiter) in self.waiting.borrow().iter() {
            waiter.to.put((waiter.server, Said::Unreachable));
        }
    }
}

/// Hands on what comes, until the socket's time is over and nobody waits.
async fn listen(exchange: Rc<Exchange>) {
    let mut end = tokio::time::Instant::from_std(exchange.born + SOCKET_AGE);
    loop {
        let ready = tokio::select! {
            ready = exchange.socket.readable() => ready,
            () = exchange.done.notified() => {
                if exchange.is_done() {
                    return;
                }
                continue;
            }
            () = tokio::time::sleep_until(end) => {
                if exchange.waiting() == 0 {
                    return;
                }
                end += LINGER;
                continue;
            }
        };
        if ready.is_err() {
            return exchange.fail();
        }
        let received = INBOX.with_borrow_mut(|inbox| {
            let socket = &exchange.socket;
            socket.try_io(Interest::READABLE, || inbox.receive(socket))?;
            inbox.iter().for_each(|r| exchange.take(r.bytes, r.cut));
            Ok::<_, io::Error>(())
        });
        match received {
            Ok(()) => tokio::task::yield_now().await,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return exchange.fail(),
        }
    }
}
