//! Networks: address management, published ports, name files, drivers,
//! firewall, sandboxes, and the manager that composes them.
//!
//! ```text
//! Networks (manager) ── Sandboxes: network namespaces, some made ahead
//!    ├── Driver:      links, addresses, routes  bridge · macvlan, ipvlan · plugins · CNI · host, none
//!    ├── Firewall:    one nftables table        nft · noop
//!    └── NameService: names inside sandboxes    the data-plane process · none
//! beside them: watch (keeps the kernel true) · redirect · direct · host6 · shape · care
//! pure: ipam · ports::PortTable · names · policy
//! ```
//!
//! Be aware:
//! - Nothing here is persisted. Addresses and ports belong to the engine's
//!   records; [`Networks::reconcile`] compares the kernel with them at start.
//! - Every object made in the kernel is marked with the instance's name
//!   (interface alias, table name, directory of the namespaces); what bears
//!   no such mark is never touched.
//! - Netlink calls run on one network thread, never on the async workers.
#![forbid(unsafe_code)]

mod care;
mod config;
mod direct;
pub mod driver;
mod error;
pub mod firewall;
mod flows;
mod host6;
pub mod ipam;
mod mac;
mod manager;
pub mod names;
pub mod policy;
pub mod ports;
mod redirect;
mod sandbox;
mod shape;
mod watch;
mod worker;

pub use care::{Denied, EndpointStats, Hop, Place, Trace, TraceRequest, Verdict};
pub use config::{
    Attachment, BridgeConfig, CniConfig, DnsSpec, DriverConfig, EndpointSpec, GatewayMode,
    IpvlanConfig, IpvlanFlag, IpvlanMode, LinkSpec, MacvlanConfig, MacvlanMode, NetConfig,
    NetworkSpec, OpenedLink, RateLimit, RemoteConfig, RouteSpec, SandboxSpec, Subnet,
};
pub use error::NetError;
pub use firewall::Exposure;
pub use mac::{MacAddr, MacError};
pub use manager::{Networks, Repair, RepairKind, Repairs, Sandbox};
pub use ports::{PortError, PortRequest, PortTable, Protocol, PublishedPort};
pub use shape::inward::is_limiter;
pub use watch::{Finding, Severity, Subject};
