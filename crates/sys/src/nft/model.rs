//! A table's content as values.

use super::expr::Expr;

/// Which packets a table sees (`NFPROTO_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Family {
    /// Any: only for lists.
    Any = 0,
    /// IPv4 and IPv6.
    #[default]
    Inet = 1,
    /// IPv4.
    Ipv4 = 2,
    /// Frames of bridges.
    Bridge = 7,
    /// IPv6.
    Ipv6 = 10,
}

/// All that is in one table, in an order of its own, so that two of them can
/// be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains.
    pub chains: Vec<Chain>,
    /// The sets and maps with their elements.
    pub sets: Vec<Set>,
    /// The rules; those of one chain are in the order of evaluation.
    pub rules: Vec<Rule>,
}

impl Ruleset {
    /// Brings everything but the rules of a chain into the order of names
    /// and keys, for comparison.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.chains.sort_by(|a, b| a.name.cmp(&b.name));
        self.sets.sort_by(|a, b| a.name.cmp(&b.name));
        for set in &mut self.sets {
            match set.keeps {
                SetKeeps::Timeouts => set.elements.clear(),
                SetKeeps::Counts => {
                    set.elements.iter_mut().for_each(|e| e.value = ElementValue::None);
                }
                SetKeeps::Keys | SetKeeps::Ranges => {}
            }
            set.elements.sort_by(|a, b| a.key.cmp(&b.key));
        }
        self.rules.sort_by(|a, b| a.chain.cmp(&b.chain));
        self
    }
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; none for a chain that others jump to.
    pub base: Option<BaseChain>,
}

/// Where packets enter a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// What its rules can do.
    pub kind: ChainKind,
    /// The place on a packet's way.
    pub hook: Hook,
    /// The order among the chains at that place, lowest first.
    pub priority: i32,
    /// What happens to a packet that no rule decided about.
    pub policy: Policy,
}

/// What a base chain's rules can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Let through or drop.
    Filter,
    /// Translate addresses, once per flow.
    Nat,
}

impl ChainKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A place on a packet's way through the network stack
/// (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Just received, not yet routed.
    Prerouting = 0,
    /// For the host itself.
    Input = 1,
    /// From one link to another.
    Forward = 2,
    /// From the host itself.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
    /// Just come back by the loopback link `lo`, before everything else
    /// (`NF_INET_INGRESS` of that link, kernel 5.10): what goes by other links
    /// does not meet the chain at all.
    Loopback = 5,
}

impl Hook {
    /// The link whose packets pass here, where the hook is one of a link.
    pub(super) fn link(self) -> Option<&'static str> {
        (self == Self::Loopback).then_some("lo")
    }

    /// The hook with the kernel's number.
    pub(super) fn of(number: u32) -> Option<Self> {
        use Hook::{Forward, Input, Loopback, Output, Postrouting, Prerouting};
        [Prerouting, Input, Forward, Output, Postrouting, Loopback]
            .into_iter()
            .find(|hook| *hook as u32 == number)
    }
}

/// What a base chain does at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Drops the packet.
    Drop = 0,
    /// Lets it through.
    Accept = 1,
}

/// The type of a key or a value in a set (numbers of nft's own, which it
/// needs to print them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// An IPv4 address: 4 bytes.
    Ipv4Addr = 7,
    /// An IPv6 address: 16 bytes.
    Ipv6Addr = 8,
    /// A hardware address: 6 bytes.
    EtherAddr = 9,
    /// A transport protocol's number: 1 byte.
    InetProto = 12,
    /// A port: 2 bytes.
    InetService = 13,
    /// An interface's name: 16 bytes.
    Ifname = 41,
}

impl DataType {
    /// Its length in a key, in bytes; padded to whole words.
    fn padded(self) -> u32 {
        match self {
            Self::Ipv4Addr | Self::InetProto | Self::InetService => 4,
            Self::EtherAddr => 8,
            Self::Ipv6Addr | Self::Ifname => 16,
        }
    }

    /// The number that stands for a concatenation: 6 bits for each field.
    pub(super) fn concatenated(types: &[Self]) -> u32 {
        types.iter().fold(0, |sum, t| (sum << 6) | *t as u32)
    }

    /// Whether nft has to be told that the machine's byte order is meant: it
    /// takes everything for network order otherwise.
    pub(super) fn is_host_order(id: u32) -> bool {
        id == Self::Ifname as u32
    }

    /// A concatenation's length in bytes.
    pub(super) fn length(types: &[Self]) -> u32 {
        match types {
            [Self::InetProto] => 1,
            [Self::InetService] => 2,
            [Self::EtherAddr] => 6,
            _ => types.iter().map(|t| t.padded()).sum(),
        }
    }
}

/// A set of keys, or a map from keys to values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The fields of a key.
    pub key: SetType,
    /// What a key leads to.
    pub value: SetValue,
    /// How its elements are kept.
    pub keeps: SetKeeps,
    /// What is in it.
    pub elements: Vec<Element>,
}

/// How a set keeps its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetKeeps {
    /// Each for itself, until it is removed.
    #[default]
    Keys,
    /// As ranges: a key that one begins with, and one of the value
    /// [`ElementValue::RangeEnd`] that is the first behind it. Ranges neither
    /// meet nor overlap.
    Ranges,
    /// Each for itself, with a count of the packets that a lookup found it for.
    /// Figures are not compared.
    Counts,
    /// Each until its time is up. Such elements are not compared: others may
    /// add and remove them.
    Timeouts,
}

impl Set {
    /// An empty set or map.
    #[must_use]
    pub fn new(name: impl Into<String>, key: &[DataType], value: SetValue) -> Self {
        let keeps = SetKeeps::Keys;
        Self { name: name.into(), key: SetType::of(key), value, keeps, elements: Vec::new() }
    }

    /// The same with another way to keep elements.
    #[must_use]
    pub fn keeping(self, keeps: SetKeeps) -> Self {
        Self { keeps, ..self }
    }
}

/// A type as the kernel knows it: an opaque number and a length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetType {
    pub(super) id: u32,
    pub(super) length: u32,
}

impl SetType {
    pub(super) fn of(types: &[DataType]) -> Self {
        Self { id: DataType::concatenated(types), length: DataType::length(types) }
    }
}

/// What the keys of a set lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetValue {
    /// Nothing: it is a set.
    None,
    /// A verdict.
    Verdict,
    /// Data.
    Data(SetType),
}

impl SetValue {
    /// Data with these fields.
    #[must_use]
    pub fn data(types: &[DataType]) -> Self {
        Self::Data(SetType::of(types))
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The fields of the key, each padded to whole words.
    pub key: Vec<u8>,
    /// What it leads to.
    pub value: ElementValue,
    /// A text for humans; empty for none.
    pub comment: String,
}

/// What an element leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementValue {
    /// Nothing.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// The fields of the data, each padded to whole words.
    Data(Vec<u8>),
    /// Nothing: a range ends before this key.
    RangeEnd,
    /// Nothing: the key is removed after this many milliseconds.
    Expires(u64),
    /// Nothing: so much was looked up that had the key.
    Counted {
        /// Packets.
        packets: u64,
        /// Their bytes.
        bytes: u64,
    },
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is no more.
    Drop,
    /// It goes on at the rule after the jump.
    Return,
    /// It goes on in another chain, and comes back at its end.
    Jump(String),
    /// It goes on in another chain.
    Goto(String),
    /// Any other, by its number in the kernel.
    Other(i32),
}

impl Verdict {
    pub(super) fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
            Self::Other(code) => *code,
        }
    }

    /// The chain that it leads to.
    #[must_use]
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    pub(super) fn from_parts(code: i32, chain: String) -> Self {
        match code {
            0 => Self::Drop,
            1 => Self::Accept,
            -3 => Self::Jump(chain),
            -4 => Self::Goto(chain),
            -5 => Self::Return,
            other => Self::Other(other),
        }
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The chain that it is in.
    pub chain: String,
    /// What is done with a packet, step by step.
    pub expressions: Vec<Expr>,
    /// A text for humans.
    pub comment: String,
}
