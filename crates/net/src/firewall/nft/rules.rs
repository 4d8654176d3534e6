//! The vocabulary of the rules: matches of a few expressions each, and rules
//! that count and carry a comment.

use ipnet::Ipv4Net;
use sampan_sys::nft::{
    CtKey, Element, ElementValue, Expr, MetaKey, PayloadBase, Register, Rule, Verdict,
};

/// The register of all single values.
const R: Register = Register(0);
/// `NFPROTO_IPV4`.
const NFPROTO_IPV4: u8 = 2;
/// `RTN_LOCAL`: an address of the host itself.
const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT` of established and of related flows.
const ESTABLISHED_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`: the destination was translated.
const STATUS_DNAT: u32 = 1 << 5;
/// The first byte of 127.0.0.0/8.
const LOOPBACK_NET: u8 = 127;
/// Where the addresses are in an IPv4 header.
const IPV4_SOURCE: u32 = 12;
pub(super) const IPV4_DESTINATION: u32 = 16;
/// The length of an interface's name in a key: `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;

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

    /// The packet is of IPv4.
    pub fn ipv4(self) -> Self {
        self.and([Expr::meta(MetaKey::NfProto, R), Expr::compare(R, true, &[NFPROTO_IPV4])])
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

    fn loopback(self, offset: u32, is: bool) -> Self {
        self.ipv4().and([
            Expr::payload(PayloadBase::Network, offset, 1, R),
            Expr::compare(R, is, &[LOOPBACK_NET]),
        ])
    }

    /// The packet comes from 127.0.0.0/8.
    pub fn source_is_loopback(self) -> Self {
        self.loopback(IPV4_SOURCE, true)
    }

    /// The packet goes to 127.0.0.0/8.
    pub fn destination_is_loopback(self) -> Self {
        self.loopback(IPV4_DESTINATION, true)
    }

    /// The packet goes elsewhere than to 127.0.0.0/8.
    pub fn destination_is_not_loopback(self) -> Self {
        self.loopback(IPV4_DESTINATION, false)
    }

    /// The packet comes from an address of this subnet.
    pub fn source_is_in(self, subnet: Ipv4Net) -> Self {
        let mut when = self.ipv4().and([Expr::payload(PayloadBase::Network, IPV4_SOURCE, 4, R)]);
        if subnet.prefix_len() < 32 {
            when = when.and([Expr::mask(R, &subnet.netmask().octets())]);
        }
        when.and([Expr::compare(R, true, &subnet.network().octets())])
    }

    /// The packet goes to an address of the host.
    pub fn destination_is_host(self) -> Self {
        self.and([Expr::fib_destination_type(R), Expr::compare(R, true, &RTN_LOCAL.to_ne_bytes())])
    }

    fn ct_bits(self, key: CtKey, bits: u32) -> Self {
        self.and([
            Expr::ct(key, R),
            Expr::mask(R, &bits.to_ne_bytes()),
            Expr::compare(R, false, &0u32.to_ne_bytes()),
        ])
    }

    /// The packet belongs to a flow that was let through before.
    pub fn known_flow(self) -> Self {
        self.ct_bits(CtKey::State, ESTABLISHED_RELATED)
    }

    /// The packet came through a published port.
    pub fn published(self) -> Self {
        self.ct_bits(CtKey::Status, STATUS_DNAT)
    }

    /// Counts, and then does `expression`.
    pub fn then(self, chain: &str, comment: &str, expression: Expr) -> Rule {
        Rule {
            chain: chain.to_owned(),
            expressions: self.and([Expr::counter(), expression]).0,
            comment: comment.to_owned(),
        }
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
