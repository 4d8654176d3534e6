//! The programs that lead connections to published ports past bridge,
//! firewall and flow tracking (`bpf/published.bpf.c`), and their maps.
//!
//! Be aware:
//! - Programs and maps live as long as this value or any link with a program
//!   on it. The next process loads its own programs and takes over the flows
//!   of those that are in use: no connection is interrupted.
//! - An entry names links by number. It has to go before the links do.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::call;
use super::object::{Aligned, Loader, ProgramError};
use super::take;

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/published.bpf.o")));

/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;
const PROGRAM: &str = "published";

/// `struct port`, `struct container`, `struct flow`, `struct state`.
const PORT: usize = 8;
const CONTAINER: usize = 28;
const FLOW: usize = 16;
const STATE: usize = 20;

/// A port of the host; with the unspecified address, of all its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublishedPlace {
    /// The host's address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
}

impl PublishedPlace {
    fn bytes(self) -> [u8; PORT] {
        let mut bytes = [0; PORT];
        bytes[..4].copy_from_slice(&self.address.octets());
        bytes[4..6].copy_from_slice(&self.port.to_be_bytes());
        bytes
    }
}

/// Where a port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leads {
    /// The container's address and port.
    pub to: SocketAddrV4,
    /// The host's end of the container's pair of links; 0 when everything is
    /// left to the host's stack.
    pub link: u32,
    /// The bridge.
    pub bridge: u32,
    /// The container's hardware address.
    pub mac: [u8; 6],
    /// The bridge's.
    pub bridge_mac: [u8; 6],
    /// Whether nothing begins any more, and what runs is handed over to the
    /// host's stack.
    pub draining: bool,
}

impl Leads {
    fn bytes(self) -> [u8; CONTAINER] {
        let mut bytes = [0; CONTAINER];
        bytes[..4].copy_from_slice(&self.to.ip().octets());
        bytes[4..6].copy_from_slice(&self.to.port().to_be_bytes());
        bytes[6] = u8::from(self.draining);
        bytes[8..12].copy_from_slice(&self.link.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.bridge.to_ne_bytes());
        bytes[16..22].copy_from_slice(&self.mac);
        bytes[22..].copy_from_slice(&self.bridge_mac);
        bytes
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct Published {
    enter: OwnedFd,
    answer: OwnedFd,
    ids: [u32; 2],
    ports: OwnedFd,
    flows: OwnedFd,
    /// Kept for programs alone: they forget what is in it by themselves.
    _brief: OwnedFd,
}

impl Published {
    /// The name of the program for links that lead to clients.
    pub const ENTER: &'static str = "sampan_enter";
    /// The name of the program for the host's ends of containers' links.
    pub const ANSWER: &'static str = "sampan_answer";

    /// Loads the programs without a port. Flows are those of the program with
    /// the number `earlier`, if it is of the same make.
    ///
    /// # Errors
    /// [`ProgramError`]: without the privilege, or on a kernel before 5.11.
    pub fn load(earlier: Option<u32>) -> Result<Self, ProgramError> {
        let mut loader = Loader::read(PROGRAM, &OBJECT.0)?;
        let ports = loader.map::<PORT, CONTAINER>("ports")?;
        let flows = loader.map_of::<FLOW, STATE>("flows", earlier)?;
        let brief = loader.map_of::<FLOW, STATE>("brief", earlier)?;
        loader.refer(&[("ports", &ports), ("flows", &flows), ("brief", &brief)])?;
        let enter = loader.load(CLASSIFIER, 0, Self::ENTER)?;
        let answer = loader.load(CLASSIFIER, 0, Self::ANSWER)?;
        let id = |program| call::program_id(program).map_err(loader.refused("ask for the number"));
        let ids = [id(&enter)?, id(&answer)?];
        Ok(Self { enter, answer, ids, ports, flows, _brief: brief })
    }

    /// The program for links that lead to clients, and its number.
    #[must_use]
    pub fn enter(&self) -> (BorrowedFd<'_>, u32) {
        (self.enter.as_fd(), self.ids[0])
    }

    /// The program for the host's ends of containers' links, and its number.
    #[must_use]
    pub fn answer(&self) -> (BorrowedFd<'_>, u32) {
        (self.answer.as_fd(), self.ids[1])
    }

    /// Connections to `place` go to a container.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set(&self, place: PublishedPlace, leads: Leads) -> Result<(), ProgramError> {
        call::set(&self.ports, place.bytes(), leads.bytes()).map_err(refused("set a port"))
    }

    /// Connections to `place` are left to the host's stack, those that run as
    /// well. Absence is success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove(&self, place: PublishedPlace) -> Result<(), ProgramError> {
        call::remove(&self.ports, place.bytes()).map_err(refused("remove a port"))
    }

    /// Forgets flows that no packet can be of any more: their link is not
    /// among `links`, or nobody sent anything for `idle` seconds, for `closing`
    /// after one side has closed. Says how many.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn sweep(
        &self,
        links: &HashSet<u32>,
        idle: u32,
        closing: u32,
    ) -> Result<usize, ProgramError> {
        let now = seconds();
        let mut stale: Vec<[u8; FLOW]> = Vec::new();
        let see = |flow: &[u8; FLOW], state: &[u8; STATE]| {
            let link = word(flow, 12);
            let seen = word(state, 16);
            let limit = if state[8] | state[9] == 0 { idle } else { closing };
            if !links.contains(&link) || now.saturating_sub(seen) > limit {
                stale.push(*flow);
            }
        };
        take::each(&self.flows, see).map_err(refused("list the flows"))?;
        for flow in &stale {
            call::remove(&self.flows, *flow).map_err(refused("remove a flow"))?;
        }
        Ok(stale.len())
    }
}

/// What the programs' clock says: it stands still while the machine sleeps.
fn seconds() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.ok().and_then(|t| u32::try_from(t.tv_sec()).ok()).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn refused(operation: &'static str) -> impl FnOnce(std::io::Error) -> ProgramError {
    move |source| ProgramError::Kernel { program: PROGRAM, operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16, link: u32) -> [u8; FLOW] {
        let mut flow = [0; FLOW];
        flow[8..10].copy_from_slice(&port.to_be_bytes());
        flow[12..].copy_from_slice(&link.to_ne_bytes());
        flow
    }

    fn state(silent: u32, closing: bool) -> [u8; STATE] {
        let mut state = [0; STATE];
        state[9] = u8::from(closing);
        state[16..].copy_from_slice(&seconds().saturating_sub(silent).to_ne_bytes());
        state
    }

    fn flows(programs: &Published) -> usize {
        let mut count = 0;
        take::each::<FLOW, STATE>(&programs.flows, |_, _| count += 1).unwrap();
        count
    }

    #[test]
    fn flows_are_taken_over_and_swept() {
        let first = match Published::load(None) {
            Ok(programs) => programs,
            Err(e) => {
                eprintln!("skipped: {e}");
                return;
            }
        };
        // More than one chunk of them.
        for port in 0..5000 {
            call::set(&first.flows, flow(port, 7), state(0, false)).unwrap();
        }
        call::set(&first.flows, flow(1, 8), state(0, false)).unwrap();
        call::set(&first.flows, flow(2, 7), state(10, true)).unwrap();
        call::set(&first.flows, flow(3, 7), state(10, false)).unwrap();
        let next = Published::load(Some(first.enter().1)).unwrap();
        assert_eq!(flows(&next), 5001);
        let links = HashSet::from([7]);
        // Gone with its link; silent after one side closed.
        assert_eq!(next.sweep(&links, 60, 5).unwrap(), 2);
        assert_eq!(next.sweep(&links, 5, 5).unwrap(), 1);
        assert_eq!((flows(&first), flows(&next)), (4998, 4998));
        // A program of another make has nothing for it.
        let other = super::super::Redirect::load().unwrap();
        assert_eq!(flows(&Published::load(Some(other.id())).unwrap()), 0);
    }
}
