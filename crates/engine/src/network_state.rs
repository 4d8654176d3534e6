//! The networks that containers can join, and which addresses and ports of
//! the host are given out.
//!
//! Be aware:
//! - Network records are kept under `networks/<id>`; the three predefined ones
//!   keep their ids from start to start, their settings come from the
//!   configuration.
//! - Pools and the port table are nobody's record: they are rebuilt from the
//!   container records at start, so nothing can leak.
//! - The locks are held for one allocation, never across an await.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ipnet::IpNet;
use sampan_net::ipam::{IpamError, Pool};
use sampan_net::ports::host_user;
use sampan_net::{
    BridgeConfig, DriverConfig, NetworkSpec, PortError, PortRequest, PortTable, PublishedPort,
    Subnet,
};
use sampan_store::{Op, Store, Transaction};
use sampan_types::{ContainerId, NetworkId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::EngineConfig;
use crate::error::{EngineError, Result};

/// The store's prefix of network records.
pub const PREFIX: &str = "networks/";

/// The names of the networks that are always there.
pub const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// What the store keeps about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Id, name and driver with its options.
    pub spec: NetworkSpec,
    /// When it was made.
    pub created: Timestamp,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The options as given, for `inspect`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// The part of the subnet that addresses are taken from.
    #[serde(default)]
    pub range: Option<IpNet>,
    /// The containers' gateway, when it is not the bridge itself.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

impl NetworkRecord {
    /// The driver's name as the API shows it.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        match self.spec.driver {
            DriverConfig::Bridge(_) => "bridge",
            DriverConfig::Host => "host",
            DriverConfig::None => "null",
        }
    }

    /// The bridge's settings, when it is one.
    #[must_use]
    pub fn bridge(&self) -> Option<&BridgeConfig> {
        match &self.spec.driver {
            DriverConfig::Bridge(b) => Some(b),
            _ => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    network: NetworkRecord,
}

/// Networks, address pools and published ports.
#[derive(Debug, Default)]
pub struct NetworkState {
    /// Changed when a network is made or removed; read at every start.
    records: RwLock<BTreeMap<NetworkId, Arc<NetworkRecord>>>,
    pools: Mutex<HashMap<NetworkId, Pool>>,
    ports: Mutex<PortTable>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NetworkState {
    /// Reads the records and makes the predefined networks where they are
    /// missing.
    ///
    /// # Errors
    /// When the store fails, or the configured bridge makes no sense.
    pub async fn open(config: &EngineConfig, store: &dyn Store) -> Result<Self> {
        let mut known: BTreeMap<String, NetworkRecord> = BTreeMap::new();
        let listing = store.list(PREFIX).await?;
        let mut old = HashMap::new();
        for (key, value) in listing.entries {
            match serde_json::from_slice::<Envelope>(&value.value) {
                Ok(e) if e.version == 1 => {
                    old.insert(e.network.spec.name.clone(), value.value.clone());
                    known.insert(e.network.spec.name.clone(), e.network);
                }
                Ok(e) => tracing::error!(key, version = e.version, "network record is too new"),
                Err(e) => tracing::error!(key, error = %e, "network record is damaged"),
            }
        }
        let mut transaction = Transaction::default();
        for (name, wanted) in predefined(config) {
            match wanted {
                Some((driver, range, gateway)) => {
                    let record = known.entry(name.to_owned()).or_insert_with(|| fresh(name));
                    record.spec.driver = driver;
                    record.range = range;
                    record.gateway = gateway;
                }
                None => {
                    if let Some(gone) = known.remove(name) {
                        transaction.ops.push(Op::Delete { key: key(&gone.spec.id) });
                    }
                }
            }
        }
        for (name, record) in &known {
            let bytes = encode(record)?;
            if old.get(name) != Some(&bytes) {
                transaction.ops.push(Op::Put { key: key(&record.spec.id), value: bytes });
            }
        }
        if !transaction.ops.is_empty() {
            store.commit(transaction).await?;
        }
        let state = Self::default();
        for record in known.into_values() {
            state.insert(record)?;
        }
        Ok(state)
    }

    /// Adds a network to the table (not to the store) with its address pool.
    ///
    /// # Errors
    /// When subnet, range and gateway contradict each other.
    pub fn insert(&self, record: NetworkRecord) -> Result<()> {
        let id = record.spec.id.clone();
        if let Some(subnet) = record.bridge().and_then(|b| b.subnets.first()) {
            let aux = record
                .gateway
                .filter(|g| *g != subnet.gateway)
                .map(|g| ("gateway".to_owned(), g))
                .into_iter()
                .collect();
            let pool = Pool::new(subnet.net, record.range, Some(subnet.gateway), &aux)
                .map_err(EngineError::part)?;
            lock(&self.pools).insert(id.clone(), pool);
        }
        self.records
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::new(record));
        Ok(())
    }

    /// All networks, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<NetworkRecord>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The network with this id.
    #[must_use]
    pub fn get(&self, id: &NetworkId) -> Option<Arc<NetworkRecord>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The network with this name, whole id or unique beginning of an id.
    ///
    /// # Errors
    /// `network x not found`, or that the beginning is not unique.
    pub fn find(&self, text: &str) -> Result<Arc<NetworkRecord>> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = records.values().find(|r| r.spec.id.as_str() == text || r.spec.name == text);
        if let Some(found) = by_name {
            return Ok(Arc::clone(found));
        }
        let mut matching =
            records.values().filter(|r| !text.is_empty() && r.spec.id.as_str().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(found), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => Err(EngineError::Invalid(format!(
                "network {text} is ambiguous (2 or more matches found on ID prefix)"
            ))),
            _ => Err(EngineError::NotFound(format!("network {text} not found"))),
        }
    }

    /// What the networks' manager is opened with.
    #[must_use]
    pub fn specs(&self) -> Vec<NetworkSpec> {
        self.all().iter().map(|r| r.spec.clone()).collect()
    }

    /// An address on a network for a container; none on networks without
    /// addresses. With the length of its network and the gateway.
    ///
    /// # Errors
    /// No address left; the wanted one is taken or not in the subnet.
    pub fn allocate(
        &self,
        network: &NetworkRecord,
        prefer: Option<IpAddr>,
        owner: &str,
    ) -> Result<Option<(IpNet, Option<IpAddr>)>, IpamError> {
        let mut pools = lock(&self.pools);
        let Some(pool) = pools.get_mut(&network.spec.id) else { return Ok(None) };
        let address = pool.allocate(prefer, owner)?;
        let net = IpNet::new_assert(address, pool.subnet().prefix_len());
        let bridge = network.bridge().and_then(|b| b.subnets.first().map(|s| s.gateway));
        Ok(Some((net, network.gateway.or(bridge))))
    }

    /// Marks an address found in a record as taken.
    ///
    /// # Errors
    /// It is taken already, or not in the subnet.
    pub fn reserve(&self, network: &NetworkId, address: IpAddr, owner: &str) -> Result<(), IpamError> {
        match lock(&self.pools).get_mut(network) {
            Some(pool) => pool.reserve(address, owner),
            None => Ok(()),
        }
    }

    /// Gives an address back.
    pub fn release(&self, network: &NetworkId, address: IpAddr) {
        if let Some(pool) = lock(&self.pools).get_mut(network) {
            pool.release(address);
        }
    }

    /// Ports of the host for a container, all or none.
    ///
    /// # Errors
    /// A port is taken: the error names by whom.
    pub fn publish(
        &self,
        requests: &[PortRequest],
        owner: &str,
    ) -> Result<Vec<PublishedPort>, PortError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        lock(&self.ports).allocate(requests, owner, &host_user)
    }

    /// Marks ports found in a record as taken.
    ///
    /// # Errors
    /// One is taken already.
    pub fn reserve_ports(&self, ports: &[PublishedPort], owner: &str) -> Result<(), PortError> {
        lock(&self.ports).reserve(ports, owner)
    }

    /// Gives a container's ports back.
    pub fn unpublish(&self, owner: &str) {
        lock(&self.ports).release(owner);
    }

    /// Follows a rename, for messages.
    pub fn rename(&self, owner: &str, name: &str) {
        lock(&self.ports).rename(owner, name);
    }
}

/// Who has an address or a port, for messages.
#[must_use]
pub fn owner(id: &ContainerId) -> String {
    id.to_string()
}

fn key(id: &NetworkId) -> String {
    format!("{PREFIX}{id}")
}

fn encode(record: &NetworkRecord) -> Result<Vec<u8>> {
    serde_json::to_vec(&Envelope { version: 1, network: record.clone() }).map_err(|e| {
        EngineError::io("encode the record of network", &record.spec.name, std::io::Error::other(e))
    })
}

fn fresh(name: &str) -> NetworkRecord {
    NetworkRecord {
        spec: NetworkSpec {
            id: NetworkId::random(),
            name: name.to_owned(),
            driver: DriverConfig::None,
        },
        created: Timestamp::now(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        range: None,
        gateway: None,
    }
}

type Settings = (DriverConfig, Option<IpNet>, Option<IpAddr>);

/// The predefined networks; `None` where the configuration switches one off.
fn predefined(config: &EngineConfig) -> [(&'static str, Option<Settings>); 3] {
    let bridge = config.bridge.as_ref().map(|b| {
        let address = b.address.map_or_else(
            || IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)), 16),
            IpNet::from,
        );
        let subnet = Subnet { net: address.trunc(), gateway: address.addr() };
        let mut driver = BridgeConfig::new(b.name.clone(), subnet);
        driver.icc = b.icc;
        driver.masquerade = b.ip_masq;
        if let Some(mtu) = b.mtu {
            driver.mtu = mtu;
        }
        (DriverConfig::Bridge(driver), b.fixed_cidr.map(IpNet::from), b.gateway)
    });
    [
        ("bridge", bridge),
        ("host", Some((DriverConfig::Host, None, None))),
        ("none", Some((DriverConfig::None, None, None))),
    ]
}
