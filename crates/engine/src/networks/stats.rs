//! `network stats`: what passed endpoints.

use std::time::Duration;

use sampan_net::EndpointStats;
use serde::Serialize;

use super::care::Owners;
use crate::{Engine, Result};

/// What passed an endpoint since it was made, as its container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "each is what its name says; units below")]
pub struct NetworkStats {
    pub network: String,
    pub container: String,
    pub name: String,
    pub interface: String,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    pub tx_errors: u64,
    /// The TCP connections that there are now.
    pub connections: usize,
    /// How many segments these sent again.
    pub retransmits: u64,
    /// Of these connections' round-trip times, in microseconds.
    pub rtt_p50_micros: Option<u64>,
    pub rtt_p99_micros: Option<u64>,
    /// What policies about the container stopped, since it came under policy.
    pub denied_packets: u64,
    pub denied_bytes: u64,
}

impl Engine {
    /// What passed the endpoints of a network, or of all of them.
    ///
    /// # Errors
    /// There is no such network.
    pub async fn network_stats(&self, network: Option<&str>) -> Result<Vec<NetworkStats>> {
        let named = self.named_network(network)?;
        let stats = self.networks().stats(named.as_ref().map(|n| &n.id)).await?;
        let owners = self.sandbox_owners();
        let mut all: Vec<_> = stats.iter().map(|s| self.stats_of(s, &owners)).collect();
        all.sort_by(|a, b| (&a.network, &a.name).cmp(&(&b.network, &b.name)));
        Ok(all)
    }

    fn stats_of(&self, stats: &EndpointStats, owners: &Owners) -> NetworkStats {
        let (container, name) = owners.of(&stats.sandbox);
        let link = &stats.link;
        let micros =
            |time: Option<Duration>| time.map(|t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
        NetworkStats {
            network: self.network_name(&stats.network),
            container,
            name,
            interface: stats.interface.clone(),
            rx_packets: link.rx_packets,
            rx_bytes: link.rx_bytes,
            rx_dropped: link.rx_dropped,
            rx_errors: link.rx_errors,
            tx_packets: link.tx_packets,
            tx_bytes: link.tx_bytes,
            tx_dropped: link.tx_dropped,
            tx_errors: link.tx_errors,
            connections: stats.connections,
            retransmits: stats.retransmits,
            rtt_p50_micros: micros(stats.rtt_p50),
            rtt_p99_micros: micros(stats.rtt_p99),
            denied_packets: stats.denied.packets,
            denied_bytes: stats.denied.bytes,
        }
    }
}
