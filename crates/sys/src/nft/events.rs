//! Changes of rulesets, as the kernel tells them: which table of the
//! listener's network namespace somebody changed.
//!
//! Be aware:
//! - The kernel tells of a batch once it is in force, each change of it by
//!   name, and then of the new generation.
//! - What this process changes by its own sockets is filtered out in the
//!   kernel: the ports of those ([`super::Nft::port`]) are given.

use std::io;

use super::NETLINK_NETFILTER;
use super::batch::SUBSYSTEM;
use crate::netlink::{Heard, Interest, Listener, Told, find, text};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;
/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u8 = 15;
/// `NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM`.
const ELEMENTS: [u8; 2] = [12, 14];
/// `NFT_MSG_DELTABLE`, `NFT_MSG_NEWCHAIN`, `…_DELCHAIN`, `…_NEWRULE`,
/// `…_DELRULE`.
const CHANGES: [u8; 5] = [2, 3, 5, 6, 8];

/// A change of one table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableEvent {
    /// The namespace's number as seen from the listener's; none for the
    /// listener's own.
    pub namespace: Option<i32>,
    /// The family's number (`NFPROTO_…`).
    pub family: u8,
    /// The table's name.
    pub table: String,
    /// The set whose elements changed; none when anything else did.
    pub elements_of: Option<String>,
}

/// Hears of the changes.
#[derive(Debug)]
pub struct NftEvents {
    listener: Listener,
}

impl NftEvents {
    /// Listens in the calling thread's network namespace to the changes of
    /// everybody but the sockets with the ports `own`.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open(own: &[u32]) -> io::Result<Self> {
        let interest = Interest { kinds: &[], not_by: own };
        Ok(Self { listener: Listener::open(NETLINK_NETFILTER, &[GROUP], false, interest)? })
    }

    /// Listens also in the namespaces that have a number in the calling
    /// thread's, to changes of tables, chains and rules that there were. A
    /// batch that begins with a table of its own is taken for somebody who
    /// makes one, and is not told.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn open_everywhere() -> io::Result<Self> {
        let kinds = CHANGES.map(|kind| SUBSYSTEM << 8 | u16::from(kind));
        let interest = Interest { kinds: &kinds, not_by: &[] };
        Ok(Self { listener: Listener::open(NETLINK_NETFILTER, &[GROUP], true, interest)? })
    }

    /// Waits until something changed. Cancel-safe. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket failed.
    pub async fn ready(&self) -> io::Result<()> {
        self.listener.ready().await
    }

    /// Hands the changes until now to `each`, without waiting.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn drain(&mut self, mut each: impl FnMut(TableEvent)) -> io::Result<Heard> {
        self.listener.drain(|told| {
            if let Some(event) = parse(&told) {
                each(event);
            }
        })
    }
}

fn parse(told: &Told<'_>) -> Option<TableEvent> {
    let [kind, subsystem] = told.kind.to_le_bytes();
    if u16::from(subsystem) != SUBSYSTEM || kind == NEW_GENERATION {
        return None;
    }
    let attributes = told.body.get(HEADER..)?;
    let elements_of = ELEMENTS.contains(&kind).then(|| find(attributes, 2).map(text)).flatten();
    let (family, table) = (*told.body.first()?, find(attributes, 1).map(text)?);
    Some(TableEvent { namespace: told.namespace, family, table, elements_of })
}
