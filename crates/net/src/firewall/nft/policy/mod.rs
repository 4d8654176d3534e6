//! Policies in the kernel: two tables of the instance's own, which exist only
//! while there are policies.
//!
//! ```text
//! bridge <instance>-policy   frames of containers under policy: checked, and
//!                            handed to the host instead of their neighbour
//! inet <instance>-policy     flows: who may begin which, and with what source
//! ```
//!
//! Be aware:
//! - Packets between neighbours on a bridge do not pass the host's filter by
//!   themselves. Those of a container under policy do: the frame's destination
//!   becomes the bridge, and the host routes it back into the same network,
//!   where connection tracking knows it. No module of the kernel's that would
//!   see bridged packets (`br_netfilter`, `nf_conntrack_bridge`) is needed.
//! - Rules look at the flow, not at the packet: an answer is judged by what
//!   began the flow, and a flow by the policies of now.
//! - A change of addresses only is a change of elements. Everything else
//!   replaces both tables in one batch, with the counters and with the
//!   addresses of names going on.

mod elements;
mod flows;
mod frames;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::{
    Batch, Element, ElementValue, Expr, Family, Nft, RuleCount, Ruleset, Set, SetKeeps,
};

use crate::error::NetError;
use crate::firewall::{PolicyOutcome, PolicySet};
use crate::mac::MacAddr;
use crate::names::NameSet;
use crate::policy::{DeniedCount, Peer, PolicyCount, PolicyRule};
use crate::worker::{Kernel, Worker};

/// What the comments of policies' rules begin with.
const COMMENT: &str = "policy ";

/// The tables of one instance's policies.
#[derive(Debug)]
pub(super) struct PolicyTables {
    table: String,
    /// What is in the kernel, as far as known. Locked by jobs of the network
    /// thread for as long as they run.
    known: Arc<Mutex<Known>>,
    /// What was told last; none before that.
    told: Arc<Mutex<Option<PolicySet>>>,
    worker: Worker,
}

/// What is known of the tables in the kernel.
#[derive(Debug, Default)]
enum Known {
    /// Nothing: an earlier process may have left them.
    #[default]
    Nothing,
    /// There are none.
    Absent,
    /// They are these.
    Present(Tables),
}

/// Both tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    flows: Ruleset,
    frames: Ruleset,
}

impl Tables {
    /// Everything that `set` needs; none without a rule. `hardware` has the
    /// addresses of the bridges.
    fn of(set: &PolicySet, hardware: &HashMap<String, MacAddr>) -> Option<Self> {
        if set.rules.is_empty() {
            return None;
        }
        Some(Self { flows: flows::ruleset(set), frames: frames::ruleset(set, hardware) })
    }

    fn sorted(self) -> Self {
        Self { flows: self.flows.sorted(), frames: self.frames.sorted() }
    }

    fn each(&self) -> [(Family, &Ruleset); 2] {
        [(Family::Inet, &self.flows), (Family::Bridge, &self.frames)]
    }
}

impl PolicyTables {
    pub fn new(instance: &str, worker: Worker) -> Self {
        let table = format!("{instance}-policy");
        Self { table, known: Arc::default(), told: Arc::default(), worker }
    }

    /// Makes `set` what the kernel carries out. With `compare`, the kernel is
    /// asked what it has; without, it is believed to have what it was told.
    pub async fn set(&self, set: PolicySet, compare: bool) -> Result<PolicyOutcome, NetError> {
        let (table, known) = (self.table.clone(), Arc::clone(&self.known));
        let told = Arc::clone(&self.told);
        let names = name_sets(&self.table, &set.rules);
        let (different, emptied) = self
            .worker
            .run(move |kernel| {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let done = carry_out(kernel, &table, &mut known, &set, compare);
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(set);
                done
            })
            .await?
            .map_err(NetError::kernel("set the network policies"))?;
        Ok(PolicyOutcome { different, emptied: emptied && !names.is_empty(), names })
    }

    /// Compares the kernel with what was told last, and restores what differs.
    /// Says whether anything did.
    pub async fn verify(&self) -> Result<bool, NetError> {
        let (table, known) = (self.table.clone(), Arc::clone(&self.known));
        let told = Arc::clone(&self.told);
        self.worker
            .run(move |kernel| {
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(set) = &*told else { return Ok(false) };
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                carry_out(kernel, &table, &mut known, set, true).map(|(different, _)| different)
            })
            .await?
            .map_err(NetError::kernel("restore the network policies"))
    }

    /// The sets that the name service fills for these rules.
    pub fn name_sets(&self, rules: &[PolicyRule]) -> Vec<NameSet> {
        name_sets(&self.table, rules)
    }

    /// What each rule met.
    pub async fn counts(&self) -> Result<Vec<PolicyCount>, NetError> {
        let table = self.table.clone();
        let counts = self.worker.run(move |kernel| kernel.nft.counts(Family::Inet, &table)).await?;
        Ok(sum(counts.map_err(NetError::kernel("read the counters of policies"))?))
    }

    /// What was denied to whom.
    pub async fn denied(&self) -> Result<Vec<DeniedCount>, NetError> {
        let table = self.table.clone();
        let listed = self.worker.run(move |kernel| {
            let mut all = Vec::new();
            for v4 in [true, false] {
                let set = flows::denied_set(v4);
                match kernel.nft.elements(Family::Inet, &table, set) {
                    Ok(elements) => all.extend(elements.iter().filter_map(denied)),
                    // Without policies there is no table.
                    Err(e) if e.is_absent() => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(all)
        });
        listed.await?.map_err(NetError::kernel("read what policies denied"))
    }
}

/// The address of an element, with its figures.
fn denied(element: &Element) -> Option<DeniedCount> {
    let address = match *element.key {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(element.key.as_slice()).ok()?),
    };
    match element.value {
        ElementValue::Counted { packets, bytes } => Some(DeniedCount { address, packets, bytes }),
        _ => None,
    }
}

/// The counters by rule.
fn sum(counts: Vec<RuleCount>) -> Vec<PolicyCount> {
    let mut sums: Vec<PolicyCount> = Vec::new();
    for count in counts {
        let Some(name) = count.comment.strip_prefix(COMMENT) else { continue };
        let at = sums.iter().position(|s| s.name == name).unwrap_or_else(|| {
            sums.push(PolicyCount { name: name.to_owned(), ..PolicyCount::default() });
            sums.len() - 1
        });
        sums[at].packets += count.packets;
        sums[at].bytes += count.bytes;
    }
    sums
}

/// The sets that the name service fills.
fn name_sets(table: &str, rules: &[PolicyRule]) -> Vec<NameSet> {
    let peers = rules.iter().flat_map(|r| r.peers.iter().flatten());
    let mut names: Vec<&String> =
        peers.filter_map(|p| if let Peer::Name(name) = p { Some(name) } else { None }).collect();
    names.sort();
    names.dedup();
    let set = |name: &String| NameSet {
        name: name.clone(),
        table: table.to_owned(),
        set4: flows::name_set(name, true),
        set6: flows::name_set(name, false),
    };
    names.into_iter().map(set).collect()
}

/// Says whether the kernel had anything else, and whether it had no table at
/// all.
fn carry_out(
    kernel: &mut Kernel,
    table: &str,
    known: &mut Known,
    set: &PolicySet,
    compare: bool,
) -> Result<(bool, bool), NetlinkError> {
    let mut hardware = HashMap::new();
    for guard in &set.guards {
        if !hardware.contains_key(&guard.bridge)
            && let Some(link) = kernel.route.link(&guard.bridge)?
            && let Ok(mac) = <[u8; 6]>::try_from(link.mac.as_slice())
        {
            hardware.insert(guard.bridge.clone(), MacAddr(mac));
        }
    }
    let wanted = Tables::of(set, &hardware);
    let nft = &mut kernel.nft;
    if !compare {
        match (&*known, &wanted) {
            (Known::Absent, None) => return Ok((false, false)),
            (Known::Present(old), Some(new)) if old == new => return Ok((false, false)),
            (Known::Present(old), Some(new)) => {
                if let Some(batch) = difference(table, old, new)
                    && nft.commit(batch).is_ok()
                {
                    *known = Known::Present(new.clone());
                    return Ok((true, false));
                }
            }
            _ => {}
        }
    }
    let found = dump(nft, table)?;
    let different = match (&found, &wanted) {
        ((None, None), None) => false,
        ((Some(flows), Some(frames)), Some(new)) => {
            let sorted = new.clone().sorted();
            *flows != sorted.flows || *frames != sorted.frames
        }
        _ => true,
    };
    if different {
        *known = Known::Nothing;
        replace(nft, table, &found, wanted.as_ref())?;
    }
    *known = wanted.map_or(Known::Absent, Known::Present);
    Ok((different, found.0.is_none()))
}

type Found = (Option<Ruleset>, Option<Ruleset>);

fn dump(nft: &mut Nft, table: &str) -> Result<Found, NetlinkError> {
    let flows = nft.dump_table(Family::Inet, table)?.map(Ruleset::sorted);
    let frames = nft.dump_table(Family::Bridge, table)?.map(Ruleset::sorted);
    Ok((flows, frames))
}

/// Puts the tables in the place of those that are there, or takes these away.
fn replace(
    nft: &mut Nft,
    table: &str,
    found: &Found,
    wanted: Option<&Tables>,
) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    let Some(wanted) = wanted else {
        for (family, found) in [(Family::Inet, &found.0), (Family::Bridge, &found.1)] {
            if found.is_some() {
                batch.family(family).delete_table(table);
            }
        }
        return nft.commit(batch);
    };
    for (family, ruleset) in wanted.each() {
        let mut ruleset = ruleset.clone();
        if family == Family::Inet && found.0.is_some() {
            go_on_counting(&mut ruleset, nft.counts(family, table)?);
            let there = found.0.iter().flat_map(|r| &r.sets).map(|s| s.name.clone());
            let there: Vec<String> = there.collect();
            for set in ruleset.sets.iter_mut().filter(|s| s.keeps == SetKeeps::Timeouts) {
                if there.contains(&set.name) {
                    set.elements = nft.elements(family, table, &set.name)?;
                }
            }
            for set in ruleset.sets.iter_mut().filter(|s| s.keeps == SetKeeps::Counts) {
                if there.contains(&set.name) {
                    let counted = nft.elements(family, table, &set.name)?;
                    go_on_with(&mut set.elements, &counted);
                }
            }
        }
        batch.family(family).replace_table(table, &ruleset);
    }
    nft.commit(batch)
}

/// Lets rules that stay go on from their figures.
fn go_on_counting(ruleset: &mut Ruleset, mut counts: Vec<RuleCount>) {
    for rule in &mut ruleset.rules {
        let same = |c: &RuleCount| c.chain == rule.chain && c.comment == rule.comment;
        let Some(at) = counts.iter().position(same) else { continue };
        let count = counts.remove(at);
        for expression in rule.expressions.iter_mut().filter(|e| e.is_counter()) {
            *expression = Expr::counter_from(count.packets, count.bytes);
        }
    }
}

/// Lets elements that stay go on from their figures.
fn go_on_with(elements: &mut [Element], counted: &[Element]) {
    let counted: HashMap<&[u8], &Element> = counted.iter().map(|c| (c.key.as_slice(), c)).collect();
    for element in elements {
        if let Some(before) = counted.get(element.key.as_slice()) {
            element.value = before.value.clone();
        }
    }
}

/// The changes of elements that lead from one to the other; none when more
/// than elements is different.
fn difference(table: &str, old: &Tables, new: &Tables) -> Option<Batch> {
    let mut batch = Batch::new();
    for ((family, old), (_, new)) in old.each().into_iter().zip(new.each()) {
        if old.chains != new.chains || old.rules != new.rules || old.sets.len() != new.sets.len() {
            return None;
        }
        batch.family(family);
        for (old, new) in old.sets.iter().zip(&new.sets) {
            let shape = |set: &Set| Set { elements: Vec::new(), ..set.clone() };
            if shape(old) != shape(new) {
                return None;
            }
            let (gone, added) = elements::difference(old.keeps, &old.elements, &new.elements);
            change(&mut batch, table, &new.name, &gone, &added);
        }
    }
    Some(batch)
}

fn change(batch: &mut Batch, table: &str, set: &str, gone: &[Element], added: &[Element]) {
    if !gone.is_empty() {
        batch.delete_elements(table, set, gone);
    }
    if !added.is_empty() {
        batch.add_elements(table, set, added);
    }
}

#[cfg(test)]
mod tests;
