//! Reading `ExposedPorts` and `PortBindings`. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use sampan_net::Protocol;
use sampan_types::docker::{ContainerConfig, HostConfig, PortMap};

use super::validate::Refusal;

/// A container's port: `80`, `80/tcp`, `53/udp`; a range for exposed ports.
fn container_port(text: &str) -> Result<(RangeInclusive<u16>, Protocol), Refusal> {
    let wrong = || Refusal(format!("invalid port specification: \"{text}\""));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol: Protocol = protocol.parse().map_err(|_| wrong())?;
    let range = range(ports).ok_or_else(wrong)?;
    if *range.start() == 0 {
        return Err(wrong());
    }
    Ok((range, protocol))
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// A port that a container wants published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address, when one is named.
    pub host_ip: Option<IpAddr>,
    /// The host's port: one of these; any when absent.
    pub host_range: Option<RangeInclusive<u16>>,
    /// The container's port.
    pub container_port: u16,
}

/// A container's port as it is written: `80` is `80/tcp`.
pub fn canonical(port: &str) -> String {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    format!("{number}/{}", protocol.to_ascii_lowercase())
}

/// Refuses ports that can't be read.
///
/// # Errors
/// A port, protocol or address that is none.
pub fn check(config: &ContainerConfig, host: &HostConfig) -> Result<(), Refusal> {
    let (none, nothing) = (Vec::new(), PortMap::new());
    let exposed = config.exposed_ports.as_ref().unwrap_or(&none);
    bindings(exposed, host.port_bindings.as_ref().unwrap_or(&nothing), false).map(|_| ())
}

/// What a container wants published, sorted by its ports; all that it exposes
/// when `publish_all` is set.
///
/// # Errors
/// A port, protocol or address that is none.
pub fn bindings(
    exposed: &[String],
    bound_ports: &PortMap,
    publish_all: bool,
) -> Result<Vec<Binding>, Refusal> {
    let mut out = Vec::new();
    let mut bound = BTreeSet::new();
    for (port, bindings) in bound_ports {
        let (ports, protocol) = container_port(port)?;
        if ports.start() != ports.end() {
            return Err(Refusal(format!("invalid port specification: \"{port}\"")));
        }
        let container_port = *ports.start();
        for binding in bindings.iter().flatten() {
            let ip = binding.host_ip.as_deref().unwrap_or_default();
            let host_ip = match ip {
                "" => None,
                ip => Some(ip.parse().map_err(|_| {
                    Refusal(format!("invalid IP address for port {port}: \"{ip}\""))
                })?),
            };
            let wanted = binding.host_port.as_deref().unwrap_or_default();
            let host_range =
                match wanted {
                    "" | "0" => None,
                    wanted => Some(range(wanted).filter(|r| *r.start() > 0).ok_or_else(|| {
                        Refusal(format!("invalid port specification: \"{wanted}\""))
                    })?),
                };
            bound.insert((protocol, container_port));
            out.push(Binding { protocol, host_ip, host_range, container_port });
        }
    }
    for exposed in exposed {
        let (ports, protocol) = container_port(exposed)?;
        if !publish_all {
            continue;
        }
        for container_port in ports {
            if bound.insert((protocol, container_port)) {
                out.push(Binding { protocol, host_ip: None, host_range: None, container_port });
            }
        }
    }
    out.sort_by(|a, b| {
        (a.container_port, a.protocol, a.host_range.as_ref().map(|r| *r.start())).cmp(&(
            b.container_port,
            b.protocol,
            b.host_range.as_ref().map(|r| *r.start()),
        ))
    });
    // What names its port is served before what takes any.
    out.sort_by_key(|r| r.host_range.is_none());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::docker::PortBinding;

    fn bound(bindings: &[(&str, &str, &str)]) -> PortMap {
        let mut map = PortMap::new();
        for (port, ip, host_port) in bindings {
            map.entry((*port).to_owned()).or_default().get_or_insert_default().push(PortBinding {
                host_ip: Some((*ip).to_owned()),
                host_port: Some((*host_port).to_owned()),
            });
        }
        map
    }

    #[test]
    fn bindings_are_read() {
        let exposed = ["80/tcp".to_owned(), "9000-9001/udp".to_owned()];
        let bound = bound(&[
            ("80/tcp", "", "8080"),
            ("80/tcp", "127.0.0.1", "8000-8010"),
            ("53/udp", "", ""),
        ]);
        let r = bindings(&exposed, &bound, false).unwrap();
        let seen: Vec<_> = r
            .iter()
            .map(|r| (r.container_port, r.host_ip.map(|ip| ip.to_string()), r.host_range.clone()))
            .collect();
        assert_eq!(
            seen,
            [
                (80, Some("127.0.0.1".to_owned()), Some(8000..=8010)),
                (80, None, Some(8080..=8080)),
                (53, None, None),
            ]
        );
        let r = bindings(&exposed, &bound, true).unwrap();
        assert_eq!(r.len(), 5);
        assert!(r.iter().any(|r| r.container_port == 9001 && r.protocol == Protocol::Udp));
    }

    #[test]
    fn wrong_ports_are_refused() {
        for (port, ip, host_port) in [
            ("0/tcp", "", "80"),
            ("80/icmp", "", "80"),
            ("80-90/tcp", "", "80"),
            ("x", "", "80"),
            ("80/tcp", "1.2.3", "80"),
            ("80/tcp", "", "90-80"),
            ("80/tcp", "", "70000"),
        ] {
            let r = bindings(&[], &bound(&[(port, ip, host_port)]), false);
            assert!(r.is_err(), "{port} {ip} {host_port}");
        }
    }
}
