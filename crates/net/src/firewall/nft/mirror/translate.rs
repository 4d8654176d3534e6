//! What a rule at the hook *input* is at *prerouting*.

use sampan_sys::nft::{Expr, Family, ForeignRule};

/// Expressions that decide or load something; they are copied as they are.
const COPIED: [&str; 22] = [
    "bitwise",
    "byteorder",
    "cmp",
    "connlimit",
    "counter",
    "ct",
    "dynset",
    "exthdr",
    "fib",
    "hash",
    "immediate",
    "last",
    "limit",
    "lookup",
    "match",
    "meta",
    "numgen",
    "osf",
    "payload",
    "quota",
    "range",
    "reject",
];
/// Expressions that only tell somebody.
const LEFT_OUT: [&str; 1] = ["log"];
/// Targets of x_tables that don't decide about a packet. What they change is
/// changed at *input* alone.
const TARGETS_LEFT_OUT: [&str; 10] =
    ["AUDIT", "CONNMARK", "CONNSECMARK", "CT", "LED", "LOG", "MARK", "NFLOG", "SECMARK", "SET"];

/// The steps of a rule's copy; none when it can't have one.
pub(super) fn copied(family: Family, rule: &ForeignRule) -> Option<Vec<Expr>> {
    let mut copy = Vec::with_capacity(rule.expressions.len());
    for expression in &rule.expressions {
        match expression.name() {
            "target" => match target(family, expression)? {
                Target::Reject(reject) => copy.push(reject),
                Target::LeftOut => {}
            },
            // A reference to a counter.
            "objref" if number(expression, 1) == Some(1) => {}
            name if LEFT_OUT.contains(&name) || writes(expression) => {}
            name if COPIED.contains(&name) => copy.push(expression.clone()),
            _ => return None,
        }
    }
    Some(copy)
}

fn number(expression: &Expr, attribute: u16) -> Option<u32> {
    Some(u32::from_be_bytes(expression.attribute(attribute)?.try_into().ok()?))
}

/// Whether an expression changes the packet or its flow: it has a register
/// that it takes the value from.
fn writes(expression: &Expr) -> bool {
    let source = match expression.name() {
        "meta" => 3,
        "ct" => 4,
        "payload" => 5,
        "exthdr" => 7,
        _ => return false,
    };
    expression.attribute(source).is_some()
}

/// What becomes of a target of x_tables.
pub(super) enum Target {
    /// The sender is told.
    Reject(Expr),
    /// The packet goes on.
    LeftOut,
}

/// A target as far as it is known.
pub(super) fn target(family: Family, expression: &Expr) -> Option<Target> {
    let name = expression.attribute(1)?;
    let name = name.split(|b| *b == 0).next().and_then(|n| std::str::from_utf8(n).ok())?;
    if name == "REJECT" {
        let with = expression.attribute(3)?.get(..4)?.try_into().ok()?;
        return Some(Target::Reject(reject(family, u32::from_ne_bytes(with))));
    }
    TARGETS_LEFT_OUT.contains(&name).then_some(Target::LeftOut)
}

/// `enum ipt_reject_with` and `enum ip6t_reject_with` as codes of ICMP.
fn reject(family: Family, with: u32) -> Expr {
    let code = match (family, with) {
        (Family::Ipv6, 6) | (Family::Ipv4, 7) => None,
        (Family::Ipv6, 0..=3) => Some(with as u8),
        (Family::Ipv6, 7) => Some(5),
        (Family::Ipv6, 8) => Some(6),
        (Family::Ipv6, _) => Some(4),
        (_, 0..=3) => Some(with as u8),
        (_, 5) => Some(9),
        (_, 6) => Some(10),
        (_, 8) => Some(13),
        _ => Some(3),
    };
    Expr::reject(code)
}
