//! Limits of what a sandbox receives by a link that has no end on the host:
//! macvlan, ipvlan, links of plugins.
//!
//! ```text
//! LAN ──> eth0 ─ redirected ─> ifb-1a2b3c4d5e6 (token bucket) ─> eth0 : sandbox
//! ```
//!
//! Be aware:
//! - All of it is inside the sandbox, where a container with `NET_ADMIN` could
//!   lift the limit; the next repair sets it again.
//! - The second link goes with the namespace, or with the endpoint.

use sampan_sys::netlink::{
    Link, LinkChange, LinkRef, NetlinkError, Request, Route, add_clsact, add_ifb, delete_link,
    redirect_inward, set_link, set_token_bucket,
};
use sampan_types::EndpointId;

use super::bucket;

const KIND: &str = "ifb";
const PREFIX: &str = "ifb-";
/// How much of an endpoint's id is in the name.
const DIGITS: usize = 11;

/// Whether an interface of a sandbox limits another one: what passes it passes
/// that one too.
#[must_use]
pub fn is_limiter(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|d| d.len() == DIGITS && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn name_of(endpoint: &EndpointId) -> String {
    format!("{PREFIX}{}", &endpoint.as_str()[..DIGITS])
}

/// Limits what comes in by the interface `name`, or lifts the limit. Says
/// whether there was another one.
pub(crate) fn limit(
    inner: &mut Route,
    name: &str,
    endpoint: &EndpointId,
    rate: Option<u64>,
) -> Result<bool, NetlinkError> {
    let Some(rate) = rate else { return remove(inner, endpoint) };
    let Some(link) = inner.link(name)? else {
        return Err(NetlinkError::Malformed(format!("find link {name}")));
    };
    let by = name_of(endpoint);
    let found = inner.link(&by)?;
    let made = found.is_none();
    if made {
        inner.run(vec![add_ifb(&by)])?;
    }
    let result = complete(inner, &link, &by, rate, made);
    if let (true, Err(_)) = (made, &result) {
        // Nothing is led through it yet.
        let _ = inner.run(vec![delete_link(LinkRef::Name(&by)).absent_ok()]);
    }
    result
}

fn complete(
    inner: &mut Route,
    link: &Link,
    by: &str,
    rate: u64,
    made: bool,
) -> Result<bool, NetlinkError> {
    let Some(ifb) = inner.link(by)? else {
        return Err(NetlinkError::Malformed(format!("find link {by}")));
    };
    let mut changed = made;
    if !ifb.up || ifb.mtu != link.mtu {
        let up = LinkChange { up: Some(true), mtu: Some(link.mtu), ..LinkChange::default() };
        inner.run(vec![set_link(LinkRef::Index(ifb.index), &up)])?;
        changed = true;
    }
    let bucket = bucket(rate, link.mtu);
    if inner.token_bucket_rate(ifb.index)? != Some(bucket.rate) {
        inner.run(vec![set_token_bucket(ifb.index, &bucket)])?;
        changed = true;
    }
    // At last: what is redirected is limited already.
    if made || !inner.is_redirected_inward(link.index)? {
        let requests =
            vec![add_clsact(link.index).present_ok(), redirect_inward(link.index, ifb.index)];
        inner.run(requests)?;
        changed = true;
    }
    Ok(changed)
}

/// Removes what [`limit`] made, when its link is gone or shall not be limited
/// any more.
pub(crate) fn remove(inner: &mut Route, endpoint: &EndpointId) -> Result<bool, NetlinkError> {
    let name = name_of(endpoint);
    if inner.link(&name)?.is_none_or(|l| l.kind != KIND) {
        return Ok(false);
    }
    inner.run(vec![delete_link(LinkRef::Name(&name)).absent_ok()])?;
    Ok(true)
}

/// Removes the limiting links of endpoints other than these: what an
/// interrupted disconnection left.
pub(crate) fn sweep(
    inner: &mut Route,
    endpoints: &[EndpointId],
) -> Result<Vec<String>, NetlinkError> {
    let kept: Vec<String> = endpoints.iter().map(name_of).collect();
    let stray = |l: &Link| l.kind == KIND && is_limiter(&l.name) && !kept.contains(&l.name);
    let names: Vec<String> = inner.links()?.into_iter().filter(stray).map(|l| l.name).collect();
    let delete = |name: &String| -> Request { delete_link(LinkRef::Name(name)).absent_ok() };
    inner.run(names.iter().map(delete).collect())?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiting_link_is_known_by_its_name() {
        let name = name_of(&EndpointId::random());
        assert_eq!(name.len(), 15);
        assert!(is_limiter(&name));
        for other in ["ifb0", "ifb-0123", "eth0", "ifb-0123456789x"] {
            assert!(!is_limiter(other), "{other}");
        }
    }
}
