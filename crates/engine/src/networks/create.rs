//! Making a network.
//!
//! Be aware: everything that a request says is checked before anything is
//! written, and the record is written before the kernel is touched. A network
//! that the kernel refuses leaves no record.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sampan_net::ipam::{ULA_SUBNET, choose, ula};
use sampan_net::{DriverConfig, Subnet};
use sampan_types::docker::NetworkCreateRequest;
use sampan_types::{EventType, NetworkId, NetworkName, Timestamp};
use serde_json::{Value, json};

use super::drivers::{self, DriverInput};
use super::host_routes::{self, HostRoute};
use super::ipam::{self, Families};
use super::ipam_plugin::Ipam;
use super::record::{IpamRecord, NetworkRecord, PREDEFINED};
use super::{forbidden, options, plugins};
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

    async fn make_network(&self, mut request: NetworkCreateRequest) -> Result<NetworkId> {
        let table = self.network_table();
        let _change = table.changes.lock().await;
        let all = table.all();
        if all.iter().any(|n| n.name == request.name) {
            return Err(EngineError::Conflict(format!(
                "network with name {} already exists",
                request.name
            )));
        }
        let config_from = config_from(&request);
        if let Some(from) = &config_from {
            let found = all.iter().find(|n| n.config_only && n.name == *from);
            let found = found.ok_or_else(|| {
                EngineError::NotFound(format!("configuration network {from:?} not found"))
            })?;
            inherit(&mut request, found)?;
        }
        let mut record = self.draft_network(&request).await?;
        record.config_from = config_from;
        crate::fault!("network-create:before-record");
        let draft = record.clone();
        let record = match table.insert(record).await {
            Ok(record) => record,
            Err(error) => {
                self.release_pools(&draft).await;
                return Err(error);
            }
        };
        crate::fault!("network-create:after-record");
        if !record.config_only {
            if let Err(error) = self.networks().create_network(record.spec()).await {
                if let Err(error) = table.delete(&record).await {
                    tracing::error!(network = %record.name, %error, "the record of a network that could not be made stays");
                }
                self.release_pools(&record).await;
                return Err(error.into());
            }
            crate::fault!("network-create:after-kernel");
        }
        self.network_event(&record, "create");
        Ok(record.id.clone())
    }

    /// The record of a network, with everything chosen and checked. The caller
    /// holds `changes`.
    async fn draft_network(&self, request: &NetworkCreateRequest) -> Result<NetworkRecord> {
        let ipam_options: BTreeMap<String, String> =
            request.ipam.iter().flat_map(|i| i.options.clone()).flatten().collect();
        let ipam = match ipam_driver(request) {
            Some(driver) => Some(Ipam::find(self, &driver, ipam_options.clone()).await?),
            None => None,
        };
        let (id, driver) = (NetworkId::random(), driver_name(request).to_owned());
        let config_only = request.config_only.unwrap_or(false);
        let mut subnets = ipam::named(request)?;
        let families = ipam::families(request, &subnets)?;
        let mut config = DriverConfig::None;
        if !config_only {
            let routes = self.blocking(|| Ok(host_routes::host_routes())).await?;
            if let Some(plugin) = &ipam {
                subnets = plugin.pools(subnets, families).await?;
            } else if driver != plugins::CNI {
                self.complete_subnets(&mut subnets, families, &routes)?;
            }
            let fitted = self.fit_network(request, &id, &subnets, &routes).await;
            if let (Some(plugin), Err(_)) = (&ipam, &fitted) {
                plugin.give_back(&subnets).await;
            }
            config = fitted?;
        }
        Ok(NetworkRecord {
            id,
            name: request.name.clone(),
            created: Timestamp::now(),
            driver: config,
            options: options_of(request),
            labels: request.labels.clone().unwrap_or_default().into_iter().collect(),
            ipam: subnets,
            ipam_options,
            internal: request.internal.unwrap_or(false),
            attachable: request.attachable.unwrap_or(false),
            ipv4: families.v4,
            ipv6: families.v6,
            config_only,
            config_from: None,
            ipam_driver: ipam_driver(request),
        })
    }

    /// The driver's configuration, for subnets that nothing else has.
    async fn fit_network(
        &self,
        request: &NetworkCreateRequest,
        id: &NetworkId,
        subnets: &[IpamRecord],
        routes: &[HostRoute],
    ) -> Result<DriverConfig> {
        let (name, driver) = (request.name.as_str(), driver_name(request));
        let options = options_of(request);
        ipam::check_networks(subnets, self.network_table().all().iter().map(|n| &**n))?;
        if !drivers::shares_lan(driver) && !options::allows_overlap(name, &options)? {
            let own = options.get("com.docker.network.bridge.name");
            let chosen: Vec<IpamRecord> = subnets.iter().filter(|s| s.chosen).cloned().collect();
            ipam::check_routes(&chosen, routes, own.map_or("", String::as_str))?;
        }
        let subnets =
            subnets.iter().map(|i| Subnet { net: i.subnet, gateway: i.gateway }).collect();
        let options = options::of_driver(&options);
        let internal = request.internal.unwrap_or(false);
        self.driver_config(DriverInput { driver, id, name, options, subnets, internal }).await
    }

    /// Adds a subnet of each family that is asked for and has none.
    pub(super) fn complete_subnets(
        &self,
        subnets: &mut Vec<IpamRecord>,
        families: Families,
        routes: &[HostRoute],
    ) -> Result<()> {
        let mut taken = host_routes::networks(routes, "");
        for (wanted, v6) in [(families.v4, false), (families.v6, true)] {
            if !wanted || subnets.iter().any(|s| s.subnet.addr().is_ipv6() == v6) {
                continue;
            }
            taken.extend(subnets.iter().map(|s| s.subnet));
            let subnet = self.network_table().choose_subnet(&taken, v6)?;
            subnets.push(ipam::unnamed(subnet)?);
        }
        subnets.sort_by_key(|s| s.subnet.addr().is_ipv6());
        Ok(())
    }

    pub(super) fn network_event(&self, network: &NetworkRecord, action: &str) {
        let carried = [("name", network.name.as_str()), ("type", network.driver_name())];
        self.event_bus().publish(EventType::Network, action, network.id.as_str(), carried);
    }
}

/// The pool that IPv6 subnets come from when the configuration names none.
pub(super) fn default_pool6(instance: &NetworkId) -> (IpNet, u8) {
    (ula(instance.as_str()), ULA_SUBNET)
}

/// A subnet of the pools that nothing in `taken` overlaps.
pub(super) fn choose_from(pools: &[(IpNet, u8)], taken: &[IpNet], v6: bool) -> Result<IpNet> {
    choose(pools, taken, v6).ok_or_else(|| {
        EngineError::Invalid(
            "all predefined address pools have been fully subnetted; remove networks, name a \
             subnet, or start the daemon with another --default-address-pool"
                .to_owned(),
        )
    })
}

fn check_name(name: &str) -> Result<()> {
    if PREDEFINED.contains(&name) || name == "default" {
        return Err(forbidden(format!("operation is not permitted on predefined {name} network")));
    }
    name.parse::<NetworkName>().map(|_| ()).map_err(|e| EngineError::Invalid(e.to_string()))
}

fn options_of(request: &NetworkCreateRequest) -> BTreeMap<String, String> {
    request.options.clone().unwrap_or_default().into_iter().collect()
}

fn driver_name(request: &NetworkCreateRequest) -> &str {
    request.driver.as_deref().filter(|d| !d.is_empty()).unwrap_or("bridge")
}

/// The plugin that shall manage the addresses.
fn ipam_driver(request: &NetworkCreateRequest) -> Option<String> {
    let driver = request.ipam.as_ref()?.driver.clone()?;
    (!matches!(driver.as_str(), "" | "default")).then_some(driver)
}

fn config_from(request: &NetworkCreateRequest) -> Option<String> {
    request.config_from.as_ref().and_then(|c| c.network.clone()).filter(|n| !n.is_empty())
}

/// Refuses kinds of networks that are not made here.
fn check_kind(request: &NetworkCreateRequest) -> Result<()> {
    drivers::check(driver_name(request))?;
    let config_only = request.config_only.unwrap_or(false);
    if config_only && config_from(request).is_some() {
        return Err(forbidden(
            "a configuration network cannot depend on another configuration network".to_owned(),
        ));
    }
    let ipam = request.ipam.as_ref();
    let option = ipam.and_then(|i| i.options.as_ref()).and_then(|o| o.iter().next());
    if let Some((key, _)) = option.filter(|_| ipam_driver(request).is_none()) {
        return Err(EngineError::NotSupported(format!(
            "network {}: IPAM option {key} is not supported by IPAM driver default",
            request.name
        )));
    }
    let unsupported = [
        (request.ingress.unwrap_or(false), "an ingress network"),
        (
            request.scope.as_deref().is_some_and(|s| !s.is_empty() && s != "local"),
            "a scope other than local",
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

/// Fills a request in from a configuration-only network.
fn inherit(request: &mut NetworkCreateRequest, from: &NetworkRecord) -> Result<()> {
    let some = |map: &Option<std::collections::HashMap<String, String>>| {
        map.as_ref().is_some_and(|m| !m.is_empty())
    };
    let own_ipam = request
        .ipam
        .as_ref()
        .and_then(|i| i.config.as_ref())
        .is_some_and(|c| c.iter().any(|c| c.subnet.is_some()));
    if some(&request.options) || some(&request.labels) || own_ipam {
        return Err(forbidden(
            "user-specified configurations are not supported if the network depends on a \
             configuration network"
                .to_owned(),
        ));
    }
    let config = from
        .ipam
        .iter()
        .map(|i| sampan_types::docker::IpamConfig {
            subnet: Some(i.subnet.to_string()),
            ip_range: i.range.map(|r| r.to_string()),
            gateway: Some(i.gateway.to_string()),
            auxiliary_addresses: (!i.auxiliary.is_empty())
                .then(|| i.auxiliary.iter().map(|(k, v)| (k.clone(), v.to_string())).collect()),
        })
        .collect();
    request.ipam = Some(sampan_types::docker::Ipam { config: Some(config), ..Default::default() });
    request.options = Some(from.options.clone().into_iter().collect());
    request.labels = Some(from.labels.clone().into_iter().collect());
    (request.enable_ipv4, request.enable_ipv6) = (Some(from.ipv4), Some(from.ipv6));
    Ok(())
}

#[cfg(test)]
mod tests {
    use sampan_types::docker::Ipam;
    use sampan_types::{ErrorKind, Kind};

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
        assert_eq!(kind("overlay").kind(), ErrorKind::NotImplemented);
        assert!(check_kind(&request(|_| ())).is_ok());
    }

    #[test]
    fn unknown_ways_of_address_management_are_refused_by_name() {
        let with = |driver: Option<&str>, option: Option<&str>| {
            let options = option.map(|o| [(o.to_owned(), String::new())].into());
            let driver = driver.map(str::to_owned);
            let ipam = Ipam { driver, options, ..Default::default() };
            check_kind(&request(|r| r.ipam = Some(ipam)))
        };
        assert!(with(Some("default"), None).is_ok());
        assert!(with(Some("dhcp"), Some("foo")).is_ok(), "a plugin's options are its own");
        assert!(with(None, Some("foo")).unwrap_err().to_string().contains("foo"));
    }

    #[test]
    fn a_pool_that_is_used_up_says_so() {
        let pools = [("10.9.0.0/25".parse().unwrap(), 25)];
        assert!(choose_from(&pools, &[], false).is_ok());
        let error = choose_from(&pools, &["10.9.0.3/32".parse().unwrap()], false).unwrap_err();
        assert!(error.to_string().contains("--default-address-pool"), "{error}");
    }
}
