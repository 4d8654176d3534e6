//! Programs that see every frame that comes in by a link: filters of the
//! `clsact` queueing discipline (`linux/pkt_sched.h`, `linux/pkt_cls.h`,
//! tc-bpf(8)).
//!
//! Be aware:
//! - A filter stays with its link: it goes away when the link does, not when
//!   the process that made it ends.
//! - The newer hook, tcx, waits for a grace period of RCU at each attachment,
//!   with the kernel's lock on links held: 16 ms instead of 0.04.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::attr::{Message, find, text, u32_ne};
use super::route::{Request, dump};
use super::{NetlinkError, Route, is_absence};

const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS`.
pub(super) const INGRESS: u32 = 0xffff_fff2;
/// `TC_H_CLSACT` with `TC_H_MIN_EGRESS`.
const EGRESS: u32 = 0xffff_fff3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's own verdict counts.
const DIRECT_ACTION: u32 = 1;

/// Where a filter is among those of a link: lower priorities come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FilterSlot {
    pub(super) priority: u32,
    pub(super) handle: u32,
}

impl FilterSlot {
    /// For frames between neighbours on a bridge. Its priority is far from
    /// those that people number, and from those that the kernel gives when
    /// nobody does (0xc000 downward).
    pub const NEIGHBOURS: Self = Self { priority: 0x5350, handle: 1 };
    /// For what containers answer to connections to their published ports.
    pub const ANSWERS: Self = Self { priority: 0x5350, handle: 2 };
    /// For what comes in by a link whose other end is not on the host.
    pub const INWARD: Self = Self { priority: 0x5350, handle: 3 };

    /// For connections to published ports, on a link that is not ours alone:
    /// after the filters of everybody else, in a place of `owner`'s.
    #[must_use]
    pub const fn published(owner: u32) -> Self {
        Self { priority: 0xfff0, handle: if owner == 0 { 1 } else { owner } }
    }
}

/// A filter of ours on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classifier {
    /// The name that it was given.
    pub name: String,
    /// The program's number.
    pub program: u32,
}

/// `struct tcmsg`: family, link, handle, parent, info.
pub(super) fn header(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    for (at, value) in [(4, link), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// A filter's priority and protocol, as `tcm_info` holds them.
pub(super) fn info(slot: FilterSlot) -> u32 {
    let every = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    slot.priority << 16 | u32::from(every)
}

/// Makes filters possible on a link.
#[must_use]
pub fn add_clsact(link: u32) -> Request {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let header = header(link, CLSACT_HANDLE, TC_H_CLSACT, 0);
    let mut message = Message::new(libc::RTM_NEWQDISC, flags, &header);
    message.text(TCA_KIND, "clsact");
    Request::new(message, format!("prepare link number {link} for filters"))
}

/// Takes the discipline off that [`add_clsact`] made, with all filters.
#[must_use]
pub fn delete_clsact(link: u32) -> Request {
    let header = header(link, CLSACT_HANDLE, TC_H_CLSACT, 0);
    let mut message = Message::new(libc::RTM_DELQDISC, 0, &header);
    message.text(TCA_KIND, "clsact");
    Request::new(message, format!("have no filters on link number {link}"))
}

/// Lets `program` see each frame that comes in by a link, in place of the one
/// before it, if any. There is no moment without one.
#[must_use]
pub fn set_classifier(link: u32, program: BorrowedFd<'_>, name: &str) -> Request {
    set_filter(link, FilterSlot::NEIGHBOURS, program, name)
}

/// As [`set_classifier`], in another place among a link's filters.
#[must_use]
pub fn set_filter(link: u32, slot: FilterSlot, program: BorrowedFd<'_>, name: &str) -> Request {
    let flags = libc::NLM_F_CREATE as u16;
    let header = header(link, slot.handle, INGRESS, info(slot));
    let mut message = Message::new(libc::RTM_NEWTFILTER, flags, &header);
    message.text(TCA_KIND, "bpf").nest(TCA_OPTIONS, |m| {
        m.u32(TCA_BPF_FD, u32::try_from(program.as_raw_fd()).unwrap_or(u32::MAX));
        m.text(TCA_BPF_NAME, name).u32(TCA_BPF_FLAGS, DIRECT_ACTION);
    });
    Request::new(message, format!("set program {name} on link number {link}"))
}

/// Takes the program off that [`set_classifier`] set.
#[must_use]
pub fn delete_classifier(link: u32) -> Request {
    delete_filter(link, FilterSlot::NEIGHBOURS)
}

/// Takes the program off that [`set_filter`] set in a place.
#[must_use]
pub fn delete_filter(link: u32, slot: FilterSlot) -> Request {
    let header = header(link, slot.handle, INGRESS, info(slot));
    let mut message = Message::new(libc::RTM_DELTFILTER, 0, &header);
    message.text(TCA_KIND, "bpf");
    Request::new(message, format!("take a program off link number {link}"))
}

impl Route {
    /// What [`set_classifier`] set on a link; none when nothing is there, or
    /// no link.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn classifier(&mut self, link: u32) -> Result<Option<Classifier>, NetlinkError> {
        self.filter(link, FilterSlot::NEIGHBOURS)
    }

    /// What [`set_filter`] set in a place of a link.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn filter(
        &mut self,
        link: u32,
        slot: FilterSlot,
    ) -> Result<Option<Classifier>, NetlinkError> {
        let found = self.filters(link, INGRESS, |body| parse(body, slot))?;
        Ok(found.into_iter().next())
    }

    /// Whether anybody has a filter on a link, of what comes or of what goes.
    ///
    /// # Errors
    /// When the lists can't be read.
    pub fn has_filters(&mut self, link: u32) -> Result<bool, NetlinkError> {
        for parent in [INGRESS, EGRESS] {
            if !self.filters(link, parent, |_| Some(()))?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn filters<T>(
        &mut self,
        link: u32,
        parent: u32,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let request = Message::new(libc::RTM_GETTFILTER, 0, &header(link, 0, parent, 0));
        let what = format!("list the filters of link number {link}");
        match dump(self.socket(), &request, &what, parse) {
            Ok(list) => Ok(list),
            Err(e) if e.errno().is_some_and(|e| is_absence(e) || e == libc::EINVAL) => {
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }
}

/// A filter in a list; none unless it is in the place.
fn parse(body: &[u8], slot: FilterSlot) -> Option<Classifier> {
    let (header, attributes) = body.split_at_checked(20)?;
    if u32_ne(&header[8..12]) != slot.handle || u32_ne(&header[16..20]) >> 16 != slot.priority {
        return None;
    }
    let options = find(attributes, TCA_OPTIONS)?;
    let name = text(find(options, TCA_BPF_NAME)?);
    Some(Classifier { name, program: find(options, TCA_BPF_ID).map_or(0, u32_ne) })
}
