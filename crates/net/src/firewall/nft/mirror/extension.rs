//! Extensions of x_tables that decide by what is known of a packet's
//! destination: `conntrack`, `tcp`, `udp`, `multiport`, `comment`. Pure.
//!
//! Be aware: the layouts are those of the kernel's `linux/netfilter/xt_*.h`,
//! in the machine's byte order. Whatever else an extension looks at, it may
//! match.

use sampan_sys::nft::Expr;

use super::evaluate::{Answer, Probe};

/// Attributes of the expression: name and the extension's own structure.
const NAME: u16 = 1;
const INFO: u16 = 3;

/// A value inside `enum nft_data_attributes`.
pub(super) fn data(attribute: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_ne_bytes(attribute.get(..2)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(attribute.get(2..4)?.try_into().ok()?) & 0x3fff;
    (kind == 1).then(|| attribute.get(4..length)).flatten()
}

/// Whether an extension matches.
pub(super) fn matches(probe: &Probe, expression: &Expr) -> Answer {
    let name = expression.attribute(NAME).unwrap_or_default();
    let info = expression.attribute(INFO).unwrap_or_default();
    let answer = match name.split(|b| *b == 0).next().unwrap_or_default() {
        b"comment" => Some(Answer::Yes),
        b"conntrack" => conntrack(info),
        b"state" => Some(state(info)),
        b"tcp" => ports(probe, info, 11),
        b"udp" => ports(probe, info, 8),
        b"multiport" => multiport(probe, info),
        _ => None,
    };
    answer.unwrap_or(Answer::Maybe)
}

fn word(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
}

/// `struct xt_conntrack_mtinfo3`, when only the state is asked for.
fn conntrack(info: &[u8]) -> Option<Answer> {
    const FLAG_STATE: u16 = 1;
    const STATE_NEW: u16 = 8;
    let (flags, inverted, states) = (word(info, 146)?, word(info, 148)?, word(info, 150)?);
    if flags != FLAG_STATE {
        return None;
    }
    Some(Answer::of(states & STATE_NEW != 0).negated(inverted & FLAG_STATE != 0))
}

/// `struct xt_state_info`.
fn state(info: &[u8]) -> Answer {
    let mask = info.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Answer::of(mask & 8 != 0)
}

/// `struct xt_tcp` and `struct xt_udp`: ranges of source and destination
/// ports, then what is negated at `inverted`.
fn ports(probe: &Probe, info: &[u8], inverted: usize) -> Option<Answer> {
    const INVERTED_DESTINATION: u8 = 2;
    let (first, last) = (word(info, 4)?, word(info, 6)?);
    let inside = (first..=last).contains(&probe.port);
    let destination = Answer::of(inside).negated(info.get(inverted)? & INVERTED_DESTINATION != 0);
    let any_source = word(info, 0)? == 0 && word(info, 2)? == u16::MAX;
    // The flags of TCP: option, mask and value.
    let any_flags = inverted == 8 || info.get(8..11)? == [0, 0, 0];
    Some(match destination {
        Answer::Yes if !(any_source && any_flags) => Answer::Maybe,
        other => other,
    })
}

/// `struct xt_multiport_v1`.
fn multiport(probe: &Probe, info: &[u8]) -> Option<Answer> {
    const DESTINATION: u8 = 1;
    let (kind, count) = (*info.first()?, usize::from(*info.get(1)?));
    if kind != DESTINATION {
        return None;
    }
    let mut found = false;
    let mut at = 0;
    while at < count {
        let port = word(info, 2 + 2 * at)?;
        // A range: its end is the next port.
        if *info.get(32 + at)? != 0 {
            found |= (port..=word(info, 4 + 2 * at)?).contains(&probe.port);
            at += 2;
        } else {
            found |= port == probe.port;
            at += 1;
        }
    }
    Some(Answer::of(found).negated(*info.get(47)? != 0))
}
