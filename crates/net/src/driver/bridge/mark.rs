//! The marks by which an instance knows its own links again: their aliases.

use std::fmt;

use sampan_types::{EndpointId, NetworkId, SandboxId};

/// What a link is to an instance. As text, an interface's alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The bridge of a network.
    Network(NetworkId),
    /// The host's end of an endpoint's pair of links.
    Endpoint(SandboxId, EndpointId),
    /// Out of use; the reaper removes it.
    Dead,
}

impl Mark {
    /// The alias of a link with this mark. An alias has at most 255 bytes.
    pub fn alias<'a>(&'a self, instance: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| match self {
            Self::Network(network) => write!(f, "{instance} network {network}"),
            Self::Endpoint(sandbox, endpoint) => {
                write!(f, "{instance} endpoint {sandbox} {endpoint}")
            }
            Self::Dead => write!(f, "{instance} dead"),
        })
    }

    /// The mark in an alias, if it is this instance's.
    pub fn read(alias: &str, instance: &str) -> Option<Self> {
        let mut words = alias.strip_prefix(instance)?.strip_prefix(' ')?.split(' ');
        let mark = match words.next()? {
            "network" => Self::Network(words.next()?.parse().ok()?),
            "endpoint" => Self::Endpoint(words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            "dead" => Self::Dead,
            _ => return None,
        };
        words.next().is_none().then_some(mark)
    }
}

/// The group of an instance's dead links: a hash of its name (FNV-1a) with
/// the highest bit set, far from the groups that people number.
pub(crate) fn dead_group(instance: &str) -> u32 {
    let hash = instance
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash | 0x8000_0000
}

/// The names that an endpoint's link on the host may have, the usual first:
/// another window of its id when one is taken.
pub(super) fn link_names(endpoint: &EndpointId) -> impl Iterator<Item = String> {
    const DIGITS: usize = 7;
    let id = endpoint.as_str().to_owned();
    (0..=id.len() - DIGITS).map(move |at| format!("veth{}", &id[at..at + DIGITS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_written_and_only_by_their_instance() {
        let marks = [
            Mark::Network(NetworkId::random()),
            Mark::Endpoint(SandboxId::random(), EndpointId::random()),
            Mark::Dead,
        ];
        for mark in marks {
            let alias = mark.alias("sampan").to_string();
            assert!(alias.len() < 256);
            assert_eq!(Mark::read(&alias, "sampan"), Some(mark));
            assert_eq!(Mark::read(&alias, "sampan-01234567"), None);
        }
        assert_eq!(Mark::read("sampan-01234567 dead", "sampan"), None);
        assert_eq!(Mark::read("uplink", "sampan"), None);
        assert_ne!(dead_group("sampan"), dead_group("sampan-01234567"));
    }

    #[test]
    fn link_names_fit() {
        let endpoint = EndpointId::random();
        let names: Vec<String> = link_names(&endpoint).collect();
        assert_eq!(names[0], format!("veth{}", &endpoint.as_str()[..7]));
        assert!(names.iter().all(|n| n.len() <= crate::config::INTERFACE_NAME_MAX));
    }
}
