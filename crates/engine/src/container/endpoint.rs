//! What a user asks of one connection to a network: checking it, and telling
//! the networks' manager. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_net::{DriverConfig, MacAddr, RateLimit};
use sampan_types::EndpointId;
use sampan_types::docker::EndpointSettings;

use crate::container_view::dns_names;
use crate::error::{EngineError, Result};
use crate::networks::{NetworkRecord, PREDEFINED};
use crate::record::{ContainerRecord, EndpointLive, EndpointRecord};

/// The longest name of an interface, in bytes.
const INTERFACE_NAME_MAX: usize = 15;

impl EndpointLive {
    /// An endpoint with these addresses of a network.
    pub(crate) fn new(
        endpoint: EndpointId,
        addresses: &[IpAddr],
        network: &NetworkRecord,
        mac: Option<String>,
    ) -> Self {
        let find = |v4: bool| {
            let address = addresses.iter().find(|a| a.is_ipv4() == v4)?;
            let subnet = network.ipam.iter().find(|s| s.subnet.contains(address))?;
            Some((IpNet::new_assert(*address, subnet.subnet.prefix_len()), subnet.gateway))
        };
        let (four, six) = (find(true), find(false));
        let way_out = !network.internal && network.driver.has_gateway();
        Self {
            endpoint,
            address: four.map(|(net, _)| net),
            address6: six.map(|(net, _)| net),
            gateway: four.map(|(_, gateway)| gateway).filter(|_| way_out),
            gateway6: six.map(|(_, gateway)| gateway).filter(|_| way_out),
            mac,
        }
    }
}

/// The driver options of an endpoint (`--driver-opt`), read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EndpointOptions {
    /// `com.docker.network.endpoint.ifname`.
    pub(crate) interface: Option<String>,
    /// `com.docker.network.endpoint.sysctls`.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// `sampan.rate.ingress`, `sampan.rate.egress`.
    pub(crate) rate: RateLimit,
    /// Those that a plugin's driver is told as they are.
    pub(crate) others: BTreeMap<String, String>,
}

impl EndpointOptions {
    /// Reads the options of an endpoint on a network.
    ///
    /// # Errors
    /// A wrong value, or an option that is not supported, by its name.
    pub(crate) fn read(network: &NetworkRecord, config: &EndpointSettings) -> Result<Self> {
        let mut read = Self::default();
        let given: BTreeMap<_, _> = config.driver_opts.iter().flatten().collect();
        let plugin = matches!(network.driver, DriverConfig::Remote(_) | DriverConfig::Cni(_));
        let linkless = matches!(network.driver, DriverConfig::Host | DriverConfig::None);
        for (key, value) in given {
            match key.as_str() {
                _ if linkless => return Err(unknown(network, key)),
                "com.docker.network.endpoint.ifname" => {
                    read.interface = Some(interface_name(key, value)?);
                }
                "com.docker.network.endpoint.sysctls" => read.sysctls = sysctls(key, value)?,
                "sampan.rate.ingress" => read.rate.ingress = Some(rate(key, value)?),
                "sampan.rate.egress" => read.rate.egress = Some(rate(key, value)?),
                _ if plugin => drop(read.others.insert(key.clone(), value.clone())),
                _ => return Err(unknown(network, key)),
            }
        }
        Ok(read)
    }
}

fn unknown(network: &NetworkRecord, key: &str) -> EngineError {
    EngineError::NotSupported(format!(
        "driver option {key} is not supported on network {} of driver {}",
        network.name,
        network.driver_name()
    ))
}

fn wrong(key: &str, value: &str, expected: &str) -> EngineError {
    EngineError::Invalid(format!("invalid value {value:?} of {key}: {expected} expected"))
}

fn interface_name(key: &str, value: &str) -> Result<String> {
    let fits = (1..=INTERFACE_NAME_MAX).contains(&value.len())
        && !matches!(value, "." | ".." | "lo" | "all" | "default")
        && value.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if fits {
        return Ok(value.to_owned());
    }
    Err(wrong(key, value, "a name of 1 to 15 bytes without blank, '/' and ':'"))
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…`: the kernel's parameters of the
/// interface, whose name is put in later.
fn sysctls(key: &str, value: &str) -> Result<BTreeMap<String, String>> {
    let one = |text: &str| {
        let (name, value) = text.split_once('=')?;
        let parts: Vec<&str> = name.split('.').collect();
        let fits = matches!(
            parts.as_slice(),
            ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", _]
        ) || matches!(parts.as_slice(), ["net", "mpls", "conf", "IFNAME", _]);
        fits.then(|| (name.to_owned(), value.to_owned()))
    };
    value
        .split(',')
        .map(|text| {
            one(text).ok_or_else(|| wrong(key, text, "net.ipv4.conf.IFNAME.PARAMETER=VALUE"))
        })
        .collect()
}

/// A rate in bits per second: `10mbit`, `500kbit`, `1gbit`, `9600`.
fn rate(key: &str, value: &str) -> Result<u64> {
    let expected = "a rate like 500kbit, 10mbit or 1gbit, at least 8bit";
    let refused = || wrong(key, value, expected);
    let lower = value.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let factor: u64 = match unit {
        "" | "bit" => 1,
        "k" | "kbit" => 1_000,
        "m" | "mbit" => 1_000_000,
        "g" | "gbit" => 1_000_000_000,
        "t" | "tbit" => 1_000_000_000_000,
        _ => return Err(refused()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let mut bits = whole.checked_mul(factor).ok_or_else(refused)?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused());
    }
    let mut part = factor;
    for digit in fraction.bytes() {
        part /= 10;
        bits = bits.checked_add(u64::from(digit - b'0') * part).ok_or_else(refused)?;
    }
    if bits < 8 { Err(refused()) } else { Ok(bits) }
}

/// The addresses that a user asks for.
pub(crate) fn wanted_addresses(config: &EndpointSettings) -> Result<Vec<IpAddr>> {
    let ipam = config.ipam_config.clone().unwrap_or_default();
    let read = |text: Option<String>, v6: bool| -> Result<Option<IpAddr>> {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
        let address = text.parse::<IpAddr>().ok().filter(|a| a.is_ipv6() == v6);
        address.map(Some).ok_or_else(|| {
            let family = if v6 { 6 } else { 4 };
            EngineError::Invalid(format!("invalid IPv{family} address: {text}"))
        })
    };
    let both = [read(ipam.ipv4_address, false)?, read(ipam.ipv6_address, true)?];
    Ok(both.into_iter().flatten().collect())
}

/// The addresses of the link alone that a user asks for (`--link-local-ip`).
pub(crate) fn link_locals(config: &EndpointSettings) -> Result<Vec<IpAddr>> {
    let asked = config.ipam_config.iter().flat_map(|i| i.link_local_ips.iter().flatten());
    let mut all: Vec<IpAddr> = Vec::new();
    for text in asked {
        let address: IpAddr = text
            .parse()
            .map_err(|_| EngineError::Invalid(format!("invalid link-local IP address: {text}")))?;
        let fits = match address {
            IpAddr::V4(a) => a.is_link_local() && !matches!(a.octets(), [_, _, 0 | 255, _]),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        };
        if !fits {
            return Err(EngineError::Invalid(format!(
                "invalid link-local IP address: {text}: one from 169.254.1.0 to 169.254.254.255 \
                 or in fe80::/10 expected"
            )));
        }
        if all.contains(&address) {
            return Err(EngineError::Invalid(format!(
                "invalid link-local IP address: {text} is given twice"
            )));
        }
        all.push(address);
    }
    Ok(all)
}

/// Checks what a user asks of a connection to a network.
///
/// # Errors
/// In Docker's words where it has some.
pub(crate) fn check_endpoint(network: &NetworkRecord, config: &EndpointSettings) -> Result<()> {
    if network.config_only {
        return Err(EngineError::Part {
            kind: sampan_types::ErrorKind::Forbidden,
            context: String::new(),
            source: format!(
                "cannot create endpoint on configuration-only network {}",
                network.name
            )
            .into(),
        });
    }
    check_addresses(network, config)?;
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if some(&config.aliases) && network.is_predefined() {
        return Err(EngineError::Invalid(
            "network-scoped aliases are only supported for user-defined networks".to_owned(),
        ));
    }
    if some(&config.links) && network.is_predefined() {
        return Err(EngineError::Invalid(
            "network-scoped links are only supported for user-defined networks".to_owned(),
        ));
    }
    if let Some(mac) = config.mac_address.as_deref().filter(|m| !m.is_empty()) {
        check_mac(network, mac)?;
    }
    EndpointOptions::read(network, config).map(|_| ())
}

fn check_mac(network: &NetworkRecord, mac: &str) -> Result<()> {
    let parsed: MacAddr = mac.parse().map_err(|e: sampan_net::MacError| {
        EngineError::Invalid(format!("invalid MAC address {mac}: {e}"))
    })?;
    if !parsed.is_unicast() {
        return Err(EngineError::Invalid(format!("invalid MAC address {mac}: not unicast")));
    }
    match network.driver {
        DriverConfig::Host | DriverConfig::None => Err(EngineError::Invalid(
            "conflicting options: mac-address and the network mode".to_owned(),
        )),
        ref driver if !driver.has_own_mac() => Err(EngineError::Invalid(format!(
            "network {} of driver {}: interfaces have the hardware address of the parent, none \
             can be given",
            network.name,
            network.driver_name()
        ))),
        _ => Ok(()),
    }
}

fn check_addresses(network: &NetworkRecord, config: &EndpointSettings) -> Result<()> {
    let refused = |why: String| {
        Err(EngineError::Invalid(format!(
            "invalid config for network {}: invalid endpoint settings:\n{why}",
            network.name
        )))
    };
    let linkless = matches!(network.driver, DriverConfig::Host | DriverConfig::None);
    if let (true, Some(address)) = (linkless, link_locals(config)?.first()) {
        return refused(format!(
            "link-local address {address}: there is no interface to give it to"
        ));
    }
    let addresses = wanted_addresses(config)?;
    if addresses.is_empty() {
        return Ok(());
    }
    if linkless {
        return refused(
            "user specified IP address is supported on user defined networks only".to_owned(),
        );
    }
    if !network.is_predefined() && !network.ipam.iter().any(|i| i.chosen) {
        return refused(
            "user specified IP address is supported only when connecting to networks with user \
             configured subnets"
                .to_owned(),
        );
    }
    let inside = |a: &&IpAddr| network.ipam.iter().any(|i| i.subnet.contains(*a));
    match addresses.iter().find(|a| !inside(a)) {
        Some(stray) => {
            let subnets: Vec<String> = network.ipam.iter().map(|i| i.subnet.to_string()).collect();
            refused(format!(
                "no configured subnet contains IP address {stray}: the network has {}",
                subnets.join(", ")
            ))
        }
        None => Ok(()),
    }
}

/// The names by which others on the network find a container; none on the
/// networks that are always there.
pub(crate) fn names(
    record: &ContainerRecord,
    network: &str,
    endpoint: &EndpointRecord,
) -> Vec<String> {
    if PREDEFINED.contains(&network) { Vec::new() } else { dns_names(record, endpoint) }
}

#[cfg(test)]
mod tests {
    use sampan_net::{BridgeConfig, Subnet};
    use sampan_types::docker::EndpointIpamConfig;
    use sampan_types::{ErrorKind, Kind};

    use super::*;
    use crate::networks::tests::network;

    fn bridge() -> NetworkRecord {
        let net = "10.5.0.0/24".parse().unwrap();
        let subnet = Subnet { net, gateway: "10.5.0.1".parse().unwrap() };
        network("mine", DriverConfig::Bridge(BridgeConfig::new("br0", subnet)))
    }

    fn with(key: &str, value: &str) -> Result<EndpointOptions> {
        let config = EndpointSettings {
            driver_opts: Some([(key.to_owned(), value.to_owned())].into()),
            ..Default::default()
        };
        check_endpoint(&bridge(), &config)?;
        EndpointOptions::read(&bridge(), &config)
    }

    #[test]
    fn rates_have_units() {
        let read = |text: &str| with("sampan.rate.ingress", text).ok()?.rate.ingress;
        assert_eq!(read("10mbit"), Some(10_000_000));
        assert_eq!(read("1.5Mbit"), Some(1_500_000));
        assert_eq!(read("500k"), Some(500_000));
        assert_eq!(read("9600"), Some(9600));
        for wrong in ["", "7", "mbit", "10mb", "-1", "1.2.3m", "99999999999999999999"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(with("sampan.rate.egress", "1gbit").unwrap().rate.egress, Some(1_000_000_000));
    }

    #[test]
    fn interfaces_are_named_and_tuned() {
        let ifname = "com.docker.network.endpoint.ifname";
        assert_eq!(with(ifname, "lan0").unwrap().interface.as_deref(), Some("lan0"));
        assert!(with(ifname, "lo").is_err() && with(ifname, "a-very-long-name").is_err());
        let key = "com.docker.network.endpoint.sysctls";
        let read = with(key, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.mtu=1280");
        assert_eq!(read.unwrap().sysctls["net.ipv4.conf.IFNAME.log_martians"], "1");
        assert!(with(key, "net.ipv4.ip_forward=1").is_err());
        let unknown = with("what.ever", "1").unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::NotImplemented);
        assert!(unknown.to_string().contains("what.ever"));
    }

    #[test]
    fn link_local_addresses_are_checked() {
        let asked = |network: &NetworkRecord, list: &[&str]| {
            let list = list.iter().map(|a| (*a).to_owned()).collect();
            let ipam = EndpointIpamConfig { link_local_ips: Some(list), ..Default::default() };
            let config = EndpointSettings { ipam_config: Some(ipam), ..Default::default() };
            check_endpoint(network, &config).map(|()| link_locals(&config).unwrap_or_default())
        };
        let mut network = bridge();
        network.ipam[0].chosen = false;
        assert_eq!(asked(&network, &["169.254.7.9", "fe80::9"]).unwrap().len(), 2);
        for wrong in ["10.0.0.1", "169.254.255.1", "fd00::1", "x", ""] {
            let error = asked(&network, &[wrong]).unwrap_err().to_string();
            assert!(error.contains("invalid link-local IP address"), "{error}");
        }
        assert!(
            asked(&network, &["fe80::9", "fe80::9"]).unwrap_err().to_string().contains("twice")
        );
        network.driver = DriverConfig::Host;
        assert!(asked(&network, &["fe80::9"]).unwrap_err().to_string().contains("no interface"));
    }

    #[test]
    fn addresses_are_of_a_subnet_that_was_chosen() {
        let asked = |network: &NetworkRecord, v4: &str| {
            let ipam = EndpointIpamConfig { ipv4_address: Some(v4.into()), ..Default::default() };
            let config = EndpointSettings { ipam_config: Some(ipam), ..Default::default() };
            check_endpoint(network, &config)
        };
        let mut network = bridge();
        assert!(asked(&network, "10.5.0.7").is_ok());
        let outside = asked(&network, "10.6.0.7").unwrap_err().to_string();
        assert!(outside.contains("no configured subnet contains IP address 10.6.0.7"), "{outside}");
        assert!(asked(&network, "fd00::1").is_err() && asked(&network, "x").is_err());
        network.ipam[0].chosen = false;
        assert!(asked(&network, "10.5.0.7").unwrap_err().to_string().contains("user configured"));
        network.name = "bridge".to_owned();
        assert!(asked(&network, "10.5.0.7").is_ok());
        network.driver = DriverConfig::Host;
        assert!(asked(&network, "10.5.0.7").is_err());
    }
}
