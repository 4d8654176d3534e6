//! Expressions: the steps of a rule.
//!
//! Be aware: an expression is kept as the kernel dumps it: attributes in
//! ascending order, those that are zero left out, none of the flags that
//! mark a nested attribute, no counter values, no set numbers of a batch.

use super::model::{Family, Verdict};
use crate::netlink::{Message, attributes};

/// `struct nlmsghdr`, which a scratch message has and an expression has not.
const SCRATCH_HEADER: usize = 16;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_LOOKUP_SET_ID: u16 = 4;
/// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED`, which the kernel
/// sets by itself when there is an address and a port.
const NAT_RANGE: u32 = 3;

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr {
    pub(super) name: String,
    pub(super) data: Vec<u8>,
}

/// One of the sixteen words of 32 bits that expressions work on. A value that
/// is longer fills the words that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The kernel's number: every fourth word is the beginning of one of the
    /// four registers of the older numbering, which the kernel prefers.
    pub(super) fn number(self) -> u32 {
        let word = u32::from(self.0 % 16);
        if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
    }
}

/// What is known about a packet besides its content (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// Name of the link that it came in by: 16 bytes.
    IifName = 6,
    /// Name of the link that it will leave by: 16 bytes.
    OifName = 7,
    /// Network protocol, `NFPROTO_…`: 1 byte.
    NfProto = 15,
    /// Transport protocol: 1 byte.
    L4Proto = 16,
}

/// What is known about a packet's flow (`enum nft_ct_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtKey {
    /// Bits of `enum ip_conntrack_info`, in the machine's order: 4 bytes.
    State = 0,
    /// Bits of `enum ip_conntrack_status`, in the machine's order: 4 bytes.
    Status = 2,
}

/// Where an offset into a packet counts from (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    /// The Ethernet header.
    Link = 0,
    /// The IP header.
    Network = 1,
    /// The transport header.
    Transport = 2,
}

impl Expr {
    pub(super) fn new(name: &str, write: impl FnOnce(&mut Message)) -> Self {
        let mut scratch = Message::new(0, 0, &[]);
        write(&mut scratch);
        let mut bytes = Vec::new();
        scratch.append_to(0, &mut bytes);
        Self::normalised(name.to_owned(), &bytes[SCRATCH_HEADER..])
    }

    /// An expression as written or dumped, in the form described above.
    pub(super) fn normalised(name: String, data: &[u8]) -> Self {
        if name == "counter" {
            return Self { name, data: Vec::new() };
        }
        let mut list: Vec<(u16, &[u8])> = attributes(data)
            .filter(|(_, value)| value.iter().any(|b| *b != 0))
            .filter(|(kind, _)| !(name == "lookup" && *kind == NFTA_LOOKUP_SET_ID))
            .collect();
        list.sort_by_key(|(kind, _)| *kind);
        let holds_data = |kind: u16| match name.as_str() {
            "cmp" => kind == 3,
            "immediate" => kind == 2,
            "bitwise" => kind == 4 || kind == 5,
            _ => false,
        };
        let mut scratch = Message::new(0, 0, &[]);
        for (kind, value) in list {
            if holds_data(kind) {
                scratch.nest_plain(kind, |m| copy_data(m, value));
            } else {
                scratch.raw(kind, value);
            }
        }
        let mut bytes = Vec::new();
        scratch.append_to(0, &mut bytes);
        Self { name, data: bytes.split_off(SCRATCH_HEADER) }
    }

    /// Loads what is known about the packet.
    #[must_use]
    pub fn meta(key: MetaKey, to: Register) -> Self {
        Self::new("meta", |m| {
            m.be32(1, to.number()).be32(2, key as u32);
        })
    }

    /// Loads what is known about the packet's flow.
    #[must_use]
    pub fn ct(key: CtKey, to: Register) -> Self {
        Self::new("ct", |m| {
            m.be32(1, to.number()).be32(2, key as u32);
        })
    }

    /// Loads bytes of the packet.
    #[must_use]
    pub fn payload(base: PayloadBase, offset: u32, length: u32, to: Register) -> Self {
        Self::new("payload", |m| {
            m.be32(1, to.number()).be32(2, base as u32).be32(3, offset).be32(4, length);
        })
    }

    /// Writes bytes of a register into the packet, and corrects the checksum
    /// of 2 bytes at `checksum`, from the same base, for them.
    #[must_use]
    pub fn payload_write(
        base: PayloadBase,
        offset: u32,
        length: u32,
        from: Register,
        checksum: u32,
    ) -> Self {
        // NFT_PAYLOAD_CSUM_INET
        Self::new("payload", |m| {
            m.be32(2, base as u32).be32(3, offset).be32(4, length);
            m.be32(5, from.number()).be32(6, 1).be32(7, checksum);
        })
    }

    /// Loads the kind of the destination address, `RTN_…` in the machine's
    /// order: 4 bytes.
    #[must_use]
    pub fn fib_destination_type(to: Register) -> Self {
        // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR
        Self::new("fib", |m| {
            m.be32(1, to.number()).be32(2, 3).be32(3, 2);
        })
    }

    /// Loads a constant.
    #[must_use]
    pub fn immediate(value: &[u8], to: Register) -> Self {
        Self::new("immediate", |m| {
            m.be32(1, to.number());
            m.nest_plain(2, |m| {
                m.raw(NFTA_DATA_VALUE, value);
            });
        })
    }

    /// Keeps the bits of `mask`, which is as long as the value.
    #[must_use]
    pub fn mask(register: Register, mask: &[u8]) -> Self {
        Self::new("bitwise", |m| {
            m.be32(1, register.number()).be32(2, register.number()).be32(3, mask.len() as u32);
            m.nest_plain(4, |m| {
                m.raw(NFTA_DATA_VALUE, mask);
            });
            m.nest_plain(5, |m| {
                m.raw(NFTA_DATA_VALUE, &vec![0; mask.len()]);
            });
        })
    }

    /// Goes on only when the value is (or, negated, is not) `value`.
    #[must_use]
    pub fn compare(register: Register, equal: bool, value: &[u8]) -> Self {
        Self::new("cmp", |m| {
            m.be32(1, register.number()).be32(2, u32::from(!equal));
            m.nest_plain(3, |m| {
                m.raw(NFTA_DATA_VALUE, value);
            });
        })
    }

    /// Goes on only when the set contains the key.
    #[must_use]
    pub fn lookup(set: &str, key: Register) -> Self {
        Self::new("lookup", |m| {
            m.text(1, set).be32(2, key.number());
        })
    }

    /// Goes on only when the map contains the key, with the value that it
    /// leads to.
    #[must_use]
    pub fn lookup_data(map: &str, key: Register, to: Register) -> Self {
        Self::new("lookup", |m| {
            m.text(1, map).be32(2, key.number()).be32(3, to.number());
        })
    }

    /// Follows the verdict that the map has for the key; goes on when it has
    /// none.
    #[must_use]
    pub fn lookup_verdict(map: &str, key: Register) -> Self {
        let mut expr = Self::lookup(map, key);
        // The verdict's register is number 0, which the common form leaves
        // out; the kernel needs it to know that a map is meant.
        expr.name = VERDICT_LOOKUP.to_owned();
        expr
    }

    /// Ends the rule with a verdict.
    #[must_use]
    pub fn verdict(verdict: &Verdict) -> Self {
        Self::new("immediate", |m| {
            m.nest_plain(2, |m| write_verdict(m, verdict));
        })
    }

    /// Counts packets and bytes.
    #[must_use]
    pub fn counter() -> Self {
        Self::new("counter", |_| {})
    }

    /// Translates the source to the address of the link that the packet
    /// leaves by.
    #[must_use]
    pub fn masquerade() -> Self {
        Self::new("masq", |_| {})
    }

    /// Translates the destination to the address and the port in two
    /// registers.
    #[must_use]
    pub fn destination_nat(family: Family, address: Register, port: Register) -> Self {
        let (address, port) = (address.number(), port.number());
        Self::new("nat", |m| {
            // NFT_NAT_DNAT
            m.be32(1, 1).be32(2, family as u32);
            m.be32(3, address).be32(4, address).be32(5, port).be32(6, port).be32(7, NAT_RANGE);
        })
    }

    /// Translates the source to the address in a register.
    #[must_use]
    pub fn source_nat(family: Family, address: Register) -> Self {
        let address = address.number();
        Self::new("nat", |m| {
            // NFT_NAT_SNAT, NF_NAT_RANGE_MAP_IPS
            m.be32(1, 0).be32(2, family as u32).be32(3, address).be32(4, address).be32(7, 1);
        })
    }

    /// Writes the expression as the kernel wants it.
    pub(super) fn write(&self, m: &mut Message) {
        let name = match self.name.as_str() {
            VERDICT_LOOKUP => "lookup",
            ORIGINAL_CT => "ct",
            name => name,
        };
        m.text(1, name);
        m.nest(2, |m| {
            m.bytes(&self.data);
            if self.name == ORIGINAL_CT {
                m.u8(NFTA_CT_DIRECTION, 0);
            }
            for kind in mandatory(&self.name) {
                if attributes(&self.data).all(|(k, _)| k != *kind) {
                    m.be32(*kind, 0);
                }
            }
        });
    }

    /// The name under which a dumped expression is compared.
    pub(super) fn dumped_name(name: String, data: &[u8]) -> String {
        let zero_third = |(kind, value): (u16, &[u8])| kind == 3 && value.iter().all(|b| *b == 0);
        match name.as_str() {
            "lookup" if attributes(data).any(zero_third) => VERDICT_LOOKUP.to_owned(),
            "ct" if attributes(data).any(zero_third) => ORIGINAL_CT.to_owned(),
            _ => name,
        }
    }
}

/// A lookup whose result is a verdict, to tell it from one without result.
const VERDICT_LOOKUP: &str = "lookup verdict";
/// What is known of a flow's first direction, whose number 0 the common form
/// leaves out, to tell it from what has no direction.
pub(super) const ORIGINAL_CT: &str = "ct original";
pub(super) const NFTA_CT_DIRECTION: u16 = 3;

/// The attributes that the kernel needs even where they are zero.
fn mandatory(name: &str) -> &'static [u16] {
    match name {
        "cmp" | "ct" | ORIGINAL_CT => &[2],
        "immediate" | "nat" => &[1],
        "payload" => &[2, 3],
        VERDICT_LOOKUP => &[3],
        _ => &[],
    }
}

/// Writes `enum nft_verdict_attributes` inside `enum nft_data_attributes`.
pub(super) fn write_verdict(m: &mut Message, verdict: &Verdict) {
    m.nest_plain(NFTA_DATA_VERDICT, |m| {
        m.raw(NFTA_VERDICT_CODE, &verdict.code().to_be_bytes());
        if let Some(chain) = verdict.chain() {
            m.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// Copies `enum nft_data_attributes` without the flags of nested ones.
fn copy_data(m: &mut Message, data: &[u8]) {
    for (kind, value) in attributes(data) {
        if kind == NFTA_DATA_VERDICT {
            m.nest_plain(kind, |m| {
                for (kind, value) in attributes(value) {
                    m.raw(kind, value);
                }
            });
        } else {
            m.raw(kind, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_numbered_as_the_kernel_does() {
        let numbers: Vec<u32> = (0..6).map(|w| Register(w).number()).collect();
        assert_eq!(numbers, [1, 9, 10, 11, 2, 13]);
    }

    #[test]
    fn normal_form_is_stable_and_forgets_counters() {
        let expr = Expr::compare(Register(0), true, &[7]);
        assert_eq!(Expr::normalised(expr.name.clone(), &expr.data), expr);
        assert_eq!(Expr::normalised("counter".to_owned(), &[12, 0, 1, 0, 9]), Expr::counter());
        assert_ne!(expr, Expr::compare(Register(0), false, &[7]));
    }
}
