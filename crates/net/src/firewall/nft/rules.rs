//! The vocabulary of the rules: matches of a few expressions each, and rules
//! that count and carry a comment.

use std::net::IpAddr;

use ipnet::IpNet;
use sampan_sys::nft::{
    CtKey, Element, ElementValue, Expr, Family, MetaKey, PayloadBase, Register, Rule, Verdict,
};

/// The register of all single values.
const R: Register = Register(0);
/// `RTN_LOCAL`: an address of the host itself.
const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT` of established and of related flows.
const ESTABLISHED_RELATED: u32 = 2 | 4;
/// The same of flows that begin.
const NEW: u32 = 8;
/// `IPS_DST_NAT`: the destination was translated.
const STATUS_DNAT: u32 = 1 << 5;
/// The first byte of 127.0.0.0/8.
const LOOPBACK_NET: u8 = 127;
/// `::1`.
const LOOPBACK6: [u8; 16] = std::net::Ipv6Addr::LOCALHOST.octets();
/// `IPPROTO_ICMP` and `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The length of an interface's name in a key: `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;

/// Both families of addresses.
pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// The family of an address.
pub(super) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

/// Loads the source of a packet, which is known to be of `family`.
pub(super) fn source(family: Family, to: Register) -> Expr {
    let (offset, length) = if family == Family::Ipv6 { (8, 16) } else { (12, 4) };
    Expr::payload(PayloadBase::Network, offset, length, to)
}

/// Loads the destination of a packet, which is known to be of `family`.
pub(super) fn destination(family: Family, to: Register) -> Expr {
    let (offset, length) = if family == Family::Ipv6 { (24, 16) } else { (16, 4) };
    Expr::payload(PayloadBase::Network, offset, length, to)
}

/// The bytes of an address, as a packet has them.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An interface's name as the kernel compares it.
pub(super) fn interface_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(IFNAMSIZ, 0);
    key
}

/// A list of expressions under construction.
#[derive(Debug, Default, Clone)]
pub(super) struct When(pub Vec<Expr>);

impl When {
    pub fn always() -> Self {
        Self::default()
    }

    fn and(mut self, expressions: impl IntoIterator<Item = Expr>) -> Self {
        self.0.extend(expressions);
        self
    }

    /// The packet is of this family.
    pub fn of(self, family: Family) -> Self {
        self.and([Expr::meta(MetaKey::NfProto, R), Expr::compare(R, true, &[family as u8])])
    }

    /// The packet came in by this interface.
    pub fn enters_by(self, name: &str) -> Self {
        let key = interface_key(name);
        self.and([Expr::meta(MetaKey::IifName, R), Expr::compare(R, true, &key)])
    }

    /// The packet leaves by another interface.
    pub fn leaves_elsewhere_than(self, name: &str) -> Self {
        let key = interface_key(name);
        self.and([Expr::meta(MetaKey::OifName, R), Expr::compare(R, false, &key)])
    }

    /// The packet comes from 127.0.0.0/8 or `::1`.
    pub fn source_is_loopback(self, family: Family) -> Self {
        let when = self.of(family);
        match family {
            Family::Ipv6 => when.and([source(family, R), Expr::compare(R, true, &LOOPBACK6)]),
            _ => when.and([
                Expr::payload(PayloadBase::Network, 12, 1, R),
                Expr::compare(R, true, &[LOOPBACK_NET]),
            ]),
        }
    }

    /// The packet goes (or, negated, goes not) to 127.0.0.0/8 or `::1`.
    pub fn destination_is_loopback(self, family: Family, is: bool) -> Self {
        let when = self.of(family);
        match family {
            Family::Ipv6 => when.and([destination(family, R), Expr::compare(R, is, &LOOPBACK6)]),
            _ => when.and([
                Expr::payload(PayloadBase::Network, 16, 1, R),
                Expr::compare(R, is, &[LOOPBACK_NET]),
            ]),
        }
    }

    /// The packet comes from an address of this subnet.
    pub fn source_is_in(self, subnet: IpNet) -> Self {
        let family = family_of(subnet.addr());
        let mut when = self.of(family).and([source(family, R)]);
        if subnet.prefix_len() < subnet.max_prefix_len() {
            when = when.and([Expr::mask(R, &octets(subnet.netmask()))]);
        }
        when.and([Expr::compare(R, true, &octets(subnet.network()))])
    }

    /// The packet is a message of ICMP.
    pub fn icmp(self, family: Family) -> Self {
        let protocol = if family == Family::Ipv6 { ICMPV6 } else { ICMP };
        self.of(family).and([Expr::meta(MetaKey::L4Proto, R), Expr::compare(R, true, &[protocol])])
    }

    /// The packet goes to an address of the host.
    pub fn destination_is_host(self) -> Self {
        self.and([Expr::fib_destination_type(R), Expr::compare(R, true, &RTN_LOCAL.to_ne_bytes())])
    }

    /// The packet goes elsewhere.
    pub fn destination_is_not_host(self) -> Self {
        self.and([Expr::fib_destination_type(R), Expr::compare(R, false, &RTN_LOCAL.to_ne_bytes())])
    }

    /// Any of the bits is set; or, negated, none.
    fn ct_bits(self, key: CtKey, bits: u32, set: bool) -> Self {
        self.and([
            Expr::ct(key, R),
            Expr::mask(R, &bits.to_ne_bytes()),
            Expr::compare(R, !set, &0u32.to_ne_bytes()),
        ])
    }

    /// The packet does not begin a flow.
    pub fn not_new(self) -> Self {
        self.ct_bits(CtKey::State, NEW, false)
    }

    /// The packet belongs to a flow that was let through before.
    pub fn known_flow(self) -> Self {
        self.ct_bits(CtKey::State, ESTABLISHED_RELATED, true)
    }

    /// The packet came through a published port.
    pub fn published(self) -> Self {
        self.ct_bits(CtKey::Status, STATUS_DNAT, true)
    }

    /// Counts, and then does `expression`.
    pub fn then(self, chain: &str, comment: &str, expression: Expr) -> Rule {
        self.then_all(chain, comment, [expression])
    }

    /// Counts, and then does all of `expressions`.
    pub fn then_all(
        self,
        chain: &str,
        comment: &str,
        expressions: impl IntoIterator<Item = Expr>,
    ) -> Rule {
        Rule {
            chain: chain.to_owned(),
            expressions: self.and([Expr::counter()]).and(expressions).0,
            comment: comment.to_owned(),
        }
    }

    /// Counts, and lets the packet leave with `address` as its source.
    pub fn source_nat(self, chain: &str, comment: &str, address: IpAddr) -> Rule {
        let translate = Expr::source_nat(family_of(address), R);
        self.then_all(chain, comment, [Expr::immediate(&octets(address), R), translate])
    }

    /// Counts, and then ends with a verdict.
    pub fn verdict(self, chain: &str, comment: &str, verdict: Verdict) -> Rule {
        self.then(chain, comment, Expr::verdict(&verdict))
    }
}

/// Jumps to what `map` has for the interface that the packet comes in or
/// leaves by. The chains that it leads to do the counting.
pub(super) fn by_interface(chain: &str, key: MetaKey, map: &str, comment: &str) -> Rule {
    Rule {
        chain: chain.to_owned(),
        expressions: vec![Expr::meta(key, R), Expr::counter(), Expr::lookup_verdict(map, R)],
        comment: comment.to_owned(),
    }
}

/// The element that leads from an interface to a chain.
pub(super) fn interface_jump(interface: &str, chain: String, comment: &str) -> Element {
    Element {
        key: interface_key(interface),
        value: ElementValue::Verdict(Verdict::Jump(chain)),
        comment: comment.to_owned(),
    }
}
