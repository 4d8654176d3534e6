//! Restart policies: what happens when a container ends. Pure; the supervisor
//! of each container asks and acts.

use std::time::Duration;

use sampan_types::docker::{HostConfig, RestartPolicy, RestartPolicyNameEnum};

/// The first wait before a restart.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A container that ran as long as this starts over with the first wait.
pub const RESET_AFTER: Duration = Duration::from_secs(10);

/// What a container does when its process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    No,
    /// It starts again, also when the daemon starts and it was stopped before.
    Always,
    /// It starts again, unless a user stopped it.
    UnlessStopped,
    /// It starts again when it failed, at most `max` times (0: no limit).
    OnFailure {
        /// The limit.
        max: u32,
    },
}

/// Why a policy is refused; Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A count with a policy that has none.
    #[error(
        "invalid restart policy: maximum retry count can only be used with 'on-failure' restart policy"
    )]
    CountWithoutFailure,
    /// A negative count.
    #[error("invalid restart policy: maximum retry count cannot be negative")]
    NegativeCount,
}

impl Policy {
    /// Checks and reads the API's form.
    ///
    /// # Errors
    /// When a count stands where none may, or is negative.
    pub fn parse(policy: &RestartPolicy) -> Result<Self, PolicyError> {
        let count = policy.maximum_retry_count.unwrap_or(0);
        let name = policy.name.unwrap_or(RestartPolicyNameEnum::NO);
        if name != RestartPolicyNameEnum::ON_FAILURE && count != 0 {
            return Err(PolicyError::CountWithoutFailure);
        }
        if count < 0 {
            return Err(PolicyError::NegativeCount);
        }
        Ok(match name {
            RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO => Self::No,
            RestartPolicyNameEnum::ALWAYS => Self::Always,
            RestartPolicyNameEnum::UNLESS_STOPPED => Self::UnlessStopped,
            RestartPolicyNameEnum::ON_FAILURE => {
                Self::OnFailure { max: u32::try_from(count).unwrap_or(u32::MAX) }
            }
        })
    }

    /// The policy of a host configuration that was checked before.
    #[must_use]
    pub fn of(host: &HostConfig) -> Self {
        host.restart_policy.as_ref().and_then(|p| Self::parse(p).ok()).unwrap_or(Self::No)
    }

    /// Whether a container that ended with `code` after `restarts` restarts
    /// starts again. `stopped`: a user stopped it.
    #[must_use]
    pub fn restarts(self, code: i32, restarts: u32, stopped: bool) -> bool {
        if stopped {
            return false;
        }
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure { max } => code != 0 && (max == 0 || restarts < max),
        }
    }

    /// Whether a container that was found not running when the daemon started
    /// is started. `was_running`: nobody had stopped it and it had not ended
    /// by itself for good.
    #[must_use]
    pub fn starts_with_daemon(
        self,
        was_running: bool,
        code: i32,
        restarts: u32,
        stopped: bool,
    ) -> bool {
        match self {
            Self::No => false,
            Self::Always => true,
            Self::UnlessStopped => !stopped,
            Self::OnFailure { .. } => was_running && self.restarts(code, restarts, stopped),
        }
    }
}

/// The wait before the next restart: 100 ms, doubled each time up to a
/// minute; from the start again when the container had run for 10 seconds.
#[must_use]
pub fn next_delay(previous: Option<Duration>, ran: Duration) -> Duration {
    match previous {
        Some(delay) if ran < RESET_AFTER => (delay * 2).min(LONGEST_DELAY),
        _ => FIRST_DELAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(name: RestartPolicyNameEnum, count: i64) -> RestartPolicy {
        RestartPolicy { name: Some(name), maximum_retry_count: Some(count) }
    }

    #[test]
    fn policies_are_read_and_refused() {
        use RestartPolicyNameEnum as N;
        assert_eq!(Policy::parse(&RestartPolicy::default()), Ok(Policy::No));
        assert_eq!(Policy::parse(&policy(N::ON_FAILURE, 3)), Ok(Policy::OnFailure { max: 3 }));
        assert_eq!(Policy::parse(&policy(N::ALWAYS, 3)), Err(PolicyError::CountWithoutFailure));
        assert_eq!(Policy::parse(&policy(N::ON_FAILURE, -1)), Err(PolicyError::NegativeCount));
    }

    #[test]
    fn who_starts_again() {
        assert!(!Policy::No.restarts(1, 0, false));
        assert!(Policy::Always.restarts(0, 9, false));
        assert!(!Policy::Always.restarts(0, 9, true));
        assert!(!Policy::OnFailure { max: 2 }.restarts(0, 0, false));
        assert!(Policy::OnFailure { max: 2 }.restarts(1, 1, false));
        assert!(!Policy::OnFailure { max: 2 }.restarts(1, 2, false));
        assert!(Policy::OnFailure { max: 0 }.restarts(1, 1000, false));
    }

    #[test]
    fn who_starts_with_the_daemon() {
        assert!(Policy::Always.starts_with_daemon(false, 0, 0, true));
        assert!(!Policy::UnlessStopped.starts_with_daemon(true, 0, 0, true));
        assert!(Policy::UnlessStopped.starts_with_daemon(false, 0, 0, false));
        assert!(!Policy::OnFailure { max: 0 }.starts_with_daemon(true, 0, 0, false));
        assert!(Policy::OnFailure { max: 0 }.starts_with_daemon(true, 137, 0, false));
    }

    #[test]
    fn waits_double_and_start_over() {
        let short = Duration::from_secs(1);
        let mut delay = None;
        let mut seen = Vec::new();
        for _ in 0..12 {
            let next = next_delay(delay, short);
            seen.push(next.as_millis());
            delay = Some(next);
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(next_delay(delay, RESET_AFTER), FIRST_DELAY);
    }

    proptest! {
        #[test]
        fn waits_stay_in_bounds(ms in 0u64..1_000_000, ran in 0u64..100_000) {
            let next = next_delay(Some(Duration::from_millis(ms)), Duration::from_millis(ran));
            prop_assert!(next <= LONGEST_DELAY);
        }
    }
}
