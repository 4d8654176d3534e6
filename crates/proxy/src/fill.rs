//! Addresses that containers are told for certain names are put into sets of
//! the host's firewall before they are told.
//!
//! Be aware:
//! - An address stays in the set for longer than the answer holds: programs
//!   keep to an address for a while, and connections to it begin late.
//! - What was put in is remembered, so that a set that was made anew is filled
//!   again, and an address is put in once for many answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sampan_net::names::NameSet;
use sampan_sys::nft::{Batch, Element, ElementValue, Nft};

use crate::dns::query::Query;
use crate::dns::{kind, name, records};

/// How long an address stays after the answer ceased to hold.
const GRACE: Duration = Duration::from_secs(300);
/// The longest time that an answer is taken to hold.
const TTL_MAX: u32 = 24 * 3600;
/// The most addresses that are remembered.
const KNOWN_MAX: usize = 16_384;

/// The sets and what is in them.
#[derive(Debug, Default)]
pub struct Fill {
    sets: Vec<Set>,
    known: HashMap<(usize, IpAddr), Instant>,
    nft: Option<Nft>,
}

#[derive(Debug)]
struct Set {
    spec: NameSet,
    /// The name, or what it has to end in.
    key: Box<[u8]>,
    below: bool,
}

impl Set {
    fn of(spec: NameSet) -> Option<Self> {
        let below = spec.name.starts_with("*.");
        let key = name::from_text(spec.name.strip_prefix("*.").unwrap_or(&spec.name))?;
        Some(Self { spec, key, below })
    }

    fn matches(&self, name: &[u8]) -> bool {
        if !self.below {
            return name == &*self.key;
        }
        // At the boundaries of labels only.
        let mut rest = name;
        while let Some((length, tail)) = rest.split_first() {
            let Some(next) = tail.get(usize::from(*length)..).filter(|_| *length > 0) else {
                break;
            };
            if next == &*self.key {
                return true;
            }
            rest = next;
        }
        false
    }
}

impl Fill {
    /// Makes `sets` all there are, and fills them with what is still held of
    /// what was told before.
    pub fn set(&mut self, sets: Vec<NameSet>) {
        let old = std::mem::take(&mut self.known);
        let before: Vec<NameSet> = self.sets.drain(..).map(|s| s.spec).collect();
        self.sets = sets.into_iter().filter_map(Set::of).collect();
        let now = Instant::now();
        let mut kept: Vec<(usize, IpAddr, Instant)> = Vec::new();
        for ((at, address), until) in old {
            let Some(spec) = before.get(at).filter(|_| until > now) else { continue };
            // The same name again, perhaps in a set of another name.
            let again = self.sets.iter().position(|s| s.spec.name == spec.name);
            kept.extend(again.map(|again| (again, address, until)));
        }
        self.put(&kept, now);
    }

    /// Sees to it that the addresses of an answer are in the sets.
    pub fn before(&mut self, query: &Query<'_>, answer: &[u8]) {
        if self.sets.is_empty() || !matches!(query.kind, kind::A | kind::AAAA | kind::ANY) {
            return;
        }
        let Some(name) = name::Lower::of(query.name) else { return };
        let wanted: Vec<usize> =
            (0..self.sets.len()).filter(|at| self.sets[*at].matches(name.as_bytes())).collect();
        if wanted.is_empty() {
            return;
        }
        let Some(list) = records::records(answer, query.end) else { return };
        let (addresses, ttl) = records::addresses(answer, &list);
        let now = Instant::now();
        let holds = now + Duration::from_secs(ttl.min(TTL_MAX).into());
        let new: Vec<(usize, IpAddr, Instant)> = wanted
            .iter()
            .flat_map(|at| addresses.iter().map(|a| (*at, *a, holds + GRACE)))
            .filter(|(at, a, _)| self.known.get(&(*at, *a)).is_none_or(|until| *until < holds))
            .collect();
        self.put(&new, now);
    }

    /// Puts addresses into sets, and remembers it. An address that is in a set
    /// already would keep its time, so it is taken out in the same change.
    fn put(&mut self, new: &[(usize, IpAddr, Instant)], now: Instant) {
        if new.is_empty() {
            return;
        }
        if self.known.len() + new.len() > KNOWN_MAX {
            self.known.retain(|_, until| *until > now);
        }
        // One batch for each address: that one can't be added says nothing
        // about the others.
        for (at, address, until) in new {
            let Some(set) = self.sets.get(*at) else { continue };
            let left = until.saturating_duration_since(now).as_millis();
            let left = u64::try_from(left).unwrap_or(u64::MAX).max(1000);
            match renew(&mut self.nft, &set.spec, *address, left) {
                Ok(()) if self.known.len() < KNOWN_MAX => {
                    self.known.insert((*at, *address), *until);
                }
                Ok(()) => {}
                Err(error) => {
                    let name = &set.spec.name;
                    tracing::warn!(name, %address, error, "an address is not in the firewall's set");
                }
            }
        }
    }
}

fn renew(
    nft: &mut Option<Nft>,
    spec: &NameSet,
    address: IpAddr,
    milliseconds: u64,
) -> Result<(), String> {
    let (set, key) = match address {
        IpAddr::V4(v4) => (&spec.set4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (&spec.set6, v6.octets().to_vec()),
    };
    let nft = match nft {
        Some(nft) => nft,
        None => nft.insert(Nft::open().map_err(|e| e.to_string())?),
    };
    let keys = [(key, milliseconds)];
    // There is one already, perhaps about to go: both in one step, so that it
    // is never missing.
    let mut batch = Batch::new();
    batch.add_timed_elements(&spec.table, set, &keys);
    let key = keys[0].0.clone();
    let element = Element { key, value: ElementValue::None, comment: String::new() };
    batch.delete_elements(&spec.table, set, &[element]);
    batch.add_timed_elements(&spec.table, set, &keys);
    nft.commit(batch).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> Set {
        let text = |t: &str| t.to_owned();
        Set::of(NameSet { name: text(name), table: text("t"), set4: text("a"), set6: text("b") })
            .unwrap()
    }

    #[test]
    fn names_match_whole_or_below() {
        let matches =
            |pattern: &str, name: &str| set(pattern).matches(&name::from_text(name).unwrap());
        assert!(matches("example.org", "Example.org"));
        assert!(!matches("example.org", "www.example.org"));
        assert!(matches("*.example.org", "www.example.org"));
        assert!(matches("*.example.org", "a.b.example.org"));
        assert!(!matches("*.example.org", "example.org"));
        assert!(!matches("*.example.org", "badexample.org"));
    }
}
