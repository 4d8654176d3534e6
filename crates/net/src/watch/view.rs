//! What there is in the kernel, read in one go for comparison.
//!
//! Be aware:
//! - All of this blocks; a thread that may is the caller's part.
//! - Nothing is locked meanwhile: what is read may be in the middle of a
//!   change of our own. What looks wrong is a suspicion.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use sampan_sys::netlink::{AddressEntry, Link, NetlinkError, Route, RouteEntry};
use sampan_sys::netns;

/// Links, addresses and routes of one namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub links: Vec<Link>,
    pub addresses: Vec<AddressEntry>,
    pub routes: Vec<RouteEntry>,
}

impl View {
    /// Reads all through a socket of the namespace.
    pub fn read(route: &mut Route) -> Result<Self, NetlinkError> {
        let mut view = Self {
            links: route.links()?,
            addresses: route.addresses()?,
            routes: route.routes(Ipv4Addr::UNSPECIFIED.into())?,
        };
        if view.addresses.iter().any(|a| a.address.addr().is_ipv6()) {
            view.routes.extend(route.routes(Ipv6Addr::UNSPECIFIED.into())?);
        }
        Ok(view)
    }

    /// Reads the namespaces with these names, one after the other, on one
    /// thread. None of those that can't be entered.
    pub fn read_all(paths: Vec<PathBuf>) -> Vec<Option<Self>> {
        let count = paths.len();
        let mut views = Vec::with_capacity(count);
        let toured = netns::tour(&paths, |entered| {
            let read = entered.and_then(|()| Route::open()).ok();
            views.push(read.and_then(|mut route| Self::read(&mut route).ok()));
        });
        if let Err(e) = toured {
            tracing::warn!(error = %e, "failed to look into the sandboxes");
        }
        views.resize(count, None);
        views
    }

    /// The link with this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }
}
