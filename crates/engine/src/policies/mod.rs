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

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_net::policy::PolicyRule;
use sampan_store::{Store, Transaction};
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
        self.put_policy(spec, true).await
    }

    /// Makes a policy, or another one of it.
    ///
    /// # Errors
    /// As [`Engine::policy_create`], without the name.
    pub async fn policy_set(&self, spec: PolicySpec) -> Result<()> {
        self.put_policy(spec, false).await
    }

    async fn put_policy(&self, spec: PolicySpec, new: bool) -> Result<()> {
        let engine = self.clone();
        self.detached(async move {
            let _change = engine.inner.policies.changes.lock().await;
            let name = spec.name.clone();
            let before = engine.inner.policies.entries().get(&name).cloned();
            if new && before.is_some() {
                return Err(EngineError::Conflict(format!("policy {name} already exists")));
            }
            if let Some(network) = &spec.network {
                engine.network_table().resolve(network)?;
            }
            let created = before.as_ref().map_or_else(Timestamp::now, |b| b.created);
            let record = Arc::new(PolicyRecord { spec, created });
            engine.networks().check_policies(&engine.rules_with(&record))?;
            engine.write_policy(&name, Some(&record)).await?;
            crate::fault!("policy-create:after-record");
            if let Err(error) = engine.refresh_policies().await {
                if let Err(also) = engine.write_policy(&name, before.as_ref()).await {
                    tracing::error!(policy = %name, error = %also, "a policy that could not be put into force stays in the record");
                }
                return Err(error);
            }
            crate::fault!("policy-create:after-kernel");
            Ok(())
        })
        .await
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
            engine.write_policy(&name, None).await?;
            crate::fault!("policy-remove:after-record");
            engine.put_into_force().await
        })
        .await
    }

    /// Writes a policy's record, or removes it, and then knows it.
    async fn write_policy(
        &self,
        name: &PolicyName,
        record: Option<&Arc<PolicyRecord>>,
    ) -> Result<()> {
        let key = record::key(name);
        let transaction = match record {
            Some(record) => Transaction::put(key, record.encode().map_err(EngineError::part)?),
            None => Transaction::delete(key),
        };
        self.store().commit(transaction).await?;
        let mut entries = self.inner.policies.entries();
        match record {
            Some(record) => drop(entries.insert(name.clone(), Arc::clone(record))),
            None => drop(entries.remove(name)),
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

    /// The rules as they would be with this policy.
    fn rules_with(&self, record: &Arc<PolicyRecord>) -> Vec<PolicyRule> {
        let mut records = self.inner.policies.all();
        records.retain(|r| r.spec.name != record.spec.name);
        records.push(Arc::clone(record));
        resolve::rules(records.iter().map(|r| &r.spec), &self.members())
    }

    fn members(&self) -> Vec<Member> {
        self.containers().iter().map(|c| member(c)).collect()
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
