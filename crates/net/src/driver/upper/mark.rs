//! The marks by which an instance knows its links of macvlan and ipvlan
//! networks again: their aliases.

use std::fmt;

use sampan_types::{EndpointId, NetworkId, SandboxId};

use super::Flavour;

/// What a link is to an instance. As text, an interface's alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// A parent that was made for this network. Others may use it as well.
    Parent(NetworkId),
    /// The host's own interface on this network's parent.
    Host(NetworkId),
    /// An endpoint's interface, inside its sandbox.
    Endpoint(SandboxId, EndpointId),
}

impl Mark {
    /// The alias of a link with this mark. An alias has at most 255 bytes.
    pub fn alias<'a>(&'a self, instance: &'a str, flavour: Flavour) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            let driver = flavour.name();
            match self {
                Self::Parent(network) => write!(f, "{instance} {driver} parent {network}"),
                Self::Host(network) => write!(f, "{instance} {driver} host {network}"),
                Self::Endpoint(sandbox, endpoint) => {
                    write!(f, "{instance} {driver} endpoint {sandbox} {endpoint}")
                }
            }
        })
    }

    /// The mark in an alias, if it is this instance's and of this driver.
    pub fn read(alias: &str, instance: &str, flavour: Flavour) -> Option<Self> {
        let rest = alias.strip_prefix(instance)?.strip_prefix(' ')?;
        let mut words = rest.strip_prefix(flavour.name())?.strip_prefix(' ')?.split(' ');
        let mark = match words.next()? {
            "parent" => Self::Parent(words.next()?.parse().ok()?),
            "host" => Self::Host(words.next()?.parse().ok()?),
            "endpoint" => Self::Endpoint(words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_written_by_their_driver_and_instance_alone() {
        let marks = [
            Mark::Parent(NetworkId::random()),
            Mark::Host(NetworkId::random()),
            Mark::Endpoint(SandboxId::random(), EndpointId::random()),
        ];
        for mark in marks {
            let alias = mark.alias("sampan-01234567", Flavour::Macvlan).to_string();
            assert!(alias.len() < 256);
            let read = |instance, flavour| Mark::read(&alias, instance, flavour);
            assert_eq!(read("sampan-01234567", Flavour::Macvlan), Some(mark.clone()));
            assert_eq!(read("sampan-01234567", Flavour::Ipvlan), None);
            assert_eq!(read("sampan", Flavour::Macvlan), None);
        }
        assert_eq!(Mark::read("uplink", "sampan", Flavour::Macvlan), None);
    }
}
