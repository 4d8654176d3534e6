//! What comes in by a link, led through another one that can be limited: an
//! intermediate functional block (`ifb`), a classic BPF filter that matches
//! everything, and the action `mirred` (`linux/pkt_cls.h`,
//! `linux/tc_act/tc_mirred.h`, tc-mirred(8)).
//!
//! ```text
//! eth0 ─ ingress: filter ─ redirect ─> ifb (leaves here: token bucket) ─> as if come in by eth0
//! ```
//!
//! Be aware: a link that is redirected to and goes away takes what comes in
//! with it. The filter has to be gone before.

use super::attr::{Message, u32_ne};
use super::classifier::{FilterSlot, INGRESS, header, info};
use super::link::{LinkRef, create_message};
use super::route::Request;
use super::{NetlinkError, Route};

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// The first of a list of actions, its kind, its options.
const FIRST: u16 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
/// `TC_ACT_STOLEN`: nobody else goes on with the packet.
const STOLEN: u32 = 4;
/// `TCA_EGRESS_REDIR`: it leaves by the other link.
const EGRESS_REDIRECT: u32 = 1;
/// `BPF_RET | BPF_K` with -1: everything matches.
const ALL: [u8; 8] = {
    let code = 0x06_u16.to_ne_bytes();
    [code[0], code[1], 0, 0, 0xff, 0xff, 0xff, 0xff]
};

/// Makes a link that hands packets back to where they came from.
#[must_use]
pub fn add_ifb(name: &str) -> Request {
    let mut m = create_message(LinkRef::Name(name));
    m.nest(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, "ifb");
    });
    Request::new(m, format!("add link {name} of kind ifb"))
}

/// Leads what comes in by a link through the ifb number `by`, in place of an
/// earlier one. The link is prepared for filters.
#[must_use]
pub fn redirect_inward(link: u32, by: u32) -> Request {
    let slot = FilterSlot::INWARD;
    let flags = libc::NLM_F_CREATE as u16;
    let mut message =
        Message::new(libc::RTM_NEWTFILTER, flags, &header(link, slot.handle, INGRESS, info(slot)));
    message.text(TCA_KIND, "bpf").nest(TCA_OPTIONS, |m| {
        m.nest(TCA_BPF_ACT, |m| {
            m.nest(FIRST, |m| {
                m.text(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |m| {
                    m.raw(TCA_MIRRED_PARMS, &parameters(by));
                });
            });
        });
        m.raw(TCA_BPF_OPS_LEN, &1_u16.to_ne_bytes()).raw(TCA_BPF_OPS, &ALL);
    });
    Request::new(message, format!("lead what comes in by link number {link} through {by}"))
}

/// `struct tc_mirred`: index, capabilities, action, two counts of references,
/// what is done, the link.
fn parameters(by: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    for (at, value) in [(8, STOLEN), (20, EGRESS_REDIRECT), (24, by)] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

impl Route {
    /// Whether [`redirect_inward`] is in effect on a link.
    ///
    /// # Errors
    /// When the list of filters can't be read.
    pub fn is_redirected_inward(&mut self, link: u32) -> Result<bool, NetlinkError> {
        let slot = FilterSlot::INWARD;
        let ours = |body: &[u8]| {
            let header = body.get(..20)?;
            let same = u32_ne(&header[8..12]) == slot.handle
                && u32_ne(&header[16..20]) >> 16 == slot.priority;
            same.then_some(())
        };
        Ok(!self.filters(link, INGRESS, ours)?.is_empty())
    }
}
