//! From policies and containers to rules with addresses: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sampan_net::policy::{Peer, PolicyRule};
use sampan_types::{ContainerId, NetworkId};

use super::record::{PeerSpec, PolicySpec, Selector};

/// A container as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub id: ContainerId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Its addresses on each of its networks, by the network's name and id.
    pub addresses: Vec<(String, NetworkId, Vec<IpAddr>)>,
}

impl Member {
    /// Its addresses on a network, or on all of them.
    pub fn on(&self, network: Option<&str>) -> impl Iterator<Item = IpAddr> {
        let fits = move |name: &str, id: &NetworkId| {
            network.is_none_or(|n| n == name || n == id.as_str() || n == id.short())
        };
        self.addresses
            .iter()
            .filter(move |(name, id, _)| fits(name, id))
            .flat_map(|(_, _, addresses)| addresses.iter().copied())
    }
}

/// The members that a policy is about.
pub(super) fn subjects<'a>(
    spec: &'a PolicySpec,
    members: &'a [Member],
) -> impl Iterator<Item = &'a Member> {
    members.iter().filter(|m| spec.subjects.selects(&m.name, &m.labels))
}

/// The rules of all policies, in the order in which they are looked at.
pub(super) fn rules<'a>(
    specs: impl Iterator<Item = &'a PolicySpec>,
    members: &[Member],
) -> Vec<PolicyRule> {
    let mut specs: Vec<&PolicySpec> = specs.collect();
    specs.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    // What could not be understood was refused when it came.
    specs.into_iter().filter_map(|spec| rule(spec, members)).collect()
}

fn rule(spec: &PolicySpec, members: &[Member]) -> Option<PolicyRule> {
    let network = spec.network.as_deref();
    let mut of: Vec<IpAddr> = subjects(spec, members).flat_map(|m| m.on(network)).collect();
    of.sort();
    of.dedup();
    let selected = |selector: &Selector| -> Vec<Peer> {
        let chosen = members.iter().filter(|m| selector.selects(&m.name, &m.labels));
        chosen.flat_map(|m| m.on(network)).map(|a| Peer::Net(a.into())).collect()
    };
    let peers = spec.peers.as_ref().map(|peers| {
        let each = |peer: &PeerSpec| match peer {
            PeerSpec::Containers(selector) => selected(selector),
            PeerSpec::Cidr(net) => vec![Peer::Net(*net)],
            PeerSpec::Dns(name) => vec![Peer::Name(name.clone())],
            PeerSpec::Host(_) => vec![Peer::Host],
        };
        let mut all: Vec<Peer> = peers.iter().flat_map(each).collect();
        all.sort();
        all.dedup();
        all
    });
    Some(PolicyRule {
        name: spec.name.to_string(),
        subjects: of,
        direction: spec.direction,
        peers,
        ports: spec.port_matches().ok()?,
        action: spec.action().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sampan_net::policy::Action;

    use super::*;

    fn member(name: &str, app: &str, addresses: &[(&str, &str)]) -> Member {
        let on = |(network, address): &(&str, &str)| {
            ((*network).to_owned(), NetworkId::random(), vec![address.parse().unwrap()])
        };
        Member {
            id: ContainerId::random(),
            name: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            addresses: addresses.iter().map(on).collect(),
        }
    }

    fn spec(text: &str) -> PolicySpec {
        PolicySpec::parse(text.as_bytes()).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn selectors_become_addresses_of_the_network() {
        let members = [
            member("web-1", "web", &[("front", "10.0.0.2"), ("back", "10.1.0.2")]),
            member("db", "db", &[("back", "10.1.0.3")]),
            member("gone", "db", &[]),
        ];
        let policy = spec(
            r#"{"Name":"db","Direction":"ingress","Action":"allow","Network":"back",
                "Subjects":{"Labels":["app=db"]},
                "Peers":[{"Containers":{"Names":["web-*"]}},{"CIDR":"10.9.0.0/16"}]}"#,
        );
        let rules = rules([&policy].into_iter(), &members);
        assert_eq!(rules[0].subjects, [address("10.1.0.3")]);
        let peers = rules[0].peers.clone().unwrap();
        let wanted = ["10.1.0.2/32", "10.9.0.0/16"].map(|n| Peer::Net(n.parse().unwrap()));
        assert_eq!(peers.len(), 2);
        assert!(wanted.iter().all(|w| peers.contains(w)), "{peers:?}");
    }

    #[test]
    fn nobody_selected_is_not_anybody() {
        let policy = spec(
            r#"{"Name":"p","Direction":"egress","Action":"allow",
                "Peers":[{"Containers":{"Labels":["app=nothing"]}}]}"#,
        );
        let rules = rules([&policy].into_iter(), &[member("a1", "x", &[("n", "10.0.0.2")])]);
        assert_eq!(rules[0].peers, Some(Vec::new()));
        assert_eq!(rules[0].subjects, [address("10.0.0.2")]);
    }

    /// What the rules say of a flow, worked out without a kernel.
    fn verdict(rules: &[PolicyRule], subject: IpAddr, peer: IpAddr) -> Option<Action> {
        let fits = |r: &&PolicyRule| {
            let is_peer = |p: &Peer| matches!(p, Peer::Net(net) if net.contains(&peer));
            r.subjects.contains(&subject) && r.peers.as_ref().is_none_or(|p| p.iter().any(is_peer))
        };
        rules.iter().find(fits).map(|r| r.action)
    }

    proptest! {
        /// The first policy by priority and name that fits decides, whatever
        /// the order in which they were made.
        #[test]
        fn the_first_that_fits_decides(
            list in prop::collection::vec((0..4i32, 0..4u8, 0..4u8, any::<bool>()), 1..12),
            turn in 0..12usize,
        ) {
            let apps = ["a", "b", "c", "*"];
            let members: Vec<Member> = (0..3u8)
                .map(|i| member(apps[i as usize], apps[i as usize], &[("n", &format!("10.0.0.{i}"))]))
                .collect();
            let text = |at: usize, (priority, of, to, allow): &(i32, u8, u8, bool)| {
                let action = if *allow { "allow" } else { "deny" };
                format!(
                    r#"{{"Name":"p{at:02}","Priority":{priority},"Direction":"egress",
                        "Subjects":{{"Names":["{}"]}},"Action":"{action}",
                        "Peers":[{{"Containers":{{"Names":["{}"]}}}}]}}"#,
                    apps[*of as usize], apps[*to as usize]
                )
            };
            let mut specs: Vec<PolicySpec> =
                list.iter().enumerate().map(|(at, l)| spec(&text(at, l))).collect();
            let mut order: Vec<usize> = (0..list.len()).collect();
            order.sort_by_key(|at| (list[*at].0, *at));
            let middle = turn % specs.len();
            specs.rotate_left(middle);
            let rules = rules(specs.iter(), &members);
            for of in 0..3u8 {
                for to in 0..3u8 {
                    let fits = |at: &&usize| {
                        let (_, s, p, _) = list[**at];
                        (s == 3 || s == of) && (p == 3 || p == to)
                    };
                    let wanted = order.iter().find(fits).map(|at| {
                        if list[*at].3 { Action::Allow } else { Action::Deny }
                    });
                    let [a, b] = [of, to].map(|i| address(&format!("10.0.0.{i}")));
                    prop_assert_eq!(verdict(&rules, a, b), wanted);
                }
            }
        }
    }
}
