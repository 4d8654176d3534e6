//! How questions to 127.0.0.11:53 of a container's namespace reach the sockets
//! of this process, which are not at port 53: that port is the container's.
//!
//! ```text
//! container ── to 127.0.0.11:53 ── lo ──[port := PORT]──> socket
//! container <──[port := 53]── lo ── from 127.0.0.11:PORT ── socket
//! ```
//!
//! Be aware:
//! - The chain is entered by what comes back by `lo`, both ways: what a
//!   container sends elsewhere pays nothing for its names. Four rules at
//!   `output` are 1.5 % of the work for a stream between neighbours. A kernel
//!   without such a hook (before 5.10) has them there nevertheless.
//! - Ports are rewritten packet by packet; flows are not tracked, so that no
//!   connection tracking comes into being in the container's namespace.
//! - The rules are in a table of their own, which goes with the namespace.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::{
    BaseChain, Batch, Chain, ChainKind, Expr, Hook, MetaKey, Nft, PayloadBase, Policy, Register,
    Rule, Ruleset,
};

/// Where names are answered inside of containers.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port that the sockets have. Beyond those that the kernel gives away,
/// so that nobody has it by accident.
pub const PORT: u16 = 61_053;
/// The table inside of containers.
pub const TABLE: &str = sampan_net::names::TABLE;
/// The port of name servers.
const DOMAIN: u16 = 53;
/// Before connection tracking, were there any (`NF_IP_PRI_RAW`).
const PRIORITY: i32 = -300;
const CHAIN: &str = "names";
/// Protocols' numbers.
const UDP: u8 = 17;
const TCP: u8 = 6;

/// Where the chain is entered: the first that the kernel has.
const HOOKS: [Hook; 2] = [Hook::Loopback, Hook::Output];

/// All that is in the table, with the chain entered at `hook`.
#[must_use]
pub fn ruleset(hook: Hook) -> Ruleset {
    let base =
        BaseChain { kind: ChainKind::Filter, hook, priority: PRIORITY, policy: Policy::Accept };
    let mut rules = Vec::new();
    for (protocol, checksum) in [(UDP, 6), (TCP, 16)] {
        // IPv4: destination at 16, source at 12. Ports: destination at 2,
        // source at 0.
        rules.push(rewrite(protocol, checksum, (16, 2), (DOMAIN, PORT), "questions"));
        rules.push(rewrite(protocol, checksum, (12, 0), (PORT, DOMAIN), "answers"));
    }
    let chain = Chain { name: CHAIN.to_owned(), base: Some(base) };
    Ruleset { chains: vec![chain], sets: Vec::new(), rules }
}

fn rewrite(
    protocol: u8,
    checksum: u32,
    (address_at, port_at): (u32, u32),
    (from, to): (u16, u16),
    comment: &str,
) -> Rule {
    let word = Register(0);
    let expressions = vec![
        Expr::meta(MetaKey::NfProto, word),
        // NFPROTO_IPV4
        Expr::compare(word, true, &[2]),
        Expr::payload(PayloadBase::Network, address_at, 4, word),
        Expr::compare(word, true, &ADDRESS.octets()),
        Expr::meta(MetaKey::L4Proto, word),
        Expr::compare(word, true, &[protocol]),
        Expr::payload(PayloadBase::Transport, port_at, 2, word),
        Expr::compare(word, true, &from.to_be_bytes()),
        Expr::counter(),
        Expr::immediate(&to.to_be_bytes(), word),
        Expr::payload_write(PayloadBase::Transport, port_at, 2, word, checksum),
    ];
    Rule { chain: CHAIN.to_owned(), expressions, comment: comment.to_owned() }
}

/// Sees to it that the rules are as they shall be in the calling thread's
/// namespace. Says whether they were not.
///
/// # Errors
/// When the kernel refuses.
pub fn install() -> Result<bool, NetlinkError> {
    let mut nft = Nft::open().map_err(NetlinkError::Socket)?;
    let found = nft.dump(TABLE)?;
    let mut refused = None;
    for hook in HOOKS {
        let wanted = ruleset(hook);
        if found.as_ref() == Some(&wanted.clone().sorted()) {
            return Ok(false);
        }
        let mut batch = Batch::new();
        match &found {
            Some(_) => batch.replace_table(TABLE, &wanted),
            // To remove something, even what was never there, costs the kernel
            // milliseconds when the socket is closed.
            None => batch.add_table(TABLE).add_ruleset(TABLE, &wanted),
        };
        match nft.commit(batch) {
            Ok(()) => return Ok(true),
            Err(e) if e.errno() == Some(Errno::EOPNOTSUPP as i32) => refused = Some(e),
            Err(e) => return Err(e),
        }
    }
    refused.map_or(Ok(false), Err)
}

/// Takes the rules away from the calling thread's namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn remove() -> Result<(), NetlinkError> {
    let mut nft = Nft::open().map_err(NetlinkError::Socket)?;
    let mut batch = Batch::new();
    batch.add_table(TABLE).delete_table(TABLE);
    nft.commit(batch)
}
