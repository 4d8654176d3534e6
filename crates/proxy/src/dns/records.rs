//! Reading the answers of others: for how long they hold, and which addresses
//! they give a name.

use std::net::IpAddr;

use super::{HEADER, Rcode, TC, kind, name, u16_at, u32_at};

/// The most records of an answer that are looked at.
const RECORDS_MAX: usize = 1024;
/// The longest chain of names for one another.
const CHAIN_MAX: usize = 16;

/// A record's place in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where its name begins.
    pub name: usize,
    /// Its type.
    pub kind: u16,
    /// Where the time for which it holds is written.
    pub ttl_at: usize,
    /// That time in seconds.
    pub ttl: u32,
    /// Where its data begin.
    pub data: usize,
    /// Where they end.
    pub end: usize,
    /// The section that it is in: answer, authority, additional.
    pub section: usize,
}

/// The outcome that a message tells.
#[must_use]
pub fn rcode(message: &[u8]) -> u16 {
    u16_at(message, 2).unwrap_or(Rcode::ServFail as u16) & 0xf
}

/// Whether something was cut off a message.
#[must_use]
pub fn is_cut(message: &[u8]) -> bool {
    u16_at(message, 2).is_some_and(|flags| flags & TC != 0)
}

/// The records of a message; none when they can't all be read.
#[must_use]
pub fn records(message: &[u8], question_end: usize) -> Option<Vec<Record>> {
    let mut list = Vec::new();
    let mut at = question_end;
    for section in 0..3 {
        for _ in 0..u16_at(message, 6 + 2 * section)? {
            let fixed = name::skip(message, at)?;
            let data = fixed + 10;
            let end = data + usize::from(u16_at(message, fixed + 8)?);
            if end > message.len() || list.len() >= RECORDS_MAX {
                return None;
            }
            list.push(Record {
                name: at,
                kind: u16_at(message, fixed)?,
                ttl_at: fixed + 4,
                ttl: u32_at(message, fixed + 4)?,
                data,
                end,
                section,
            });
            at = end;
        }
    }
    Some(list)
}

/// For how many seconds an answer may be remembered: 0 for one that may not.
/// That nothing is there holds for as long as the zone says (RFC 2308).
#[must_use]
pub fn lifetime(message: &[u8], records: &[Record]) -> u32 {
    let nx = Rcode::NxDomain as u16;
    if is_cut(message) || ![0, nx].contains(&rcode(message)) {
        return 0;
    }
    // The upper half of the numbers stands for 0 (RFC 2181, 8).
    let sane = |ttl: u32| if ttl > i32::MAX as u32 { 0 } else { ttl };
    let held = records.iter().filter(|r| r.kind != kind::OPT);
    let positive = rcode(message) == 0 && records.iter().any(|r| r.section == 0);
    if positive {
        return held.map(|r| sane(r.ttl)).min().unwrap_or(0);
    }
    let zone = records.iter().find(|r| r.kind == kind::SOA && r.section == 1);
    let minimum = zone.and_then(|r| u32_at(message, r.end.checked_sub(4)?));
    match (zone, minimum) {
        (Some(zone), Some(minimum)) if zone.end - zone.data >= 22 => {
            sane(zone.ttl).min(sane(minimum))
        }
        _ => 0,
    }
}

/// The addresses that an answer gives the name that was asked for, other
/// names for it followed, and the shortest time for which one holds.
#[must_use]
pub fn addresses(message: &[u8], records: &[Record]) -> (Vec<IpAddr>, u32) {
    let mut names: Vec<Vec<u8>> = name::expand(message, HEADER).into_iter().collect();
    let (mut found, mut ttl) = (Vec::new(), u32::MAX);
    let answers: Vec<(&Record, Vec<u8>)> = records
        .iter()
        .filter(|r| r.section == 0)
        .filter_map(|r| Some((r, name::expand(message, r.name)?)))
        .collect();
    for step in 0..CHAIN_MAX {
        let Some(name) = names.get(step).cloned() else { break };
        for (record, _) in answers.iter().filter(|(_, n)| *n == name) {
            let data = &message[record.data..record.end];
            let address = match record.kind {
                kind::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
                kind::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
                kind::CNAME => {
                    names.extend(
                        name::expand(message, record.data).filter(|target| !names.contains(target)),
                    );
                    None
                }
                _ => None,
            };
            if let Some(address) = address {
                found.push(address);
                ttl = ttl.min(record.ttl);
            }
        }
    }
    (found, ttl)
}

#[cfg(test)]
mod tests {
    use super::super::query::ask;
    use super::*;
    use proptest::prelude::*;

    fn answer(rcode: u8, records: &[(&[u8], u16, u32, &[u8])], authority: usize) -> Vec<u8> {
        let mut message = ask(1, "www.example", kind::A);
        (message[2], message[3]) = (0x81, 0x80 | rcode);
        message[7] = u8::try_from(records.len() - authority).unwrap();
        message[9] = u8::try_from(authority).unwrap();
        for (name, kind, ttl, data) in records {
            message.extend(*name);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1]);
            message.extend(ttl.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }

    const END: usize = 12 + 13 + 4;

    #[test]
    fn chains_of_names_lead_to_addresses() {
        let message = answer(
            0,
            &[
                (b"\xc0\x0c", kind::CNAME, 300, b"\x03cdn\xc0\x10"),
                (b"\x03CDN\xc0\x10", kind::A, 20, &[192, 0, 2, 1]),
                (b"\x04evil\xc0\x10", kind::A, 5, &[192, 0, 2, 66]),
            ],
            0,
        );
        let records = records(&message, END).unwrap();
        assert_eq!(addresses(&message, &records), (vec![IpAddr::from([192, 0, 2, 1])], 20));
        assert_eq!(lifetime(&message, &records), 5);
    }

    #[test]
    fn that_there_is_nothing_holds_as_long_as_the_zone_says() {
        let mut soa = vec![0, 0];
        soa.extend([0; 16]);
        soa.extend(30u32.to_be_bytes());
        let message = answer(3, &[(b"\xc0\x10", kind::SOA, 900, &soa)], 1);
        assert_eq!(lifetime(&message, &records(&message, END).unwrap()), 30);
        let message = answer(0, &[(b"\xc0\x10", kind::SOA, 7, &soa)], 1);
        assert_eq!(lifetime(&message, &records(&message, END).unwrap()), 7);
        let message = answer(2, &[], 0);
        assert_eq!(lifetime(&message, &records(&message, END).unwrap()), 0);
    }

    #[test]
    fn names_that_go_in_circles_end() {
        let message = answer(0, &[(b"\xc0\x0c", kind::CNAME, 1, b"\xc0\x0c")], 0);
        assert!(addresses(&message, &records(&message, END).unwrap()).0.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            counts in prop::array::uniform3(0u8..6),
        ) {
            let mut message = ask(1, "a.b", kind::A);
            for (n, count) in counts.into_iter().enumerate() {
                message[7 + 2 * n] = count;
            }
            let end = message.len();
            message.extend(bytes);
            if let Some(records) = records(&message, end) {
                let _ = lifetime(&message, &records);
                let _ = addresses(&message, &records);
                prop_assert!(records.iter().all(|r| r.ttl_at + 4 <= message.len()));
            }
        }
    }
}
