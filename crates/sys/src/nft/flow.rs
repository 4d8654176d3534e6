//! Expressions about flows as connection tracking knows them, about frames,
//! and the counters of rules.

use super::Nft;
use super::batch::{Kind, message};
use super::expr::{Expr, NFTA_CT_DIRECTION, ORIGINAL_CT, PayloadBase, Register};
use super::model::Family;
use crate::netlink::{NetlinkError, attributes, dump_objects, find, text};

/// `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;
/// `NFT_CT_PROTOCOL` and `NFT_CT_LABELS`.
const CT_PROTOCOL: u32 = 10;
const CT_LABELS: u32 = 13;
/// `NFT_META_PKTTYPE` and `NFT_META_PROTOCOL`.
const META_PKTTYPE: u32 = 19;
const META_PROTOCOL: u32 = 1;

/// One of the two directions of a flow (`enum ip_conntrack_dir`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowDirection {
    /// That of its first packet.
    Original,
    /// That of the answers.
    Reply,
}

/// What is known of the packets of one direction (`enum nft_ct_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKey {
    /// The source's port: 2 bytes.
    SourcePort = 11,
    /// The source's IPv4 address.
    SourceIpv4 = 19,
    /// The source's IPv6 address.
    SourceIpv6 = 21,
}

/// How two values are compared (`enum nft_cmp_ops`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The register's value is less.
    Less = 2,
    /// It is greater, or the same.
    AtLeast = 5,
}

/// How often a rule was reached to its counter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule's chain.
    pub chain: String,
    /// The rule's comment.
    pub comment: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Expr {
    /// Loads what is known of one direction of the packet's flow; goes on
    /// only when there is such a thing.
    #[must_use]
    pub fn flow(key: FlowKey, direction: FlowDirection, to: Register) -> Self {
        match direction {
            FlowDirection::Original => Self::new(ORIGINAL_CT, |m| {
                m.be32(1, to.number()).be32(2, key as u32);
            }),
            FlowDirection::Reply => Self::new("ct", |m| {
                m.be32(1, to.number()).be32(2, key as u32).u8(NFTA_CT_DIRECTION, 1);
            }),
        }
    }

    /// Loads the transport protocol of the packet's flow: 1 byte. An ICMP error
    /// is of the flow that it is about.
    #[must_use]
    pub fn flow_protocol(to: Register) -> Self {
        Self::new("ct", |m| {
            m.be32(1, to.number()).be32(2, CT_PROTOCOL);
        })
    }

    /// Loads the 128 label bits of the packet's flow.
    #[must_use]
    pub fn flow_labels(to: Register) -> Self {
        Self::new("ct", |m| {
            m.be32(1, to.number()).be32(2, CT_LABELS);
        })
    }

    /// Adds label bits to the packet's flow.
    #[must_use]
    pub fn label_flow(from: Register) -> Self {
        Self::new("ct", |m| {
            m.be32(2, CT_LABELS).be32(4, from.number());
        })
    }

    /// Goes on only when the value is in this order with `value`, as numbers
    /// in network order.
    #[must_use]
    pub fn order(register: Register, order: Order, value: &[u8]) -> Self {
        Self::new("cmp", |m| {
            m.be32(1, register.number()).be32(2, order as u32);
            m.nest_plain(3, |m| {
                m.raw(1, value);
            });
        })
    }

    /// Goes on only when the set does not contain the key.
    #[must_use]
    pub fn lookup_absent(set: &str, key: Register) -> Self {
        // NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV
        Self::new("lookup", |m| {
            m.text(1, set).be32(2, key.number()).be32(5, 1);
        })
    }

    /// Loads the Ethernet type of the packet: 2 bytes.
    #[must_use]
    pub fn ether_type(to: Register) -> Self {
        Self::new("meta", |m| {
            m.be32(1, to.number()).be32(2, META_PROTOCOL);
        })
    }

    /// Takes the packet for one of the type in the register, `PACKET_…`.
    #[must_use]
    pub fn set_packet_type(from: Register) -> Self {
        Self::new("meta", |m| {
            m.be32(2, META_PKTTYPE).be32(3, from.number());
        })
    }

    /// Writes bytes into the packet.
    #[must_use]
    pub fn set_payload(base: PayloadBase, offset: u32, length: u32, from: Register) -> Self {
        Self::new("payload", |m| {
            m.be32(2, base as u32).be32(3, offset).be32(4, length).be32(5, from.number());
        })
    }

    /// A counter that goes on from these figures.
    #[must_use]
    pub fn counter_from(packets: u64, bytes: u64) -> Self {
        // Not in the common form, which forgets figures.
        let mut m = crate::netlink::Message::new(0, 0, &[]);
        m.raw(1, &bytes.to_be_bytes()).raw(2, &packets.to_be_bytes());
        let mut data = Vec::new();
        m.append_to(0, &mut data);
        Self { name: "counter".to_owned(), data: data.split_off(16) }
    }

    /// Whether it counts.
    #[must_use]
    pub fn is_counter(&self) -> bool {
        self.name == "counter"
    }
}

impl Nft {
    /// The counters of all rules of a table that have one; empty when there
    /// is no such table.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn counts(&mut self, family: Family, table: &str) -> Result<Vec<RuleCount>, NetlinkError> {
        let mut request = message(family, Kind::GetRule, 0);
        request.text(1, table);
        let what = format!("list rules of table {table}");
        let listed = dump_objects(&mut self.socket, &request, &what, |body| {
            let body = body.get(HEADER..)?;
            find(body, 1).filter(|t| text(t) == table)?;
            parse_count(body)
        });
        match listed {
            Err(e) if e.is_absent() => Ok(Vec::new()),
            other => other,
        }
    }
}

fn parse_count(rule: &[u8]) -> Option<RuleCount> {
    let mut expressions = attributes(find(rule, 4)?).map(|(_, expression)| expression);
    let (packets, bytes) = figures(expressions.find(|e| is_counter(e))?)?;
    Some(RuleCount {
        chain: find(rule, 2).map(text)?,
        comment: find(rule, 7).map(super::batch::comment_of).unwrap_or_default(),
        packets,
        bytes,
    })
}

/// Whether a dumped expression is a counter.
pub(super) fn is_counter(expression: &[u8]) -> bool {
    find(expression, 1).map(text).as_deref() == Some("counter")
}

/// The packets and bytes of a dumped counter.
pub(super) fn figures(counter: &[u8]) -> Option<(u64, u64)> {
    let figures = find(counter, 2).filter(|_| is_counter(counter))?;
    let number = |kind| {
        let bytes = find(figures, kind)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    };
    Some((number(2).unwrap_or_default(), number(1).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_of_flows_are_told_apart() {
        let to = Register(0);
        let original = Expr::flow(FlowKey::SourceIpv4, FlowDirection::Original, to);
        let reply = Expr::flow(FlowKey::SourceIpv4, FlowDirection::Reply, to);
        assert_ne!(original, reply);
        assert_ne!(original, Expr::flow(FlowKey::SourceIpv6, FlowDirection::Original, to));
    }
}
