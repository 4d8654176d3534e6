//! Making neighbours known before the first packet.
//!
//! Be aware: all network namespaces share one table for each family, of 1,024
//! entries unless somebody enlarged it. What was not seen for five seconds
//! makes room; a host with more neighbours that talk all the time needs a
//! larger table, which only the first namespace can make.

use sampan_sys::netlink::{Neighbour, NetlinkError, Route, replace_neighbour};
use sampan_sys::sysctl::{self, SysctlError};

/// The bounds of a table: from here on entries are removed early, and no
/// entry is added.
const BOUNDS: [&str; 2] = ["gc_thresh2", "gc_thresh3"];
/// Beyond this, the table is somebody's to judge.
const ENOUGH: u64 = 1 << 17;

/// Makes neighbours known. Where the kernel has no room for them even so,
/// they will be asked for when they are needed.
pub(super) fn introduce(route: &mut Route, neighbours: Vec<Neighbour>) -> Result<(), NetlinkError> {
    let results = route.run_each(neighbours.iter().map(replace_neighbour).collect())?;
    for (neighbour, result) in neighbours.iter().zip(results) {
        match result {
            Err(e) if e.is_full() => {
                let v6 = neighbour.address.is_ipv6();
                match enlarge(v6) {
                    Ok(bound) => tracing::info!(v6, bound, "the table of neighbours was full"),
                    Err(also) => {
                        tracing::warn!(v6, error = %also, "the table of neighbours is full");
                    }
                }
            }
            result => result?,
        }
    }
    Ok(())
}

/// Doubles a family's table and says its bound now. The next neighbour has
/// room.
fn enlarge(v6: bool) -> Result<u64, SysctlError> {
    let family = if v6 { "ipv6" } else { "ipv4" };
    let mut bound = 0;
    // The greater one first: they never pass each other.
    for name in BOUNDS.iter().rev() {
        let name = format!("net/{family}/neigh/default/{name}");
        let old: u64 = sysctl::read(&name)?.parse().unwrap_or(ENOUGH);
        let new = old.saturating_mul(2).min(ENOUGH.max(old));
        sysctl::write(&name, &new.to_string())?;
        bound = bound.max(new);
    }
    Ok(bound)
}
