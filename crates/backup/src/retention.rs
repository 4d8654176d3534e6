//! Which backups are kept.

use std::fmt;
use std::str::FromStr;

use rustic_core::KeepOptions;

use crate::BackupError;

/// How many backups are kept: a backup stays when any rule wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones.
    pub last: Option<u16>,
    /// The newest of each of so many hours, and so on.
    pub hourly: Option<u16>,
    /// Of days.
    pub daily: Option<u16>,
    /// Of weeks.
    pub weekly: Option<u16>,
    /// Of months.
    pub monthly: Option<u16>,
    /// Of years.
    pub yearly: Option<u16>,
}

impl Retention {
    pub(crate) fn options(&self) -> KeepOptions {
        let mut options = KeepOptions::default();
        options.keep_last = self.last.map(i32::from);
        options.keep_hourly = self.hourly.map(i32::from);
        options.keep_daily = self.daily.map(i32::from);
        options.keep_weekly = self.weekly.map(i32::from);
        options.keep_monthly = self.monthly.map(i32::from);
        options.keep_yearly = self.yearly.map(i32::from);
        options
    }

    fn rules(&self) -> [(Option<u16>, &'static str); 6] {
        [
            (self.last, ""),
            (self.hourly, "h"),
            (self.daily, "d"),
            (self.weekly, "w"),
            (self.monthly, "m"),
            (self.yearly, "y"),
        ]
    }
}

impl FromStr for Retention {
    type Err = BackupError;

    /// Reads `24h,7d,4w,12m,2y`, and a number alone for the last ones.
    fn from_str(given: &str) -> Result<Self, BackupError> {
        let wrong = |reason| BackupError::Retention { given: given.to_owned(), reason };
        let mut retention = Self::default();
        for rule in given.split(',').map(str::trim) {
            let digits = rule.trim_end_matches(|c: char| !c.is_ascii_digit());
            let count: u16 = digits.parse().map_err(|_| wrong("a rule is no number"))?;
            if count == 0 {
                return Err(wrong("a rule keeps nothing"));
            }
            let slot = match &rule[digits.len()..] {
                "" => &mut retention.last,
                "h" => &mut retention.hourly,
                "d" => &mut retention.daily,
                "w" => &mut retention.weekly,
                "m" => &mut retention.monthly,
                "y" => &mut retention.yearly,
                _ => return Err(wrong("a unit is none of h, d, w, m, y")),
            };
            if slot.replace(count).is_some() {
                return Err(wrong("a unit is given twice"));
            }
        }
        Ok(retention)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules().into_iter();
        let shown: Vec<_> =
            rules.filter_map(|(count, unit)| count.map(|n| format!("{n}{unit}"))).collect();
        f.write_str(&shown.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_shown() {
        for given in ["7d,4w", "24h,7d,4w,12m,2y", "10", "3,7d"] {
            assert_eq!(given.parse::<Retention>().unwrap().to_string(), given);
        }
        for given in ["", "0d", "d", "7x", "7d,8d", "-1d", "99999d", "7d,", "7 d"] {
            assert!(given.parse::<Retention>().is_err(), "{given}");
        }
    }
}
