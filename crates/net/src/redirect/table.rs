//! The program with its entries, as this process has set them.

use std::collections::{HashMap, HashSet};

use sampan_sys::bpf::{self, RedirectError};
use sampan_sys::netlink::{NetlinkError, Route, add_clsact, delete_classifier, set_classifier};
use sampan_types::{EndpointId, NetworkId};

use super::Straight;
use crate::error::NetError;
use crate::mac::MacAddr;

/// What is set for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    network: u32,
    mac: MacAddr,
    link: u32,
}

/// The program with its entries.
#[derive(Debug)]
pub(super) struct Table {
    program: bpf::Redirect,
    /// Numbers of networks, of this process's choosing and never used again.
    networks: HashMap<NetworkId, u32>,
    entries: HashMap<EndpointId, Entry>,
    /// Whether the links were looked through for an earlier process's program.
    adopted: bool,
}

impl Table {
    pub fn load() -> Result<Self, RedirectError> {
        let program = bpf::Redirect::load()?;
        let (networks, entries) = (HashMap::new(), HashMap::new());
        Ok(Self { program, networks, entries, adopted: false })
    }

    /// Sets an endpoint's entries and the program on its link.
    pub fn add(&mut self, route: &mut Route, endpoint: &Straight) -> Result<(), NetError> {
        let found = route.link(&endpoint.link).map_err(failed(endpoint))?;
        let Some(link) = found.map(|l| l.index) else { return self.remove(&endpoint.endpoint) };
        let entry = Entry { network: self.number(&endpoint.network), mac: endpoint.mac, link };
        self.enter(&endpoint.endpoint, entry)?;
        self.set_program(route, link).map_err(failed(endpoint))
    }

    fn set_program(&self, route: &mut Route, link: u32) -> Result<(), NetlinkError> {
        route.run(vec![
            add_clsact(link).present_ok(),
            set_classifier(link, self.program.program(), bpf::Redirect::NAME),
        ])
    }

    fn number(&mut self, network: &NetworkId) -> u32 {
        let next = u32::try_from(self.networks.len()).unwrap_or(u32::MAX);
        *self.networks.entry(network.clone()).or_insert(next)
    }

    fn enter(&mut self, endpoint: &EndpointId, entry: Entry) -> Result<(), NetError> {
        if self.entries.get(endpoint) == Some(&entry) {
            return Ok(());
        }
        self.remove(endpoint)?;
        // Known before it is set: what fails half way can be taken back.
        self.entries.insert(endpoint.clone(), entry);
        self.program.set_neighbour(entry.network, entry.mac.0, entry.link)?;
        self.program.set_network(entry.link, entry.network)?;
        Ok(())
    }

    /// Removes an endpoint's entries. The program on its link lets everything
    /// pass then, and goes with the link.
    pub fn remove(&mut self, endpoint: &EndpointId) -> Result<(), NetError> {
        let Some(entry) = self.entries.get(endpoint).copied() else { return Ok(()) };
        let shared = |other: &Entry| (other.network, other.mac) == (entry.network, entry.mac);
        let twin = self.entries.iter().find(|(id, e)| *id != endpoint && shared(e));
        let twin = twin.map(|(_, e)| e.link);
        self.program.remove_network(entry.link)?;
        match twin {
            // Two endpoints were given one hardware address: the bridge
            // decides between them, and so does the one that is left here.
            Some(link) => self.program.set_neighbour(entry.network, entry.mac.0, link)?,
            None => self.program.remove_neighbour(entry.network, entry.mac.0)?,
        }
        self.entries.remove(endpoint);
        Ok(())
    }

    /// See [`super::Turn::restore`].
    pub fn restore(
        &mut self,
        route: &mut Route,
        endpoints: &[Straight],
    ) -> Result<Vec<String>, NetError> {
        let allowed: HashSet<_> =
            endpoints.iter().filter(|e| e.allowed).map(|e| &e.endpoint).collect();
        let gone: Vec<_> =
            self.entries.keys().filter(|id| !allowed.contains(id)).cloned().collect();
        let mut result = gone.iter().try_for_each(|endpoint| self.remove(endpoint));
        let mut restored = Vec::new();
        for endpoint in endpoints.iter().filter(|e| e.allowed) {
            match self.complete(route, endpoint) {
                Ok(false) => {}
                Ok(true) => restored.push(format!("straight way by {}", endpoint.link)),
                Err(e) => result = result.and(Err(e)),
            }
        }
        if !self.adopted {
            let others: Vec<_> = endpoints.iter().filter(|e| !e.allowed).cloned().collect();
            result = result.and(clear(route, &others));
            self.adopted = result.is_ok();
        }
        result.map(|()| restored)
    }

    /// Says whether something was missing that this process had set.
    pub fn complete(&mut self, route: &mut Route, endpoint: &Straight) -> Result<bool, NetError> {
        let found = route.link(&endpoint.link).map_err(failed(endpoint))?;
        let Some(link) = found.map(|l| l.index) else {
            return self.remove(&endpoint.endpoint).map(|()| false);
        };
        let entry = Entry { network: self.number(&endpoint.network), mac: endpoint.mac, link };
        let known = self.entries.get(&endpoint.endpoint) == Some(&entry);
        self.enter(&endpoint.endpoint, entry)?;
        let present = route.classifier(link).map_err(failed(endpoint))?;
        if present.is_some_and(|p| p.program == self.program.id()) {
            return Ok(false);
        }
        self.set_program(route, link).map_err(failed(endpoint))?;
        Ok(known)
    }
}

/// Takes the program of an earlier process off the links.
pub(super) fn clear(route: &mut Route, endpoints: &[Straight]) -> Result<(), NetError> {
    for endpoint in endpoints {
        let found = route.link(&endpoint.link).map_err(failed(endpoint))?;
        let Some(link) = found.map(|l| l.index) else { continue };
        let present = route.classifier(link).map_err(failed(endpoint))?;
        if present.is_some_and(|p| p.name == bpf::Redirect::NAME) {
            route.run(vec![delete_classifier(link).absent_ok()]).map_err(failed(endpoint))?;
        }
    }
    Ok(())
}

fn failed(endpoint: &Straight) -> impl FnOnce(NetlinkError) -> NetError + use<> {
    NetError::kernel(format!("lead frames of {} past the bridge", endpoint.link))
}
