//! From a driver's name and options to its typed configuration.

use std::collections::BTreeMap;

use sampan_net::{BridgeConfig, DriverConfig, IpvlanConfig, MacvlanConfig, Subnet};
use sampan_types::NetworkId;

use super::{forbidden, options, plugins};
use crate::{Engine, EngineError, Result};

/// What a driver's configuration is made from.
#[derive(Debug)]
pub(super) struct DriverInput<'a> {
    /// The driver's name.
    pub(super) driver: &'a str,
    /// The network's id and name.
    pub(super) id: &'a NetworkId,
    pub(super) name: &'a str,
    /// The options that are the driver's.
    pub(super) options: BTreeMap<String, String>,
    pub(super) subnets: Vec<Subnet>,
    pub(super) internal: bool,
}

/// Refuses drivers whose networks nobody makes.
pub(super) fn check(driver: &str) -> Result<()> {
    match driver {
        "host" | "null" => {
            Err(forbidden(format!("only one instance of {driver:?} network is allowed")))
        }
        "overlay" => Err(EngineError::NotSupported(
            "network driver overlay is not supported: it needs a cluster".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Whether a network of this driver is one of the networks that its parent is
/// on: then the host has a route to its subnet, as it should be.
pub(super) fn shares_lan(driver: &str) -> bool {
    !matches!(driver, "bridge")
}

impl Engine {
    /// A driver's configuration, with every option checked.
    pub(super) async fn driver_config(&self, input: DriverInput<'_>) -> Result<DriverConfig> {
        match input.driver {
            "bridge" => bridge(input),
            "macvlan" => {
                let DriverInput { name, options, subnets, internal, .. } = input;
                let config = MacvlanConfig::parse(name, &options, subnets, internal)?;
                Ok(DriverConfig::Macvlan(config))
            }
            "ipvlan" => {
                let DriverInput { name, options, subnets, internal, .. } = input;
                let config = IpvlanConfig::parse(name, &options, subnets, internal)?;
                Ok(DriverConfig::Ipvlan(config))
            }
            _ => plugins::driver(self, input).await,
        }
    }
}

fn bridge(input: DriverInput<'_>) -> Result<DriverConfig> {
    let DriverInput { id, name, options, subnets, internal, .. } = input;
    let Some(first) = subnets.first().copied() else {
        return Err(EngineError::Invalid(format!("network {name}: a bridge needs a subnet")));
    };
    let mut bridge = BridgeConfig::new(BridgeConfig::name_for(id), first);
    bridge.subnets = subnets;
    bridge.internal = internal;
    options::bridge(&mut bridge, name, &options)?;
    bridge.validate(name)?;
    Ok(DriverConfig::Bridge(bridge))
}
