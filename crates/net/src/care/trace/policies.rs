//! Which policy decides about a flow: pure.

use std::net::IpAddr;

use crate::policy::{Action, Direction, Peer, PolicyRule};
use crate::ports::Protocol;

/// A flow, behind any translation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    pub source: Option<IpAddr>,
    pub destination: IpAddr,
    pub port: Option<(Protocol, u16)>,
    /// Whether it is for the host itself.
    pub to_host: bool,
}

impl Flow {
    /// What denies the flow. It is looked at twice: as what one end sends, and
    /// as what the other receives.
    pub fn denied(&self, rules: &[PolicyRule]) -> Option<String> {
        let (source, destination) = (self.source, Some(self.destination));
        let out = self.first(rules, Direction::Egress, source, destination, self.to_host);
        let into = self.first(rules, Direction::Ingress, destination, source, false);
        let mut both = [out, into].into_iter().flatten();
        let denies = both.find(|rule| rule.action == Action::Deny)?;
        Some(format!("policy {} denies it", denies.name))
    }

    /// The first rule that fits.
    fn first<'r>(
        &self,
        rules: &'r [PolicyRule],
        direction: Direction,
        subject: Option<IpAddr>,
        other: Option<IpAddr>,
        host: bool,
    ) -> Option<&'r PolicyRule> {
        let subject = subject?;
        rules.iter().find(|rule| {
            rule.is_verdict()
                && rule.direction == direction
                && rule.subjects.contains(&subject)
                && self.fits(rule, other, host)
        })
    }

    fn fits(&self, rule: &PolicyRule, other: Option<IpAddr>, host: bool) -> bool {
        let peer = |peer: &Peer| match peer {
            Peer::Net(net) => other.is_some_and(|o| net.contains(&o)),
            Peer::Host => host,
            // Which addresses a name has had, only the kernel's set knows.
            Peer::Name(_) => false,
        };
        let port = |(protocol, port): (Protocol, u16)| {
            rule.ports.iter().any(|m| m.protocol == protocol && m.ports.contains(&port))
        };
        rule.peers.as_ref().is_none_or(|peers| peers.iter().any(peer))
            && (rule.ports.is_empty() || self.port.is_some_and(port))
    }
}
