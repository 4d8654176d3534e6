//! `/etc/resolv.conf`.

use std::net::IpAddr;

/// Where a container's `/etc/resolv.conf` comes from.
#[derive(Debug, Clone, Default)]
pub struct ResolvInput<'a> {
    /// The path of the host's file, for the comment.
    pub source: &'a str,
    /// The content of the host's file; empty when there is none.
    pub host: &'a str,
    /// `--dns`, else the daemon's; empty for the host's.
    pub servers: &'a [IpAddr],
    /// `--dns-search`, else the daemon's; empty for the host's. A single `.`
    /// stands for none.
    pub search: &'a [String],
    /// `--dns-opt`, else the daemon's; empty for the host's.
    pub options: &'a [String],
    /// Whether the container has a namespace of its own, where the host's
    /// loopback name servers can't be reached.
    pub own_namespace: bool,
    /// Whether the container can reach IPv6 name servers.
    pub ipv6: bool,
}

/// A name server configuration as text and as what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// The file's content.
    pub text: String,
    /// The name servers in it.
    pub servers: Vec<IpAddr>,
}

/// The container's `/etc/resolv.conf`.
#[must_use]
pub fn resolv_conf(input: &ResolvInput<'_>) -> ResolvConf {
    let _ = input;
    todo!()
}
