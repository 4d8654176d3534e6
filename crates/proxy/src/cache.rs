//! What others answered, for as long as it holds. Pure: the caller says what
//! time it is.
//!
//! Be aware:
//! - Bounded in entries and in bytes; what came first goes first.
//! - A key is the whole question but its number, options included: nobody
//!   gets an answer that was made for other options.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::dns::query::Query;
use crate::dns::{HEADER, answer, records};

/// The most answers that are kept.
const ENTRIES_MAX: usize = 4096;
/// The most bytes of them, keys included.
const BYTES_MAX: usize = 1 << 20;
/// The longest answer that is kept.
const MESSAGE_MAX: usize = 4096;
/// The longest time that an answer is kept.
const POSITIVE_MAX: u32 = 3600;
/// The longest time that it is kept that there is none.
const NEGATIVE_MAX: u32 = 30;

/// A question, and to whom it was put.
pub type Key = Box<[u8]>;

/// The key of a question to a group of servers.
#[must_use]
pub fn key(group: u32, stream: bool, query: &Query<'_>) -> Key {
    let mut key = Vec::with_capacity(query.message.len() + 3);
    key.extend(group.to_be_bytes());
    key.push(u8::from(stream));
    let begin = key.len();
    key.extend(&query.message[2..]);
    key[begin + HEADER - 2..begin + query.end - 2].make_ascii_lowercase();
    key.into()
}

/// The answers.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
}

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    /// Where times are written in it.
    ttls: Box<[u16]>,
    born: Instant,
    until: Instant,
    serial: u64,
}

impl Cache {
    /// How many answers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Appends the answer to a question, with the times that are left. False
    /// when none is known.
    pub fn get(&self, key: &[u8], query: &Query<'_>, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.entries.get(key).filter(|e| e.until > now) else { return false };
        let age = now.saturating_duration_since(entry.born).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let begin = out.len();
        out.extend_from_slice(&entry.message);
        let message = &mut out[begin..];
        for at in &entry.ttls {
            let at = usize::from(*at);
            if let Some(ttl) = message.get_mut(at..at + 4) {
                let left = u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]);
                ttl.copy_from_slice(&left.saturating_sub(age).to_be_bytes());
            }
        }
        let fits = answer::adopt(message, query);
        if !fits {
            out.truncate(begin);
        }
        fits
    }

    /// Keeps an answer for as long as it holds.
    pub fn insert(&mut self, key: &Key, message: &[u8], question_end: usize, now: Instant) {
        let Some(list) = records::records(message, question_end) else { return };
        let lifetime = records::lifetime(message, &list);
        let positive = list.iter().any(|r| r.section == 0) && records::rcode(message) == 0;
        let lifetime = lifetime.min(if positive { POSITIVE_MAX } else { NEGATIVE_MAX });
        if lifetime == 0 || message.len() > MESSAGE_MAX {
            return;
        }
        let times = list.iter().filter(|r| r.kind != crate::dns::kind::OPT);
        let entry = Entry {
            message: message.into(),
            ttls: times.filter_map(|r| u16::try_from(r.ttl_at).ok()).collect(),
            born: now,
            until: now + Duration::from_secs(lifetime.into()),
            serial: self.serial,
        };
        self.bytes += cost(key, &entry);
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.bytes -= cost(key, &old);
        }
        self.order.push_back((key.clone(), self.serial));
        self.serial += 1;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.entries.len() > ENTRIES_MAX
            || self.bytes > BYTES_MAX
            || self.order.len() > 2 * ENTRIES_MAX
        {
            let Some((key, serial)) = self.order.pop_front() else { break };
            // It may have been replaced since.
            if self.entries.get(&key).is_some_and(|e| e.serial == serial)
                && let Some(old) = self.entries.remove(&key)
            {
                self.bytes -= cost(&key, &old);
            }
        }
    }
}

/// What an entry takes, its key twice and what is around it roughly.
fn cost(key: &[u8], entry: &Entry) -> usize {
    2 * key.len() + entry.message.len() + 2 * entry.ttls.len() + 160
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::kind;
    use crate::dns::query::ask;

    fn answered(name: &str, ttl: u32) -> Vec<u8> {
        let mut message = ask(1, name, kind::A);
        (message[2], message[3], message[7]) = (0x81, 0x80, 1);
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4, 192, 0, 2, 1]);
        message
    }

    #[test]
    fn an_answer_ages_and_is_spelled_as_it_was_asked() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (first, second) = (ask(1, "a.example", kind::A), ask(77, "A.Example", kind::A));
        let (first, second) = (Query::read(&first).unwrap(), Query::read(&second).unwrap());
        let known = key(1, false, &first);
        assert_eq!(known, key(1, false, &second));
        assert_ne!(known, key(2, false, &second));
        assert_ne!(known, key(1, true, &second));
        cache.insert(&known, &answered("a.example", 60), first.end, now);
        let mut out = vec![3];
        assert!(cache.get(&known, &second, now + Duration::from_secs(25), &mut out));
        let mut wanted = answered("a.example", 35);
        wanted[..2].copy_from_slice(&[0, 77]);
        wanted[12..23].copy_from_slice(&second.name[..11]);
        assert_eq!(out[1..], wanted);
        assert!(!cache.get(&known, &second, now + Duration::from_secs(60), &mut out));
    }

    #[test]
    fn no_more_is_kept_than_the_bounds_allow() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..3 * ENTRIES_MAX {
            let name = format!("n{n}.example");
            let message = ask(1, &name, kind::A);
            let query = Query::read(&message).unwrap();
            cache.insert(&key(1, false, &query), &answered(&name, 60), query.end, now);
            // The same again does not pile up.
            cache.insert(&key(1, false, &query), &answered(&name, 60), query.end, now);
        }
        assert!(cache.len() <= ENTRIES_MAX && cache.bytes <= BYTES_MAX);
        assert!(cache.order.len() <= 2 * ENTRIES_MAX && cache.len() > 1000);
        let sum: usize = cache.entries.iter().map(|(k, e)| cost(k, e)).sum();
        assert_eq!(sum, cache.bytes);
        cache.clear();
        assert!(cache.is_empty());
    }
}
