//! All networks by id and name, with their address pools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use sampan_net::ipam::{IpamError, Pool, default_pools};
use sampan_net::{DriverConfig, NetworkSpec};
use sampan_store::{Op, Store, Transaction};
use sampan_types::{NetworkId, looks_like_id_prefix};

use super::create::{choose_from, default_pool6};
use super::predefined::predefined;
use super::record::{NetworkRecord, PREFIX};
use crate::config::EngineConfig;
use crate::{EngineError, Result};

/// All networks.
#[derive(Debug)]
pub struct NetworkTable {
    store: Arc<dyn Store>,
    /// The pools that subnets are chosen from.
    pools: Vec<(IpNet, u8)>,
    /// Held for look-ups and for taking an address, never across an await.
    entries: Mutex<BTreeMap<NetworkId, Entry>>,
    /// Held by whoever makes or removes a network, so that names and subnets
    /// are given once.
    pub(super) changes: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    record: Arc<NetworkRecord>,
    /// One for each subnet, in the record's order.
    pools: Vec<Pool>,
}

impl Entry {
    fn new(record: NetworkRecord) -> Result<Self> {
        let mut pools = record
            .ipam
            .iter()
            .map(|i| Pool::new(i.subnet, i.range, Some(i.gateway), &i.auxiliary))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(EngineError::part)?;
        if let DriverConfig::Macvlan(config) = &record.driver {
            for address in &config.host_addresses {
                let pool = pools.iter_mut().find(|p| p.subnet().contains(address));
                pool.map(|p| p.reserve(*address, "the host"))
                    .transpose()
                    .map_err(EngineError::part)?;
            }
        }
        Ok(Self { record: Arc::new(record), pools })
    }

    /// An address of one family; none when the network has no such subnet.
    fn take(
        &mut self,
        v6: bool,
        wanted: &Wanted,
        owner: &str,
    ) -> std::result::Result<Option<IpAddr>, IpamError> {
        let of = |list: &[IpAddr]| list.iter().find(|a| a.is_ipv6() == v6).copied();
        let mut pools: Vec<&mut Pool> =
            self.pools.iter_mut().filter(|p| p.subnet().addr().is_ipv6() == v6).collect();
        if let Some(address) = of(&wanted.fixed) {
            let pool = pools.iter_mut().find(|p| p.subnet().contains(&address));
            return pool.map(|p| p.allocate(Some(address), owner)).transpose();
        }
        if let Some(address) = of(&wanted.before)
            && let Some(pool) = pools.iter_mut().find(|p| p.subnet().contains(&address))
            && let Ok(address) = pool.allocate(Some(address), owner)
        {
            return Ok(Some(address));
        }
        let mut full = None;
        for pool in pools {
            match pool.allocate(None, owner) {
                Ok(address) => return Ok(Some(address)),
                Err(error) => full = full.or(Some(error)),
            }
        }
        full.map_or(Ok(None), Err)
    }

    fn release(&mut self, address: IpAddr) {
        for pool in self.pools.iter_mut().filter(|p| p.subnet().contains(&address)) {
            pool.release(address);
        }
    }
}

/// Which addresses an endpoint shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These and no others: the user's.
    pub fixed: Vec<IpAddr>,
    /// These when they are free: it had them before.
    pub before: Vec<IpAddr>,
}

impl NetworkTable {
    /// Reads the networks from the store and makes the records of those that
    /// are always there, by the present configuration.
    ///
    /// # Errors
    /// When the store fails, or the default bridge's configuration is wrong.
    /// Damaged records are reported and left.
    pub async fn open(store: Arc<dyn Store>, config: &EngineConfig) -> Result<Self> {
        let mut records = Vec::new();
        for (key, value) in store.list(PREFIX).await?.entries {
            match NetworkRecord::decode(&key, &value.value) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(%error, "a network is left out"),
            }
        }
        let mut pools = config.address_pools.clone();
        if !pools.iter().any(|(base, _)| base.addr().is_ipv4()) {
            pools.extend(default_pools());
        }
        let mut ops = Vec::new();
        for record in predefined(config.bridge.as_ref(), &pools, &records).await? {
            let old = records.iter().position(|r| r.name == record.name);
            let old = old.map(|at| records.swap_remove(at));
            if old.as_ref() != Some(&record) {
                let value = record.encode().map_err(EngineError::part)?;
                ops.push(Op::Put { key: record.key(), value });
            }
            records.push(record);
        }
        if config.bridge.is_none() {
            records.retain(|r| r.name != "bridge");
        }
        if !ops.is_empty() {
            store.commit(Transaction { conditions: Vec::new(), ops }).await?;
        }
        // The networks that are always there have ids that no other host has.
        let instance = records.iter().find(|r| r.name == "host").map(|r| r.id.clone());
        if let Some(instance) = instance.filter(|_| !pools.iter().any(|p| p.0.addr().is_ipv6())) {
            pools.push(default_pool6(&instance));
        }
        let mut entries = BTreeMap::new();
        for record in records {
            let (id, name) = (record.id.clone(), record.name.clone());
            let entry = Entry::new(record).map_err(|e| e.context(format!("network {name}")))?;
            entries.insert(id, entry);
        }
        let (entries, changes) = (Mutex::new(entries), tokio::sync::Mutex::default());
        Ok(Self { store, pools, entries, changes })
    }

    /// The network with this name, id or unique beginning of an id.
    ///
    /// # Errors
    /// `network x not found` (404), or that the beginning is several ids'.
    pub fn resolve(&self, text: &str) -> Result<Arc<NetworkRecord>> {
        let entries = self.entries();
        let mut all = entries.values().map(|e| &e.record);
        if let Some(found) = all.clone().find(|r| r.id.as_str() == text) {
            return Ok(Arc::clone(found));
        }
        if let Some(found) = all.find(|r| r.name == text) {
            return Ok(Arc::clone(found));
        }
        if looks_like_id_prefix(text) {
            let mut matching = entries.values().filter(|e| e.record.id.as_str().starts_with(text));
            match (matching.next(), matching.next()) {
                (Some(found), None) => return Ok(Arc::clone(&found.record)),
                (Some(_), Some(_)) => {
                    return Err(EngineError::Invalid(format!(
                        "network {text} is ambiguous ({} matches found on ID prefix)",
                        2 + matching.count()
                    )));
                }
                _ => {}
            }
        }
        Err(EngineError::NotFound(format!("network {text} not found")))
    }

    /// The network with this id.
    #[must_use]
    pub fn get(&self, id: &NetworkId) -> Option<Arc<NetworkRecord>> {
        self.entries().get(id).map(|e| Arc::clone(&e.record))
    }

    /// All networks, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<NetworkRecord>> {
        self.entries().values().map(|e| Arc::clone(&e.record)).collect()
    }

    /// What the kernel's part is told at start.
    #[must_use]
    pub fn specs(&self) -> Vec<NetworkSpec> {
        let entries = self.entries();
        entries.values().filter(|e| !e.record.config_only).map(|e| e.record.spec()).collect()
    }

    /// Takes an address of each family of the network for `owner` (an
    /// endpoint's or container's id): the one that is wanted, else one of the
    /// first subnet with room. None for the drivers host and none. All or
    /// nothing. `describe` tells whose an owner is, for messages.
    ///
    /// # Errors
    /// No such network, no address left, an address in use or in no subnet.
    pub fn allocate(
        &self,
        network: &NetworkId,
        wanted: &Wanted,
        owner: &str,
        describe: &dyn Fn(&str) -> String,
    ) -> Result<Vec<IpAddr>> {
        let mut entries = self.entries();
        let entry = entries.get_mut(network).ok_or_else(|| not_found(network))?;
        let inside = |a: &&IpAddr| entry.pools.iter().any(|p| p.subnet().contains(*a));
        if let Some(stray) = wanted.fixed.iter().find(|a| !inside(a)) {
            let subnets: Vec<String> = entry.pools.iter().map(|p| p.subnet().to_string()).collect();
            return Err(EngineError::Invalid(format!(
                "invalid address {stray}: it is in none of the subnets of network {}: {}",
                entry.record.name,
                subnets.join(", ")
            )));
        }
        let mut taken: Vec<IpAddr> = Vec::new();
        for v6 in [false, true] {
            match entry.take(v6, wanted, owner) {
                Ok(address) => taken.extend(address),
                Err(error) => {
                    for address in taken {
                        entry.release(address);
                    }
                    return Err(EngineError::part(match error {
                        IpamError::InUse { address, subnet, by } => {
                            IpamError::InUse { address, subnet, by: describe(&by) }
                        }
                        other => other,
                    }));
                }
            }
        }
        Ok(taken)
    }

    /// Marks an address as taken, as a container's record says.
    ///
    /// # Errors
    /// No such network; the address is another's or in no subnet.
    pub fn reserve(&self, network: &NetworkId, address: IpAddr, owner: &str) -> Result<()> {
        let mut entries = self.entries();
        let entry = entries.get_mut(network).ok_or_else(|| not_found(network))?;
        let pool = entry.pools.iter_mut().find(|p| p.subnet().contains(&address));
        match pool {
            Some(pool) => pool.reserve(address, owner).map_err(EngineError::part),
            None => Err(EngineError::Invalid(format!(
                "address {address} is in none of the subnets of network {}",
                entry.record.name
            ))),
        }
    }

    /// Whether somebody has an address.
    #[must_use]
    pub fn is_taken(&self, network: &NetworkId, address: IpAddr) -> bool {
        self.entries()
            .get(network)
            .is_some_and(|e| e.pools.iter().any(|p| p.used().any(|(used, _)| used == address)))
    }

    /// Gives an address back. Success when nobody had it.
    pub fn release(&self, network: &NetworkId, address: IpAddr) {
        if let Some(entry) = self.entries().get_mut(network) {
            entry.release(address);
        }
    }

    /// A subnet of the pools that no network has and nothing in `taken`.
    pub(super) fn choose_subnet(&self, taken: &[IpNet], v6: bool) -> Result<IpNet> {
        let mut taken = taken.to_vec();
        let entries = self.entries();
        let records = entries.values().map(|e| &e.record).filter(|r| !r.config_only);
        taken.extend(records.flat_map(|r| r.ipam.iter().map(|i| i.subnet)));
        choose_from(&self.pools, &taken, v6)
    }

    /// Puts a network into the store, then into the table, in the place of the
    /// one with its id. Its pools are empty. The caller holds `changes`.
    pub(super) async fn insert(&self, record: NetworkRecord) -> Result<Arc<NetworkRecord>> {
        let value = record.encode().map_err(EngineError::part)?;
        let entry = Entry::new(record)?;
        self.store.commit(Transaction::put(entry.record.key(), value)).await?;
        let record = Arc::clone(&entry.record);
        self.entries().insert(record.id.clone(), entry);
        Ok(record)
    }

    /// Takes a network out of the store and the table. The caller holds
    /// `changes`.
    pub(super) async fn delete(&self, record: &NetworkRecord) -> Result<()> {
        self.store.commit(Transaction::delete(record.key())).await?;
        self.entries().remove(&record.id);
        Ok(())
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<NetworkId, Entry>> {
        // Changed by single steps only: whole even after a panic elsewhere.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(network: &NetworkId) -> EngineError {
    EngineError::NotFound(format!("network {network} not found"))
}
