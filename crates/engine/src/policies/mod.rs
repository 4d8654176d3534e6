//! Network policies: who may talk to whom, by label, name, address, port and
//! DNS name, and with what address containers leave the host.
//!
//! Be aware:
//! - The rules with addresses are computed anew from all records whenever
//!   something changes that they depend on; without a policy nothing is
//!   computed.
//! - A container's start waits until its addresses are in force, before it has
//!   an interface. What can't be put into force keeps it from starting.

mod record;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_net::policy::PolicyRule;
use sampan_store::{Op, Store, Transaction};
use sampan_types::{PolicyName, Timestamp};
use serde_json::{Value, json};

pub use record::{PeerSpec, PolicyRecord, PolicySpec, Selector};

use crate::container::Container;
use crate::{Engine, EngineError, Result};
use resolve::Member;

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct PolicyTable {
    /// Held for a moment at a time, never across an await.
    entries: Mutex<BTreeMap<PolicyName, Arc<PolicyRecord>>>,
    /// Held by whoever changes a policy's record.
    changes: tokio::sync::Mutex<()>,
    /// Held by whoever puts rules into force: what is told last was true last.
    turn: tokio::sync::Mutex<Vec<PolicyRule>>,
}

impl PolicyTable {
    /// Reads the policies from the store.
    ///
    /// # Errors
    /// When the store fails. Damaged records are reported and left.
    pub async fn open(store: &Arc<dyn Store>) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (key, value) in store.list(record::PREFIX).await?.entries {
            match PolicyRecord::decode(&key, &value.value) {
                Ok(record) => drop(entries.insert(record.spec.name.clone(), Arc::new(record))),
                Err(error) => tracing::error!(%error, "a network policy is not in force"),
            }
        }
        Ok(Self { entries: Mutex::new(entries), ..Self::default() })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<PolicyName, Arc<PolicyRecord>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    fn all(&self) -> Vec<Arc<PolicyRecord>> {
        self.entries().values().cloned().collect()
    }
}

impl Engine {
    /// All policies, in the order in which they are looked at.
    ///
    /// # Errors
    /// When the kernel's counters can't be read.
    pub async fn policy_list(&self) -> Result<Value> {
        let counts = self.policy_figures().await?;
        let members = self.members();
        let mut all = self.inner.policies.all();
        all.sort_by(|a, b| (a.spec.priority, &a.spec.name).cmp(&(b.spec.priority, &b.spec.name)));
        Ok(all.iter().map(|record| shown(record, &members, &counts)).collect())
    }

    /// One policy, with the containers that it is about.
    ///
    /// # Errors
    /// No such policy, or as [`Engine::policy_list`].
    pub async fn policy_inspect(&self, name: &str) -> Result<Value> {
        let record = self.policy(name)?;
        Ok(shown(&record, &self.members(), &self.policy_figures().await?))
    }

    fn policy(&self, text: &str) -> Result<Arc<PolicyRecord>> {
        let name: Option<PolicyName> = text.parse().ok();
        let found = name.as_ref().and_then(|n| self.inner.policies.entries().get(n).cloned());
        found.ok_or_else(|| EngineError::NotFound(format!("No such policy: {text}")))
    }

    async fn policy_figures(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        if self.inner.policies.is_empty() {
            return Ok(BTreeMap::new());
        }
        let counts = self.networks().policy_counts().await?;
        Ok(counts.into_iter().map(|c| (c.name, (c.packets, c.bytes))).collect())
    }

    /// Makes a policy. It is in force on return.
    ///
    /// # Errors
    /// The name is in use; a network that is not there; what can't be enforced
    /// on a container that runs.
    pub async fn policy_create(&self, spec: PolicySpec) -> Result<()> {
        self.put_policies(vec![spec], true).await
    }

    /// Makes policies, or others of them: all, or none. They are in force on
    /// return, from one moment on.
    ///
    /// # Errors
    /// As [`Engine::policy_create`], without the name; two of one name.
    pub async fn policy_apply(&self, specs: Vec<PolicySpec>) -> Result<()> {
        self.put_policies(specs, false).await
    }

    async fn put_policies(&self, specs: Vec<PolicySpec>, new: bool) -> Result<()> {
        let engine = self.clone();
        self.detached(async move {
            let _change = engine.inner.policies.changes.lock().await;
            let mut changes = Vec::with_capacity(specs.len());
            for spec in specs {
                changes.push(engine.policy_change(spec, new)?);
            }
            refuse_twins(&changes)?;
            let records = changes.iter().filter_map(|c| c.after.as_ref());
            engine.networks().check_policies(&engine.rules_with(records))?;
            engine.write_policies(&changes).await?;
            crate::fault!("policy-create:after-record");
            if let Err(error) = engine.refresh_policies().await {
                let back: Vec<_> = changes.into_iter().map(Change::reversed).collect();
                if let Err(also) = engine.write_policies(&back).await {
                    let names: Vec<_> = back.iter().map(|c| c.name.as_str()).collect();
                    tracing::error!(policies = names.join(", "), error = %also, "policies that could not be put into force stay in the record");
                }
                return Err(error);
            }
            crate::fault!("policy-create:after-kernel");
            Ok(())
        })
        .await
    }

    /// What a user's policy changes; refused when it can't be.
    fn policy_change(&self, spec: PolicySpec, new: bool) -> Result<Change> {
        let name = spec.name.clone();
        let before = self.inner.policies.entries().get(&name).cloned();
        if new && before.is_some() {
            return Err(EngineError::Conflict(format!("policy {name} already exists")));
        }
        if let Some(network) = &spec.network {
            self.network_table().resolve(network)?;
        }
        let created = before.as_ref().map_or_else(Timestamp::now, |b| b.created);
        let after = Some(Arc::new(PolicyRecord { spec, created }));
        Ok(Change { name, before, after })
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// No such policy.
    pub async fn policy_remove(&self, name: &str) -> Result<()> {
        let engine = self.clone();
        let name = name.to_owned();
        self.detached(async move {
            let _change = engine.inner.policies.changes.lock().await;
            let name = engine.policy(&name)?.spec.name.clone();
            let change = Change { name, before: None, after: None };
            engine.write_policies(&[change]).await?;
            crate::fault!("policy-remove:after-record");
            engine.put_into_force().await
        })
        .await
    }

    /// Writes policies' records, or removes them, all in one transaction, and
    /// then knows them.
    async fn write_policies(&self, changes: &[Change]) -> Result<()> {
        let mut transaction = Transaction::default();
        for change in changes {
            let key = record::key(&change.name);
            transaction = transaction.and(match &change.after {
                Some(record) => {
                    let value = record.encode().map_err(EngineError::part)?;
                    Op::Put { key, value }
                }
                None => Op::Delete { key },
            });
        }
        self.store().commit(transaction).await?;
        let mut entries = self.inner.policies.entries();
        for Change { name, after, .. } in changes {
            match after {
                Some(record) => drop(entries.insert(name.clone(), Arc::clone(record))),
                None => drop(entries.remove(name)),
            }
        }
        Ok(())
    }

    /// Puts the policies into force for the containers as their records are
    /// now. Nothing is done when there is no policy.
    pub(crate) async fn refresh_policies(&self) -> Result<()> {
        if self.inner.policies.is_empty() {
            return Ok(());
        }
        self.put_into_force().await
    }

    /// As [`Engine::refresh_policies`], when somebody left: what is in force
    /// already suffices until somebody comes.
    pub(crate) async fn relax_policies(&self) {
        if let Err(error) = self.refresh_policies().await {
            tracing::warn!(%error, "network policies still name a container that is gone");
        }
    }

    async fn put_into_force(&self) -> Result<()> {
        let mut in_force = self.inner.policies.turn.lock().await;
        let rules = self.rules();
        if *in_force == rules {
            return Ok(());
        }
        self.networks().set_policies(rules.clone()).await?;
        *in_force = rules;
        Ok(())
    }

    /// At the daemon's start: the comparison of networks that follows puts the
    /// policies into force.
    pub(crate) async fn prepare_policies(&self) {
        let mut in_force = self.inner.policies.turn.lock().await;
        let rules = self.rules();
        self.networks().prepare_policies(rules.clone());
        *in_force = rules;
    }

    fn rules(&self) -> Vec<PolicyRule> {
        let records = self.inner.policies.all();
        resolve::rules(records.iter().map(|r| &r.spec), &self.members())
    }

    /// The rules as they would be with these policies.
    fn rules_with<'a>(
        &self,
        changed: impl Iterator<Item = &'a Arc<PolicyRecord>>,
    ) -> Vec<PolicyRule> {
        let mut records = self.inner.policies.entries().clone();
        records.extend(changed.map(|r| (r.spec.name.clone(), Arc::clone(r))));
        resolve::rules(records.values().map(|r| &r.spec), &self.members())
    }

    fn members(&self) -> Vec<Member> {
        self.containers().iter().map(|c| member(c)).collect()
    }
}

/// What becomes of a policy's record.
#[derive(Debug)]
struct Change {
    name: PolicyName,
    before: Option<Arc<PolicyRecord>>,
    /// None to remove it.
    after: Option<Arc<PolicyRecord>>,
}

impl Change {
    fn reversed(self) -> Self {
        Self { name: self.name, before: self.after, after: self.before }
    }
}

/// Refuses two policies of one name: only one of them could hold.
fn refuse_twins(changes: &[Change]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match changes.iter().find(|c| !seen.insert(&c.name)) {
        Some(twin) => Err(EngineError::Invalid(format!(
            "policy {} is given twice: each name may be there once",
            twin.name
        ))),
        None => Ok(()),
    }
}

fn member(container: &Container) -> Member {
    let record = container.record();
    let endpoints = record.networking.endpoints.iter();
    let addresses = endpoints.filter_map(|(name, endpoint)| {
        let live = endpoint.live.as_ref()?;
        let addresses = [live.address, live.address6].into_iter().flatten().map(|n| n.addr());
        Some((name.clone(), endpoint.network.clone(), addresses.collect()))
    });
    Member {
        id: record.id.clone(),
        name: record.name.to_string(),
        labels: record.config.labels.clone().unwrap_or_default().into_iter().collect(),
        addresses: addresses.collect(),
    }
}

/// A policy as the API shows it.
fn shown(
    record: &PolicyRecord,
    members: &[Member],
    counts: &BTreeMap<String, (u64, u64)>,
) -> Value {
    let spec = &record.spec;
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    let containers: Vec<Value> = resolve::subjects(spec, members)
        .filter_map(|m| {
            let addresses: Vec<_> = m.on(spec.network.as_deref()).collect();
            (!addresses.is_empty())
                .then(|| json!({ "Id": m.id, "Name": m.name, "Addresses": addresses }))
        })
        .collect();
    let (packets, bytes) = counts.get(spec.name.as_str()).copied().unwrap_or_default();
    value["Created"] = json!(record.created.to_string());
    value["Containers"] = json!(containers);
    value["Counters"] = json!({ "Packets": packets, "Bytes": bytes });
    value
}
