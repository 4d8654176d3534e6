//! `-p`: [ADDRESS:][HOST:]CONTAINER[/PROTOCOL], each port a range if need be.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// A range of ports, both ends included.
type Range = (u16, u16);

/// Ports that a container exposes, and where they are published.
#[derive(Debug, Default)]
pub struct Ports {
    /// `80/tcp` to the API's list of bindings.
    pub bindings: BTreeMap<String, Vec<Value>>,
}

impl Ports {
    /// Reads all `-p` options.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut ports = Self::default();
        for option in options {
            ports.add(option)?;
        }
        Ok(ports)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        let (spec, protocol) = option.split_once('/').unwrap_or((option, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            bail!("invalid protocol {protocol:?} in {option:?}: tcp, udp or sctp");
        }
        let (address, host, container) = split(spec)?;
        if container.is_empty() {
            bail!("no port specified: {option}");
        }
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            bail!("invalid IP address: {address}");
        }
        let container = range(container, "containerPort")?;
        let host = if host.is_empty() { None } else { Some(range(host, "hostPort")?) };
        let count = container.1 - container.0;
        for i in 0..=count {
            let binding = match host {
                None => String::new(),
                Some(h) if h.1 - h.0 == count => (h.0 + i).to_string(),
                Some(h) if count == 0 => format!("{}-{}", h.0, h.1),
                Some(_) => bail!("invalid ranges specified for container and host Ports: {option}"),
            };
            let key = format!("{}/{protocol}", container.0 + i);
            self.bindings
                .entry(key)
                .or_default()
                .push(json!({"HostIp": address, "HostPort": binding}));
        }
        Ok(())
    }
}

/// Address (without brackets), host part and container part.
fn split(spec: &str) -> Result<(&str, &str, &str)> {
    if let Some(rest) = spec.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once("]:") else {
            bail!("invalid IP address: {spec}");
        };
        let (host, container) = rest.rsplit_once(':').unwrap_or(("", rest));
        return Ok((address, host, container));
    }
    let (front, container) = spec.rsplit_once(':').unwrap_or(("", spec));
    let (address, host) = front.rsplit_once(':').unwrap_or(("", front));
    Ok((address, host, container))
}

fn range(text: &str, what: &str) -> Result<Range> {
    let port = |t: &str| t.parse::<u16>().map_err(|_| anyhow::anyhow!("invalid {what}: {text}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        bail!("invalid {what}: {text}");
    }
    Ok((first, last))
}

/// `--expose`: ports and ranges as the API's keys.
pub fn exposed(options: &[String]) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for option in options {
        let (ports, protocol) = option.split_once('/').unwrap_or((option, "tcp"));
        let (first, last) = range(ports, "range format for --expose")?;
        keys.extend((first..=last).map(|p| format!("{p}/{protocol}")));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(option: &str) -> Result<BTreeMap<String, Vec<Value>>> {
        Ports::parse(&[option.to_owned()]).map(|p| p.bindings)
    }

    #[test]
    fn every_form() {
        let one = |ip: &str, port: &str| vec![json!({"HostIp": ip, "HostPort": port})];
        assert_eq!(parse("80").unwrap()["80/tcp"], one("", ""));
        assert_eq!(parse("8080:80").unwrap()["80/tcp"], one("", "8080"));
        assert_eq!(parse("127.0.0.1::80").unwrap()["80/tcp"], one("127.0.0.1", ""));
        assert_eq!(parse("127.0.0.1:8080:80/udp").unwrap()["80/udp"], one("127.0.0.1", "8080"));
        assert_eq!(parse("[::1]:8080:80").unwrap()["80/tcp"], one("::1", "8080"));
        assert_eq!(parse("8000-8001:90-91").unwrap()["91/tcp"], one("", "8001"));
        assert_eq!(parse("8000-8010:80").unwrap()["80/tcp"], one("", "8000-8010"));
    }

    #[test]
    fn wrong_ones_are_refused() {
        for option in
            ["", "x", "99999:80", "8000-8002:90-91", "1.2.3:1:2", "80/xyz", "90-80", "8080:"]
        {
            assert!(parse(option).is_err(), "{option}");
        }
    }
}
