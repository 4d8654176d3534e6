//! Writing answers.
//!
//! Be aware: an answer that is longer than its receiver takes is cut after a
//! whole record, and says so; over TCP there is room for all of it.

use std::net::IpAddr;

use super::query::Query;
use super::{AA, CD, HEADER, LARGEST_UDP, QR, RA, RD, Rcode, TC, kind, name};

/// For how long a name of a container's may be remembered, in seconds.
pub const TTL: u32 = 1;
/// A pointer to the question's name.
const TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
/// The length of the options that an answer has.
const OPTIONS: usize = 11;

/// An answer that is being written at the end of a buffer.
#[derive(Debug)]
pub struct Answer<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
    /// How long it may become before the options.
    room: usize,
    /// Records in the answer, about who is responsible, and additional.
    counts: [u16; 3],
    /// Whether there are options, and the upper bits of the outcome in them.
    options: Option<u8>,
    cut: bool,
}

/// The part of an answer that a record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 0,
    /// What may be asked for next.
    Additional = 2,
}

impl<'a> Answer<'a> {
    /// Begins an answer of at most `room` bytes with the question.
    pub fn to(query: &Query<'_>, room: usize, out: &'a mut Vec<u8>) -> Self {
        let begin = out.len();
        out.extend_from_slice(&query.id.to_be_bytes());
        out.extend_from_slice(&(query.flags & (RD | CD) | QR | RA).to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&query.message[HEADER..query.end]);
        let options = query.edns.map(|_| 0);
        let room = room - options.map_or(0, |_| OPTIONS);
        Self { out, begin, room, counts: [0; 3], options, cut: false }
    }

    /// Appends a record of the name that was asked for.
    pub fn push(&mut self, kind: u16, data: &[u8]) {
        self.push_named(Section::Answer, &TO_QUESTION, kind, data);
    }

    /// Appends an address of the name that was asked for.
    pub fn push_address(&mut self, address: IpAddr) {
        self.push_address_of(Section::Answer, &TO_QUESTION, address);
    }

    /// Appends an address of another name.
    pub fn push_address_of(&mut self, section: Section, name: &[u8], address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.push_named(section, name, kind::A, &v4.octets()),
            IpAddr::V6(v6) => self.push_named(section, name, kind::AAAA, &v6.octets()),
        }
    }

    /// Appends a record. Those of the answer have to come first.
    pub fn push_named(&mut self, section: Section, name: &[u8], kind: u16, data: &[u8]) {
        let length = name.len() + 10 + data.len();
        let Ok(data_length) = u16::try_from(data.len()) else { return };
        if self.cut || self.out.len() - self.begin + length > self.room {
            // What is only of use beside the answer may be missing.
            self.cut |= section == Section::Answer;
            return;
        }
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&super::CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&TTL.to_be_bytes());
        self.out.extend_from_slice(&data_length.to_be_bytes());
        self.out.extend_from_slice(data);
        self.counts[section as usize] += 1;
    }

    /// Completes an answer from who is responsible for the name.
    pub fn finish(self, rcode: Rcode) {
        self.complete(rcode as u16 | AA);
    }

    /// Completes an answer that says only why there is none.
    pub fn refuse(self, rcode: Rcode) {
        self.complete(rcode as u16);
    }

    /// Completes an answer to options of a version that is not known.
    pub fn refuse_version(mut self) {
        self.options = Some(1);
        self.complete(0);
    }

    fn complete(mut self, bits: u16) {
        if let Some(extended) = self.options {
            self.out.push(0);
            self.out.extend_from_slice(&kind::OPT.to_be_bytes());
            self.out.extend_from_slice(&(LARGEST_UDP as u16).to_be_bytes());
            self.out.extend_from_slice(&[extended, 0, 0, 0, 0, 0]);
            self.counts[2] += 1;
        }
        let header = &mut self.out[self.begin..self.begin + HEADER];
        let cut = if self.cut { TC } else { 0 };
        let flags = u16::from_be_bytes([header[2], header[3]]) | bits | cut;
        header[2..4].copy_from_slice(&flags.to_be_bytes());
        for (place, count) in header[6..].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Answers a message whose question could not be read, or is not looked at.
/// Says whether there is enough of it for that.
pub fn refuse_unread(message: &[u8], rcode: Rcode, out: &mut Vec<u8>) -> bool {
    let (Some(id), Some(flags)) = (message.get(..2), super::u16_at(message, 2)) else {
        return false;
    };
    out.extend_from_slice(id);
    out.extend_from_slice(
        &(flags & (RD | CD | super::OPCODE) | QR | RA | rcode as u16).to_be_bytes(),
    );
    out.extend_from_slice(&[0; 8]);
    true
}

/// Makes an answer that others gave to the same question one to this: number
/// and spelling are the asker's. False when it is no answer to it.
pub fn adopt(answer: &mut [u8], query: &Query<'_>) -> bool {
    if !is_answer(answer, query) {
        return false;
    }
    answer[..2].copy_from_slice(&query.id.to_be_bytes());
    answer[HEADER..query.end].copy_from_slice(&query.message[HEADER..query.end]);
    true
}

/// Whether a message answers this question, whatever its number. A refusal
/// may come without the question.
#[must_use]
pub fn is_answer(answer: &[u8], query: &Query<'_>) -> bool {
    let Some(flags) = super::u16_at(answer, 2) else { return false };
    flags & QR != 0
        && super::u16_at(answer, 4) == Some(1)
        && name::end(answer, HEADER).is_some_and(|end| end + 4 == query.end)
        && answer.get(HEADER..query.end).is_some_and(|question| {
            question.eq_ignore_ascii_case(&query.message[HEADER..query.end])
        })
}

#[cfg(test)]
mod tests {
    use super::super::query::{add_edns, ask};
    use super::*;

    #[test]
    fn an_answer_that_is_too_long_is_cut_after_a_record() {
        let mut message = ask(1, "web", kind::A);
        let query = Query::read(&message).unwrap();
        let mut out = vec![9; 5];
        let mut answer = Answer::to(&query, 512, &mut out);
        for n in 0..40 {
            answer.push_address(IpAddr::from([10, 0, 0, n]));
        }
        answer.finish(Rcode::NoError);
        let answer = &out[5..];
        assert!(answer.len() <= 512 && answer.len() > 490, "{}", answer.len());
        let count = usize::from(super::super::u16_at(answer, 6).unwrap());
        assert_eq!(answer.len(), query.end + 16 * count);
        assert_ne!(super::super::u16_at(answer, 2).unwrap() & TC, 0);
        add_edns(&mut message, 4096);
        let query = Query::read(&message).unwrap();
        let mut out = Vec::new();
        let mut answer = Answer::to(&query, query.room(), &mut out);
        for n in 0..40 {
            answer.push_address(IpAddr::from([10, 0, 0, n]));
        }
        answer.finish(Rcode::NoError);
        assert_eq!(super::super::u16_at(&out, 2).unwrap() & TC, 0);
        assert_eq!(out[6..12], [0, 40, 0, 0, 0, 1]);
        assert_eq!(out.len(), query.end + 16 * 40 + OPTIONS);
    }

    #[test]
    fn answers_of_others_are_taken_over_when_they_fit() {
        let (mine, theirs) = (ask(5, "WeB.example", kind::A), ask(9, "web.Example", kind::A));
        let query = Query::read(&mine).unwrap();
        let mut answer = theirs.clone();
        assert!(!adopt(&mut answer, &query), "a question");
        answer[2] |= 0x80;
        assert!(adopt(&mut answer, &query));
        answer[2] &= 0x7f;
        assert_eq!(answer, mine);
        let mut other = ask(5, "wob.example", kind::A);
        other[2] |= 0x80;
        assert!(!adopt(&mut other, &query));
        let mut other = ask(5, "web.example", kind::AAAA);
        other[2] |= 0x80;
        assert!(!adopt(&mut other, &query));
    }
}
