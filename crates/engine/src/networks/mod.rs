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

mod connect;
mod create;
mod record;
mod remove;
mod subnets;
mod table;
mod view;

pub use record::{IpamRecord, NetworkRecord, PREDEFINED};
pub use table::NetworkTable;
