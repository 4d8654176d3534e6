//! Published ports by the ten thousand, in little memory: what they have in
//! common is kept once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Forward;
use crate::ports::Protocol;

/// A set of published ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwards {
    places: BTreeMap<Place, BTreeSet<Ports>>,
}

/// What the ports of a container have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    host_ip: IpAddr,
    target: IpAddr,
    routed: bool,
    owner: Arc<str>,
}

/// The host's port and the container's.
type Ports = (Protocol, u16, u16);

fn split(forward: &Forward) -> (Place, Ports) {
    let place = Place {
        host_ip: forward.host_ip,
        target: forward.target.ip(),
        routed: forward.routed,
        owner: Arc::clone(&forward.owner),
    };
    (place, (forward.protocol, forward.host_port, forward.target.port()))
}

fn join(place: &Place, (protocol, host_port, port): Ports) -> Forward {
    Forward {
        protocol,
        host_ip: place.host_ip,
        host_port,
        target: SocketAddr::new(place.target, port),
        routed: place.routed,
        owner: Arc::clone(&place.owner),
    }
}

impl Forwards {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.values().map(BTreeSet::len).sum()
    }

    /// Adds one. Says whether it was not there.
    pub fn insert(&mut self, forward: &Forward) -> bool {
        let (place, ports) = split(forward);
        self.places.entry(place).or_default().insert(ports)
    }

    /// Takes one away. Says whether it was there.
    pub fn remove(&mut self, forward: &Forward) -> bool {
        let (place, ports) = split(forward);
        let Some(all) = self.places.get_mut(&place) else { return false };
        let removed = all.remove(&ports);
        if all.is_empty() {
            self.places.remove(&place);
        }
        removed
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Forward> + Clone + '_ {
        self.places.iter().flat_map(|(place, all)| all.iter().map(move |ports| join(place, *ports)))
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut places = BTreeMap::new();
        for (place, all) in &self.places {
            let rest: BTreeSet<Ports> = match other.places.get(place) {
                Some(theirs) => all.difference(theirs).copied().collect(),
                None => all.clone(),
            };
            if !rest.is_empty() {
                places.insert(place.clone(), rest);
            }
        }
        Self { places }
    }

    /// Those with this protocol and port of the host.
    pub fn by_port(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = Forward> + '_ {
        let ports = (protocol, port, 0)..=(protocol, port, u16::MAX);
        self.places.iter().flat_map(move |(place, all)| {
            all.range(ports.clone()).map(move |ports| join(place, *ports))
        })
    }
}

impl FromIterator<Forward> for Forwards {
    fn from_iter<I: IntoIterator<Item = Forward>>(forwards: I) -> Self {
        let mut all = Self::default();
        all.extend(forwards);
        all
    }
}

impl Extend<Forward> for Forwards {
    fn extend<I: IntoIterator<Item = Forward>>(&mut self, forwards: I) {
        for forward in forwards {
            self.insert(&forward);
        }
    }
}

impl IntoIterator for Forwards {
    type Item = Forward;
    type IntoIter = std::vec::IntoIter<Forward>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter().collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(port: u16) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: port,
            target: SocketAddr::new("172.17.0.2".parse().unwrap(), 80),
            routed: false,
            owner: "c".into(),
        }
    }

    #[test]
    fn it_is_a_set() {
        let mut all: Forwards = (1..=3).map(forward).collect();
        assert!(!all.insert(&forward(2)));
        assert_eq!(all.len(), 3);
        let two: Forwards = [forward(2)].into_iter().collect();
        let ports = |f: &Forwards| f.iter().map(|f| f.host_port).collect::<Vec<_>>();
        assert_eq!(ports(&all.without(&two)), [1, 3]);
        assert_eq!(all.by_port(Protocol::Tcp, 3).collect::<Vec<_>>(), [forward(3)]);
        assert_eq!(all.by_port(Protocol::Udp, 3).count(), 0);
        assert!((1..=3).all(|port| all.remove(&forward(port))));
        assert!(!all.remove(&forward(1)));
        assert!(all.is_empty() && all == Forwards::default());
    }
}
