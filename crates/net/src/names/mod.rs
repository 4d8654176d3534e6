//! The texts of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` as
//! Docker writes them. Pure: the caller reads and writes the files.

mod hosts;
mod resolv;
mod service;

pub use hosts::{HostsInput, hostname_file, hosts_file};
pub use resolv::{ResolvConf, ResolvInput, resolv_conf};
pub use service::{BoxFuture, EndpointNames, NameService, NameSet, NoNames, SandboxNames, TABLE};
