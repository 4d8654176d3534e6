//! The host's own firewall, obeyed by published ports: copies of what other
//! tables filter at the hook *input*, for packets that would have gone there
//! had the port not been a container's.
//!
//! ```text
//! table ip filter                      table ip <instance>-host-filter
//!   chain INPUT (hook input)   ──>       chain gate-0 (hook prerouting, just before dstnat)
//!                                          new flow, to the host, to a published port ──> INPUT
//!                                        chain INPUT and all that it leads to
//! ```
//!
//! Be aware:
//! - Base chains keep their order; what one of them accepts, the next still
//!   sees, as at *input*. Before dstnat a packet has the header that it would
//!   have had at *input*.
//! - A copy is renewed when somebody changes a ruleset, which the kernel
//!   tells, and whenever the rest of the table is verified.
//! - A rule that can't be copied is left out and reported: one that hands
//!   packets to a program, or an extension that refuses to be at *prerouting*.

mod evaluate;
mod exposure;
mod extension;
#[cfg(test)]
mod tests;
mod translate;
mod watch;

use std::collections::HashSet;

use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::{
    BaseChain, Batch, Chain, ChainKind, Element, Family, ForeignChain, ForeignRule, ForeignTable,
    Hook, Nft, Policy, Rule, Set, Verdict,
};

pub(super) use exposure::{HostRules, exposure};
pub(super) use watch::Watch;

use super::forwards::{self, Gate};
use super::rules::{FAMILIES, When};
use crate::firewall::Forwards;

/// nft's own priority `dstnat`.
const DSTNAT: i32 = -100;
/// How many rules that the kernel refuses are left out before the copy is
/// given up.
const REFUSALS_MAX: usize = 64;

/// A rule by family, table and handle.
type RuleId = (Family, String, u64);

/// The copies that are in force.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// What they are copies of.
    source: Vec<ForeignTable>,
    /// What of it could not be copied.
    left_out: HashSet<RuleId>,
}

/// Whether a table is none of others.
pub(crate) fn is_own(instance: &str, table: &str) -> bool {
    table.strip_prefix(instance).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether a table is a copy of another one.
pub(super) fn is_copy(instance: &str, table: &str) -> bool {
    table.starts_with(&copy_name(instance, ""))
}

fn copy_name(instance: &str, table: &str) -> String {
    format!("{instance}-host-{table}")
}

/// Removes copies that an earlier run left.
pub(super) fn remove_all(nft: &mut Nft, instance: &str) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    retire(nft, instance, &mut batch)?;
    if batch.is_empty() { Ok(()) } else { nft.commit(batch) }
}

/// The changes that remove all copies.
fn retire(nft: &mut Nft, instance: &str, batch: &mut Batch) -> Result<(), NetlinkError> {
    for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
        for table in nft.tables(family)?.iter().filter(|t| is_copy(instance, t)) {
            batch.family(family).add_table(table).delete_table(table);
        }
    }
    Ok(())
}

impl Mirror {
    /// Makes the copies what they shall be. Says whether they were not.
    pub fn enforce(
        &mut self,
        nft: &mut Nft,
        instance: &str,
        forwards: &Forwards,
    ) -> Result<bool, NetlinkError> {
        let source = nft.foreign(Hook::Input, |table| is_own(instance, table))?;
        if source == self.source && self.is_in_force(nft, instance, forwards)? {
            return Ok(false);
        }
        self.source = source;
        self.left_out.clear();
        for _ in 0..REFUSALS_MAX {
            let mut batch = Batch::new();
            retire(nft, instance, &mut batch)?;
            self.write(&mut batch, instance, forwards);
            match nft.commit(batch) {
                Err(NetlinkError::Refused { what, source, .. })
                    if let Some(rule) = self.rule_of(&what) =>
                {
                    let (family, table, handle) = &rule;
                    tracing::warn!(
                        ?family, table, handle, error = %source,
                        "a rule of the host's firewall can't be copied to published ports"
                    );
                    self.left_out.insert(rule);
                }
                other => return other.map(|()| true),
            }
        }
        Err(NetlinkError::Malformed("copy the host's firewall".to_owned()))
    }

    /// Whether all copies are there, with the published ports in them.
    fn is_in_force(
        &self,
        nft: &mut Nft,
        instance: &str,
        forwards: &Forwards,
    ) -> Result<bool, NetlinkError> {
        for table in &self.source {
            let name = copy_name(instance, &table.name);
            if !nft.tables(table.family)?.contains(&name) {
                return Ok(false);
            }
            for gate in gates(table.family) {
                let mut found = nft.elements(table.family, &name, gate.name())?;
                let mut wanted: Vec<Element> = gate.elements(forwards).collect();
                found.sort_by(|a, b| a.key.cmp(&b.key));
                wanted.sort_by(|a, b| a.key.cmp(&b.key));
                if found != wanted {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The changes that publish ports.
    pub fn add(&self, batch: &mut Batch, instance: &str, forwards: &Forwards) {
        self.each_gate(batch, instance, |batch, table, gate| {
            forwards::by_chunks(gate.elements(forwards), |chunk| {
                batch.add_elements(table, gate.name(), chunk);
            });
        });
    }

    /// The changes that take published ports back.
    pub fn remove(&self, batch: &mut Batch, instance: &str, forwards: &Forwards) {
        self.each_gate(batch, instance, |batch, table, gate| {
            forwards::by_chunks(gate.elements(forwards), |chunk| {
                batch.delete_elements(table, gate.name(), chunk);
            });
        });
    }

    fn each_gate(
        &self,
        batch: &mut Batch,
        instance: &str,
        mut change: impl FnMut(&mut Batch, &str, Gate),
    ) {
        for table in &self.source {
            batch.family(table.family);
            let name = copy_name(instance, &table.name);
            gates(table.family).for_each(|gate| change(batch, &name, gate));
        }
        batch.family(Family::Inet);
    }

    /// The changes that make all copies.
    fn write(&self, batch: &mut Batch, instance: &str, forwards: &Forwards) {
        let mut order: Vec<(i32, &ForeignTable, &ForeignChain)> = self
            .source
            .iter()
            .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
            .filter_map(|(table, chain)| Some((chain.base?.0, table, chain)))
            .collect();
        order.sort_by_key(|(priority, ..)| *priority);
        let first = DSTNAT - i32::try_from(order.len()).unwrap_or(i32::MAX);
        for table in &self.source {
            let name = copy_name(instance, &table.name);
            batch.family(table.family).add_table(&name);
            for gate in gates(table.family) {
                let mut set = gate.empty();
                set.elements = gate.elements(forwards).collect();
                add_set(batch, &name, &set);
            }
            for chain in &table.chains {
                batch.add_chain(&name, &Chain { name: chain.name.clone(), base: None });
            }
            for set in &table.sets {
                batch.copy_set(&name, set);
            }
            for chain in &table.chains {
                self.copy_rules(batch, table, &name, chain);
            }
            for (at, (_, of, chain)) in order.iter().enumerate() {
                if std::ptr::eq(*of, table) {
                    let priority = first + i32::try_from(at).unwrap_or(0);
                    add_gate(batch, table.family, &name, &chain.name, (at, priority));
                }
            }
        }
        batch.family(Family::Inet);
    }

    fn copy_rules(
        &self,
        batch: &mut Batch,
        table: &ForeignTable,
        name: &str,
        chain: &ForeignChain,
    ) {
        for rule in &chain.rules {
            let id = (table.family, table.name.clone(), rule.handle);
            if self.left_out.contains(&id) {
                continue;
            }
            let Some(expressions) = translate::copied(table.family, rule) else {
                tracing::warn!(
                    table = table.name,
                    chain = chain.name,
                    handle = rule.handle,
                    "a rule of the host's firewall can't be copied to published ports"
                );
                continue;
            };
            batch.copy_rule(name, &chain.name, &expressions, what(table, rule));
        }
        if let Some((_, policy)) = chain.base {
            let verdict = match policy {
                Policy::Drop => Verdict::Drop,
                Policy::Accept => Verdict::Accept,
            };
            batch.add_rule(name, &When::always().verdict(&chain.name, "policy", verdict));
        }
    }

    /// The rule that an error of the kernel is about.
    fn rule_of(&self, failed: &str) -> Option<RuleId> {
        self.source.iter().find_map(|table| {
            let rules = table.chains.iter().flat_map(|c| &c.rules);
            let rule = rules.into_iter().find(|rule| what(table, rule) == failed)?;
            let id = (table.family, table.name.clone(), rule.handle);
            (!self.left_out.contains(&id)).then_some(id)
        })
    }
}

fn what(table: &ForeignTable, rule: &ForeignRule) -> String {
    format!("copy rule {} of {:?} table {}", rule.handle, table.family, table.name)
}

fn add_set(batch: &mut Batch, table: &str, set: &Set) {
    batch.add_set(table, set).add_elements(table, &set.name, &set.elements);
}

/// The sets that say which packets a copy is for.
fn gates(family: Family) -> impl Iterator<Item = Gate> {
    let families = FAMILIES.into_iter().filter(move |f| family == Family::Inet || family == *f);
    families.flat_map(Gate::of)
}

/// A base chain that leads new flows to published ports to the copy of
/// another one.
fn add_gate(
    batch: &mut Batch,
    family: Family,
    table: &str,
    copy: &str,
    (number, priority): (usize, i32),
) {
    let gate = format!("gate-{number}");
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority,
        policy: Policy::Accept,
    };
    batch.add_chain(table, &Chain { name: gate.clone(), base: Some(base) });
    let leave = |when: When, comment: &str| when.verdict(&gate, comment, Verdict::Accept);
    let mut rules: Vec<Rule> = vec![
        leave(When::always().not_new(), "known flows"),
        leave(When::always().destination_is_not_host(), "not to the host"),
    ];
    rules.extend(gates(family).map(|set| {
        let to_copy = Verdict::Jump(copy.to_owned());
        forwards::when_listed(set, family).verdict(&gate, "as at the hook input", to_copy)
    }));
    for rule in &rules {
        batch.add_rule(table, rule);
    }
}
