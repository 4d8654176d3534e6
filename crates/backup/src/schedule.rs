//! When backups are made.

use std::fmt;
use std::str::FromStr;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::Timestamp;

use crate::BackupError;

/// Names for what is common, as cron has them.
const NAMES: [(&str, &str); 6] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
];

/// Points in time that come again: `@daily`, or cron's five fields, with the
/// name of a time zone behind them where the host's is not meant.
#[derive(Debug, Clone)]
pub struct Schedule {
    given: String,
    crontab: Crontab,
}

impl Schedule {
    /// The first point in time after `moment`; `None` when there is none.
    #[must_use]
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let next = self.crontab.find_next(MakeTimestamp(moment)).ok()?;
        Some(next.timestamp())
    }
}

impl FromStr for Schedule {
    type Err = BackupError;

    fn from_str(given: &str) -> Result<Self, BackupError> {
        let wrong = |reason: String| BackupError::Schedule { given: given.to_owned(), reason };
        let given_fields = given.trim();
        let named = NAMES.iter().find(|(name, _)| *name == given_fields);
        let fields = match named {
            Some((_, fields)) => fields,
            None if given_fields.starts_with('@') => {
                let names = NAMES.map(|(name, _)| name).join(", ");
                return Err(wrong(format!("the names are {names}")));
            }
            None => given_fields,
        };
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::System;
        let crontab = cronexpr::parse_crontab_with(fields, options)
            .map_err(|e| wrong(e.to_string().replace('\n', " ")))?;
        let schedule = Self { given: given.to_owned(), crontab };
        if schedule.next_after(Timestamp::now()).is_none() {
            return Err(wrong("there is no such day".to_owned()));
        }
        Ok(schedule)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule: Schedule = schedule.parse().unwrap();
        schedule.next_after(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn points_in_time_are_found() {
        assert_eq!(next("30 2 * * * UTC", "2026-11-21T02:30:00Z"), "2026-11-22T02:30:00Z");
        assert_eq!(next("*/15 * * * * UTC", "2026-11-21T23:59:00Z"), "2026-11-22T00:00:00Z");
        assert_eq!(next("0 3 * * SUN UTC", "2026-11-21T12:00:00Z"), "2026-11-22T03:00:00Z");
        // Two o'clock is left out when summer time begins.
        let berlin = next("0 2 29 3 * Europe/Berlin", "2026-01-01T00:00:00Z");
        assert!(berlin.starts_with("2026-03-29") || berlin.starts_with("2027-03-29"), "{berlin}");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for given in ["", "@often", "61 * * * *", "* * * *", "* * * * * Nowhere/City", "daily"] {
            let error = given.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("@daily"), "{error}");
        }
    }

    #[test]
    fn names_are_known() {
        for (name, _) in NAMES {
            assert_eq!(name.parse::<Schedule>().unwrap().to_string(), name);
        }
    }
}
