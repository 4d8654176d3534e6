//! The options of bridge networks (`-o com.docker.network.…`). Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use sampan_net::{BridgeConfig, GatewayMode};

use crate::{EngineError, Result};

/// `-o sampan.allow_overlap=true`: a subnet that the host has a route to.
pub(super) const ALLOW_OVERLAP: &str = "sampan.allow_overlap";

/// `-o sampan.gso_max_size=BYTES`: what containers hand to their links at once.
const GSO_MAX_SIZE: &str = "sampan.gso_max_size";

/// What is said of a network of any driver.
const GENERAL: [&str; 3] =
    [ALLOW_OVERLAP, "com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"];

/// The options that are the driver's: without those that hold for all.
pub(super) fn of_driver(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = options.iter().filter(|(key, _)| !GENERAL.contains(&key.as_str()));
    own.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Whether a subnet may be one that the host has a route to.
pub(super) fn allows_overlap(network: &str, options: &BTreeMap<String, String>) -> Result<bool> {
    options.get(ALLOW_OVERLAP).map_or(Ok(false), |value| flag(network, ALLOW_OVERLAP, value))
}

/// A value of an option that is true or false, as Go reads them.
pub(super) fn flag(network: &str, key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong(network, key, value, "true or false")),
    }
}

fn wrong(network: &str, key: &str, value: &str, expected: &str) -> EngineError {
    EngineError::Invalid(format!(
        "network {network}: invalid value {value:?} of option {key}: {expected} expected"
    ))
}

/// Reads a bridge's options into its configuration.
///
/// # Errors
/// A wrong value, or an option that is not supported, by its name.
pub(super) fn bridge(
    bridge: &mut BridgeConfig,
    network: &str,
    options: &BTreeMap<String, String>,
) -> Result<()> {
    for (key, value) in options {
        set(bridge, network, key, value)?;
    }
    for (mode, family) in [(bridge.gateway_mode_ipv4, 4), (bridge.gateway_mode_ipv6, 6)] {
        if mode == GatewayMode::Isolated && !bridge.internal {
            return Err(EngineError::Invalid(format!(
                "network {network}: gateway mode isolated of IPv{family} is for internal networks \
                 only: add --internal"
            )));
        }
    }
    Ok(())
}

fn set(bridge: &mut BridgeConfig, network: &str, key: &str, value: &str) -> Result<()> {
    let flag = || flag(network, key, value);
    let v4 =
        || value.parse::<Ipv4Addr>().map_err(|_| wrong(network, key, value, "an IPv4 address"));
    let v6 =
        || value.parse::<Ipv6Addr>().map_err(|_| wrong(network, key, value, "an IPv6 address"));
    let number = || value.parse().map_err(|_| wrong(network, key, value, "a number"));
    if key == GSO_MAX_SIZE {
        bridge.gso_max_size = Some(number()?);
        return Ok(());
    }
    let Some(name) = key.strip_prefix("com.docker.network.") else {
        return Err(unknown(network, key));
    };
    match name {
        "bridge.name" => bridge.bridge = value.to_owned(),
        "bridge.enable_icc" => bridge.icc = flag()?,
        "bridge.enable_ip_masquerade" => bridge.masquerade = flag()?,
        "bridge.inhibit_ipv4" => bridge.inhibit_ipv4 = flag()?,
        "bridge.gateway_mode_ipv4" => bridge.gateway_mode_ipv4 = mode(network, key, value)?,
        "bridge.gateway_mode_ipv6" => bridge.gateway_mode_ipv6 = mode(network, key, value)?,
        // Read when ports are taken: see `publish`.
        "bridge.host_binding_ipv4" => drop(v4()?),
        "bridge.host_binding_ipv6" => drop(v6()?),
        "bridge.trusted_host_interfaces" => bridge.trusted = interfaces(network, key, value)?,
        "host_ipv4" => bridge.host_ipv4 = Some(v4()?),
        "host_ipv6" => bridge.host_ipv6 = Some(v6()?),
        "container_iface_prefix" => bridge.interface_prefix = prefix(network, key, value)?,
        "driver.mtu" => bridge.mtu = number()?,
        _ => return Err(unknown(network, key)),
    }
    Ok(())
}

/// Names of interfaces, with colons between them.
fn interfaces(network: &str, key: &str, value: &str) -> Result<Vec<String>> {
    let names: Vec<String> = value.split(':').map(str::to_owned).collect();
    let fits = |name: &String| {
        (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    };
    let once = |(at, name): (usize, &String)| !names[..at].contains(name);
    if names.iter().all(fits) && names.iter().enumerate().all(once) {
        return Ok(names);
    }
    Err(wrong(network, key, value, "names of interfaces, each once, with ':' between them"))
}

fn unknown(network: &str, key: &str) -> EngineError {
    EngineError::NotSupported(format!(
        "network {network}: option {key} is not supported by driver bridge"
    ))
}

fn mode(network: &str, key: &str, value: &str) -> Result<GatewayMode> {
    match value {
        "nat" | "" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => Err(wrong(network, key, value, "nat, nat-unprotected, routed or isolated")),
    }
}

/// What interfaces' names begin with; a number of up to three digits follows.
fn prefix(network: &str, key: &str, value: &str) -> Result<String> {
    let fits = (1..=12).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_graphic() && !b"/:".contains(&b));
    match fits {
        true => Ok(value.to_owned()),
        false => Err(wrong(network, key, value, "1 to 12 bytes without blank, '/' and ':'")),
    }
}

#[cfg(test)]
mod tests {
    use sampan_net::Subnet;
    use sampan_types::{ErrorKind, Kind};

    use super::*;

    fn read(key: &str, value: &str) -> Result<BridgeConfig> {
        let net = "10.5.0.0/24".parse().unwrap();
        let mut config =
            BridgeConfig::new("br0", Subnet { net, gateway: "10.5.0.1".parse().unwrap() });
        let key = match key.starts_with("sampan.") {
            true => key.to_owned(),
            false => format!("com.docker.network.{key}"),
        };
        bridge(&mut config, "mine", &[(key, value.to_owned())].into()).map(|()| config)
    }

    #[test]
    fn every_documented_option_is_read() {
        assert_eq!(read("bridge.name", "br7").unwrap().bridge, "br7");
        assert_eq!(read("driver.mtu", "1400").unwrap().mtu, 1400);
        assert_eq!(read("sampan.gso_max_size", "131072").unwrap().gso_max_size, Some(131_072));
        assert!(!read("bridge.enable_icc", "false").unwrap().icc);
        assert!(!read("bridge.enable_ip_masquerade", "0").unwrap().masquerade);
        assert!(read("bridge.inhibit_ipv4", "1").unwrap().inhibit_ipv4);
        let routed = read("bridge.gateway_mode_ipv6", "routed").unwrap();
        assert_eq!(routed.gateway_mode_ipv6, GatewayMode::Routed);
        assert_eq!(read("host_ipv4", "192.0.2.7").unwrap().host_ipv4, "192.0.2.7".parse().ok());
        assert_eq!(read("container_iface_prefix", "lan").unwrap().interface_prefix, "lan");
        assert!(read("bridge.host_binding_ipv4", "127.0.0.1").is_ok());
        let trusted = read("bridge.trusted_host_interfaces", "eth0:wg1.5").unwrap().trusted;
        assert_eq!(trusted, ["eth0", "wg1.5"]);
    }

    #[test]
    fn wrong_values_and_unknown_options_are_refused_by_name() {
        for (key, value) in [
            ("driver.mtu", "big"),
            ("sampan.gso_max_size", "192k"),
            ("bridge.enable_icc", "maybe"),
            ("bridge.gateway_mode_ipv4", "open"),
            ("bridge.gateway_mode_ipv4", "isolated"),
            ("bridge.host_binding_ipv4", "::1"),
            ("host_ipv6", "10.0.0.1"),
            ("container_iface_prefix", "much-too-long-a-name"),
            ("bridge.trusted_host_interfaces", ""),
            ("bridge.trusted_host_interfaces", "eth0:"),
            ("bridge.trusted_host_interfaces", "eth0:eth0"),
            ("bridge.trusted_host_interfaces", "much-too-long-a-name"),
        ] {
            let error = read(key, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{key}: {error}");
        }
        assert_eq!(read("what", "ever").unwrap_err().kind(), ErrorKind::NotImplemented);
    }
}
