//! Names of registries to addresses, by `/etc/hosts` and the servers of
//! `/etc/resolv.conf`.
//!
//! Be aware:
//! - The static binary must not use `getaddrinfo`, which loads libraries.
//! - The files are read for every look-up: a laptop changes its network under
//!   a running daemon. Look-ups are few; connections are kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How long one name server may take. A pull tries again by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// The system's resolver for the HTTP client.
pub(super) struct SystemDns;

impl Resolve for SystemDns {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses = lookup(name.as_str()).await?;
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

/// The addresses of `name`. `localhost` is loopback, whatever a server says
/// (RFC 6761, section 6.3).
pub(super) async fn lookup(name: &str) -> Result<Vec<IpAddr>, NetError> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    // A host without a name server should say so before its user gives up.
    options.timeout = PATIENCE;
    options.attempts = 1;
    Ok(builder.build()?.lookup_ip(name).await?.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_and_localhost_ask_nobody() {
        assert_eq!(lookup("10.0.0.7").await.unwrap(), [IpAddr::from([10, 0, 0, 7])]);
        assert!(lookup("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
    }
}
