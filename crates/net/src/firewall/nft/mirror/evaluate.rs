//! What chains of others do with the first packet of a flow to a port, when
//! nothing is known of who sends it. Pure.
//!
//! Be aware: three answers are possible to every question about a packet. An
//! expression that is not understood is one that may match.

use std::net::IpAddr;

use sampan_sys::nft::{Expr, Family, ForeignRule, ForeignSet, ForeignTable, Policy, Verdict};

use super::extension;
use super::translate;

/// As deep as the kernel lets chains lead to chains.
const DEPTH_MAX: usize = 16;
/// `RTN_LOCAL`.
const RTN_LOCAL: u32 = 2;
/// The bit of a flow that begins, in the state that is compared.
const STATE_NEW: u32 = 8;

/// A packet of which only the destination is known.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub family: Family,
    pub protocol: u8,
    pub port: u16,
    /// The header of the network, and that of the transport; none for bytes
    /// that can be anything.
    network: Vec<Option<u8>>,
    transport: Vec<Option<u8>>,
}

impl Probe {
    pub fn new(family: Family, protocol: u8, destination: Option<IpAddr>, port: u16) -> Self {
        let (length, next, address) =
            if family == Family::Ipv6 { (40, 6, 24) } else { (20, 9, 16) };
        let mut network = vec![None; length];
        network[next] = Some(protocol);
        if let Some(destination) = destination {
            let octets = super::super::rules::octets(destination);
            for (at, byte) in octets.into_iter().enumerate() {
                network[address + at] = Some(byte);
            }
        }
        let [high, low] = port.to_be_bytes();
        let mut transport = vec![None; 20];
        transport[2] = Some(high);
        transport[3] = Some(low);
        Self { family, protocol, port, network, transport }
    }
}

/// Where a packet ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub table: String,
    pub chain: String,
}

/// What becomes of packets like the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// All pass.
    Passes,
    /// None passes.
    Ends(Place),
    /// It depends on what is not known of them.
    Depends(Place),
}

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    Maybe,
}

impl Answer {
    pub fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    pub fn negated(self, negate: bool) -> Self {
        match self {
            Self::Yes if negate => Self::No,
            Self::No if negate => Self::Yes,
            other => other,
        }
    }
}

/// What becomes of a packet in the base chains of `tables`.
pub(super) fn fate(tables: &[ForeignTable], probe: &Probe) -> Fate {
    let mut depends = None;
    for table in tables.iter().filter(|t| t.family == Family::Inet || t.family == probe.family) {
        for chain in &table.chains {
            let Some((_, policy)) = chain.base else { continue };
            let mut walk = Walk { table, probe, accepted: false, ended: Vec::new() };
            if walk.chain(&chain.name, 0) {
                match policy {
                    Policy::Accept => walk.accepted = true,
                    Policy::Drop => walk.end(&chain.name),
                }
            }
            let place = walk.ended.into_iter().next();
            match (walk.accepted, place) {
                (false, Some(place)) => return Fate::Ends(place),
                (true, Some(place)) => depends = depends.or(Some(place)),
                (_, None) => {}
            }
        }
    }
    depends.map_or(Fate::Passes, Fate::Depends)
}

/// A packet's way through one base chain.
struct Walk<'a> {
    table: &'a ForeignTable,
    probe: &'a Probe,
    /// Whether some packets are accepted.
    accepted: bool,
    /// Where some packets end.
    ended: Vec<Place>,
}

impl Walk<'_> {
    fn end(&mut self, chain: &str) {
        let family = match self.table.family {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
            _ => "inet",
        };
        let table = format!("{family} {}", self.table.name);
        self.ended.push(Place { table, chain: chain.to_owned() });
    }

    /// Goes through a chain. Says whether packets come out at its end.
    fn chain(&mut self, name: &str, depth: usize) -> bool {
        let Some(chain) = self.table.chains.iter().find(|c| c.name == name) else { return true };
        if depth > DEPTH_MAX {
            return true;
        }
        let mut returned = false;
        for rule in &chain.rules {
            let (matches, verdicts) = evaluate(self.table, self.probe, rule);
            if matches == Answer::No {
                continue;
            }
            let mut goes_on = verdicts.is_empty() || matches == Answer::Maybe;
            for verdict in verdicts {
                match verdict {
                    Verdict::Accept => self.accepted = true,
                    Verdict::Drop => self.end(name),
                    Verdict::Return => returned = true,
                    Verdict::Jump(to) => goes_on |= self.chain(&to, depth + 1),
                    Verdict::Goto(to) => returned |= self.chain(&to, depth + 1),
                    // Continue, or a program decides.
                    Verdict::Other(_) => goes_on = true,
                }
            }
            if !goes_on {
                return returned;
            }
        }
        true
    }
}

/// Whether a rule matches, and the verdicts that it may come to.
fn evaluate(table: &ForeignTable, probe: &Probe, rule: &ForeignRule) -> (Answer, Vec<Verdict>) {
    let mut registers = Registers::default();
    let mut matches = Answer::Yes;
    for expression in &rule.expressions {
        if let Some(verdict) = expression.as_verdict() {
            return (matches, vec![verdict]);
        }
        let answer = match expression.name() {
            "lookup" => {
                let (answer, verdicts) = lookup(table, &registers, expression);
                if !verdicts.is_empty() {
                    let both = if matches == Answer::Maybe { matches } else { answer };
                    return (both, verdicts);
                }
                answer
            }
            "reject" => return (matches, vec![Verdict::Drop]),
            "target" => match translate::target(table.family, expression) {
                Some(translate::Target::Reject(_)) => return (matches, vec![Verdict::Drop]),
                Some(translate::Target::LeftOut) => Answer::Yes,
                None => Answer::Maybe,
            },
            "match" => extension::matches(probe, expression),
            _ => registers.step(probe, expression),
        };
        match answer {
            Answer::No => return (Answer::No, Vec::new()),
            Answer::Maybe => matches = Answer::Maybe,
            Answer::Yes => {}
        }
    }
    (matches, Vec::new())
}

/// Looks into a set or a map of verdicts.
fn lookup(
    table: &ForeignTable,
    registers: &Registers,
    expression: &Expr,
) -> (Answer, Vec<Verdict>) {
    let name = expression.attribute(1).unwrap_or_default();
    let name: Vec<u8> = name.iter().copied().take_while(|b| *b != 0).collect();
    let Some(set) = table.sets.iter().find(|s| s.name.as_bytes() == name) else {
        return (Answer::Maybe, Vec::new());
    };
    let inverted = number(expression, 5).unwrap_or(0) & 1 == 1;
    let maps = expression.attribute(3).is_some();
    let from = number(expression, 2).unwrap_or(0);
    if !set.is_plain() {
        let answer = if maps { Answer::Maybe } else { in_interval(set, registers, from) };
        return (answer.negated(inverted), verdicts(set, maps));
    }
    let mut answer = Answer::No;
    let mut possible = Vec::new();
    for (key, verdict) in set.entries() {
        match registers.compare(from, key) {
            Answer::No => {}
            Answer::Yes => {
                return (Answer::Yes.negated(inverted), verdict.into_iter().collect());
            }
            Answer::Maybe => {
                answer = Answer::Maybe;
                possible.extend(verdict);
            }
        }
    }
    (answer.negated(inverted), if maps { possible } else { Vec::new() })
}

fn verdicts(set: &ForeignSet, maps: bool) -> Vec<Verdict> {
    if maps { set.entries().filter_map(|(_, verdict)| verdict).collect() } else { Vec::new() }
}

/// Whether a value is in a set of intervals.
fn in_interval(set: &ForeignSet, registers: &Registers, from: u32) -> Answer {
    let Some(intervals) = set.intervals() else { return Answer::Maybe };
    let Some(length) = intervals.first().map(|(first, _)| first.len()) else { return Answer::No };
    let Some(value) = registers.known(from, length) else { return Answer::Maybe };
    let inside = |(first, end): &(&[u8], Option<&[u8]>)| {
        value.as_slice() >= *first && end.is_none_or(|end| value.as_slice() < end)
    };
    Answer::of(intervals.iter().any(inside))
}

pub(super) fn number(expression: &Expr, attribute: u16) -> Option<u32> {
    Some(u32::from_be_bytes(expression.attribute(attribute)?.try_into().ok()?))
}

/// The registers of the kernel's machine; none for bytes that can be
/// anything.
#[derive(Debug, Default)]
struct Registers {
    bytes: Vec<Option<u8>>,
}

impl Registers {
    const BYTES: usize = 64;

    /// Where a register begins: 1 to 4 have sixteen bytes, those from 8 on
    /// have four.
    fn start(register: u32) -> usize {
        match register {
            1..=4 => (register as usize - 1) * 16,
            8..=23 => (register as usize - 8) * 4,
            _ => Self::BYTES,
        }
    }

    fn load(&mut self, register: u32, value: &[Option<u8>]) {
        self.bytes.resize(Self::BYTES + 64, None);
        let start = Self::start(register);
        let padded = value.len().next_multiple_of(4).min(64);
        for at in 0..padded {
            self.bytes[start + at] = value.get(at).copied().unwrap_or(Some(0));
        }
    }

    fn get(&self, register: u32, length: usize) -> Vec<Option<u8>> {
        let start = Self::start(register);
        (start..start + length).map(|at| self.bytes.get(at).copied().flatten()).collect()
    }

    fn known(&self, register: u32, length: usize) -> Option<Vec<u8>> {
        self.get(register, length).into_iter().collect()
    }

    /// Whether a register has a value.
    fn compare(&self, register: u32, value: &[u8]) -> Answer {
        let found = self.get(register, value.len());
        let differs = |(f, v): (&Option<u8>, &u8)| f.is_some_and(|f| f != *v);
        if found.iter().zip(value).any(differs) {
            Answer::No
        } else if found.iter().all(Option::is_some) {
            Answer::Yes
        } else {
            Answer::Maybe
        }
    }

    /// Carries an expression out that only works on registers.
    fn step(&mut self, probe: &Probe, expression: &Expr) -> Answer {
        let number = |attribute| number(expression, attribute).unwrap_or(0);
        match expression.name() {
            "meta" if expression.attribute(1).is_some() => {
                self.load(number(1), &meta(probe, number(2)));
            }
            "ct" if expression.attribute(1).is_some() => {
                let state = number(2) == 0;
                let value = STATE_NEW.to_ne_bytes().map(|b| state.then_some(b));
                // Anything else may be longer; nothing of it is known.
                self.load(number(1), if state { &value } else { &[None; 16] });
            }
            "fib" => {
                // The type of the destination's address.
                let known = number(2) == 3 && number(3) & 2 != 0;
                self.load(number(1), &RTN_LOCAL.to_ne_bytes().map(|b| known.then_some(b)));
            }
            "payload" if expression.attribute(1).is_some() => {
                let header: &[Option<u8>] = match number(2) {
                    1 => &probe.network,
                    2 => &probe.transport,
                    _ => &[],
                };
                let (offset, length) = (number(3) as usize, (number(4) as usize).min(64));
                let value: Vec<Option<u8>> =
                    (offset..offset + length).map(|at| header.get(at).copied().flatten()).collect();
                self.load(number(1), &value);
            }
            "bitwise" => self.mask(expression),
            "immediate" => {
                if let Some(value) = expression.attribute(2).and_then(extension::data) {
                    let value: Vec<Option<u8>> = value.iter().copied().map(Some).collect();
                    self.load(number(1), &value);
                }
            }
            "cmp" => return self.ordered(expression),
            "range" => return self.range(expression),
            "counter" | "log" | "last" | "objref" | "notrack" => {}
            // What writes to the packet or its flow decides nothing.
            "meta" | "ct" | "payload" => {}
            _ => {
                self.bytes.fill(None);
                return Answer::Maybe;
            }
        }
        Answer::Yes
    }

    fn mask(&mut self, expression: &Expr) {
        let number = |attribute| number(expression, attribute).unwrap_or(0);
        let length = (number(3) as usize).min(64);
        let data = |attribute| expression.attribute(attribute).and_then(extension::data);
        let (Some(mask), Some(xor)) = (data(4), data(5)) else {
            self.load(number(2), &vec![None; length]);
            return;
        };
        let masked = |(at, byte): (usize, Option<u8>)| {
            let mask = mask.get(at).copied().unwrap_or(0);
            let xor = xor.get(at).copied().unwrap_or(0);
            if mask == 0 { Some(xor) } else { byte.map(|b| (b & mask) ^ xor) }
        };
        let value: Vec<_> =
            self.get(number(1), length).into_iter().enumerate().map(masked).collect();
        self.load(number(2), &value);
    }

    fn ordered(&self, expression: &Expr) -> Answer {
        let Some(value) = expression.attribute(3).and_then(extension::data) else {
            return Answer::Maybe;
        };
        let register = number(expression, 1).unwrap_or(0);
        let operation = number(expression, 2).unwrap_or(0);
        if operation <= 1 {
            return self.compare(register, value).negated(operation == 1);
        }
        let Some(found) = self.known(register, value.len()) else { return Answer::Maybe };
        let found = found.as_slice();
        Answer::of(match operation {
            2 => found < value,
            3 => found <= value,
            4 => found > value,
            _ => found >= value,
        })
    }

    fn range(&self, expression: &Expr) -> Answer {
        let data = |attribute| expression.attribute(attribute).and_then(extension::data);
        let (Some(first), Some(last)) = (data(3), data(4)) else { return Answer::Maybe };
        let register = number(expression, 1).unwrap_or(0);
        let Some(found) = self.known(register, first.len()) else { return Answer::Maybe };
        let inside = found.as_slice() >= first && found.as_slice() <= last;
        Answer::of(inside).negated(number(expression, 2) == Some(1))
    }
}

/// What is known of a packet besides its content (`enum nft_meta_keys`).
fn meta(probe: &Probe, key: u32) -> Vec<Option<u8>> {
    const PROTOCOL: u32 = 1;
    const IIFNAME: u32 = 6;
    const OIFNAME: u32 = 7;
    const NFPROTO: u32 = 15;
    const L4PROTO: u32 = 16;
    let known = |bytes: &[u8]| bytes.iter().copied().map(Some).collect();
    match key {
        NFPROTO => known(&[probe.family as u8]),
        L4PROTO => known(&[probe.protocol]),
        PROTOCOL if probe.family == Family::Ipv6 => known(&[0x86, 0xdd]),
        PROTOCOL => known(&[0x08, 0x00]),
        IIFNAME | OIFNAME => vec![None; 16],
        _ => vec![None; 4],
    }
}
