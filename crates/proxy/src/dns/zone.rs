//! What is known of the containers' names, and the answers from it.
//!
//! Be aware:
//! - A sandbox sees the names of the networks that it is on, and of no others.
//!   Of several networks that know a name the first one answers, in the order
//!   of the sandbox's interfaces.
//! - A name that is known is never asked for elsewhere: without a record of
//!   the type that is wanted, the answer is empty.
//! - Keys are names as [`super::name`] has them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sampan_net::names::SandboxNames;
use sampan_types::{ContainerId, NetworkId, SandboxId};

use super::answer::{Answer, Section};
use super::query::Query;
use super::{Rcode, kind, name, services};

type Key = Box<[u8]>;

/// All names of all networks.
#[derive(Debug, Default)]
pub struct Zones {
    networks: HashMap<NetworkId, Network>,
    members: HashMap<SandboxId, Member>,
    containers: HashMap<ContainerId, SandboxId>,
    /// For the order of answers; it need not be hard to guess.
    random: Random,
}

/// The names of one network.
#[derive(Debug, Default)]
struct Network {
    names: HashMap<Key, Vec<Entry>>,
    addresses: HashMap<IpAddr, Vec<(SandboxId, Key)>>,
}

/// The addresses of one sandbox under a name.
#[derive(Debug)]
struct Entry {
    sandbox: SandboxId,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// A sandbox and what it sees.
#[derive(Debug)]
struct Member {
    names: SandboxNames,
    networks: Vec<NetworkId>,
    /// Names for others of its own.
    links: HashMap<Key, Vec<usize>>,
}

/// Addresses that were found, without an order.
#[derive(Debug, Default)]
pub struct Hits {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is written.
    Answered,
    /// The name is nobody's here.
    Unknown,
}

impl Zones {
    /// Nothing is known. The number is where the order of answers begins.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed | 1), ..Self::default() }
    }

    /// What was said of a sandbox.
    #[must_use]
    pub fn get(&self, sandbox: &SandboxId) -> Option<&SandboxNames> {
        self.members.get(sandbox).map(|m| &m.names)
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> impl Iterator<Item = &SandboxNames> {
        self.members.values().map(|m| &m.names)
    }

    /// Adds a sandbox, or replaces what is known of it.
    pub fn set(&mut self, names: SandboxNames) {
        self.remove(&names.sandbox.clone());
        for endpoint in &names.endpoints {
            let mut entry =
                Entry { sandbox: names.sandbox.clone(), v4: Vec::new(), v6: Vec::new() };
            for address in &endpoint.addresses {
                match address {
                    IpAddr::V4(v4) => entry.v4.push(*v4),
                    IpAddr::V6(v6) => entry.v6.push(*v6),
                }
            }
            let network = self.networks.entry(endpoint.network.clone()).or_default();
            for key in keys(&endpoint.names, &endpoint.network_name) {
                network.names.entry(key).or_default().push(Entry {
                    sandbox: entry.sandbox.clone(),
                    v4: entry.v4.clone(),
                    v6: entry.v6.clone(),
                });
            }
            let main = endpoint.names.first().map(|n| format!("{n}.{}", endpoint.network_name));
            let Some(main) = main.as_deref().and_then(name::from_text) else { continue };
            for address in &endpoint.addresses {
                let known = network.addresses.entry(*address).or_default();
                known.push((names.sandbox.clone(), main.clone()));
            }
        }
        let mut links: HashMap<Key, Vec<usize>> = HashMap::new();
        for (at, link) in names.dns.links.iter().enumerate() {
            if let Some(key) = name::from_text(&link.alias) {
                links.entry(key).or_default().push(at);
            }
        }
        let networks = names.endpoints.iter().map(|e| e.network.clone()).collect();
        self.containers.insert(names.container.clone(), names.sandbox.clone());
        self.members.insert(names.sandbox.clone(), Member { names, networks, links });
    }

    /// Forgets a sandbox.
    pub fn remove(&mut self, sandbox: &SandboxId) {
        let Some(member) = self.members.remove(sandbox) else { return };
        if self.containers.get(&member.names.container) == Some(sandbox) {
            self.containers.remove(&member.names.container);
        }
        for endpoint in &member.names.endpoints {
            let Some(network) = self.networks.get_mut(&endpoint.network) else { continue };
            for key in keys(&endpoint.names, &endpoint.network_name) {
                if let Some(entries) = network.names.get_mut(&key) {
                    entries.retain(|e| e.sandbox != *sandbox);
                    if entries.is_empty() {
                        network.names.remove(&key);
                    }
                }
            }
            for address in &endpoint.addresses {
                if let Some(known) = network.addresses.get_mut(address) {
                    known.retain(|(s, _)| s != sandbox);
                    if known.is_empty() {
                        network.addresses.remove(address);
                    }
                }
            }
            if network.names.is_empty() && network.addresses.is_empty() {
                self.networks.remove(&endpoint.network);
            }
        }
    }

    /// Answers a question of a sandbox's, if that can be done from here.
    pub fn answer(
        &mut self,
        sandbox: &SandboxId,
        query: &Query<'_>,
        room: usize,
        hits: &mut Hits,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let (Some(member), Some(key)) = (self.members.get(sandbox), name::Lower::of(query.name))
        else {
            return Outcome::Unknown;
        };
        let key = key.as_bytes();
        if query.kind == kind::PTR
            && let Some(address) = name::reverse(key)
        {
            return self.answer_reverse(member, address, query, room, out);
        }
        hits.clear();
        if !self.find(member, key, hits) {
            return self.answer_service(member, key, query, room, hits, out);
        }
        self.random.shuffle(&mut hits.v4);
        self.random.shuffle(&mut hits.v6);
        let mut answer = Answer::to(query, room, out);
        if matches!(query.kind, kind::A | kind::ANY) {
            hits.v4.iter().for_each(|a| answer.push_address((*a).into()));
        }
        if matches!(query.kind, kind::AAAA | kind::ANY) {
            hits.v6.iter().for_each(|a| answer.push_address((*a).into()));
        }
        answer.finish(Rcode::NoError);
        Outcome::Answered
    }

    /// Finds the addresses of a name: those of each family on the first
    /// network that has the name with one of that family. Says whether the
    /// name is known.
    fn find(&self, member: &Member, key: &[u8], hits: &mut Hits) -> bool {
        if let Some(links) = member.links.get(key)
            && self.find_linked(member, links, hits)
        {
            return true;
        }
        let mut known = false;
        for network in member.networks.iter().filter_map(|id| self.networks.get(id)) {
            let Some(entries) = network.names.get(key) else { continue };
            known = true;
            let (no_v4, no_v6) = (hits.v4.is_empty(), hits.v6.is_empty());
            for entry in entries {
                if no_v4 {
                    hits.v4.extend_from_slice(&entry.v4);
                }
                if no_v6 {
                    hits.v6.extend_from_slice(&entry.v6);
                }
            }
            if !hits.v4.is_empty() && !hits.v6.is_empty() {
                break;
            }
        }
        known
    }

    /// The addresses of linked containers on networks that are shared with
    /// them. A container that is not there has no name.
    fn find_linked(&self, member: &Member, links: &[usize], hits: &mut Hits) -> bool {
        let mut known = false;
        for link in links.iter().filter_map(|at| member.names.dns.links.get(*at)) {
            let target = self.containers.get(&link.target).and_then(|s| self.members.get(s));
            for endpoint in target.into_iter().flat_map(|t| &t.names.endpoints) {
                let wanted = link.network.as_ref().is_none_or(|n| *n == endpoint.network);
                if wanted && member.networks.contains(&endpoint.network) {
                    known = true;
                    endpoint.addresses.iter().for_each(|a| hits.push(*a));
                }
            }
        }
        known
    }

    fn answer_reverse(
        &self,
        member: &Member,
        address: IpAddr,
        query: &Query<'_>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let networks = member.networks.iter().filter_map(|id| self.networks.get(id));
        let known = networks.filter_map(|n| n.addresses.get(&address)).find_map(|k| k.first());
        let Some((_, name)) = known else { return Outcome::Unknown };
        let mut answer = Answer::to(query, room, out);
        answer.push(kind::PTR, name);
        answer.finish(Rcode::NoError);
        Outcome::Answered
    }

    /// `_SERVICE._PROTOCOL.NAME`: the port of the service at each of the
    /// addresses of the name. The name is ours, so is what is below it.
    fn answer_service(
        &self,
        member: &Member,
        key: &[u8],
        query: &Query<'_>,
        room: usize,
        hits: &mut Hits,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let mut labels = name::labels(key);
        let (Some([b'_', service @ ..]), Some(b"_tcp" | b"_udp" | b"_sctp")) =
            (labels.next(), labels.next())
        else {
            return Outcome::Unknown;
        };
        let length: usize = name::labels(key).take(2).map(|l| l.len() + 1).sum();
        let host = &key[length..];
        if !self.find(member, host, hits) {
            return Outcome::Unknown;
        }
        let mut answer = Answer::to(query, room, out);
        let Some(port) = services::port(service) else {
            answer.finish(Rcode::NxDomain);
            return Outcome::Answered;
        };
        if matches!(query.kind, kind::SRV | kind::ANY) {
            let mut data = vec![0, 0, 0, 0];
            data.extend(port.to_be_bytes());
            data.extend(host);
            answer.push(kind::SRV, &data);
            for address in hits.addresses() {
                answer.push_address_of(Section::Additional, host, address);
            }
        }
        answer.finish(Rcode::NoError);
        Outcome::Answered
    }
}

/// Under which names an endpoint is found: each of its own, and each with the
/// network's behind it. What can't be asked for is left out.
fn keys(names: &[String], network: &str) -> Vec<Key> {
    let full = names.iter().map(|n| format!("{n}.{network}"));
    let mut keys: Vec<Key> =
        names.iter().cloned().chain(full).filter_map(|n| name::from_text(&n)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

impl Hits {
    fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    fn push(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.v4.push(v4),
            IpAddr::V6(v6) => self.v6.push(v6),
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6.iter().copied().map(IpAddr::V6))
    }
}

/// A xorshift generator.
#[derive(Debug)]
struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = usize::try_from(self.next() >> 33).unwrap_or_default() % (last + 1);
            list.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests;
