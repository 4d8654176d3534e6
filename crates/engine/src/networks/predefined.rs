//! The networks that are always there: bridge, host and none.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sampan_net::ipam::first_host;
use sampan_net::{BridgeConfig as NetBridge, DriverConfig, Subnet};
use sampan_types::{NetworkId, Timestamp};

use super::create::choose_from;
use super::host_routes;
use super::record::{IpamRecord, NetworkRecord};
use crate::config::BridgeConfig;
use crate::{EngineError, Result};

/// The records of the networks that are always there: with the id, the age
/// and, unless the configuration says otherwise, the subnet that they had.
pub(super) async fn predefined(
    bridge: Option<&BridgeConfig>,
    pools: &[(IpNet, u8)],
    old: &[NetworkRecord],
) -> Result<Vec<NetworkRecord>> {
    let mut records = Vec::new();
    if let Some(config) = bridge {
        records.push(default_bridge(config, pools, old).await?);
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
        ipv4: !matches!(name, "host" | "none"),
        ipv6: false,
        config_only: false,
        config_from: None,
        ipam_driver: None,
    }
}

async fn default_bridge(
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
            let routes = tokio::task::spawn_blocking(host_routes::host_routes).await;
            let routes = routes.map_err(|e| EngineError::Fault(e.to_string()))?;
            let mut taken = host_routes::networks(&routes, &config.name);
            let others = old.iter().filter(|r| r.name != "bridge" && !r.config_only);
            taken.extend(others.flat_map(|r| r.ipam.iter().map(|i| i.subnet)));
            let subnet = choose_from(pools, &taken, false)?;
            let gateway = first_host(&subnet);
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
        pool: None,
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

    #[tokio::test]
    async fn predefined_networks_keep_id_and_subnet() {
        let config = BridgeConfig::default();
        let first = predefined(Some(&config), &pools(), &[]).await.unwrap();
        assert_eq!(first.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), PREDEFINED);
        assert_eq!(first[0].ipam[0].subnet, "10.201.0.0/24".parse().unwrap());
        let again = predefined(Some(&config), &pools(), &first).await.unwrap();
        assert_eq!(first, again);
        let bip = BridgeConfig { address: Some("10.9.0.1/24".parse().unwrap()), ..config };
        let moved = predefined(Some(&bip), &pools(), &again).await.unwrap();
        assert_eq!(moved[0].id, first[0].id);
        assert_eq!(moved[0].ipam[0].gateway, "10.9.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(predefined(None, &pools(), &[]).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_wrong_bridge_is_refused() {
        let fixed = BridgeConfig {
            address: Some("10.9.0.1/24".parse().unwrap()),
            fixed_cidr: Some("10.8.0.0/24".parse().unwrap()),
            ..BridgeConfig::default()
        };
        let error = predefined(Some(&fixed), &pools(), &[]).await.unwrap_err();
        assert!(error.to_string().contains("--fixed-cidr"), "{error}");
    }

    #[tokio::test]
    async fn records_are_read_back() {
        let records = predefined(Some(&BridgeConfig::default()), &pools(), &[]).await.unwrap();
        for record in records {
            let bytes = record.encode().unwrap();
            assert_eq!(NetworkRecord::decode(&record.key(), &bytes).unwrap(), record);
        }
        let newer = NetworkRecord::decode("networks/x", br#"{"version":9}"#).unwrap_err();
        assert!(newer.to_string().contains("version 9"));
    }
}
