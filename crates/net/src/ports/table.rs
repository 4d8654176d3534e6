//! Who has which port of the host.
//!
//! Be aware: a port of all addresses and the same port of one address are in
//! each other's way, within an address family.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::{HostUser, PortError, PortRequest, Protocol, PublishedPort, RANDOM_PORTS};

/// A port of an address.
type Key = (Protocol, u16, IpAddr);
/// The first and the last address in the order of keys.
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LAST: IpAddr = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));

/// The ports of the host that are given to containers.
#[derive(Debug, Default)]
pub struct PortTable {
    /// Who has which port of which address, by the owner's number: there can
    /// be ten thousands.
    used: BTreeMap<Key, u32>,
    /// The owners by their numbers.
    owners: HashMap<u32, Owner>,
    /// The numbers of owners.
    numbers: HashMap<String, u32>,
    /// The number of the next owner.
    next_owner: u32,
    /// The random ports of each protocol.
    random: BTreeMap<Protocol, RandomPorts>,
}

/// Somebody who has ports.
#[derive(Debug)]
struct Owner {
    id: String,
    /// The name in messages, when there is one besides the id.
    name: Option<String>,
    /// The ports of which it has one or more addresses.
    ports: BTreeSet<(Protocol, u16)>,
}

/// Which random port comes next: those never given, then the one that was
/// given back first.
#[derive(Debug)]
struct RandomPorts {
    fresh: RangeInclusive<u16>,
    freed: VecDeque<u16>,
    /// What is in `freed`.
    waits: HashSet<u16>,
}

impl Default for RandomPorts {
    fn default() -> Self {
        Self { fresh: RANDOM_PORTS, freed: VecDeque::new(), waits: HashSet::new() }
    }
}

impl RandomPorts {
    fn next(&mut self) -> Option<u16> {
        self.fresh.next().or_else(|| {
            let port = self.freed.pop_front()?;
            self.waits.remove(&port);
            Some(port)
        })
    }

    /// Queues a port, unless it is still to come.
    fn give_back(&mut self, port: u16) {
        if RANDOM_PORTS.contains(&port) && !self.fresh.contains(&port) && self.waits.insert(port) {
            self.freed.push_back(port);
        }
    }
}

/// Asks who on the host itself has a port.
type InUse<'a> = &'a dyn Fn(Protocol, IpAddr, u16) -> Option<HostUser>;

impl PortTable {
    /// A table in which every port is free.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `owner` one port of the host for each request, or none at all.
    /// `in_use` says who on the host itself has a port.
    ///
    /// # Errors
    /// [`PortError`], which names the port and who has it.
    pub fn allocate(
        &mut self,
        requests: &[PortRequest],
        owner: &str,
        in_use: InUse<'_>,
    ) -> Result<Vec<PublishedPort>, PortError> {
        let mut given = Vec::with_capacity(requests.len());
        for request in requests {
            match self.allocate_one(request, owner, in_use) {
                Ok(port) => given.push(port),
                Err(e) => {
                    given.iter().for_each(|port| self.remove(port));
                    return Err(e);
                }
            }
        }
        Ok(given)
    }

    fn allocate_one(
        &mut self,
        request: &PortRequest,
        owner: &str,
        in_use: InUse<'_>,
    ) -> Result<PublishedPort, PortError> {
        let host_port = match &request.host_range {
            Some(range) => self.first_free(request, range, in_use)?,
            None => self.random_port(request, in_use)?,
        };
        let port = PublishedPort {
            protocol: request.protocol,
            host_ip: request.host_ip,
            host_port,
            container_port: request.container_port,
        };
        self.insert(&port, owner);
        Ok(port)
    }

    /// The first free port of a range; for a range of one, why it is not free.
    fn first_free(
        &self,
        request: &PortRequest,
        range: &RangeInclusive<u16>,
        in_use: InUse<'_>,
    ) -> Result<u16, PortError> {
        let mut refusal = None;
        for port in range.clone() {
            match self.check(request, port, in_use) {
                Ok(()) => return Ok(port),
                // An address that the host has not fails for every port.
                Err(e @ PortError::HostUses { user: HostUser::NoSuchAddress, .. }) => {
                    return Err(e);
                }
                Err(e) => refusal = Some(e),
            }
        }
        match refusal {
            Some(e) if range.start() == range.end() => Err(e),
            _ => Err(exhausted(request, range)),
        }
    }

    fn random_port(&mut self, request: &PortRequest, in_use: InUse<'_>) -> Result<u16, PortError> {
        let mut random = self.random.remove(&request.protocol).unwrap_or_default();
        let mut skipped = Vec::new();
        let mut found = Err(exhausted(request, &RANDOM_PORTS));
        while let Some(port) = random.next() {
            match self.check(request, port, in_use) {
                Ok(()) => {
                    found = Ok(port);
                    break;
                }
                Err(e @ PortError::HostUses { user: HostUser::NoSuchAddress, .. }) => {
                    skipped.push(port);
                    found = Err(e);
                    break;
                }
                // Taken by name, or by a process that may end: later again.
                Err(_) => skipped.push(port),
            }
        }
        skipped.into_iter().for_each(|port| random.give_back(port));
        self.random.insert(request.protocol, random);
        found
    }

    fn check(&self, request: &PortRequest, port: u16, in_use: InUse<'_>) -> Result<(), PortError> {
        let (protocol, host_ip) = (request.protocol, request.host_ip);
        if let Some(by) = self.holder(protocol, host_ip, port) {
            return Err(self.allocated(host_ip, port, by));
        }
        match in_use(protocol, host_ip, port) {
            Some(user) => Err(PortError::HostUses { host_ip, port, protocol, user }),
            None => Ok(()),
        }
    }

    /// The number of the owner who is in the way.
    fn holder(&self, protocol: Protocol, ip: IpAddr, port: u16) -> Option<u32> {
        self.at(protocol, port)
            .find(|((.., theirs), _)| overlap(*theirs, ip))
            .map(|(_, owner)| owner)
    }

    /// Who has a port of which address.
    fn at(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = (Key, u32)> + '_ {
        let all = self.used.range((protocol, port, FIRST)..=(protocol, port, LAST));
        all.map(|(key, owner)| (*key, *owner))
    }

    /// The addresses of a port that are an owner's.
    fn held(&self, protocol: Protocol, port: u16, owner: u32) -> impl Iterator<Item = Key> + '_ {
        self.at(protocol, port).filter(move |(_, o)| *o == owner).map(|(key, _)| key)
    }

    fn allocated(&self, host_ip: IpAddr, port: u16, owner: u32) -> PortError {
        let name = |owner: &Owner| owner.name.as_ref().unwrap_or(&owner.id).clone();
        let by = self.owners.get(&owner).map(name).unwrap_or_default();
        PortError::Allocated { host_ip, port, by }
    }

    /// Marks ports as the `owner`'s, as found in a record. Success for those
    /// that are that owner's already.
    ///
    /// # Errors
    /// [`PortError::Allocated`]; nothing is marked then.
    pub fn reserve(&mut self, ports: &[PublishedPort], owner: &str) -> Result<(), PortError> {
        let number = self.numbers.get(owner).copied();
        for port in ports {
            let holder = self.holder(port.protocol, port.host_ip, port.host_port);
            if let Some(by) = holder.filter(|by| Some(*by) != number) {
                return Err(self.allocated(port.host_ip, port.host_port, by));
            }
        }
        for port in ports {
            if self.holder(port.protocol, port.host_ip, port.host_port).is_none() {
                self.insert(port, owner);
            }
        }
        Ok(())
    }

    /// Frees single ports. Success for those that are free.
    pub fn free(&mut self, ports: &[PublishedPort]) {
        ports.iter().for_each(|port| self.remove(port));
    }

    /// Frees all ports of `owner`. Success when it has none.
    pub fn release(&mut self, owner: &str) {
        let Some(number) = self.numbers.remove(owner) else { return };
        for (protocol, port) in self.owners.remove(&number).into_iter().flat_map(|o| o.ports) {
            for key in self.held(protocol, port, number).collect::<Vec<_>>() {
                self.used.remove(&key);
            }
            self.random.entry(protocol).or_default().give_back(port);
        }
    }

    /// The name in messages of an owner who has ports, instead of the owner
    /// itself.
    pub fn rename(&mut self, owner: &str, name: &str) {
        if let Some(owner) = self.numbers.get(owner).and_then(|n| self.owners.get_mut(n)) {
            owner.name = Some(name.to_owned());
        }
    }

    fn owner(&mut self, id: &str) -> &mut Owner {
        let number = *self.numbers.entry(id.to_owned()).or_insert_with(|| {
            self.next_owner = self.next_owner.wrapping_add(1);
            self.next_owner
        });
        let new = || Owner { id: id.to_owned(), name: None, ports: BTreeSet::new() };
        self.owners.entry(number).or_insert_with(new)
    }

    fn insert(&mut self, port: &PublishedPort, owner: &str) {
        let key = key(port);
        self.owner(owner).ports.insert((key.0, key.1));
        if let Some(number) = self.numbers.get(owner) {
            self.used.insert(key, *number);
        }
    }

    fn remove(&mut self, port: &PublishedPort) {
        let key = key(port);
        if let Some(number) = self.used.remove(&key) {
            let last = self.held(key.0, key.1, number).next().is_none();
            if let Some(owner) = self.owners.get_mut(&number).filter(|_| last) {
                owner.ports.remove(&(key.0, key.1));
            }
            self.random.entry(key.0).or_default().give_back(key.1);
        }
    }
}

fn key(port: &PublishedPort) -> Key {
    (port.protocol, port.host_port, port.host_ip)
}

/// Whether a packet could be for both.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

fn exhausted(request: &PortRequest, range: &RangeInclusive<u16>) -> PortError {
    PortError::Exhausted {
        host_ip: request.host_ip,
        protocol: request.protocol,
        first: *range.start(),
        last: *range.end(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const LO: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn request(host_ip: IpAddr, host_range: Option<RangeInclusive<u16>>) -> PortRequest {
        PortRequest { protocol: Protocol::Tcp, host_ip, host_range, container_port: 80 }
    }

    fn free(_: Protocol, _: IpAddr, _: u16) -> Option<HostUser> {
        None
    }

    #[test]
    fn the_owner_is_named_in_dockers_words() {
        let mut table = PortTable::new();
        table.allocate(&[request(ANY, Some(8080..=8080))], "id1", &free).unwrap();
        table.rename("id1", "web");
        let error = table.allocate(&[request(LO, Some(8080..=8080))], "id2", &free).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Bind for 127.0.0.1:8080 failed: port is already allocated (by container web)"
        );
        table.release("id1");
        table.allocate(&[request(LO, Some(8080..=8080))], "id2", &free).unwrap();
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        table.allocate(&[request(other, Some(8080..=8080))], "id3", &free).unwrap();
        assert!(table.allocate(&[request(ANY, Some(8080..=8080))], "id4", &free).is_err());
        let udp = PortRequest { protocol: Protocol::Udp, ..request(ANY, Some(8080..=8080)) };
        table.allocate(&[udp], "id4", &free).unwrap();
    }

    #[test]
    fn a_port_of_two_addresses_is_freed_one_by_one() {
        let mut table = PortTable::new();
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let both = [request(LO, Some(80..=80)), request(other, Some(80..=80))];
        let given = table.allocate(&both, "a", &free).unwrap();
        table.free(&given[..1]);
        table.allocate(&both[..1], "b", &free).unwrap();
        assert!(table.allocate(&both[1..], "c", &free).is_err());
        table.release("a");
        table.allocate(&both[1..], "c", &free).unwrap();
        assert!(table.allocate(&both[..1], "c", &free).is_err());
    }

    #[test]
    fn all_or_nothing() {
        let mut table = PortTable::new();
        table.allocate(&[request(ANY, Some(81..=81))], "a", &free).unwrap();
        let two = [request(ANY, Some(80..=80)), request(ANY, Some(81..=81))];
        assert!(table.allocate(&two, "b", &free).is_err());
        table.allocate(&[request(ANY, Some(80..=80))], "c", &free).unwrap();
    }

    #[test]
    fn ranges_give_the_first_free_port() {
        let mut table = PortTable::new();
        let mut take =
            |owner: &str| table.allocate(&[request(ANY, Some(9000..=9002))], owner, &free);
        for (i, owner) in ["a", "b", "c"].iter().enumerate() {
            assert_eq!(take(owner).unwrap()[0].host_port, 9000 + i as u16);
        }
        let error = take("d").unwrap_err().to_string();
        assert!(error.contains("9000 to 9002") && error.contains("already allocated"), "{error}");
    }

    #[test]
    fn random_ports_skip_what_the_host_uses_and_freed_ones_come_last() {
        let mut table = PortTable::new();
        let busy = |_: Protocol, _: IpAddr, port: u16| (port == 32768).then_some(HostUser::Unknown);
        let take = |table: &mut PortTable, owner: &str| {
            table.allocate(&[request(ANY, None)], owner, &busy).unwrap()[0].host_port
        };
        assert_eq!(take(&mut table, "a"), 32769);
        table.release("a");
        assert_eq!(take(&mut table, "b"), 32770);
        table
            .reserve(
                &[PublishedPort {
                    protocol: Protocol::Tcp,
                    host_ip: ANY,
                    host_port: 32771,
                    container_port: 1,
                }],
                "c",
            )
            .unwrap();
        assert_eq!(take(&mut table, "d"), 32772);
        for i in 32773..=60999 {
            assert_eq!(take(&mut table, "e"), i);
        }
        assert_eq!(take(&mut table, "f"), 32769);
        let error = table.allocate(&[request(ANY, None)], "g", &busy).unwrap_err();
        assert!(error.to_string().contains("already allocated"), "{error}");
    }

    #[test]
    fn who_on_the_host_has_it_is_said() {
        let nginx = |_: Protocol, _: IpAddr, _: u16| {
            Some(HostUser::Process { name: "nginx".to_owned(), pid: 123 })
        };
        let error =
            PortTable::new().allocate(&[request(ANY, Some(80..=80))], "a", &nginx).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to bind host port 0.0.0.0:80/tcp: address already in use (by nginx, pid 123)"
        );
    }

    proptest! {
        #[test]
        fn no_two_owners_overlap(
            steps in prop::collection::vec((0u8..3, 0u8..6, 0u8..3, 0u16..4), 1..100)
        ) {
            let ips = [ANY, LO, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))];
            let mut table = PortTable::new();
            let mut held: Vec<(String, PublishedPort)> = Vec::new();
            for (what, owner, ip, port) in steps {
                let owner = owner.to_string();
                if what == 0 {
                    table.release(&owner);
                    held.retain(|(o, _)| *o != owner);
                    continue;
                }
                let range = (what == 1).then_some(100 + port..=101 + port);
                let asked = request(ips[usize::from(ip)], range);
                if let Ok(given) = table.allocate(&[asked], &owner, &free) {
                    for (_, other) in &held {
                        prop_assert!(
                            other.host_port != given[0].host_port
                                || !overlap(other.host_ip, given[0].host_ip)
                        );
                    }
                    held.push((owner, given[0].clone()));
                }
            }
            for owner in 0..6 {
                table.release(&owner.to_string());
            }
            prop_assert!(table.used.is_empty());
        }
    }
}
