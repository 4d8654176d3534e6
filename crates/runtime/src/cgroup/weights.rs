//! v1's numbers in v2's terms, as the OCI runtimes convert them.

/// CPU shares (2 to 262144) as a v2 weight (1 to 10000): a parabola of the
/// logarithms through both ends and through the defaults, 1024 and 100, as
/// the runtimes use it since 2025. A line would make the default a 39.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    const LARGEST: u64 = 262_144;
    match shares {
        0..=2 => 1,
        LARGEST.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

/// A block weight (10 to 1000) as a v2 weight (1 to 10000).
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// v1 limits memory and swap together, v2 swap alone. `None`: leave it.
pub(super) fn swap_limit(memory: Option<i64>, both: Option<i64>) -> Option<i64> {
    match (memory, both?) {
        (_, 0) => None,
        (_, -1) => Some(-1),
        (Some(memory), both) if memory > 0 && both >= memory => Some(both - memory),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_meet_ends() {
        assert_eq!((cpu_weight(0), cpu_weight(2), cpu_weight(262_144)), (1, 1, 10_000));
        assert_eq!((cpu_weight(512), cpu_weight(1024), cpu_weight(2048)), (59, 100, 174));
        assert_eq!((io_weight(10), io_weight(500), io_weight(1000)), (1, 4950, 10_000));
        assert_eq!(swap_limit(Some(100), Some(300)), Some(200));
        assert_eq!(swap_limit(Some(100), Some(-1)), Some(-1));
        assert_eq!(swap_limit(None, Some(300)), None);
    }

    proptest! {
        #[test]
        fn weights_are_monotonic(a in 0u64..300_000, b in 0u64..300_000) {
            prop_assert_eq!(a.clamp(2, 262_144) <= b.clamp(2, 262_144) || cpu_weight(a) >= cpu_weight(b), true);
            prop_assert!((1..=10_000).contains(&cpu_weight(a)));
        }
    }
}
