//! Asking others for names that are no container's.
//!
//! ```text
//! question ──cache──> answer
//!     └──the same under way? wait with it
//!     └──race: the best server, soon the next too … ──> answer ──> all who wait
//! ```
//!
//! Be aware:
//! - A message goes on as it came, but for its number, and so does the answer:
//!   options are the business of the two ends.
//! - How many questions wait at a time is bounded; what is beyond is refused.

mod exchange;
mod group;
mod mailbox;
mod race;
mod random;
mod track;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use sampan_sys::allocator::trim_memory;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

pub use group::{Group, Place};

use crate::cache::{self, Cache};
use crate::dns::answer::{self, Answer};
use crate::dns::query::Query;
use crate::dns::{Rcode, TC, records};
use crate::fill::Fill;

/// The most questions that wait at a time.
const WAITING_MAX: usize = 16_384;

/// After so many waited, and nobody does any more, memory is given back.
const CROWD: usize = 1024;

/// Where an answer goes.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A datagram.
    Datagram {
        /// By this socket.
        socket: Rc<UdpSocket>,
        /// To this address.
        to: SocketAddrV4,
    },
    /// A message of a connection.
    Stream(mpsc::Sender<Vec<u8>>),
}

impl Reply {
    fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    fn send(&self, message: Vec<u8>) {
        // Who is gone, or does not read, gets no answer.
        match self {
            Self::Datagram { socket, to } => {
                let (socket, to) = (socket.as_raw_fd(), SockaddrIn::from(*to));
                let _ = sendto(socket, &message, &to, MsgFlags::MSG_DONTWAIT);
            }
            Self::Stream(channel) => drop(channel.try_send(message)),
        }
    }
}

/// Somebody who waits for an answer.
#[derive(Debug)]
struct Waiter {
    reply: Reply,
    message: Box<[u8]>,
}

/// Counts of what was done, for people.
#[derive(Debug, Default)]
pub struct Counts {
    /// Questions that were asked elsewhere.
    pub forwarded: Cell<u64>,
    /// Those that were answered from memory.
    pub remembered: Cell<u64>,
    /// Those that nobody answered.
    pub failed: Cell<u64>,
}

/// Adds one to a count.
pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// Asks others.
#[derive(Debug, Default)]
pub struct Forwarder {
    cache: RefCell<Cache>,
    pending: RefCell<HashMap<cache::Key, Vec<Waiter>>>,
    waiting: Cell<usize>,
    /// The most that waited since memory was last given back.
    peak: Cell<usize>,
    /// The sets that are filled from answers.
    pub fill: RefCell<Fill>,
    /// What was done.
    pub counts: Counts,
}

impl Forwarder {
    /// How many questions wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// How many answers are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.cache.borrow().len()
    }

    /// Forgets all answers: other servers may give others.
    pub fn forget(&self) {
        self.cache.borrow_mut().clear();
    }

    /// Asks a group of servers. The answer goes to `reply`, or into `out` when
    /// it is there at once; says whether that is so.
    pub fn forward(
        self: &Rc<Self>,
        group: &Rc<Group>,
        query: &Query<'_>,
        reply: Reply,
        out: &mut Vec<u8>,
    ) -> bool {
        let stream = reply.is_stream();
        let key = cache::key(group.number(), stream, query);
        let begin = out.len();
        if self.cache.borrow().get(&key, query, Instant::now(), out) {
            count(&self.counts.remembered);
            self.fill.borrow_mut().before(query, &out[begin..]);
            return true;
        }
        if self.waiting.get() >= WAITING_MAX {
            count(&self.counts.failed);
            Answer::to(query, query.room(), out).refuse(Rcode::ServFail);
            return true;
        }
        let waiter = Waiter { reply, message: query.message.into() };
        self.waiting.set(self.waiting.get() + 1);
        self.peak.set(self.peak.get().max(self.waiting.get()));
        if let Some(others) = self.pending.borrow_mut().get_mut(&key) {
            others.push(waiter);
            return false;
        }
        let message: Rc<[u8]> = query.message.into();
        self.pending.borrow_mut().insert(key.clone(), vec![waiter]);
        count(&self.counts.forwarded);
        let (this, group) = (Rc::clone(self), Rc::clone(group));
        tokio::task::spawn_local(async move {
            let answer = race::run(&group, message, stream).await;
            this.deliver(&key, answer);
        });
        false
    }

    /// Gives an answer, or that there is none, to all who wait for it.
    fn deliver(&self, key: &cache::Key, found: Option<Vec<u8>>) {
        let waiters = self.pending.borrow_mut().remove(key).unwrap_or_default();
        self.waiting.set(self.waiting.get().saturating_sub(waiters.len()));
        if let (Some(found), Some(first)) = (&found, waiters.first())
            && let Ok(query) = Query::read(&first.message)
        {
            if !records::is_cut(found) {
                self.cache.borrow_mut().insert(key, found, query.end, Instant::now());
            }
            self.fill.borrow_mut().before(&query, found);
        } else {
            count(&self.counts.failed);
        }
        for waiter in waiters {
            let Ok(query) = Query::read(&waiter.message) else { continue };
            let room = if waiter.reply.is_stream() { usize::from(u16::MAX) } else { query.room() };
            waiter.reply.send(fit(found.clone(), &query, room));
        }
        if self.waiting.get() == 0 && self.peak.get() > CROWD {
            self.peak.set(0);
            self.pending.borrow_mut().shrink_to_fit();
            trim_memory();
        }
    }
}

/// An answer as the asker takes it.
fn fit(found: Option<Vec<u8>>, query: &Query<'_>, room: usize) -> Vec<u8> {
    if let Some(mut message) = found
        && answer::adopt(&mut message, query)
    {
        if message.len() > room {
            // Only the beginning, and word that there is more.
            message.truncate(query.end);
            message[6..12].fill(0);
            message[2] |= (TC >> 8) as u8;
        }
        return message;
    }
    let mut out = Vec::new();
    Answer::to(query, query.room(), &mut out).refuse(Rcode::ServFail);
    out
}
