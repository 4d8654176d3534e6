//! nf_tables spoken directly (`linux/netfilter/nf_tables.h`): a ruleset as
//! values, batches that the kernel applies whole or not at all, and the
//! kernel's own copy read back for comparison.
//!
//! ```text
//! Ruleset ──add_ruleset──> Batch ──commit──> kernel ──dump──> Ruleset
//! ```
//!
//! Be aware:
//! - Every call names its table; no other table is touched. The family is
//!   `inet` unless another one is named.
//! - What the kernel dumps is brought into the same form as what is written
//!   (see [`Expr`]), so that two rulesets can be compared with `==`.
//! - The kernel answers before the sending call returns, hence nothing here
//!   waits for it.

mod batch;
mod dump;
mod events;
mod expr;
mod flow;
mod foreign;
mod model;
mod others;

use std::io;

pub use batch::Batch;
pub use events::{NftEvents, TableEvent};
pub use expr::{CtKey, Expr, MetaKey, PayloadBase, Register};
pub use flow::{FlowDirection, FlowKey, Order, RuleCount};
pub use foreign::{ForeignChain, ForeignRule, ForeignSet, ForeignTable, Interval};
pub use model::{
    BaseChain, Chain, ChainKind, DataType, Element, ElementValue, Family, Hook, Policy, Rule,
    Ruleset, Set, SetKeeps, SetValue, Verdict,
};

pub use others::OtherChain;

use crate::netlink::{NetlinkError, Reply, Socket};

const NETLINK_NETFILTER: i32 = 12;
/// Room for a batch of some ten thousand elements, and for its errors.
const BUFFER: usize = 16 << 20;

/// An nf_tables socket of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        socket.set_buffers(BUFFER)?;
        Ok(Self { socket })
    }

    /// The port of the socket, for [`NftEvents::open`].
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn port(&self) -> io::Result<u32> {
        self.socket.port()
    }

    /// Applies a batch: all of it, or nothing and an error.
    ///
    /// # Errors
    /// The first refusal, with the change that it is about. `ERESTART` when
    /// the batch names a generation that is not the current one.
    pub fn commit(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        let (datagram, whats) = batch.seal(|| self.socket.next_sequence());
        let Some(last) = whats.last().map(|(sequence, _)| *sequence) else {
            return Ok(());
        };
        self.socket.send(&datagram)?;
        let (mut refused, mut answered) = (None, false);
        while self.socket.receive(false, |reply| {
            if let Reply::Ack { sequence, errno, detail } = reply {
                answered |= sequence == last;
                if errno != 0 && refused.is_none() {
                    refused = Some((sequence, errno, detail));
                }
            }
        })? {}
        match refused {
            Some((sequence, errno, detail)) => Err(NetlinkError::Refused {
                what: whats
                    .into_iter()
                    .find(|(s, _)| *s == sequence)
                    .map_or_else(|| "commit the ruleset".to_owned(), |(_, what)| what),
                source: io::Error::from_raw_os_error(errno),
                detail,
            }),
            None if answered => Ok(()),
            None => Err(NetlinkError::Malformed("commit the ruleset".to_owned())),
        }
    }
}
