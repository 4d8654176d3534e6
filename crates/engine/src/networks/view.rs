//! Networks as the API shows them.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::NetworkRecord;
use crate::container::endpoint::{EndpointOptions, names};
use crate::container_view::port_map;
use crate::filters::Filters;
use crate::record::ContainerRecord;
use crate::{Engine, EngineError, Result};

const ACCEPTED: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

impl Engine {
    /// The networks that pass the filters.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Value>> {
        let mut chosen = self.choose_networks(filters)?;
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(chosen.iter().map(|n| shown(n, Map::new())).collect())
    }

    fn choose_networks(&self, filters: &Filters) -> Result<Vec<Arc<NetworkRecord>>> {
        filters.validate(&ACCEPTED)?;
        filters.validate_values("type", |v| matches!(v, "builtin" | "custom"))?;
        filters.validate_values("scope", |v| matches!(v, "local" | "global" | "swarm"))?;
        let dangling = filters.flag("dangling")?;
        let mut all = self.network_table().all();
        all.retain(|n| {
            let kind = if n.is_predefined() { "builtin" } else { "custom" };
            filters.pattern("name", &n.name)
                && filters.pattern("id", n.id.as_str())
                && filters.exact("driver", n.driver_name())
                && filters.exact("scope", "local")
                && filters.exact("type", kind)
                && filters.labels("label", |key| n.labels.get(key).map(String::as_str))
                && dangling
                    .is_none_or(|d| !n.is_predefined() && d == self.containers_on(n).is_empty())
        });
        Ok(all)
    }

    /// One network, with the containers on it. `verbose` adds to each of them
    /// by what names it is found, what it may send and receive, and which of
    /// its ports are published.
    ///
    /// # Errors
    /// No such network.
    pub async fn network_inspect(
        &self,
        name: &str,
        scope: Option<&str>,
        verbose: bool,
    ) -> Result<Value> {
        if scope.is_some_and(|s| !s.is_empty() && s != "local") {
            return Err(EngineError::NotFound(format!("network {name} not found")));
        }
        let network = self.network_table().resolve(name)?;
        let endpoints = self.containers_on(&network);
        let endpoints = endpoints
            .iter()
            .filter_map(|r| Some((r.id.to_string(), endpoint(r, &network, verbose)?)));
        Ok(shown(&network, endpoints.collect()))
    }

    /// The containers that have an endpoint on a network.
    pub(super) fn containers_on(&self, network: &NetworkRecord) -> Vec<Arc<ContainerRecord>> {
        let on = |r: &Arc<ContainerRecord>| {
            // Of a container that does not run, others may use the network.
            let lives = r.state.has_process() || r.networking.sandbox.is_some();
            let mut endpoints = r.networking.endpoints.values();
            lives && endpoints.any(|e| e.network == network.id && e.live.is_some())
        };
        self.containers().iter().map(|c| c.record()).filter(on).collect()
    }
}

/// What a network shows of a container on it.
fn endpoint(record: &ContainerRecord, network: &NetworkRecord, verbose: bool) -> Option<Value> {
    let mut endpoints = record.networking.endpoints.iter();
    let (name, endpoint) = endpoints.find(|(_, e)| e.network == network.id)?;
    let live = endpoint.live.as_ref()?;
    let text = |net: Option<ipnet::IpNet>| net.map(|n| n.to_string()).unwrap_or_default();
    let mut out = json!({
        "Name": record.name,
        "EndpointID": live.endpoint,
        "MacAddress": live.mac.as_deref().unwrap_or_default(),
        "IPv4Address": text(live.address),
        "IPv6Address": text(live.address6),
    });
    if verbose {
        let rate = EndpointOptions::read(network, &endpoint.config).unwrap_or_default().rate;
        out["DNSNames"] = json!(names(record, name, endpoint));
        out["DriverOpts"] = json!(endpoint.config.driver_opts);
        out["Rate"] = json!({ "Ingress": rate.ingress, "Egress": rate.egress });
        out["Ports"] = port_map(record);
    }
    Some(out)
}

/// One `NetworkInspect` as dockerd writes it.
fn shown(network: &NetworkRecord, containers: Map<String, Value>) -> Value {
    let config: Vec<Value> = network
        .ipam
        .iter()
        .map(|i| {
            let mut out = json!({ "Subnet": i.subnet, "Gateway": i.gateway });
            if let Some(range) = i.range {
                out["IPRange"] = json!(range);
            }
            if !i.auxiliary.is_empty() {
                out["AuxiliaryAddresses"] = json!(i.auxiliary);
            }
            out
        })
        .collect();
    let options = if network.is_predefined() { Value::Null } else { json!(network.ipam_options) };
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created.to_string(),
        "Scope": "local",
        "Driver": network.driver_name(),
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": network.ipam_driver.as_deref().unwrap_or("default"),
            "Options": options,
            "Config": crate::container_view::null_if_empty(&config),
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": network.config_from.as_deref().unwrap_or_default() },
        "ConfigOnly": network.config_only,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    })
}

#[cfg(test)]
mod tests {
    use sampan_net::{BridgeConfig, DriverConfig, Subnet};

    use super::*;
    use crate::networks::tests::network;

    #[test]
    fn a_network_has_dockerds_shape() {
        let (subnet, gateway) = ("172.20.0.0/16".parse().unwrap(), "172.20.0.1".parse().unwrap());
        let bridge = BridgeConfig::new("br0", Subnet { net: subnet, gateway });
        let mut network = network("mine", DriverConfig::Bridge(bridge));
        let out = shown(&network, Map::new());
        assert_eq!(
            out["IPAM"],
            json!({
                "Driver": "default",
                "Options": {},
                "Config": [{"Subnet": "172.20.0.0/16", "Gateway": "172.20.0.1"}],
            })
        );
        assert_eq!((&out["Containers"], &out["Driver"]), (&json!({}), &json!("bridge")));
        network.name = "none".to_owned();
        network.driver = DriverConfig::None;
        network.ipam.clear();
        let out = shown(&network, Map::new());
        assert_eq!(out["IPAM"], json!({"Driver": "default", "Options": null, "Config": null}));
        assert_eq!(out["Driver"], "null");
    }
}
