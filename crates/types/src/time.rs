//! Points in time, in nanoseconds since 1970, written as RFC 3339 where the
//! API wants text. Reading the clock is the caller's business.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid time {text:?}: seconds since 1970 (with a fraction) or RFC 3339 expected")]
pub struct TimestampError {
    text: String,
}

/// Nanoseconds since 1970-01-01T00:00:00Z. Zero means "never", which the API
/// writes as the year 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time that has not come: `0001-01-01T00:00:00Z` in the API.
    pub const NEVER: Self = Self(0);

    /// The present, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// From nanoseconds since 1970.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Whether this is [`Timestamp::NEVER`].
    #[must_use]
    pub const fn is_never(self) -> bool {
        self.0 == 0
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads what clients send: seconds since 1970 with an optional fraction
    /// of nanoseconds, or RFC 3339 text.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let wrong = || TimestampError { text: text.to_owned() };
        if let Ok(t) = text.parse::<jiff::Timestamp>() {
            return i64::try_from(t.as_nanosecond()).map(Self).map_err(|_| wrong());
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().map_err(|_| wrong())?;
        if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let nanos: i64 = if fraction.is_empty() {
            0
        } else {
            format!("{fraction:0<9}").parse().map_err(|_| wrong())?
        };
        seconds
            .checked_mul(1_000_000_000)
            .and_then(|s| s.checked_add(nanos))
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        let nanos = t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        Self(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with nanoseconds, as Go's `time.RFC3339Nano` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_never() {
            return f.write_str("0001-01-01T00:00:00Z");
        }
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => f.write_str("0001-01-01T00:00:00Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        let t = Timestamp::from_nanos(1_700_000_000_123_456_789);
        assert_eq!(t.to_string(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(Timestamp::parse(&t.to_string()), Ok(t));
        assert_eq!(Timestamp::parse("1700000000.123456789"), Ok(t));
        assert_eq!(Timestamp::parse("1700000000"), Ok(Timestamp(1_700_000_000_000_000_000)));
        assert_eq!(Timestamp::parse("1.5"), Ok(Timestamp(1_500_000_000)));
        assert_eq!(Timestamp::NEVER.to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["", "x", "1.1234567890", "1.-5", "99999999999999999999"] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }
}
