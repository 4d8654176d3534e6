//! All networks by id and name, with their address pools.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use sampan_net::ipam::Pool;
use sampan_net::{BridgeConfig as NetBridge, DriverConfig, NetworkSpec, Subnet};
use sampan_store::{Op, Store, Transaction};
use sampan_types::{NetworkId, Timestamp, looks_like_id_prefix};

use super::record::{IpamRecord, NetworkRecord, PREFIX};
use super::subnets;
use crate::config::{BridgeConfig, EngineConfig};
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
        let pools = record
            .ipam
            .iter()
            .map(|i| Pool::new(i.subnet, i.range, Some(i.gateway), &i.auxiliary))
            .collect::<std::result::Result<_, _>>()
            .map_err(EngineError::part)?;
        Ok(Self { record: Arc::new(record), pools })
    }
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
        let pools = if config.address_pools.is_empty() {
            subnets::default_pools()
        } else {
            config.address_pools.clone()
        };
        let mut ops = Vec::new();
        for record in predefined(config.bridge.as_ref(), &pools, &records)? {
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
        self.entries().values().map(|e| e.record.spec()).collect()
    }

    /// Takes an address of each of the network's subnets for `owner` (an
    /// endpoint's or container's id); `prefer` names those that must be taken.
    /// None for the drivers host and none. All or nothing.
    ///
    /// # Errors
    /// No such network, no address left, an address in use or in no subnet.
    pub fn allocate(
        &self,
        network: &NetworkId,
        prefer: &[IpAddr],
        owner: &str,
    ) -> Result<Vec<IpAddr>> {
        let mut entries = self.entries();
        let entry = entries.get_mut(network).ok_or_else(|| not_found(network))?;
        let inside = |a: &&IpAddr| entry.pools.iter().any(|p| p.subnet().contains(*a));
        if let Some(stray) = prefer.iter().find(|a| !inside(a)) {
            return Err(EngineError::Invalid(format!(
                "invalid address {stray}: it is in none of the subnets of network {}",
                entry.record.name
            )));
        }
        let mut taken: Vec<IpAddr> = Vec::new();
        for at in 0..entry.pools.len() {
            let subnet = entry.pools[at].subnet();
            let wanted = prefer.iter().find(|a| subnet.contains(*a)).copied();
            match entry.pools[at].allocate(wanted, owner) {
                Ok(address) => taken.push(address),
                Err(error) => {
                    for (pool, address) in entry.pools.iter_mut().zip(taken) {
                        pool.release(address);
                    }
                    return Err(EngineError::part(error));
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

    /// Gives an address back. Success when nobody had it.
    pub fn release(&self, network: &NetworkId, address: IpAddr) {
        if let Some(entry) = self.entries().get_mut(network) {
            for pool in entry.pools.iter_mut().filter(|p| p.subnet().contains(&address)) {
                pool.release(address);
            }
        }
    }

    /// A subnet that no network and no route of the host has.
    pub(super) fn choose_subnet(&self) -> Result<IpNet> {
        let mut taken = host_routes("");
        taken.extend(self.entries().values().flat_map(|e| e.record.ipam.iter().map(|i| i.subnet)));
        subnets::choose(&self.pools, &taken).ok_or_else(no_subnet)
    }

    /// Puts a network into the store, then into the table. The caller holds
    /// `changes`.
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

fn no_subnet() -> EngineError {
    EngineError::Invalid(
        "all predefined address pools have been fully subnetted; remove networks, name a subnet, \
         or start the daemon with another --default-address-pool"
            .to_owned(),
    )
}

/// The destinations of the host's routes, but for those of one interface.
fn host_routes(except: &str) -> Vec<IpNet> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    subnets::routes(&table, except)
}

/// The records of the networks that are always there: with the id, the age
/// and, unless the configuration says otherwise, the subnet that they had.
fn predefined(
    bridge: Option<&BridgeConfig>,
    pools: &[(IpNet, u8)],
    old: &[NetworkRecord],
) -> Result<Vec<NetworkRecord>> {
    let mut records = Vec::new();
    if let Some(config) = bridge {
        records.push(default_bridge(config, pools, old)?);
    }
    for (name, driver) in [("host", DriverConfig::Host), ("none", DriverConfig::None)] {
        records.push(blank(name, driver, old));
    }
    Ok(records)
}

fn blank(name: &str, driver: DriverConfig, old: &[NetworkRecord]) -> NetworkRecord {
    let old = old.iter().find(|r| r.name == name);
    NetworkRecord {
        id: old.map_or_else(NetworkId::random, |r| r.id.clone()),
        name: name.to_owned(),
        created: old.map_or_else(Timestamp::now, |r| r.created),
        driver,
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        ipam: Vec::new(),
        ipam_options: BTreeMap::new(),
        internal: false,
        attachable: false,
    }
}

fn default_bridge(
    config: &BridgeConfig,
    pools: &[(IpNet, u8)],
    old: &[NetworkRecord],
) -> Result<NetworkRecord> {
    if let Some(gateway) = config.gateway {
        return Err(EngineError::NotSupported(format!(
            "default gateway {gateway}: only the bridge's own address can be the containers' \
             gateway; set that with --bip"
        )));
    }
    let before = old.iter().find(|r| r.name == "bridge").and_then(|r| r.ipam.first());
    let (subnet, gateway) = match (config.address, before) {
        (Some(address), _) => (IpNet::V4(address.trunc()), IpAddr::V4(address.addr())),
        (None, Some(before)) if !before.chosen => (before.subnet, before.gateway),
        (None, _) => {
            let mut taken = host_routes(&config.name);
            taken.extend(
                old.iter()
                    .filter(|r| r.name != "bridge")
                    .flat_map(|r| r.ipam.iter().map(|i| i.subnet)),
            );
            let subnet = subnets::choose(pools, &taken).ok_or_else(no_subnet)?;
            let gateway = subnets::first_host(&subnet);
            (subnet, gateway.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
        }
    };
    let range = config.fixed_cidr.map(|r| IpNet::V4(r.trunc()));
    if let Some(range) = range.filter(|r| !subnet.contains(r)) {
        return Err(EngineError::Invalid(format!(
            "--fixed-cidr {range} is not within the default bridge's subnet {subnet}"
        )));
    }
    let mtu = config.mtu.unwrap_or(1500);
    let mut net = NetBridge::new(&config.name, Subnet { net: subnet, gateway });
    net.mtu = mtu;
    net.icc = config.icc;
    net.masquerade = config.ip_masq;
    net.validate("bridge").map_err(EngineError::part)?;
    let mut record = blank("bridge", DriverConfig::Bridge(net), old);
    record.ipam.push(IpamRecord {
        subnet,
        range,
        gateway,
        auxiliary: BTreeMap::new(),
        chosen: config.address.is_some(),
    });
    let options = [
        ("com.docker.network.bridge.default_bridge", "true".to_owned()),
        ("com.docker.network.bridge.enable_icc", config.icc.to_string()),
        ("com.docker.network.bridge.enable_ip_masquerade", config.ip_masq.to_string()),
        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0".to_owned()),
        ("com.docker.network.bridge.name", config.name.clone()),
        ("com.docker.network.driver.mtu", mtu.to_string()),
    ];
    record.options = options.map(|(k, v)| (k.to_owned(), v)).into();
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::super::PREDEFINED;
    use super::*;

    fn pools() -> Vec<(IpNet, u8)> {
        vec![("10.201.0.0/16".parse().unwrap(), 24)]
    }

    #[test]
    fn predefined_networks_keep_id_and_subnet() {
        let config = BridgeConfig::default();
        let first = predefined(Some(&config), &pools(), &[]).unwrap();
        assert_eq!(first.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), PREDEFINED);
        assert_eq!(first[0].ipam[0].subnet, "10.201.0.0/24".parse().unwrap());
        let again = predefined(Some(&config), &pools(), &first).unwrap();
        assert_eq!(first, again);
        let bip = BridgeConfig { address: Some("10.9.0.1/24".parse().unwrap()), ..config };
        let moved = predefined(Some(&bip), &pools(), &again).unwrap();
        assert_eq!(moved[0].id, first[0].id);
        assert_eq!(moved[0].ipam[0].gateway, "10.9.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(predefined(None, &pools(), &[]).unwrap().len(), 2);
    }

    #[test]
    fn a_wrong_bridge_is_refused() {
        let fixed = BridgeConfig {
            address: Some("10.9.0.1/24".parse().unwrap()),
            fixed_cidr: Some("10.8.0.0/24".parse().unwrap()),
            ..BridgeConfig::default()
        };
        let error = predefined(Some(&fixed), &pools(), &[]).unwrap_err();
        assert!(error.to_string().contains("--fixed-cidr"), "{error}");
    }

    #[test]
    fn records_are_read_back() {
        let records = predefined(Some(&BridgeConfig::default()), &pools(), &[]).unwrap();
        for record in records {
            let bytes = record.encode().unwrap();
            assert_eq!(NetworkRecord::decode(&record.key(), &bytes).unwrap(), record);
        }
        let newer = NetworkRecord::decode("networks/x", br#"{"version":9}"#).unwrap_err();
        assert!(newer.to_string().contains("version 9"));
    }
}
