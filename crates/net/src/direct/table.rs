//! The programs with their entries, as this process has set them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sampan_sys::bpf::{self, Leads, ProgramError, PublishedPlace};
use sampan_sys::netlink::{
    FilterSlot, Link, NetlinkError, Route, add_clsact, delete_clsact, delete_filter, set_filter,
};
use sampan_types::SandboxId;

use super::ways::{Door, Ways};
use crate::error::NetError;

/// How long nobody has to have said anything for a connection to be forgotten:
/// as long as the kernel's flow tracking waits (`nf_conntrack_tcp_timeout_established`).
const IDLE: u32 = 5 * 24 * 3600;
/// The same after one side has closed.
const CLOSING: u32 = 600;
/// How often forgotten connections are looked for, at most.
const SWEEP: Duration = Duration::from_mins(10);

/// The ports of a sandbox as they are set. `draining` says that the sandbox
/// may not be reached directly any more.
type Held = HashMap<PublishedPlace, Leads>;

/// The programs with their entries.
#[derive(Debug)]
pub(super) struct Table {
    program: bpf::Published,
    slot: FilterSlot,
    held: HashMap<SandboxId, Held>,
    /// Links to clients that have the program, and whether this process made
    /// filters possible there.
    uplinks: HashMap<u32, bool>,
    /// Whether connections may begin: nobody else has rules on their way.
    open: bool,
    swept: Instant,
}

impl Table {
    /// `earlier` is the number of a program of an earlier process.
    pub fn load(slot: FilterSlot, open: bool, earlier: Option<u32>) -> Result<Self, ProgramError> {
        let program = bpf::Published::load(earlier)?;
        let (held, uplinks) = (HashMap::new(), HashMap::new());
        Ok(Self { program, slot, held, uplinks, open, swept: Instant::now() })
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The sandboxes to which connections may begin.
    pub fn reached(&self) -> HashSet<SandboxId> {
        let begins = |leads: &Leads| leads.link != 0 && !self.in_force(*leads).draining;
        let reached = self.held.iter().filter(|(_, held)| held.values().any(begins));
        reached.map(|(sandbox, _)| sandbox.clone()).collect()
    }

    /// Lets connections begin, or hands those that run over to the host's
    /// stack.
    pub fn set_open(&mut self, open: bool) -> Result<(), NetError> {
        if self.open == open {
            return Ok(());
        }
        self.open = open;
        let mut all = self.held.values().flatten();
        let done =
            all.try_for_each(|(place, leads)| self.program.set(*place, self.in_force(*leads)));
        // What failed half way is done again next time.
        done.inspect_err(|_| self.open = !open)?;
        Ok(())
    }

    fn in_force(&self, leads: Leads) -> Leads {
        Leads { draining: leads.draining || !self.open, ..leads }
    }

    /// Makes a sandbox's ports what they shall be.
    pub fn set(&mut self, route: &mut Route, ways: &Ways) -> Result<(), NetError> {
        self.complete(route, ways).map(drop)
    }

    /// As [`Table::set`]. Says whether the program was missing on its link
    /// although this process had set it.
    fn complete(&mut self, route: &mut Route, ways: &Ways) -> Result<bool, NetError> {
        let by = match &ways.by {
            Some(door) => find(route, door)?,
            None => None,
        };
        let mut held = self.held.remove(&ways.sandbox).unwrap_or_default();
        let known = by.is_some_and(|by| held.values().any(|leads| leads.link == by.link));
        let result = self.exchange(ways, by, &mut held);
        if !held.is_empty() {
            self.held.insert(ways.sandbox.clone(), held);
        }
        result?;
        let Some(link) = by.map(|by| by.link).filter(|_| !ways.is_empty()) else {
            return Ok(false);
        };
        let (program, id) = self.program.answer();
        let failed = || NetError::kernel("lead answers past the bridge");
        let present = route.filter(link, FilterSlot::ANSWERS).map_err(failed())?;
        if present.is_some_and(|p| p.program == id) {
            return Ok(false);
        }
        let set = set_filter(link, FilterSlot::ANSWERS, program, bpf::Published::ANSWER);
        route.run(vec![add_clsact(link).present_ok(), set]).map_err(failed())?;
        Ok(known)
    }

    fn exchange(&self, ways: &Ways, by: Option<Leads>, held: &mut Held) -> Result<(), NetError> {
        let wanted: HashSet<_> = ways.ports.iter().map(|(place, _)| *place).collect();
        let gone: Vec<_> = held.keys().filter(|place| !wanted.contains(place)).copied().collect();
        for place in gone {
            self.program.remove(place)?;
            held.remove(&place);
        }
        for (place, to) in &ways.ports {
            let leads = match (by, held.get(place)) {
                (Some(by), _) => Leads { to: *to, ..by },
                (None, Some(before)) => Leads { draining: true, ..*before },
                (None, None) => blocked(*to),
            };
            if held.get(place) != Some(&leads) {
                // Known before it is set: what fails half way can be taken back.
                held.insert(*place, leads);
                self.program.set(*place, self.in_force(leads))?;
            }
        }
        Ok(())
    }

    /// Removes a sandbox's entries. The program on its link goes with it.
    pub fn remove(&mut self, route: &mut Route, sandbox: &SandboxId) -> Result<(), NetError> {
        let Some(held) = self.held.remove(sandbox) else { return Ok(()) };
        let mut result = Ok(());
        for place in held.into_keys() {
            result = result.and(self.program.remove(place));
        }
        if self.is_empty() {
            return result.map_err(NetError::from).and(self.leave_all(route));
        }
        Ok(result?)
    }

    /// See [`super::Turn::restore`].
    pub fn restore(&mut self, route: &mut Route, all: &[Ways]) -> Result<Vec<String>, NetError> {
        let wanted: HashSet<_> = all.iter().map(|ways| &ways.sandbox).collect();
        let gone: Vec<_> = self.held.keys().filter(|s| !wanted.contains(s)).cloned().collect();
        let mut result = gone.iter().try_for_each(|sandbox| self.remove(route, sandbox));
        let mut restored = Vec::new();
        for ways in all {
            match self.complete(route, ways) {
                Ok(false) => {}
                Ok(true) => {
                    let short = ways.sandbox.short();
                    restored.push(format!("direct way of answers of sandbox {short}"));
                }
                Err(e) => result = result.and(Err(e)),
            }
        }
        result.map(|()| restored)
    }

    /// Sets the program on the host's interfaces where clients may come from,
    /// and takes it off others. Says what was missing.
    pub fn refresh(&mut self, route: &mut Route, instance: &str) -> Result<Vec<String>, NetError> {
        if self.is_empty() {
            return self.leave_all(route).map(|()| Vec::new());
        }
        let failed = || NetError::kernel("lead published ports past the firewall");
        let links = route.links().map_err(failed())?;
        let wanted = uplinks(route, &links, instance).map_err(failed())?;
        let present: HashSet<u32> = links.iter().map(|link| link.index).collect();
        let wrong = |link: &&u32| !wanted.iter().any(|w| w.index == **link);
        let gone: Vec<u32> = self.uplinks.keys().filter(wrong).copied().collect();
        for link in gone {
            if present.contains(&link) {
                self.leave(route, link)?;
            }
            self.uplinks.remove(&link);
        }
        let mut restored = Vec::new();
        for link in wanted {
            if self.enter(route, link).map_err(failed())? {
                restored.push(format!("direct way of published ports by {}", link.name));
            }
        }
        if self.swept.elapsed() > SWEEP {
            self.swept = Instant::now();
            let count = self.program.sweep(&present, IDLE, CLOSING)?;
            tracing::debug!(count, "forgot connections that are no more");
        }
        Ok(restored)
    }

    /// Says whether the program was missing although this process had set it.
    fn enter(&mut self, route: &mut Route, link: &Link) -> Result<bool, NetlinkError> {
        let (program, id) = self.program.enter();
        let present = route.filter(link.index, self.slot)?;
        if present.is_some_and(|p| p.program == id) {
            self.uplinks.entry(link.index).or_insert(false);
            return Ok(false);
        }
        let made = match route.run(vec![add_clsact(link.index)]) {
            Ok(()) => true,
            Err(e) if e.is_present() => false,
            Err(e) => return Err(e),
        };
        let set = set_filter(link.index, self.slot, program, bpf::Published::ENTER);
        let known = self.uplinks.contains_key(&link.index);
        *self.uplinks.entry(link.index).or_default() |= made;
        route.run(vec![set])?;
        Ok(known)
    }

    fn leave_all(&mut self, route: &mut Route) -> Result<(), NetError> {
        let links: Vec<u32> = self.uplinks.keys().copied().collect();
        for link in links {
            self.leave(route, link)?;
            self.uplinks.remove(&link);
        }
        Ok(())
    }

    fn leave(&self, route: &mut Route, link: u32) -> Result<(), NetError> {
        let failed = || NetError::kernel("leave published ports to the firewall");
        route.run(vec![delete_filter(link, self.slot).absent_ok()]).map_err(failed())?;
        let made = self.uplinks.get(&link).copied().unwrap_or(false);
        if made && !route.has_filters(link).map_err(failed())? {
            route.run(vec![delete_clsact(link).absent_ok()]).map_err(failed())?;
        }
        Ok(())
    }
}

/// An entry that leaves everything to the host's stack.
fn blocked(to: std::net::SocketAddrV4) -> Leads {
    Leads { to, link: 0, bridge: 0, mac: [0; 6], bridge_mac: [0; 6], draining: true }
}

/// Where a door is, with ports still to be filled in; none when it is gone.
fn find(route: &mut Route, door: &Door) -> Result<Option<Leads>, NetError> {
    let failed = || NetError::kernel(format!("lead published ports to {}", door.link));
    let link = route.link(&door.link).map_err(failed())?;
    let bridge = route.link(&door.bridge).map_err(failed())?;
    let Some((link, bridge)) = link.zip(bridge) else { return Ok(None) };
    let Ok(bridge_mac) = <[u8; 6]>::try_from(bridge.mac.as_slice()) else { return Ok(None) };
    let to = std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
    let (link, bridge) = (link.index, bridge.index);
    Ok(Some(Leads { to, link, bridge, mac: door.mac.0, bridge_mac, draining: false }))
}

/// The links where clients may come from: of the host's own, with hardware
/// addresses and an address of IPv4.
fn uplinks<'a>(
    route: &mut Route,
    links: &'a [Link],
    instance: &str,
) -> Result<Vec<&'a Link>, NetlinkError> {
    let addresses = route.addresses()?;
    let addressed =
        |link: &Link| addresses.iter().any(|a| a.link == link.index && a.address.addr().is_ipv4());
    let is_ours = |link: &Link| {
        link.alias.strip_prefix(instance).is_some_and(|rest| rest.starts_with([' ', '-']))
    };
    let ethernet = |link: &Link| link.mac.len() == 6 && link.mac.iter().any(|byte| *byte != 0);
    let is_uplink = |link: &&Link| {
        link.up && link.master.is_none() && ethernet(link) && !is_ours(link) && addressed(link)
    };
    Ok(links.iter().filter(is_uplink).collect())
}

/// The number of a program that an earlier process left on a link to clients.
pub(super) fn earlier(
    route: &mut Route,
    slot: FilterSlot,
    instance: &str,
) -> Result<Option<u32>, NetError> {
    let failed = || NetError::kernel("look for direct ways of an earlier process");
    let links = route.links().map_err(failed())?;
    for link in uplinks(route, &links, instance).map_err(failed())? {
        let present = route.filter(link.index, slot).map_err(failed())?;
        if let Some(found) = present.filter(|p| p.name == bpf::Published::ENTER) {
            return Ok(Some(found.program));
        }
    }
    Ok(None)
}

/// Takes the programs of an earlier process off.
pub(super) fn clear(
    route: &mut Route,
    slot: FilterSlot,
    instance: &str,
    all: &[Ways],
) -> Result<(), NetError> {
    let failed = || NetError::kernel("leave published ports to the firewall");
    let links = route.links().map_err(failed())?;
    let mut there: Vec<(u32, FilterSlot, &str)> = uplinks(route, &links, instance)
        .map_err(failed())?
        .into_iter()
        .map(|link| (link.index, slot, bpf::Published::ENTER))
        .collect();
    let doors: HashSet<&str> =
        all.iter().filter_map(|w| w.by.as_ref()).map(|by| by.link.as_str()).collect();
    let ends = links.iter().filter(|link| doors.contains(link.name.as_str()));
    there.extend(ends.map(|l| (l.index, FilterSlot::ANSWERS, bpf::Published::ANSWER)));
    for (link, slot, name) in there {
        let present = route.filter(link, slot).map_err(failed())?;
        if present.is_some_and(|p| p.name == name) {
            route.run(vec![delete_filter(link, slot).absent_ok()]).map_err(failed())?;
        }
    }
    Ok(())
}
