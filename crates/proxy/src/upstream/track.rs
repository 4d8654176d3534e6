//! Which server is asked first, and how long it is waited for before the next
//! one is asked too. Pure.

use std::time::Duration;

/// How long a server that nobody knows yet is waited for alone.
const FIRST_PATIENCE: Duration = Duration::from_millis(15);
/// The least and the most that a known server is waited for alone.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// How long the others are waited for before a server is asked that is taken
/// for dead.
const LAST_RESORT: Duration = Duration::from_millis(300);
/// So many races lost in a row, and a server is asked last.
const LOST_MAX: u32 = 3;
/// So many questions may go to a server that never answered before others are
/// asked at the same time.
const TRUST: u32 = 8;

/// What is known of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Track {
    /// The smoothed time to an answer, and how much it varies (RFC 6298).
    time: Option<(Duration, Duration)>,
    /// How often in a row others answered, or nobody.
    lost: u32,
    /// How often it was asked before it ever answered.
    asked: u32,
}

impl Track {
    /// It is asked.
    pub fn asked(&mut self) {
        if self.time.is_none() {
            self.asked = self.asked.saturating_add(1);
        }
    }

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

    /// How long it is waited for before `next` is asked too.
    #[must_use]
    pub fn patience(&self, next: &Self) -> Duration {
        match self.time {
            _ if self.is_dead() => PATIENCE.0,
            // For nothing, when it does not live and this one is only slow.
            _ if next.is_dead() => LAST_RESORT,
            None if self.asked > TRUST => Duration::ZERO,
            None => FIRST_PATIENCE,
            Some((smooth, vary)) => (smooth + 4 * vary).clamp(PATIENCE.0, PATIENCE.1),
        }
    }

    /// The living before the dead, the proven before the silent, the quick
    /// before the slow.
    fn rank(&self) -> (bool, bool, Duration) {
        let silent = self.time.is_none() && self.asked > TRUST;
        (self.is_dead(), silent, self.time.map_or(Duration::ZERO, |(smooth, _)| smooth))
    }
}

/// The order in which servers are asked.
pub fn order(tracks: impl Iterator<Item = Track>) -> Vec<usize> {
    let mut ranked: Vec<(usize, Track)> = tracks.enumerate().collect();
    // Of equal ones the first that was named comes first.
    ranked.sort_by_key(|(_, track)| track.rank());
    ranked.into_iter().map(|(at, _)| at).collect()
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
        assert_eq!(order(tracks.into_iter()), [2, 1, 0]);
        (0..LOST_MAX).for_each(|_| tracks[2].lost());
        assert_eq!(order(tracks.into_iter()), [1, 0, 2]);
        tracks[2].answered(Duration::from_millis(1));
        assert_eq!(order(tracks.into_iter()), [2, 1, 0]);
    }

    #[test]
    fn a_server_that_never_answers_is_not_waited_for() {
        let mut tracks = [Track::default(); 2];
        assert_eq!(tracks[0].patience(&tracks[1]), FIRST_PATIENCE);
        (0..=TRUST).for_each(|_| tracks[0].asked());
        assert_eq!(order(tracks.into_iter()), [1, 0]);
        assert_eq!(tracks[0].patience(&tracks[1]), Duration::ZERO);
        (0..LOST_MAX).for_each(|_| tracks[0].lost());
        assert_eq!(tracks[1].patience(&tracks[0]), LAST_RESORT);
    }

    proptest! {
        #[test]
        fn nobody_is_waited_for_long(times in prop::collection::vec(0u64..5000, 0..50)) {
            let mut track = Track::default();
            for time in times {
                track.answered(Duration::from_millis(time));
                prop_assert!((PATIENCE.0..=PATIENCE.1).contains(&track.patience(&Track::default())));
            }
        }
    }
}
