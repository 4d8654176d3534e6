//! The tables as values, and as the kernel has them: a golden file, which is
//! also a page of the documentation. `UPDATE_GOLDEN=1` writes both anew.

use std::path::PathBuf;
use std::process::Command;

use sampan_sys::netns::NetNs;

use super::super::golden::compare;
use super::*;
use crate::firewall::Guard;
use crate::policy::{Action, Direction, PortMatch};
use crate::ports::Protocol;

const BRIDGE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn rule(name: &str, direction: Direction, action: Action) -> PolicyRule {
    let subjects = vec!["172.18.0.2".parse().unwrap(), "fd00:18::2".parse().unwrap()];
    PolicyRule { name: name.to_owned(), subjects, direction, peers: None, ports: vec![], action }
}

/// A database that web servers may ask and that may fetch something.
fn set() -> PolicySet {
    let net = |text: &str| Peer::Net(text.parse().unwrap());
    let mut web = rule("db-web", Direction::Ingress, Action::Allow);
    web.peers = Some(vec![net("172.18.0.3/32"), net("172.18.0.4/32"), net("fd00:18::3/128")]);
    web.ports = vec![PortMatch { protocol: Protocol::Tcp, ports: 5432..=5432 }];
    let mut fetch = rule("db-fetch", Direction::Egress, Action::Allow);
    fetch.peers = Some(vec![Peer::Name("*.example.org".to_owned()), Peer::Host]);
    let others = rule("db-others", Direction::Ingress, Action::Deny);
    let source = rule("db-out", Direction::Egress, Action::Source("192.0.2.25".parse().unwrap()));
    let guard = Guard {
        bridge: "br-6cbc4e49c2f0".to_owned(),
        interface: Some("veth0c0ffee".to_owned()),
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        addresses: vec!["172.18.0.2/16".parse().unwrap(), "fd00:18::2/64".parse().unwrap()],
    };
    let networks = vec!["br-6cbc4e49c2f0".to_owned(), "docker0".to_owned()];
    PolicySet { rules: vec![fetch, web, others, source], guards: vec![guard], networks }
}

fn tables(set: &PolicySet) -> Tables {
    let hardware = HashMap::from([("br-6cbc4e49c2f0".to_owned(), BRIDGE)]);
    Tables::of(set, &hardware).unwrap()
}

#[test]
fn without_a_rule_there_is_no_table() {
    let empty = PolicySet { rules: Vec::new(), ..set() };
    assert!(Tables::of(&empty, &HashMap::new()).is_none());
}

#[test]
fn who_comes_and_goes_changes_elements_only() {
    let before = tables(&set());
    let mut other = set();
    other.rules[1].subjects.push("172.18.0.9".parse().unwrap());
    other.rules[1].peers.as_mut().unwrap().pop();
    other.guards[0].interface = None;
    let after = tables(&other);
    assert!(difference("t", &before, &after).is_some_and(|batch| !batch.is_empty()));
    assert!(difference("t", &before, &before).is_some_and(|batch| batch.is_empty()));
    // Nobody is left, but the rules are the same.
    other.rules[1].subjects.clear();
    other.rules[1].peers.as_mut().unwrap().clear();
    assert!(difference("t", &after, &tables(&other)).is_some());
    other.rules[1].action = Action::Deny;
    assert!(difference("t", &after, &tables(&other)).is_none());
}

#[test]
fn each_name_is_filled_once() {
    let mut set = set();
    set.rules.push(set.rules[0].clone());
    let names = name_sets("t", &set.rules);
    assert_eq!(names.len(), 1);
    assert_eq!(
        (names[0].set4.as_str(), names[0].set6.as_str()),
        ("wild4.example.org", "wild6.example.org")
    );
    assert_eq!(flows::name_set("example.org", true), "name4.example.org");
}

#[test]
fn rules_that_stay_go_on_counting() {
    let count = |comment: &str, packets| RuleCount {
        chain: "ingress".to_owned(),
        comment: comment.to_owned(),
        packets,
        bytes: 10 * packets,
    };
    let counts = vec![count("policy db-web", 3), count("policy db-web", 4), count("x", 5)];
    let sums = sum(counts.clone());
    assert_eq!((sums.len(), sums[0].packets, sums[0].bytes), (1, 7, 70));
    let mut ruleset = tables(&set()).flows;
    let before = ruleset.clone();
    go_on_counting(&mut ruleset, counts);
    let changed = before.rules.iter().zip(&ruleset.rules).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 2);
}

const PAGE: &str = "# Network policies\n\n\
    While there are policies, there are two tables more. In the example, a database may be asked by\n\
    two web servers and by nobody else, may reach the host and what is below `example.org`, and leaves\n\
    the host with an address of its own:\n\n";

#[test]
fn the_kernel_has_it_as_written_and_documented() {
    if !nix::unistd::geteuid().is_root() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
        return;
    }
    let (_, text) = NetNs::create(|| {
        let mut nft = Nft::open().unwrap();
        let wanted = tables(&set());
        let found = dump(&mut nft, "sampan-policy").unwrap();
        replace(&mut nft, "sampan-policy", &found, Some(&wanted)).unwrap();
        let sorted = wanted.sorted();
        let (flows, frames) = dump(&mut nft, "sampan-policy").unwrap();
        for (found, wanted) in [(flows, sorted.flows), (frames, sorted.frames)] {
            let found = found.unwrap();
            assert_eq!(found.chains, wanted.chains);
            for (found, wanted) in found.sets.iter().zip(&wanted.sets) {
                assert_eq!(found, wanted);
            }
            for (found, wanted) in found.rules.iter().zip(&wanted.rules) {
                assert_eq!(found, wanted);
            }
            assert_eq!(found, wanted);
        }
        let list = |family| {
            let words = ["-n", "list", "table", family, "sampan-policy"];
            let output = Command::new("nft").args(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        list("inet") + &list("bridge")
    })
    .unwrap();
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    compare(&here.join("tests/golden/policy.nft"), &text);
    let page = text.replace("counter packets 0 bytes 0", "counter");
    compare(&here.join("../../docs/rulesets/policy.md"), &format!("{PAGE}```\n{page}```\n"));
}
