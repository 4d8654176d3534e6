//! A network policy as the API takes it and as the store keeps it, in a
//! versioned envelope.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_net::policy::{Action, Direction, PortMatch};
use sampan_types::{PolicyName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, RecordError};
use crate::{EngineError, Result};

/// The store's prefix of policies.
pub(super) const PREFIX: &str = "policies/";

const ENVELOPE: Envelope = Envelope { noun: "policy", version: 1 };
/// The longest name, in bytes: names of sets in the kernel begin with more.
const NAME_MAX: usize = 63;
/// The longest DNS name, in bytes, for the same reason.
const DNS_NAME_MAX: usize = 240;

/// What a user says of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// Its unique name.
    pub name: PolicyName,
    /// The order in which policies are looked at, the smallest first; of equal
    /// ones by name.
    #[serde(default = "default_priority")]
    pub priority: i32,
    /// The network that it is limited to, by name or id; all networks when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The containers that it is about.
    #[serde(default)]
    pub subjects: Selector,
    /// Which of their flows.
    pub direction: Direction,
    /// Who is at the other end; anybody when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<PeerSpec>>,
    /// The ports of the flow's destination, `tcp/80` or `udp/1000-2000`; all
    /// when empty, also of protocols without ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// `allow`, `deny`, or `source=ADDRESS`.
    pub action: String,
}

fn default_priority() -> i32 {
    100
}

/// Which containers: those that fit everything that is said, all when nothing
/// is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Selector {
    /// Labels that they all have, `KEY=VALUE` or `KEY`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Names of which they have one, with `*` and `?`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// One kind of other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerSpec {
    /// Containers.
    Containers(Selector),
    /// Addresses.
    #[serde(rename = "CIDR")]
    Cidr(IpNet),
    /// The addresses that containers were told for a name: `example.org`, or
    /// `*.example.org` for all names below.
    #[serde(rename = "DNS")]
    Dns(String),
    /// The host itself, when `true`.
    Host(bool),
}

/// A policy with what the daemon knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// What the user said.
    pub spec: PolicySpec,
    /// When it was made.
    pub created: Timestamp,
}

/// The key of a policy's record.
pub(super) fn key(name: &PolicyName) -> String {
    format!("{PREFIX}{name}")
}

impl PolicyRecord {
    pub(super) fn encode(&self) -> std::result::Result<Vec<u8>, RecordError> {
        ENVELOPE.encode(|| key(&self.spec.name), self)
    }

    pub(super) fn decode(key: &str, bytes: &[u8]) -> std::result::Result<Self, RecordError> {
        ENVELOPE.decode(key, bytes)
    }
}

impl PolicySpec {
    /// Reads a policy, strictly: a word that is not known may be a condition
    /// that was meant.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut spec: Self = serde_json::from_slice(text)
            .map_err(|e| EngineError::Invalid(format!("this is no network policy: {e}")))?;
        spec.complete()?;
        Ok(spec)
    }

    /// Reads a list of policies, as [`PolicySpec::parse`] does.
    ///
    /// # Errors
    /// What is wrong with the first that is wrong.
    pub fn parse_list(text: &[u8]) -> Result<Vec<Self>> {
        let mut specs: Vec<Self> = serde_json::from_slice(text).map_err(|e| {
            EngineError::Invalid(format!("this is no list of network policies: {e}"))
        })?;
        specs.iter_mut().try_for_each(Self::complete)?;
        Ok(specs)
    }

    /// Refuses what makes no sense, and brings the rest into one form.
    fn complete(&mut self) -> Result<()> {
        let name = self.name.clone();
        let wrong = |why: String| EngineError::Invalid(format!("policy {name}: {why}"));
        if name.as_str().len() > NAME_MAX {
            return Err(wrong(format!("the name has more than {NAME_MAX} characters")));
        }
        let action = self.action().map_err(&wrong)?;
        if matches!(action, Action::Source(_)) && self.direction == Direction::Ingress {
            return Err(wrong("a source address is given to what containers send: egress".into()));
        }
        self.ports = self
            .port_matches()
            .map_err(&wrong)?
            .iter()
            .map(|p| match (p.ports.start(), p.ports.end()) {
                (first, last) if first == last => format!("{}/{first}", p.protocol),
                (first, last) => format!("{}/{first}-{last}", p.protocol),
            })
            .collect();
        let selected = self.peers.iter().flatten().filter_map(|p| match p {
            PeerSpec::Containers(selector) => Some(selector),
            _ => None,
        });
        for selector in selected.chain([&self.subjects]) {
            selector.check().map_err(&wrong)?;
        }
        for peer in self.peers.iter_mut().flatten() {
            match peer {
                PeerSpec::Cidr(net) => *net = net.trunc(),
                PeerSpec::Dns(_) if self.direction == Direction::Ingress => {
                    return Err(wrong(
                        "DNS names are peers of what containers send: egress".to_owned(),
                    ));
                }
                PeerSpec::Dns(text) => *text = dns_name(text).map_err(&wrong)?,
                PeerSpec::Host(false) => {
                    return Err(wrong("Host is true, or left out".to_owned()));
                }
                PeerSpec::Host(true) | PeerSpec::Containers(_) => {}
            }
        }
        if self.peers.as_ref().is_some_and(Vec::is_empty) {
            return Err(wrong("Peers is empty: leave it out for anybody".to_owned()));
        }
        Ok(())
    }

    /// What becomes of a flow.
    pub(super) fn action(&self) -> std::result::Result<Action, String> {
        match (self.action.as_str(), self.action.strip_prefix("source=")) {
            ("allow", _) => Ok(Action::Allow),
            ("deny", _) => Ok(Action::Deny),
            (_, Some(address)) => match address.parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() && !address.is_multicast() => {
                    Ok(Action::Source(address))
                }
                _ => Err(format!("{address:?} is no source address")),
            },
            (other, None) => {
                Err(format!("the action is allow, deny or source=ADDRESS, not {other:?}"))
            }
        }
    }

    /// The ports of the flow's destination.
    pub(super) fn port_matches(&self) -> std::result::Result<Vec<PortMatch>, String> {
        self.ports.iter().map(|text| port(text)).collect()
    }
}

/// `tcp/80`, `udp/1000-2000`, and as Docker writes it, `80/tcp`.
fn port(text: &str) -> std::result::Result<PortMatch, String> {
    let wrong = || format!("{text:?} is no port: tcp/80 or udp/1000-2000 expected");
    let (a, b) = text.split_once('/').ok_or_else(wrong)?;
    let (protocol, ports) =
        if a.starts_with(|c: char| c.is_ascii_digit()) { (b, a) } else { (a, b) };
    let protocol = protocol.parse().map_err(|_| wrong())?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(wrong);
    let ports = number(first)?..=number(last)?;
    if ports.is_empty() {
        return Err(wrong());
    }
    Ok(PortMatch { protocol, ports })
}

/// A DNS name in lower case and without the final dot.
fn dns_name(text: &str) -> std::result::Result<String, String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |l: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&l.len()) && l.bytes().all(fits)
    };
    let rest = name.strip_prefix("*.").unwrap_or(&name);
    let is_address = rest.parse::<IpAddr>().is_ok();
    if name.len() > DNS_NAME_MAX || is_address || !rest.split('.').all(label) {
        return Err(format!("{text:?} is no DNS name: example.org or *.example.org expected"));
    }
    Ok(name)
}

impl Selector {
    fn check(&self) -> std::result::Result<(), String> {
        match self.labels.iter().find(|l| l.is_empty() || l.starts_with('=')) {
            Some(label) => Err(format!("{label:?} is no label: KEY=VALUE or KEY expected")),
            None if self.names.iter().any(String::is_empty) => {
                Err("a container's name is not empty".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Whether a container is selected.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        let named = self.names.is_empty() || self.names.iter().any(|p| matches(p, name));
        named && self.labels.iter().all(has)
    }
}

/// Whether a text fits a pattern with `*` for any number of characters and
/// `?` for one.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when it does not fit: behind the last star, with one
    // character more for it.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<PolicySpec> {
        PolicySpec::parse(text.as_bytes())
    }

    #[test]
    fn a_policy_is_read_strictly_and_written_in_one_form() {
        let spec = parse(
            r#"{"Name":"web","Direction":"egress","Action":"allow","Ports":["80/tcp","udp/5-9"],
                "Subjects":{"Labels":["app=web"]},
                "Peers":[{"CIDR":"10.1.2.3/8"},{"DNS":"*.Example.ORG."},{"Host":true},
                         {"Containers":{"Names":["db-*"]}}]}"#,
        )
        .unwrap();
        assert_eq!(spec.ports, ["tcp/80", "udp/5-9"]);
        assert_eq!(spec.priority, 100);
        let peers = spec.peers.clone().unwrap();
        assert_eq!(peers[0], PeerSpec::Cidr("10.0.0.0/8".parse().unwrap()));
        assert_eq!(peers[1], PeerSpec::Dns("*.example.org".to_owned()));
        let record = PolicyRecord { spec, created: Timestamp::now() };
        let bytes = record.encode().unwrap();
        assert_eq!(PolicyRecord::decode("policies/web", &bytes).unwrap(), record);
        let newer = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(PolicyRecord::decode("policies/web", newer.as_bytes()).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, says) in [
            (r#""Direction":"ingress","Action":"source=10.0.0.1""#, "egress"),
            (r#""Direction":"ingress","Action":"deny","Peers":[{"DNS":"a.b"}]"#, "egress"),
            (r#""Direction":"egress","Action":"drop""#, "drop"),
            (r#""Direction":"egress","Action":"source=::""#, "source address"),
            (r#""Direction":"egress","Action":"deny","Ports":["80"]"#, "80"),
            (r#""Direction":"egress","Action":"deny","Ports":["tcp/9-8"]"#, "tcp/9-8"),
            (r#""Direction":"egress","Action":"deny","Port":["tcp/80"]"#, "Port"),
            (r#""Direction":"egress","Action":"deny","Peers":[]"#, "Peers"),
            (r#""Direction":"egress","Action":"deny","Peers":[{"DNS":"a..b"}]"#, "a..b"),
            (r#""Direction":"egress","Action":"deny","Peers":[{"DNS":"10.0.0.1"}]"#, "10.0.0.1"),
            (r#""Direction":"egress","Action":"deny","Subjects":{"Labels":["=x"]}"#, "=x"),
        ] {
            let error = parse(&format!(r#"{{"Name":"p",{text}}}"#)).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(parse(&format!(r#"{{"Name":"{}"}}"#, "x".repeat(64))).is_err());
        assert!(parse(r#"{"Name":"a b","Direction":"egress","Action":"deny"}"#).is_err());
    }

    #[test]
    fn containers_are_selected_by_all_that_is_said() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let selects = |names: &[&str], wanted: &[&str]| {
            let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
            Selector { names: list(names), labels: list(wanted) }.selects("web-1", &labels)
        };
        assert!(selects(&[], &[]) && selects(&["web-*"], &["app"]));
        assert!(selects(&["x", "web-?"], &["app=web"]));
        assert!(!selects(&["web-*"], &["app=db"]) && !selects(&["web"], &["app=web"]));
        assert!(!selects(&[], &["app=web", "tier"]));
    }

    proptest! {
        #[test]
        fn patterns_fit_what_they_stand_for(head in "[ab]{0,4}", middle in "[ab]{0,4}", tail in "[ab]{0,4}") {
            let text = format!("{head}{middle}{tail}");
            let with_star = format!("{head}*{tail}");
            let with_marks = format!("{head}{}{tail}", "?".repeat(middle.len()));
            prop_assert!(matches(&with_star, &text));
            prop_assert!(matches(&with_marks, &text));
            prop_assert!(matches(&text, &text));
            let longer = format!("{text}c");
            prop_assert!(!matches(&text, &longer));
            let other = format!("{head}c*{tail}");
            prop_assert!(!matches(&other, &text));
        }
    }
}
