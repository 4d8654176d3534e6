//! The messages of libnetwork's remote driver protocol, as far as they are used
//! (source: `docs/remote.md` and `drivers/remote/api` of libnetwork).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{EndpointSpec, NetworkSpec, RemoteConfig, Subnet};

/// What begins the options that are for the driver alone.
const GENERIC: &str = "com.docker.network.generic";

/// The addresses of one family on a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IpamData {
    address_space: String,
    pool: String,
    gateway: String,
    aux_addresses: BTreeMap<String, String>,
}

impl From<&Subnet> for IpamData {
    fn from(subnet: &Subnet) -> Self {
        Self {
            address_space: String::new(),
            pool: subnet.net.to_string(),
            gateway: format!("{}/{}", subnet.gateway, subnet.net.prefix_len()),
            aux_addresses: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct CreateNetwork<'a> {
    #[serde(rename = "NetworkID")]
    network: &'a str,
    #[serde(rename = "Options")]
    options: Map<String, Value>,
    #[serde(rename = "IPv4Data")]
    ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data")]
    ipv6: Vec<IpamData>,
}

impl<'a> CreateNetwork<'a> {
    pub fn new(network: &'a NetworkSpec, config: &RemoteConfig) -> Self {
        let of = |v4: bool| {
            let subnets = config.subnets.iter().filter(|s| s.net.addr().is_ipv4() == v4);
            subnets.map(IpamData::from).collect::<Vec<_>>()
        };
        let (ipv4, ipv6) = (of(true), of(false));
        let mut options = Map::new();
        options.insert(GENERIC.to_owned(), json!(config.options));
        options.insert("com.docker.network.enable_ipv4".to_owned(), json!(!ipv4.is_empty()));
        options.insert("com.docker.network.enable_ipv6".to_owned(), json!(!ipv6.is_empty()));
        if config.internal {
            options.insert("com.docker.network.internal".to_owned(), json!(true));
        }
        Self { network: network.id.as_str(), options, ipv4, ipv6 }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct DeleteNetwork<'a> {
    #[serde(rename = "NetworkID")]
    pub network: &'a str,
}

/// `DeleteEndpoint` and `Leave`.
#[derive(Debug, Serialize)]
pub(super) struct OfEndpoint<'a> {
    #[serde(rename = "NetworkID")]
    pub network: &'a str,
    #[serde(rename = "EndpointID")]
    pub endpoint: &'a str,
}

impl<'a> From<&'a EndpointSpec> for OfEndpoint<'a> {
    fn from(spec: &'a EndpointSpec) -> Self {
        Self { network: spec.network.as_str(), endpoint: spec.endpoint.as_str() }
    }
}

/// Addresses of an endpoint: with their prefix lengths, empty when not chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    #[serde(rename = "Address")]
    pub address: String,
    #[serde(rename = "AddressIPv6")]
    pub address6: String,
    #[serde(rename = "MacAddress")]
    pub mac: String,
}

#[derive(Debug, Serialize)]
pub(super) struct CreateEndpoint<'a> {
    #[serde(flatten)]
    pub of: OfEndpoint<'a>,
    #[serde(rename = "Interface")]
    pub interface: Interface,
    #[serde(rename = "Options")]
    pub options: &'a BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreatedEndpoint {
    /// What the plugin chose; absent when it chose nothing.
    #[serde(rename = "Interface")]
    pub interface: Option<Interface>,
}

#[derive(Debug, Serialize)]
pub(super) struct Join<'a> {
    #[serde(flatten)]
    pub of: OfEndpoint<'a>,
    #[serde(rename = "SandboxKey")]
    pub sandbox: String,
    #[serde(rename = "Options")]
    pub options: &'a BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Joined {
    #[serde(rename = "InterfaceName")]
    pub interface: InterfaceName,
    #[serde(rename = "Gateway")]
    pub gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub gateway6: String,
    #[serde(rename = "StaticRoutes")]
    pub routes: Option<Vec<StaticRoute>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InterfaceName {
    /// The interface on the host that moves into the sandbox.
    #[serde(rename = "SrcName")]
    pub source: String,
    /// What its name inside begins with.
    #[serde(rename = "DstPrefix")]
    pub prefix: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct StaticRoute {
    #[serde(rename = "Destination")]
    pub destination: String,
    /// 0: by the next hop; 1: on the link.
    #[serde(rename = "RouteType", default)]
    pub kind: u8,
    #[serde(rename = "NextHop", default)]
    pub next_hop: String,
}

/// An answer of which nothing matters.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

#[cfg(test)]
mod tests {
    use sampan_types::NetworkId;

    use super::*;
    use crate::config::DriverConfig;

    #[test]
    fn messages_have_libnetworks_shape() {
        let config = RemoteConfig {
            plugin: "weave".to_owned(),
            options: [("a".to_owned(), "b".to_owned())].into(),
            subnets: vec![Subnet {
                net: "10.5.0.0/24".parse().unwrap(),
                gateway: "10.5.0.1".parse().unwrap(),
            }],
            internal: true,
        };
        let id = NetworkId::random();
        let spec = NetworkSpec {
            id: id.clone(),
            name: "n".to_owned(),
            driver: DriverConfig::Remote(config.clone()),
        };
        assert_eq!(
            serde_json::to_value(CreateNetwork::new(&spec, &config)).unwrap(),
            json!({
                "NetworkID": id,
                "Options": {
                    "com.docker.network.generic": {"a": "b"},
                    "com.docker.network.enable_ipv4": true,
                    "com.docker.network.enable_ipv6": false,
                    "com.docker.network.internal": true,
                },
                "IPv4Data": [{"AddressSpace": "", "Pool": "10.5.0.0/24",
                              "Gateway": "10.5.0.1/24", "AuxAddresses": {}}],
                "IPv6Data": [],
            })
        );
        let joined: Joined = serde_json::from_value(json!({
            "InterfaceName": {"SrcName": "v0", "DstPrefix": "eth"},
            "Gateway": "10.5.0.1",
            "StaticRoutes": [{"Destination": "10.6.0.0/24", "RouteType": 1}],
        }))
        .unwrap();
        assert_eq!((joined.interface.source.as_str(), joined.gateway6.as_str()), ("v0", ""));
        let empty: Joined = serde_json::from_value(json!({"StaticRoutes": null})).unwrap();
        assert!(empty.routes.is_none());
    }
}
