//! The networks that are always there: bridge, host and none.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sampan_net::ipam::first_host;
use sampan_net::{BridgeConfig as NetBridge, DriverConfig, Subnet};
use sampan_types::{NetworkId, Timestamp};

use super::create::{choose_from, default_pool6};
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
    let others: Vec<NetworkRecord> = [("host", DriverConfig::Host), ("none", DriverConfig::None)]
        .map(|(name, driver)| blank(name, driver, old))
        .into();
    let mut records = Vec::new();
    if let Some(config) = bridge {
        let mut pools = pools.to_vec();
        // The networks that are always there have ids that no other host has.
        pools.push(default_pool6(&others[0].id));
        records.push(default_bridge(config, &pools, old).await?);
    }
    records.extend(others);
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
    let mut ipam = vec![subnet4(config, pools, old).await?];
    if config.ipv6 {
        ipam.push(subnet6(config, pools, old).await?);
    }
    let mtu = config.mtu.unwrap_or(1500);
    let subnets = ipam.iter().map(|i| Subnet { net: i.subnet, gateway: i.gateway });
    let mut net = NetBridge::new(&config.name, subnets.clone().next().ok_or_else(no_subnet)?);
    net.subnets = subnets.collect();
    net.mtu = mtu;
    net.icc = config.icc;
    net.masquerade = config.ip_masq;
    net.validate("bridge").map_err(EngineError::part)?;
    let mut record = blank("bridge", DriverConfig::Bridge(net), old);
    (record.ipam, record.ipv6) = (ipam, config.ipv6);
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

fn no_subnet() -> EngineError {
    EngineError::Fault("the default bridge has no subnet".to_owned())
}

/// The default bridge's IPv4 subnet.
async fn subnet4(
    config: &BridgeConfig,
    pools: &[(IpNet, u8)],
    old: &[NetworkRecord],
) -> Result<IpamRecord> {
    let (subnet, gateway) = match (config.address, before(old, false)) {
        (Some(address), _) => (IpNet::V4(address.trunc()), IpAddr::V4(address.addr())),
        (None, Some(before)) if !before.chosen => (before.subnet, before.gateway),
        (None, _) => chosen_here(config, pools, old, false).await?,
    };
    let range = config.fixed_cidr.map(|r| IpNet::V4(r.trunc()));
    if let Some(range) = range.filter(|r| !subnet.contains(r)) {
        return Err(EngineError::Invalid(format!(
            "--fixed-cidr {range} is not within the default bridge's subnet {subnet}"
        )));
    }
    Ok(record(subnet, gateway, range, config.address.is_some()))
}

/// The default bridge's IPv6 subnet: what is configured, else the one that it
/// had, else one of the pools.
async fn subnet6(
    config: &BridgeConfig,
    pools: &[(IpNet, u8)],
    old: &[NetworkRecord],
) -> Result<IpamRecord> {
    let fixed = config.fixed_cidr6.map(|r| IpNet::V6(r.trunc()));
    let (subnet, gateway, range) = match (config.address6, fixed, before(old, true)) {
        (Some(address), range, _) => {
            (IpNet::V6(address.trunc()), IpAddr::V6(address.addr()), range)
        }
        (None, Some(subnet), _) => {
            let gateway = first_host(&subnet).ok_or_else(no_subnet)?;
            (subnet, gateway, None)
        }
        (None, None, Some(before)) if !before.chosen => (before.subnet, before.gateway, None),
        (None, None, _) => {
            let (subnet, gateway) = chosen_here(config, pools, old, true).await?;
            (subnet, gateway, None)
        }
    };
    if let Some(range) = range.filter(|r| !subnet.contains(r)) {
        return Err(EngineError::Invalid(format!(
            "--fixed-cidr-v6 {range} is not within the default bridge's subnet {subnet}"
        )));
    }
    Ok(record(subnet, gateway, range, config.address6.is_some() || fixed.is_some()))
}

/// The subnet of a family that the default bridge had.
fn before(old: &[NetworkRecord], v6: bool) -> Option<&IpamRecord> {
    let bridge = old.iter().find(|r| r.name == "bridge")?;
    bridge.ipam.iter().find(|i| i.subnet.addr().is_ipv6() == v6)
}

/// A subnet of the pools that nothing else has, with its gateway.
async fn chosen_here(
    config: &BridgeConfig,
    pools: &[(IpNet, u8)],
    old: &[NetworkRecord],
    v6: bool,
) -> Result<(IpNet, IpAddr)> {
    let routes = tokio::task::spawn_blocking(host_routes::host_routes).await;
    let routes = routes.map_err(|e| EngineError::Fault(e.to_string()))?;
    let mut taken = host_routes::networks(&routes, &config.name);
    let others = old.iter().filter(|r| r.name != "bridge" && !r.config_only);
    taken.extend(others.flat_map(|r| r.ipam.iter().map(|i| i.subnet)));
    let subnet = choose_from(pools, &taken, v6)?;
    Ok((subnet, first_host(&subnet).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
}

fn record(subnet: IpNet, gateway: IpAddr, range: Option<IpNet>, chosen: bool) -> IpamRecord {
    IpamRecord { subnet, range, gateway, auxiliary: BTreeMap::new(), chosen, pool: None }
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
    async fn the_bridge_has_ipv6_when_it_is_asked_for() {
        let four = predefined(Some(&BridgeConfig::default()), &pools(), &[]).await.unwrap();
        assert!(!four[0].ipv6 && four[0].ipam.len() == 1);
        let six = BridgeConfig { ipv6: true, ..BridgeConfig::default() };
        let both = predefined(Some(&six), &pools(), &four).await.unwrap();
        assert!(both[0].ipv6);
        assert_eq!(both[0].ipam[0], four[0].ipam[0], "IPv4 stays as it was");
        let own = both[0].ipam[1].subnet;
        assert!(own.to_string().starts_with("fd") && own.prefix_len() == 64, "{own}");
        assert_eq!(predefined(Some(&six), &pools(), &both).await.unwrap(), both);

        let cidr = "fd00:9::/64".parse().ok();
        let fixed = BridgeConfig { fixed_cidr6: cidr, ..six.clone() };
        let fixed = predefined(Some(&fixed), &pools(), &both).await.unwrap();
        let shown = |r: &IpamRecord| (r.subnet.to_string(), r.gateway.to_string(), r.range);
        let expected = ("fd00:9::/64".to_owned(), "fd00:9::1".to_owned(), None);
        assert_eq!(shown(&fixed[0].ipam[1]), expected);
        let bip = BridgeConfig {
            address6: "fd00:9::ff/48".parse().ok(),
            fixed_cidr6: "fd00:9:0:5::/64".parse().ok(),
            ..six.clone()
        };
        let bip = predefined(Some(&bip), &pools(), &fixed).await.unwrap();
        let range = "fd00:9:0:5::/64".parse().ok();
        let expected = ("fd00:9::/48".to_owned(), "fd00:9::ff".to_owned(), range);
        assert_eq!(shown(&bip[0].ipam[1]), expected);
        // What was configured is not taken for one's own choice.
        let back = predefined(Some(&six), &pools(), &bip).await.unwrap();
        assert_eq!(back[0].ipam[1].subnet, own);
        let wrong =
            BridgeConfig { address6: "fd00:1::1/64".parse().ok(), fixed_cidr6: cidr, ..six };
        let error = predefined(Some(&wrong), &pools(), &[]).await.unwrap_err();
        assert!(error.to_string().contains("--fixed-cidr-v6"), "{error}");
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
