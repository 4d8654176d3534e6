//! Names as they are in messages: labels with their lengths before them, and a
//! zero at the end.
//!
//! Be aware: names are compared as lower-case bytes of that form, lengths
//! included. A length is at most 63, below every letter, so that it is never
//! taken for one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name in bytes, lengths included.
pub const NAME_MAX: usize = 255;
/// The longest label.
const LABEL_MAX: usize = 63;

/// A name of a message in lower case, without memory of its own.
#[derive(Debug, Clone, Copy)]
pub struct Lower {
    bytes: [u8; NAME_MAX],
    length: usize,
}

impl Lower {
    /// The lower case of a name; none when it is too long to be one.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; NAME_MAX];
        let room = bytes.get_mut(..name.len())?;
        room.copy_from_slice(name);
        room.make_ascii_lowercase();
        Some(Self { bytes, length: name.len() })
    }

    /// The name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The end of the uncompressed name that begins at `at`; none when there is no
/// such name.
#[must_use]
pub fn end(message: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let length = usize::from(*message.get(next)?);
        if length > LABEL_MAX {
            return None;
        }
        next += 1 + length;
        if next - at > NAME_MAX || next > message.len() {
            return None;
        }
        if length == 0 {
            return Some(next);
        }
    }
}

/// The end of the name that begins at `at`, which may end in a pointer.
#[must_use]
pub fn skip(message: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let length = *message.get(next)?;
        match length {
            0 => return Some(next + 1),
            1..=63 => next += 1 + usize::from(length),
            192.. => return (next + 2 <= message.len()).then_some(next + 2),
            _ => return None,
        }
        if next - at > NAME_MAX {
            return None;
        }
    }
}

/// The name that begins at `at`, pointers followed, in lower case.
#[must_use]
pub fn expand(message: &[u8], at: usize) -> Option<Vec<u8>> {
    let (mut next, mut name) = (at, Vec::with_capacity(32));
    // Each pointer leads to an earlier place, so this ends.
    let mut limit = message.len();
    loop {
        let length = *message.get(next)?;
        match length {
            0 => {
                name.push(0);
                break;
            }
            1..=63 => {
                name.extend(message.get(next..next + 1 + usize::from(length))?);
                next += 1 + usize::from(length);
            }
            192.. => {
                let target = usize::from(super::u16_at(message, next)? & 0x3fff);
                if target >= limit.min(next) {
                    return None;
                }
                (next, limit) = (target, target);
            }
            _ => return None,
        }
        if name.len() >= NAME_MAX {
            return None;
        }
    }
    name.make_ascii_lowercase();
    Some(name)
}

/// A name written with dots, in the form of messages and lower case; none of
/// what can't be one. A dot at the end changes nothing.
#[must_use]
pub fn from_text(text: &str) -> Option<Box<[u8]>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut name = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        if label.is_empty() || label.len() > LABEL_MAX {
            return None;
        }
        name.push(u8::try_from(label.len()).ok()?);
        name.extend(label.bytes());
    }
    name.push(0);
    name.make_ascii_lowercase();
    (name.len() <= NAME_MAX).then(|| name.into())
}

/// A name of a message as text, for messages to people.
#[must_use]
pub fn to_text(name: &[u8]) -> String {
    let labels: Vec<String> =
        labels(name).map(|label| String::from_utf8_lossy(label).into_owned()).collect();
    if labels.is_empty() { ".".to_owned() } else { labels.join(".") }
}

/// The labels of an uncompressed name, without the root's.
pub fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first()?;
        let label = tail.get(..usize::from(*length)).filter(|l| !l.is_empty())?;
        rest = &tail[label.len()..];
        Some(label)
    })
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` stands for. The
/// name is in lower case.
#[must_use]
pub fn reverse(name: &[u8]) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(b"\x07in-addr\x04arpa\0") {
        let mut octets = [0u8; 4];
        let mut parts = labels(digits);
        for octet in octets.iter_mut().rev() {
            *octet = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(b"\x03ip6\x04arpa\0")?;
    let (mut number, mut count) = (0u128, 0);
    for label in labels(digits) {
        let [digit] = label else { return None };
        let digit = char::from(*digit).to_digit(16)?;
        number |= u128::from(digit).checked_shl(4 * count)?;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_and_written() {
        let name = from_text("Web.My-Net").unwrap();
        assert_eq!(&*name, b"\x03web\x06my-net\0");
        assert_eq!(to_text(&name), "web.my-net");
        assert_eq!(end(&name, 0), Some(name.len()));
        assert_eq!(from_text("a..b"), None);
        assert_eq!(from_text(&"x".repeat(64)), None);
        assert_eq!(from_text(&["abcdefg"; 32].join(".")), None);
        assert_eq!(end(b"\x03we", 0), None);
        assert_eq!(end(b"\xc0\x0c", 0), None);
    }

    #[test]
    fn pointers_are_followed_backward_only() {
        let message = b"\x03Web\0\x01a\xc0\x00\xc0\x09";
        assert_eq!(expand(message, 5).unwrap(), b"\x01a\x03web\0");
        assert_eq!(skip(message, 5), Some(9));
        assert_eq!(expand(message, 9), None, "to itself");
        assert_eq!(expand(b"\xc0\x00", 0), None);
    }

    #[test]
    fn addresses_are_read_from_names() {
        let of = |text: &str| reverse(&from_text(text).unwrap());
        assert_eq!(of("2.0.18.172.in-addr.arpa"), Some("172.18.0.2".parse().unwrap()));
        assert_eq!(of("0.18.172.in-addr.arpa"), None);
        assert_eq!(of("1.2.0.18.172.in-addr.arpa"), None);
        let ones = "1.".repeat(32);
        let all = "1111:1111:1111:1111:1111:1111:1111:1111".parse().unwrap();
        assert_eq!(of(&format!("{ones}ip6.arpa")), Some(all));
        assert_eq!(of(&format!("1.{ones}ip6.arpa")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0usize..600) {
            if let Some(end) = end(&bytes, at) {
                prop_assert!(end <= bytes.len() && end - at <= NAME_MAX);
                let lower = Lower::of(&bytes[at..end]).unwrap();
                prop_assert_eq!(&expand(&bytes, at).unwrap()[..], lower.as_bytes());
                let _ = reverse(lower.as_bytes());
            }
            if let Some(end) = skip(&bytes, at) {
                prop_assert!(end <= bytes.len());
            }
            let _ = expand(&bytes, at);
        }

        #[test]
        fn text_comes_back(labels in prop::collection::vec("[a-z0-9_-]{1,20}", 1..6)) {
            let text = labels.join(".");
            prop_assert_eq!(to_text(&from_text(&text).unwrap()), text);
        }
    }
}
