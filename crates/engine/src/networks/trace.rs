//! `network trace`: where a packet would go, and what would stop it.

use std::net::IpAddr;

use sampan_net::{Place, Protocol, TraceRequest, Verdict};
use serde::Serialize;

use crate::error::EngineError;
use crate::record::NetworkMode;
use crate::{Engine, Result};

/// A packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkTrace {
    /// Who sends.
    pub from: String,
    /// To whom.
    pub to: String,
    /// The sender's address; empty when it is not known.
    pub source: String,
    /// The address that it is sent to.
    pub destination: String,
    /// The port that it is sent to, as `80/tcp`; empty without one.
    pub port: String,
    /// Whether nothing that is known stops it.
    pub arrives: bool,
    /// The places that it comes to, the first one first.
    pub hops: Vec<TraceHop>,
}

/// One place on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TraceHop {
    /// The place.
    pub place: String,
    /// What happens there.
    pub what: String,
    /// `passes`, `may pass`, `arrives` or `stops`.
    pub verdict: &'static str,
}

impl Engine {
    /// Says where a packet would go from one place to another: containers,
    /// `host`, or addresses. `port` is `80`, `80/tcp`, `53/udp` …
    ///
    /// # Errors
    /// No such container, one that does not run, or no such port.
    pub async fn network_trace(
        &self,
        from: &str,
        to: &str,
        port: Option<&str>,
    ) -> Result<NetworkTrace> {
        let port = port.map(parse_port).transpose()?;
        let request = TraceRequest { from: self.place(from)?, to: self.place(to)?, port };
        let trace = self.networks().trace(request).await?;
        let owners = self.sandbox_owners();
        let hops = trace.hops.iter().map(|hop| TraceHop {
            place: match &hop.sandbox {
                Some(sandbox) => format!("container {}", owners.of(sandbox).1),
                None => hop.place.clone(),
            },
            what: hop.what.clone(),
            verdict: word(hop.verdict),
        });
        let address = |a: Option<IpAddr>| a.map(|a| a.to_string()).unwrap_or_default();
        Ok(NetworkTrace {
            from: from.to_owned(),
            to: to.to_owned(),
            source: address(trace.source),
            destination: address(trace.destination),
            port: port.map(|(protocol, port)| format!("{port}/{protocol}")).unwrap_or_default(),
            arrives: trace.arrives(),
            hops: hops.collect(),
        })
    }

    /// A container's name goes before an address that reads the same.
    fn place(&self, text: &str) -> Result<Place> {
        let found = self.container(text);
        if let Ok(container) = &found {
            let record = container.record();
            // One that shares another's namespace is where that one is.
            let owner = match &record.networking.mode {
                NetworkMode::Container(owner) => self.container_by_id(owner),
                _ => None,
            };
            let sandbox = match owner {
                Some(owner) => owner.record().networking.sandbox.clone(),
                None => record.networking.sandbox.clone(),
            };
            let known = sandbox.filter(|s| self.networks().sandbox(s).is_some());
            return known.map(Place::Sandbox).ok_or_else(|| {
                EngineError::Invalid(format!(
                    "container {} has no network now: it has to run, with a network of its own",
                    record.name
                ))
            });
        }
        if text == "host" {
            return Ok(Place::Host);
        }
        match text.parse() {
            Ok(address) => Ok(Place::Address(address)),
            Err(_) => found.map(|_| Place::Host),
        }
    }
}

fn parse_port(text: &str) -> Result<(Protocol, u16)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let invalid = || {
        EngineError::Invalid(format!(
            "invalid port {text:?}: 80, 80/tcp, 53/udp or the like expected"
        ))
    };
    let port = number.parse().ok().filter(|p| *p > 0).ok_or_else(invalid)?;
    Ok((protocol.parse().map_err(|_| invalid())?, port))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passes => "passes",
        Verdict::MayPass => "may pass",
        Verdict::Arrives => "arrives",
        Verdict::Stops => "stops",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!(parse_port("80").unwrap(), (Protocol::Tcp, 80));
        assert_eq!(parse_port("53/udp").unwrap(), (Protocol::Udp, 53));
        for bad in ["", "0", "http", "80/icmp", "70000", "80/"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }
}
