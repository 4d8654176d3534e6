//! What the store keeps about a network, in a versioned envelope.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_net::{DriverConfig, NetworkSpec};
use sampan_types::{NetworkId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, RecordError};

/// The names of the networks that are always there.
pub const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// The store's prefix of network records.
pub(super) const PREFIX: &str = "networks/";

const ENVELOPE: Envelope = Envelope { noun: "network", version: 1 };

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its id; also the predefined networks' stay the same over restarts.
    pub id: NetworkId,
    /// Its unique name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The driver and what the kernel's part needs.
    pub driver: DriverConfig,
    /// The driver's options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Its subnets.
    pub ipam: Vec<IpamRecord>,
    /// The options of address management as the user gave them.
    pub ipam_options: BTreeMap<String, String>,
    /// No way in or out.
    pub internal: bool,
    /// The user's `--attachable`: only shown.
    pub attachable: bool,
    /// Whether containers on it have IPv4 addresses.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// Whether containers on it have IPv6 addresses.
    #[serde(default)]
    pub ipv6: bool,
    /// Whether it is a configuration for others (`--config-only`) and nothing
    /// in the kernel.
    #[serde(default)]
    pub config_only: bool,
    /// The network whose configuration it has (`--config-from`).
    #[serde(default)]
    pub config_from: Option<String>,
    /// The plugin that manages its addresses; none when that is done here.
    #[serde(default)]
    pub ipam_driver: Option<String>,
}

fn yes() -> bool {
    true
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamRecord {
    /// The subnet.
    pub subnet: IpNet,
    /// Where addresses come from when none is asked for.
    pub range: Option<IpNet>,
    /// The host's address on the bridge.
    pub gateway: IpAddr,
    /// Addresses that are used by something else, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether the user chose the subnet; only then may containers ask for
    /// addresses in it.
    pub chosen: bool,
    /// What the plugin that manages it calls it.
    #[serde(default)]
    pub pool: Option<String>,
}

impl NetworkRecord {
    /// Whether it is one of those that are always there.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.contains(&self.name.as_str())
    }

    /// The driver's name.
    #[must_use]
    pub fn driver_name(&self) -> &str {
        match &self.driver {
            DriverConfig::Bridge(_) => "bridge",
            DriverConfig::Host => "host",
            DriverConfig::None => "null",
            DriverConfig::Macvlan(_) => "macvlan",
            DriverConfig::Ipvlan(_) => "ipvlan",
            DriverConfig::Remote(remote) => &remote.plugin,
            DriverConfig::Cni(_) => "cni",
        }
    }

    /// What the kernel's part is told.
    #[must_use]
    pub fn spec(&self) -> NetworkSpec {
        NetworkSpec { id: self.id.clone(), name: self.name.clone(), driver: self.driver.clone() }
    }

    pub(super) fn key(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        ENVELOPE.encode(|| self.key(), self)
    }

    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        ENVELOPE.decode(key, bytes)
    }
}
