//! What passed endpoints, and how their TCP connections fare.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use sampan_sys::netlink::{LinkStats, Route};
use sampan_sys::netns;
use sampan_sys::sockets::{Connection, Sockets};
use sampan_types::{EndpointId, NetworkId, SandboxId};

use super::{Looked, blocking, sandboxes};
use crate::config::Attachment;
use crate::error::NetError;
use crate::manager::Inner;

/// What passed an endpoint since it was made, as its container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStats {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// The interface's name inside.
    pub interface: String,
    /// Packets and bytes, received and sent.
    pub link: LinkStats,
    /// The TCP connections that there are now by its addresses.
    pub connections: usize,
    /// How many segments these sent again.
    pub retransmits: u64,
    /// The round-trip time that half of these connections stay below.
    pub rtt_p50: Option<Duration>,
    /// The round-trip time that 99 % of these connections stay below.
    pub rtt_p99: Option<Duration>,
    /// Packets and bytes that policies about it stopped.
    pub denied: Denied,
}

/// What policies stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Denied {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

pub(super) async fn run(
    inner: &Inner,
    network: Option<NetworkId>,
) -> Result<Vec<EndpointStats>, NetError> {
    let looked = sandboxes(inner, network.as_ref());
    let denied = inner.firewall().denied().await?;
    let denied: HashMap<IpAddr, Denied> = denied
        .into_iter()
        .map(|d| (d.address, Denied { packets: d.packets, bytes: d.bytes }))
        .collect();
    let mut all = blocking(move || Ok(read(&looked, network.as_ref(), &denied))).await?;
    all.sort_by(|a, b| (&a.sandbox, &a.interface).cmp(&(&b.sandbox, &b.interface)));
    Ok(all)
}

fn read(
    looked: &[Looked],
    network: Option<&NetworkId>,
    denied: &HashMap<IpAddr, Denied>,
) -> Vec<EndpointStats> {
    let paths: Vec<_> = looked.iter().map(|l| l.netns.clone()).collect();
    let mut all = Vec::new();
    let mut rest = looked.iter();
    let toured = netns::tour(&paths, |entered| {
        let Some(looked) = rest.next() else { return };
        let read = entered.is_ok().then(read_here).flatten();
        let Some((links, connections)) = read else { return };
        let wanted = looked.attachments.iter().filter(|a| network.is_none_or(|n| a.network == *n));
        all.extend(wanted.filter_map(|a| {
            let found = of(&looked.sandbox, a, &links, &connections)?;
            Some(EndpointStats { denied: sum(a, denied), ..found })
        }));
    });
    if let Err(error) = toured {
        tracing::warn!(%error, "failed to look into the sandboxes");
    }
    all
}

type Read = (HashMap<String, LinkStats>, Vec<Connection>);

/// None of a namespace that is gone in the meantime.
fn read_here() -> Option<Read> {
    let links = Route::open().ok()?.link_stats().ok()?;
    // A kernel without sock_diag has no such figures.
    let connections = Sockets::open().ok().and_then(|mut s| s.connections().ok());
    Some((links.into_iter().collect(), connections.unwrap_or_default()))
}

fn of(
    sandbox: &SandboxId,
    attachment: &Attachment,
    links: &HashMap<String, LinkStats>,
    connections: &[Connection],
) -> Option<EndpointStats> {
    let interface = attachment.interface.clone()?;
    let by = |c: &&Connection| attachment.addresses.iter().any(|a| a.addr() == c.local.ip());
    let own: Vec<&Connection> = connections.iter().filter(by).collect();
    let mut times: Vec<Duration> = own.iter().filter_map(|c| c.round_trip).collect();
    times.sort();
    Some(EndpointStats {
        sandbox: sandbox.clone(),
        endpoint: attachment.endpoint.clone(),
        network: attachment.network.clone(),
        link: *links.get(&interface)?,
        interface,
        connections: own.len(),
        retransmits: own.iter().map(|c| u64::from(c.retransmits)).sum(),
        rtt_p50: quantile(&times, 50),
        rtt_p99: quantile(&times, 99),
        denied: Denied::default(),
    })
}

/// What was denied to any of an endpoint's addresses.
fn sum(attachment: &Attachment, denied: &HashMap<IpAddr, Denied>) -> Denied {
    let of = attachment.addresses.iter().filter_map(|a| denied.get(&a.addr()));
    of.fold(Denied::default(), |all, one| Denied {
        packets: all.packets + one.packets,
        bytes: all.bytes + one.bytes,
    })
}

/// The smallest of the sorted `times` that `percent` of them do not exceed.
fn quantile(times: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (times.len() * percent).div_ceil(100);
    times.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(quantile(&times, 50), Some(Duration::from_micros(100)));
        assert_eq!(quantile(&times, 99), Some(Duration::from_micros(198)));
        assert_eq!(quantile(&times[..1], 99), Some(Duration::from_micros(1)));
        assert_eq!(quantile(&[], 50), None);
    }
}
