//! Waiting until IPv6 addresses are in use: the first packet after an
//! operation is not lost.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use sampan_sys::netlink::{AddressWatch, NetlinkError};

/// How long the kernel may take to put an IPv6 address in use; usually less
/// than a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

/// What hears in the calling thread's namespace when those of the addresses
/// are in use that are of IPv6; nothing when there is none.
pub(super) fn listen_for(addresses: &[IpNet]) -> Result<Option<AddressWatch>, NetlinkError> {
    let any = addresses.iter().any(|a| a.addr().is_ipv6());
    Ok(if any { Some(AddressWatch::open()?) } else { None })
}

/// Waits until IPv6 addresses that were given to a link are in use.
pub(crate) fn await_ipv6(watch: Option<AddressWatch>, link: u32, given: &[IpNet]) {
    let Some(mut watch) = watch else { return };
    let given = given.iter().map(IpNet::addr).filter(IpAddr::is_ipv6).collect();
    match watch.wait(link, given, PATIENCE) {
        Ok(true) => {}
        Ok(false) => tracing::debug!(link, "IPv6 addresses are not in use yet"),
        Err(e) => tracing::debug!(link, error = %e, "failed to hear of IPv6 addresses"),
    }
}
