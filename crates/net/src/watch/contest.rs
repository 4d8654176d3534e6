//! What somebody undoes again and again: pure but for the clock, which is
//! given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sampan_types::{NetworkId, SandboxId};

use super::Scope;
use crate::manager::{Repair, RepairKind};

/// So many repairs of one thing within [`SPAN`] are a contest, which nobody
/// wins: it is left to the comparison of everything then.
const REPAIRS: u32 = 25;
const SPAN: Duration = Duration::from_secs(10);

/// One thing that is repaired.
type Thing = (RepairKind, Option<NetworkId>, Option<SandboxId>);

/// The repairs of the last moments.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// How many there were since when.
    repairs: HashMap<Thing, (Instant, u32)>,
}

impl Contest {
    /// Takes note of a repair.
    pub fn count(&mut self, repair: &Repair, now: Instant) {
        self.repairs.retain(|_, (since, _)| now.duration_since(*since) < SPAN);
        let network = repair.network.clone().filter(|_| repair.sandbox.is_none());
        let thing = (repair.kind, network, repair.sandbox.clone());
        let (_, count) = self.repairs.entry(thing).or_insert((now, 0));
        *count += 1;
        if *count == REPAIRS {
            tracing::warn!(
                kind = repair.kind.as_str(),
                "somebody keeps undoing this: {repair}; it is restored less often from now on"
            );
        }
    }

    fn lasts(&self, thing: &Thing, now: Instant) -> bool {
        self.repairs
            .get(thing)
            .is_some_and(|(since, count)| *count >= REPAIRS && now.duration_since(*since) < SPAN)
    }

    /// Takes out what there is a contest about.
    pub fn filter(&self, scope: &mut Scope, now: Instant) {
        if self.repairs.is_empty() {
            return;
        }
        scope.firewall &= !self.lasts(&(RepairKind::Firewall, None, None), now);
        scope.forwarding &= !self.lasts(&(RepairKind::Forwarding, None, None), now);
        scope.networks.retain(|n| !self.lasts(&(RepairKind::Network, Some(n.clone()), None), now));
        let lasts =
            |kind, sandbox: &SandboxId| self.lasts(&(kind, None, Some(sandbox.clone())), now);
        scope.sandboxes.retain(|s| !lasts(RepairKind::Endpoint, s));
        scope.straight.retain(|s| !lasts(RepairKind::Redirect, s));
        scope.names.retain(|s| !lasts(RepairKind::Names, s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contest_ends_by_itself() {
        let (mut contest, start) = (Contest::default(), Instant::now());
        let (one, other) = (SandboxId::random(), SandboxId::random());
        let repair = Repair {
            kind: RepairKind::Endpoint,
            network: Some(NetworkId::random()),
            sandbox: Some(one.clone()),
            what: "an address".to_owned(),
        };
        let left = |contest: &Contest, now| {
            let mut scope = Scope { firewall: true, ..Scope::default() };
            scope.sandboxes.extend([one.clone(), other.clone()]);
            contest.filter(&mut scope, now);
            (scope.firewall, scope.sandboxes.len())
        };
        for _ in 1..REPAIRS {
            contest.count(&repair, start);
        }
        assert_eq!(left(&contest, start), (true, 2));
        contest.count(&repair, start);
        assert_eq!(left(&contest, start), (true, 1), "the other one is not concerned");
        assert_eq!(left(&contest, start + SPAN), (true, 2));
    }
}
