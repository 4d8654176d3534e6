//! Which server is asked first, and how long it is waited for before the next
//! one is asked too. Pure.

use std::time::Duration;

/// How long a server that nobody knows yet is waited for alone.
const FIRST_PATIENCE: Duration = Duration::from_millis(15);
/// The least and the most that a known server is waited for alone.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// So many races lost in a row, and a server is asked last.
const LOST_MAX: u32 = 3;

/// What is known of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Track {
    /// The smoothed time to an answer, and how much it varies (RFC 6298).
    time: Option<(Duration, Duration)>,
    /// How often in a row others answered, or nobody.
    lost: u32,
}

impl Track {
    /// It answered after this time.
    pub fn answered(&mut self, after: Duration) {
        self.lost = 0;
        self.time = Some(match self.time {
            None => (after, after / 2),
            Some((smooth, vary)) => {
                let off = smooth.abs_diff(after);
                (smooth * 7 / 8 + after / 8, vary * 3 / 4 + off / 4)
            }
        });
    }

    /// It did not answer before others did, or not at all.
    pub fn lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// Whether it is taken for dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.lost >= LOST_MAX
    }

    /// How long it is waited for before the next one is asked too.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.time {
            _ if self.is_dead() => PATIENCE.0,
            None => FIRST_PATIENCE,
            Some((smooth, vary)) => (smooth + 4 * vary).clamp(PATIENCE.0, PATIENCE.1),
        }
    }

    /// The living before the dead, the quick before the slow.
    fn rank(&self) -> (bool, Duration) {
        (self.is_dead(), self.time.map_or(Duration::ZERO, |(smooth, _)| smooth))
    }
}

/// The order in which servers are asked.
#[must_use]
pub fn order(tracks: &[Track]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tracks.len()).collect();
    // Of equal ones the first that was named comes first.
    order.sort_by_key(|at| tracks[*at].rank());
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_quick_come_first_and_the_dead_last() {
        let mut tracks = [Track::default(); 3];
        tracks[0].answered(Duration::from_millis(40));
        tracks[1].answered(Duration::from_millis(2));
        assert_eq!(order(&tracks), [2, 1, 0]);
        (0..LOST_MAX).for_each(|_| tracks[2].lost());
        assert_eq!(order(&tracks), [1, 0, 2]);
        tracks[2].answered(Duration::from_millis(1));
        assert_eq!(order(&tracks), [2, 1, 0]);
    }

    proptest! {
        #[test]
        fn nobody_is_waited_for_long(times in prop::collection::vec(0u64..5000, 0..50)) {
            let mut track = Track::default();
            for time in times {
                track.answered(Duration::from_millis(time));
                prop_assert!((PATIENCE.0..=PATIENCE.1).contains(&track.patience()));
            }
        }
    }
}
