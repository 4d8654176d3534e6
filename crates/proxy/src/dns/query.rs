//! Reading questions.
//!
//! Be aware: what comes from a container is hostile. Nothing here keeps more
//! than the question's place in the message.

use super::{CLASS_IN, HEADER, LARGEST_UDP, OPCODE, PLAIN_UDP, QR, Rcode, kind, name, u16_at};

/// The most records that a question may bring along.
const RECORDS_MAX: u16 = 16;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The whole message.
    pub message: &'a [u8],
    /// The message's number.
    pub id: u16,
    /// The header's second field.
    pub flags: u16,
    /// The name as it was written.
    pub name: &'a [u8],
    /// The type of the records that are wanted.
    pub kind: u16,
    /// Their class.
    pub class: u16,
    /// Where the question ends.
    pub end: usize,
    /// The message's options.
    pub edns: Option<Edns>,
}

/// What a message says of itself (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The longest answer over UDP that its sender takes.
    pub size: u16,
    /// The version of the options.
    pub version: u8,
    /// Whether proofs are wanted.
    pub proofs: bool,
}

impl<'a> Query<'a> {
    /// Reads a message. An error is what it is answered with; none when it is
    /// no question at all and gets no answer.
    ///
    /// # Errors
    /// See above.
    pub fn read(message: &'a [u8]) -> Result<Self, Option<Rcode>> {
        let field = |at| u16_at(message, at).ok_or(None);
        let (id, flags) = (field(0)?, field(2)?);
        if message.len() < HEADER || flags & QR != 0 {
            return Err(None);
        }
        if flags & OPCODE != 0 {
            return Err(Some(Rcode::NotImp));
        }
        let malformed = || Some(Rcode::FormErr);
        if field(4)? != 1 {
            return Err(malformed());
        }
        let name_end = name::end(message, HEADER).ok_or_else(malformed)?;
        let kind = u16_at(message, name_end).ok_or_else(malformed)?;
        let class = u16_at(message, name_end + 2).ok_or_else(malformed)?;
        let mut query = Self {
            message,
            id,
            flags,
            name: &message[HEADER..name_end],
            kind,
            class,
            end: name_end + 4,
            edns: None,
        };
        let others = [field(6)?, field(8)?, field(10)?];
        if others != [0, 0, 0] {
            query.edns = options(message, query.end, others).ok_or_else(malformed)?;
        }
        Ok(query)
    }

    /// The longest answer over UDP that the sender takes.
    #[must_use]
    pub fn room(&self) -> usize {
        let size = self.edns.map_or(PLAIN_UDP, |e| usize::from(e.size));
        size.clamp(PLAIN_UDP, LARGEST_UDP)
    }

    /// Whether it is about the Internet's class.
    #[must_use]
    pub fn is_internet(&self) -> bool {
        self.class == CLASS_IN
    }
}

/// The options among the records after the question; `None` when these can't
/// be read, or when there are options twice.
fn options(message: &[u8], begin: usize, counts: [u16; 3]) -> Option<Option<Edns>> {
    let total = counts.iter().try_fold(0u16, |sum, count| sum.checked_add(*count))?;
    if total > RECORDS_MAX {
        return None;
    }
    let (mut at, mut found) = (begin, None);
    for number in 0..total {
        let fixed = name::skip(message, at)?;
        let is_additional = number >= total - counts[2];
        if u16_at(message, fixed)? == kind::OPT && is_additional {
            if found.is_some() || message.get(at) != Some(&0) {
                return None;
            }
            let flags = u16_at(message, fixed + 6)?;
            found = Some(Edns {
                size: u16_at(message, fixed + 2)?,
                version: *message.get(fixed + 5)?,
                proofs: flags & 0x8000 != 0,
            });
        }
        at = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
        if at > message.len() {
            return None;
        }
    }
    Some(found)
}

/// A question as programs put it; for tests and measurements.
#[must_use]
pub fn ask(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    message.extend(id.to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(name::from_text(name).as_deref().unwrap_or(&[0]));
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// Appends options to a question that has none.
pub fn add_edns(message: &mut Vec<u8>, size: u16) {
    if let Some(count) = message.get_mut(11) {
        *count = 1;
    }
    message.extend([0, 0, 41]);
    message.extend(size.to_be_bytes());
    message.extend([0; 6]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn questions_are_read() {
        let mut message = ask(7, "Web", kind::A);
        let query = Query::read(&message).unwrap();
        assert_eq!((query.id, query.kind, query.class), (7, kind::A, CLASS_IN));
        assert_eq!((query.name, query.room(), query.edns), (&b"\x03web\0"[..], 512, None));
        add_edns(&mut message, 1232);
        let query = Query::read(&message).unwrap();
        assert_eq!(query.edns, Some(Edns { size: 1232, version: 0, proofs: false }));
        assert_eq!(query.room(), 1232);
        assert_eq!(query.end + 11, message.len());
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let good = ask(7, "web", kind::A);
        let with = |at: usize, value: u8| {
            let mut message = good.clone();
            message[at] = value;
            Query::read(&message).map(|q| q.id)
        };
        assert_eq!(with(2, 0x80), Err(None), "an answer");
        assert_eq!(with(2, 0x28), Err(Some(Rcode::NotImp)), "an update");
        for (at, value) in [(5, 2), (5, 0), (12, 0xc0), (12, 200), (7, 1), (11, 1), (10, 255)] {
            assert_eq!(with(at, value), Err(Some(Rcode::FormErr)), "{at} {value}");
        }
        assert_eq!(Query::read(&good[..11]), Err(None));
        assert_eq!(Query::read(&good[..good.len() - 1]), Err(Some(Rcode::FormErr)));
        let mut twice = good.clone();
        add_edns(&mut twice, 512);
        add_edns(&mut twice, 512);
        twice[11] = 2;
        assert_eq!(Query::read(&twice), Err(Some(Rcode::FormErr)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(query) = Query::read(&bytes) {
                prop_assert!(query.end <= bytes.len());
            }
        }

        #[test]
        fn damaged_questions_are_read_without_harm(at in 0usize..40, value: u8, cut in 0usize..60) {
            let mut message = ask(7, "web.example.org", kind::A);
            add_edns(&mut message, 4096);
            if let Some(byte) = message.get_mut(at) {
                *byte = value;
            }
            message.truncate(cut.max(1));
            let _ = Query::read(&message);
        }
    }
}
