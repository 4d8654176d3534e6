//! Networks: their records, their addresses, and how the API shows them.
//!
//! [`NetworkTable`] is what the life cycle of containers uses: it finds
//! networks and gives out addresses. The kernel's part is `sampan_net`'s.
//!
//! Be aware:
//! - A record is durable before the kernel is touched, and leaves the store
//!   after the kernel's part is gone: what a crash leaves is repaired at start.
//! - Address pools are in memory only; they are filled from the container
//!   records at start.

mod care;
mod check;
mod connect;
mod create;
mod drivers;
mod host_routes;
mod ipam;
mod ipam_plugin;
pub(crate) mod leases;
mod migrate;
mod options;
mod plugins;
mod predefined;
mod record;
mod refit;
mod remove;
mod repair;
mod stats;
mod table;
mod trace;
mod view;

use sampan_types::ErrorKind;

use crate::EngineError;

pub use check::{NetworkCheck, NetworkFinding};
pub use record::{IpamRecord, NetworkRecord, PREDEFINED};
pub use stats::NetworkStats;
pub use table::{NetworkTable, Wanted};
pub use trace::{NetworkTrace, TraceHop};

/// An error that answers 403 with Docker's words.
fn forbidden(text: String) -> EngineError {
    EngineError::Part { kind: ErrorKind::Forbidden, context: String::new(), source: text.into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use sampan_net::DriverConfig;
    use sampan_types::{NetworkId, Timestamp};

    use super::*;

    /// A network with nothing special about it: its subnets were chosen.
    pub(crate) fn network(name: &str, driver: DriverConfig) -> NetworkRecord {
        let mut record = NetworkRecord {
            id: NetworkId::random(),
            name: name.to_owned(),
            created: Timestamp::from_nanos(1),
            driver,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            ipam: Vec::new(),
            ipam_options: BTreeMap::new(),
            internal: false,
            attachable: false,
            ipv4: true,
            ipv6: false,
            config_only: false,
            config_from: None,
            ipam_driver: None,
        };
        let subnets = record.spec().subnets().to_vec();
        record.ipam = subnets
            .iter()
            .map(|s| IpamRecord {
                subnet: s.net,
                range: None,
                gateway: s.gateway,
                auxiliary: BTreeMap::new(),
                chosen: true,
                pool: None,
            })
            .collect();
        record
    }
}
