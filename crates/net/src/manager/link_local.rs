//! Addresses of an endpoint's link alone (`--link-local-ip`), whichever driver
//! made it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sampan_sys::netlink::add_address;

use super::Inner;
use crate::config::{Attachment, EndpointSpec};
use crate::driver::{Namespace, await_ipv6};
use crate::error::NetError;

/// The length of the network of an address: 169.254.0.0/16 (RFC 3927), or a
/// /64 of fe80::/10 (RFC 4291).
fn net(address: IpAddr) -> IpNet {
    IpNet::new_assert(address, if address.is_ipv4() { 16 } else { 64 })
}

/// Why an address is none of a link alone, if it is none.
pub(super) fn check(addresses: &[IpAddr]) -> Result<(), String> {
    for (at, address) in addresses.iter().enumerate() {
        let fits = match address {
            IpAddr::V4(a) => a.is_link_local() && !matches!(a.octets(), [.., 0, _] | [.., 255, _]),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        };
        if !fits {
            return Err(format!(
                "{address} is no link-local address: 169.254.1.0 to 169.254.254.255 or fe80::/64 \
                 expected"
            ));
        }
        if addresses[..at].contains(address) {
            return Err(format!("link-local address {address} is given twice"));
        }
    }
    Ok(())
}

impl Inner {
    /// Gives an endpoint the addresses of its link alone that it lacks, and
    /// notes them in its attachment. Says whether any was missing.
    pub(super) async fn add_link_locals(
        &self,
        namespace: &Arc<Namespace>,
        endpoint: &EndpointSpec,
        attachment: &mut Attachment,
    ) -> Result<bool, NetError> {
        let Some(interface) = attachment.interface.clone() else { return Ok(false) };
        if endpoint.link_locals.is_empty() {
            return Ok(false);
        }
        let wanted: Vec<IpNet> = endpoint.link_locals.iter().copied().map(net).collect();
        attachment.link_locals.clone_from(&wanted);
        let namespace = Arc::clone(namespace);
        let add = move || -> Result<bool, NetError> {
            let failed = || NetError::kernel(format!("give interface {interface} its addresses"));
            let six = wanted.iter().any(|a| a.addr().is_ipv6());
            let watch = six.then(|| namespace.open_ipv6(&interface)).transpose()?;
            let mut route = namespace.route();
            let Some(link) = route.link(&interface).map_err(failed())? else { return Ok(false) };
            let present = route.addresses_of(link.index).map_err(failed())?;
            let has = |a: &&IpNet| present.iter().any(|p| p.address == **a);
            let absent: Vec<IpNet> = wanted.iter().copied().filter(|a| !has(&a)).collect();
            let add = |a: &IpNet| add_address(link.index, *a).present_ok();
            route.run(absent.iter().map(add).collect()).map_err(failed())?;
            await_ipv6(watch.map(|(_, watch)| watch), link.index, &absent);
            Ok(!absent.is_empty())
        };
        self.worker.run(move |_| add()).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_link_local_addresses_are() {
        let check = |list: &[&str]| {
            let list: Vec<IpAddr> = list.iter().map(|a| a.parse().unwrap()).collect();
            check(&list)
        };
        check(&["169.254.7.9", "fe80::9"]).unwrap();
        for wrong in ["10.0.0.1", "169.254.0.1", "169.254.255.1", "fd00::1", "ff02::1", "0.0.0.0"] {
            assert!(check(&[wrong]).unwrap_err().contains(wrong));
        }
        assert!(check(&["169.254.7.9", "169.254.7.9"]).unwrap_err().contains("twice"));
        assert_eq!(net("fe80::9".parse().unwrap()).to_string(), "fe80::9/64");
    }
}
