//! Limits of bandwidth: how much passes an endpoint in each direction.
//!
//! ```text
//! ingress: host ── veth1a2b3c4 (token bucket) ──> eth0 : sandbox
//! egress:  host <── veth1a2b3c4 ── (token bucket) eth0 : sandbox
//! ```
//!
//! What comes in by a link without an end on the host: [`inward`].
//!
//! Be aware:
//! - A link is limited where packets leave it, so what a sandbox sends is
//!   limited inside, where a container with `NET_ADMIN` could lift the limit;
//!   the next repair sets it again.
//! - What waits for its turn is bounded in time, not in packets: TCP learns
//!   of the limit by packets that are dropped or late.

pub(crate) mod inward;

use sampan_sys::netlink::{
    NetlinkError, Route, TokenBucket, delete_token_bucket, set_token_bucket,
};

use crate::config::RateLimit;

/// Below this, in bits a second, a packet takes longer than any timeout.
const RATE_MIN: u64 = 8_000;
/// Parts of a second that the bucket holds, and that packets wait at most.
const BURST_PARTS: u64 = 100;
const QUEUE_PARTS: u64 = 20;
/// What the bucket holds at least: some packets, however slow the link.
const BURST_MIN: u64 = 16 << 10;
/// A packet's own header comes on top of what the MTU says.
const HEADER: u64 = 64;
/// How many full buckets wait at least.
const QUEUE_MIN: u64 = 4;

/// Why a limit makes no sense, if it makes none.
pub(crate) fn check(rate: &RateLimit) -> Result<(), String> {
    for (direction, rate) in [("ingress", rate.ingress), ("egress", rate.egress)] {
        if let Some(rate) = rate.filter(|r| *r < RATE_MIN) {
            return Err(format!(
                "a limit of {rate} bit/s for {direction} is below the least of {RATE_MIN} bit/s"
            ));
        }
    }
    Ok(())
}

/// The bucket for so many bits a second on a link with packets of `mtu` bytes.
fn bucket(rate: u64, mtu: u32) -> TokenBucket {
    let bytes = rate / 8;
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let burst = (bytes / BURST_PARTS).max(BURST_MIN).max(u64::from(mtu) + HEADER);
    let limit = (bytes / QUEUE_PARTS).max(burst.saturating_mul(QUEUE_MIN));
    TokenBucket { rate: bytes, burst: number(burst), limit: number(limit) }
}

/// Limits what leaves by the interface `name`, or lifts the limit. Says
/// whether there was another one.
pub(crate) fn limit(
    route: &mut Route,
    name: &str,
    rate: Option<u64>,
) -> Result<bool, NetlinkError> {
    let Some(link) = route.link(name)? else {
        return Err(NetlinkError::Malformed(format!("find link {name}")));
    };
    let found = route.token_bucket_rate(link.index)?;
    let request = match rate.map(|rate| bucket(rate, link.mtu)) {
        Some(bucket) if found == Some(bucket.rate) => return Ok(false),
        Some(bucket) => set_token_bucket(link.index, &bucket),
        None if found.is_none() => return Ok(false),
        None => delete_token_bucket(link.index).absent_ok(),
    };
    route.run(vec![request])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_let_nothing_pass_is_refused() {
        let rate = |ingress, egress| RateLimit { ingress, egress };
        check(&rate(None, None)).unwrap();
        check(&rate(Some(RATE_MIN), Some(u64::MAX))).unwrap();
        assert!(check(&rate(Some(0), None)).unwrap_err().contains("ingress"));
        assert!(check(&rate(None, Some(7_999))).unwrap_err().contains("egress"));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_a_packet_and_waits_a_moment(
            rate in RATE_MIN..=100_000_000_000,
            mtu in 68_u32..=65535,
        ) {
            let bucket = bucket(rate, mtu);
            prop_assert_eq!(bucket.rate, rate / 8);
            prop_assert!(bucket.burst > mtu);
            prop_assert!(bucket.limit > bucket.burst);
            // Never more than a tenth of what passes in ten seconds at once.
            prop_assert!(rate < 1_000_000 || u64::from(bucket.burst) <= bucket.rate);
        }
    }
}
