//! The status line of `docker ps`. Pure.

use std::time::Duration;

use sampan_types::Timestamp;

use crate::container::state::HealthStatus;
use crate::record::{State, Status};

/// A length of time in words, as Docker's `units.HumanDuration`.
pub(super) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// The status of a container in words.
pub(super) fn status(state: &State, now: Timestamp) -> String {
    let up = || human_duration(now.since(state.started));
    let ago = || human_duration(now.since(state.finished));
    match state.status {
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago()),
        Status::Running => match state.health.as_ref().map(|h| h.status) {
            None => format!("Up {}", up()),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", up()),
            Some(health) => format!("Up {} ({})", up(), health.as_str()),
        },
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Exited if state.finished.is_never() => "Created".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago()),
    }
}

/// The health of a container in a word; `none` without a health check.
pub(super) fn health(state: &State) -> &'static str {
    state.health.as_ref().map_or("none", |h| h.status.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::state::Health;

    #[test]
    fn durations_in_words() {
        let minute = 60;
        let hour = 60 * minute;
        let day = 24 * hour;
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (2 * minute - 1, "About a minute"),
            (3 * minute, "3 minutes"),
            (59 * minute, "59 minutes"),
            (hour, "About an hour"),
            (hour + 29 * minute, "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn status_lines_are_dockers() {
        let now = Timestamp::from_nanos(1_000_000_000_000);
        let before = |s: i64| Timestamp::from_nanos(now.nanos() - s * 1_000_000_000);
        let base = State { started: before(180), finished: before(5), ..State::default() };
        let line = |status, f: &dyn Fn(&mut State)| {
            let mut state = State { status, ..base.clone() };
            f(&mut state);
            super::status(&state, now)
        };
        let with =
            |status| move |s: &mut State| s.health = Some(Health { status, ..Health::default() });
        assert_eq!(line(Status::Running, &|_| ()), "Up 3 minutes");
        assert_eq!(line(Status::Running, &with(HealthStatus::Healthy)), "Up 3 minutes (healthy)");
        assert_eq!(
            line(Status::Running, &with(HealthStatus::Starting)),
            "Up 3 minutes (health: starting)"
        );
        assert_eq!(line(Status::Paused, &|_| ()), "Up 3 minutes (Paused)");
        assert_eq!(line(Status::Restarting, &|s| s.exit_code = 1), "Restarting (1) 5 seconds ago");
        assert_eq!(line(Status::Exited, &|s| s.exit_code = 137), "Exited (137) 5 seconds ago");
        assert_eq!(line(Status::Created, &|_| ()), "Created");
        assert_eq!(line(Status::Removing, &|_| ()), "Removal In Progress");
        assert_eq!(line(Status::Dead, &|_| ()), "Dead");
    }
}
