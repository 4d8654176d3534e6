//! Making a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_net::{BridgeConfig, DriverConfig, Subnet};
use sampan_types::docker::{IpamConfig, NetworkCreateRequest};
use sampan_types::{ErrorKind, EventType, NetworkId, NetworkName, Timestamp};
use serde_json::{Value, json};

use super::record::{IpamRecord, NetworkRecord, PREDEFINED};
use super::subnets;
use crate::{Engine, EngineError, Result};

impl Engine {
    /// Makes a network: `{"Id": …, "Warning": ""}`.
    ///
    /// # Errors
    /// A name in use, wrong or unsupported options, overlapping subnets.
    pub async fn network_create(&self, request: NetworkCreateRequest) -> Result<Value> {
        check_name(&request.name)?;
        check_kind(&request)?;
        let engine = self.clone();
        let network = self.detached(async move { engine.make_network(request).await }).await?;
        Ok(json!({ "Id": network, "Warning": "" }))
    }

    async fn make_network(&self, request: NetworkCreateRequest) -> Result<NetworkId> {
        let table = self.network_table();
        let _change = table.changes.lock().await;
        let all = table.all();
        if all.iter().any(|n| n.name == request.name) {
            return Err(EngineError::Conflict(format!(
                "network with name {} already exists",
                request.name
            )));
        }
        let ipam = match chosen_subnet(&request)? {
            Some(ipam) => ipam,
            None => {
                let subnet = table.choose_subnet()?;
                let gateway = subnets::first_host(&subnet).ok_or_else(|| {
                    EngineError::Invalid(format!("subnet {subnet} has no room for a gateway"))
                })?;
                let auxiliary = BTreeMap::new();
                IpamRecord { subnet, range: None, gateway, auxiliary, chosen: false }
            }
        };
        let taken = all.iter().flat_map(|n| n.ipam.iter().map(move |i| (n, i.subnet)));
        if let Some((other, subnet)) =
            taken.into_iter().find(|(_, subnet)| subnets::overlap(subnet, &ipam.subnet))
        {
            return Err(forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space: {} \
                 overlaps with {subnet} of network {}",
                ipam.subnet, other.name
            )));
        }
        let record = record(request, ipam)?;
        if let DriverConfig::Bridge(bridge) = &record.driver {
            bridge.validate(&record.name)?;
        }
        let record = table.insert(record).await?;
        crate::fault!("network-create:after-record");
        if let Err(error) = self.networks().create_network(record.spec()).await {
            if let Err(error) = table.delete(&record).await {
                tracing::error!(network = %record.name, %error, "the record of a network that could not be made stays");
            }
            return Err(error.into());
        }
        self.network_event(&record, "create");
        Ok(record.id.clone())
    }

    pub(super) fn network_event(&self, network: &NetworkRecord, action: &str) {
        let carried = [("name", network.name.as_str()), ("type", network.driver_name())];
        self.event_bus().publish(EventType::Network, action, network.id.as_str(), carried);
    }
}

fn check_name(name: &str) -> Result<()> {
    if PREDEFINED.contains(&name) || name == "default" {
        return Err(forbidden(format!("operation is not permitted on predefined {name} network")));
    }
    name.parse::<NetworkName>().map(|_| ()).map_err(|e| EngineError::Invalid(e.to_string()))
}

/// An error that answers 403 with Docker's words.
pub(super) fn forbidden(text: String) -> EngineError {
    EngineError::Part { kind: ErrorKind::Forbidden, context: String::new(), source: text.into() }
}

/// Refuses drivers and kinds of networks that are not made here.
fn check_kind(request: &NetworkCreateRequest) -> Result<()> {
    let driver = request.driver.as_deref().filter(|d| !d.is_empty()).unwrap_or("bridge");
    match driver {
        "bridge" => {}
        "host" | "null" => {
            return Err(forbidden(format!("only one instance of {driver:?} network is allowed")));
        }
        "overlay" | "ipvlan" | "macvlan" => {
            return Err(EngineError::NotSupported(format!(
                "network driver {driver} is not supported: use bridge"
            )));
        }
        other => {
            return Err(EngineError::NotFound(format!(
                "could not find plugin {other} in v1 plugin registry: plugin {other:?} not found"
            )));
        }
    }
    let ipam_driver = request.ipam.as_ref().and_then(|i| i.driver.as_deref()).unwrap_or_default();
    let config_from = request.config_from.as_ref().and_then(|c| c.network.as_deref());
    let unsupported = [
        (request.enable_ipv6.unwrap_or(false), "an IPv6 network"),
        (!request.enable_ipv4.unwrap_or(true), "a network without IPv4"),
        (request.ingress.unwrap_or(false), "an ingress network"),
        (request.config_only.unwrap_or(false), "a configuration-only network"),
        (config_from.is_some_and(|n| !n.is_empty()), "a network by the configuration of another"),
        (
            request.scope.as_deref().is_some_and(|s| !s.is_empty() && s != "local"),
            "a scope other than local",
        ),
        (!matches!(ipam_driver, "" | "default"), "an IPAM driver other than default"),
        (
            request.ipam.iter().flat_map(|i| i.options.iter().flatten()).next().is_some(),
            "an option of the IPAM driver",
        ),
    ];
    match unsupported.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(EngineError::NotSupported(format!(
            "network {}: {what} is not supported",
            request.name
        ))),
        None => Ok(()),
    }
}

/// The subnet that the request names.
fn chosen_subnet(request: &NetworkCreateRequest) -> Result<Option<IpamRecord>> {
    let configs = request.ipam.as_ref().and_then(|i| i.config.as_deref()).unwrap_or_default();
    let given = |c: &&IpamConfig| {
        let fields = [&c.subnet, &c.ip_range, &c.gateway];
        fields.iter().any(|f| f.as_deref().is_some_and(|t| !t.is_empty()))
            || c.auxiliary_addresses.as_ref().is_some_and(|a| !a.is_empty())
    };
    let configs: Vec<&IpamConfig> = configs.iter().filter(given).collect();
    match configs.as_slice() {
        [] => Ok(None),
        [config] => ipam(&request.name, config).map(Some),
        _ => Err(EngineError::NotSupported(format!(
            "network {}: several subnets are not supported: name one",
            request.name
        ))),
    }
}

fn ipam(name: &str, config: &IpamConfig) -> Result<IpamRecord> {
    let wrong = |what: &str, text: &str| {
        EngineError::Invalid(format!(
            "invalid network config:\ninvalid {what} {text}: invalid CIDR or address"
        ))
    };
    let text = |field: &Option<String>| field.clone().filter(|t| !t.is_empty());
    let Some(subnet) = text(&config.subnet) else {
        return Err(EngineError::Invalid(format!(
            "network {name}: a gateway, range or auxiliary address needs a subnet"
        )));
    };
    let subnet: IpNet = subnet.parse().map_err(|_| wrong("subnet", &subnet))?;
    if subnet.trunc() != subnet {
        return Err(EngineError::Invalid(format!(
            "invalid network config:\ninvalid subnet {subnet}: it should be {}",
            subnet.trunc()
        )));
    }
    let range = match text(&config.ip_range) {
        Some(text) => Some(text.parse::<IpNet>().map_err(|_| wrong("ip-range", &text))?.trunc()),
        None => None,
    };
    if let Some(range) = range.filter(|r| !subnet.contains(r)) {
        return Err(EngineError::Invalid(format!(
            "invalid network config:\ninvalid ip-range {range}: parent subnet is {subnet}"
        )));
    }
    let address = |what: &str, text: &str| -> Result<IpAddr> {
        let found: IpAddr = text.parse().map_err(|_| wrong(what, text))?;
        if subnet.contains(&found) {
            return Ok(found);
        }
        Err(EngineError::Invalid(format!(
            "invalid network config:\ninvalid {what} {text}: parent subnet is {subnet}"
        )))
    };
    let gateway = match text(&config.gateway) {
        Some(text) => address("gateway", &text)?,
        None => subnets::first_host(&range.unwrap_or(subnet))
            .ok_or_else(|| EngineError::Invalid(format!("subnet {subnet} has no room")))?,
    };
    let auxiliary: Result<BTreeMap<String, IpAddr>> = config
        .auxiliary_addresses
        .iter()
        .flatten()
        .map(|(name, text)| Ok((name.clone(), address("auxiliary address", text)?)))
        .collect();
    Ok(IpamRecord { subnet, range, gateway, auxiliary: auxiliary?, chosen: true })
}

/// The record, with the driver's options read.
fn record(request: NetworkCreateRequest, ipam: IpamRecord) -> Result<NetworkRecord> {
    let id = NetworkId::random();
    let options: BTreeMap<String, String> =
        request.options.unwrap_or_default().into_iter().collect();
    let subnet = Subnet { net: ipam.subnet, gateway: ipam.gateway };
    let mut bridge = BridgeConfig::new(BridgeConfig::name_for(&id), subnet);
    bridge.internal = request.internal.unwrap_or(false);
    for (key, value) in &options {
        set_option(&mut bridge, &request.name, key, value)?;
    }
    Ok(NetworkRecord {
        id,
        name: request.name,
        created: Timestamp::now(),
        driver: DriverConfig::Bridge(bridge),
        options,
        labels: request.labels.unwrap_or_default().into_iter().collect(),
        ipam: vec![ipam],
        ipam_options: BTreeMap::new(),
        internal: request.internal.unwrap_or(false),
        attachable: request.attachable.unwrap_or(false),
    })
}

fn set_option(bridge: &mut BridgeConfig, network: &str, key: &str, value: &str) -> Result<()> {
    let wrong = || {
        EngineError::Invalid(format!("network {network}: invalid value {value:?} of option {key}"))
    };
    let flag = || match value {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong()),
    };
    match key {
        "com.docker.network.bridge.name" => bridge.bridge = value.to_owned(),
        "com.docker.network.bridge.enable_icc" => bridge.icc = flag()?,
        "com.docker.network.bridge.enable_ip_masquerade" => bridge.masquerade = flag()?,
        "com.docker.network.driver.mtu" => bridge.mtu = value.parse().map_err(|_| wrong())?,
        "com.docker.network.bridge.host_binding_ipv4" if value == "0.0.0.0" => {}
        "com.docker.network.enable_ipv4" if flag()? => {}
        "com.docker.network.enable_ipv6" if !flag()? => {}
        _ => {
            return Err(EngineError::NotSupported(format!(
                "network {network}: option {key}={value} is not supported"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sampan_types::Kind;
    use sampan_types::docker::Ipam;

    use super::*;

    fn request(f: impl FnOnce(&mut NetworkCreateRequest)) -> NetworkCreateRequest {
        let mut request = NetworkCreateRequest { name: "mine".to_owned(), ..Default::default() };
        f(&mut request);
        request
    }

    #[test]
    fn names_and_drivers_are_checked() {
        let error = check_name("bridge").unwrap_err();
        assert_eq!(error.to_string(), "operation is not permitted on predefined bridge network");
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(check_name("a/b").is_err() && check_name("mine").is_ok());
        let kind = |driver: &str| {
            check_kind(&request(|r| r.driver = Some(driver.to_owned()))).unwrap_err()
        };
        assert_eq!(kind("host").to_string(), "only one instance of \"host\" network is allowed");
        assert_eq!(kind("host").kind(), ErrorKind::Forbidden);
        assert_eq!(kind("macvlan").kind(), ErrorKind::NotImplemented);
        assert_eq!(kind("nope").kind(), ErrorKind::NotFound);
        assert!(check_kind(&request(|_| ())).is_ok());
        assert!(check_kind(&request(|r| r.enable_ipv6 = Some(true))).is_err());
    }

    fn with(f: impl FnOnce(&mut IpamConfig)) -> Result<Option<IpamRecord>> {
        let mut config = IpamConfig::default();
        f(&mut config);
        let ipam = Ipam { config: Some(vec![config]), ..Default::default() };
        chosen_subnet(&request(|r| r.ipam = Some(ipam)))
    }

    #[test]
    fn subnets_are_read_and_checked() {
        assert_eq!(with(|_| ()).unwrap(), None);
        let text = |t: &str| Some(t.to_owned());
        let ipam = with(|c| c.subnet = text("10.5.0.0/24")).unwrap().unwrap();
        assert_eq!(ipam.gateway, "10.5.0.1".parse::<IpAddr>().unwrap());
        assert!(with(|c| c.subnet = text("10.5.0.1/24")).is_err());
        assert!(with(|c| c.subnet = text("x")).is_err());
        assert!(with(|c| c.gateway = text("10.5.0.1")).is_err());
        let outside = with(|c| {
            c.subnet = text("10.5.0.0/24");
            c.gateway = text("10.6.0.1");
        });
        assert!(outside.unwrap_err().to_string().contains("parent subnet is 10.5.0.0/24"));
        let range = with(|c| {
            c.subnet = text("10.5.0.0/16");
            c.ip_range = text("10.5.7.0/24");
        });
        assert_eq!(range.unwrap().unwrap().gateway, "10.5.7.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn options_are_read_or_refused() {
        let ipam = with(|c| c.subnet = Some("10.5.0.0/24".to_owned())).unwrap().unwrap();
        let made = |key: &str, value: &str| {
            let options = Some([(key.to_owned(), value.to_owned())].into());
            record(request(|r| r.options = options), ipam.clone())
        };
        let driver = |key: &str, value: &str| match made(key, value).unwrap().driver {
            DriverConfig::Bridge(bridge) => bridge,
            other => panic!("{other:?}"),
        };
        assert_eq!(driver("com.docker.network.bridge.name", "br7").bridge, "br7");
        assert_eq!(driver("com.docker.network.driver.mtu", "1400").mtu, 1400);
        assert!(!driver("com.docker.network.bridge.enable_icc", "false").icc);
        assert!(made("com.docker.network.driver.mtu", "big").is_err());
        assert_eq!(made("what", "ever").unwrap_err().kind(), ErrorKind::NotImplemented);
    }
}
