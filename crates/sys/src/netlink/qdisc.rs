//! Limits of bandwidth: a token bucket as a link's root queueing discipline
//! (`linux/pkt_sched.h`, tc-tbf(8)).
//!
//! Be aware:
//! - It limits what leaves by the link. What comes in is limited where it
//!   leaves the other end of a pair.
//! - A bucket of fewer bytes than a packet has would let none pass; larger
//!   packets that the kernel has put together are taken apart for it.

use super::NetlinkError;
use super::attr::{Message, find, text, u32_ne};
use super::route::{Request, Route};

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_H_ROOT`: what all packets of the link pass.
const ROOT: u32 = 0xffff_ffff;
/// The discipline's number, by which ours is known again.
const HANDLE: u32 = 0x5350_0000;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes times, no table is given.
const LINK_LAYER_ETHERNET: u8 = 1;
/// `struct tcmsg`, `struct tc_ratespec`.
const HEADER: usize = 20;
const RATE_SPEC: usize = 12;

/// A limit of what leaves by a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second.
    pub rate: u64,
    /// How many bytes may leave at once after a pause.
    pub burst: u32,
    /// How many bytes wait at most; what comes on top is dropped.
    pub limit: u32,
}

/// `struct tcmsg`.
fn header(link: u32, handle: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[4..8].copy_from_slice(&link.to_ne_bytes());
    bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
    bytes[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    bytes
}

/// `struct tc_tbf_qopt`: the rate, a peak rate that is not used, the limit,
/// and two numbers that the attribute of the burst replaces.
fn parameters(bucket: &TokenBucket) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[1] = LINK_LAYER_ETHERNET;
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    bytes[8..RATE_SPEC].copy_from_slice(&rate.to_ne_bytes());
    bytes[2 * RATE_SPEC..2 * RATE_SPEC + 4].copy_from_slice(&bucket.limit.to_ne_bytes());
    bytes
}

/// Limits what leaves by a link, in place of an earlier limit.
#[must_use]
pub fn set_token_bucket(link: u32, bucket: &TokenBucket) -> Request {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let mut m = Message::new(libc::RTM_NEWQDISC, flags, &header(link, HANDLE));
    m.text(TCA_KIND, "tbf");
    m.nest(TCA_OPTIONS, |m| {
        m.raw(TCA_TBF_PARMS, &parameters(bucket)).u32(TCA_TBF_BURST, bucket.burst);
        if u32::try_from(bucket.rate).is_err() {
            m.raw(TCA_TBF_RATE64, &bucket.rate.to_ne_bytes());
        }
    });
    Request::new(m, format!("limit link number {link} to {} bytes a second", bucket.rate))
}

/// Lifts the limit of [`set_token_bucket`].
#[must_use]
pub fn delete_token_bucket(link: u32) -> Request {
    let m = Message::new(libc::RTM_DELQDISC, 0, &header(link, HANDLE));
    Request::new(m, format!("lift the limit of link number {link}"))
}

impl Route {
    /// The rate in bytes a second to which [`set_token_bucket`] limits a link;
    /// none when something else or nothing does.
    ///
    /// # Errors
    /// Other than absence.
    pub fn token_bucket_rate(&mut self, link: u32) -> Result<Option<u64>, NetlinkError> {
        let what = format!("find the limit of link number {link}");
        // Of its own default the kernel says nothing at all but, when it is
        // asked to, that the request was read. Others it tells everybody, and
        // who asks for it only as an echo.
        let flags = (libc::NLM_F_ACK | libc::NLM_F_ECHO) as u16;
        let message = Message::new(libc::RTM_GETQDISC, flags, &header(link, 0));
        match self.get(message, &what) {
            Ok(found) => Ok(found.as_deref().and_then(parse)),
            // What some kernels say of their default.
            Err(e) if e.errno() == Some(libc::EINVAL) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn parse(body: &[u8]) -> Option<u64> {
    let (header, attributes) = (body.get(..HEADER)?, body.get(HEADER..)?);
    let ours = u32_ne(&header[8..12]) == HANDLE;
    if !ours || find(attributes, TCA_KIND).map(text)? != "tbf" {
        return None;
    }
    let options = find(attributes, TCA_OPTIONS)?;
    let large = find(options, TCA_TBF_RATE64).and_then(|v| v.try_into().ok());
    let small = find(options, TCA_TBF_PARMS)?.get(8..RATE_SPEC)?;
    Some(large.map_or_else(|| u64::from(u32_ne(small)), u64::from_ne_bytes))
}
