//! Points in time, as users write them and as they are printed.

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned, civil};

use crate::units::{human_duration, parse_duration};

/// `--since` and `--until` as the API wants them: seconds and nanoseconds of
/// the epoch. Accepts durations before `now`, Unix times and RFC 3339, whole
/// or in part (then in local time).
///
/// # Errors
/// When it is none of these.
pub fn for_api(text: &str, now: Timestamp) -> Result<String> {
    if let Ok(nanos) = parse_duration(text) {
        return Ok(seconds(now - SignedDuration::from_nanos(nanos)));
    }
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Ok(text.to_owned());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(seconds(time));
    }
    let local = text
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(civil::Date::to_datetime_midnight));
    let local = local.ok().and_then(|t| t.to_zoned(TimeZone::system()).ok());
    let time = local.with_context(|| {
        format!("invalid time {text:?}: write 42m, a Unix time, or 2025-01-31T12:00:00Z")
    })?;
    Ok(seconds(time.timestamp()))
}

trait Midnight {
    fn to_datetime_midnight(self) -> civil::DateTime;
}

impl Midnight for civil::Date {
    fn to_datetime_midnight(self) -> civil::DateTime {
        self.to_datetime(civil::Time::midnight())
    }
}

fn seconds(time: Timestamp) -> String {
    format!("{}.{:09}", time.as_second(), time.subsec_nanosecond())
}

/// Seconds from a Unix time until now.
fn age(unix: i64) -> i64 {
    Timestamp::now().as_second() - unix
}

/// `3 hours ago`.
pub fn since(unix: i64) -> String {
    format!("{} ago", human_duration(age(unix)))
}

/// Seconds of the epoch of what the API writes as a text.
pub fn unix(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_second())
}

fn local(unix: i64) -> Zoned {
    Timestamp::from_second(unix).unwrap_or_default().to_zoned(TimeZone::system())
}

/// `2025-01-31 12:00:00 +0000 UTC`, Go's way.
pub fn go_style(unix: i64) -> String {
    local(unix).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// The same of a time in the API's form, with its fraction; what is no time
/// comes back as it is.
pub fn go_style_of(text: &str) -> String {
    let Ok(time) = text.parse::<Timestamp>() else { return text.to_owned() };
    let nanos = format!("{:09}", time.subsec_nanosecond());
    let fraction = nanos.trim_end_matches('0');
    let whole = go_style(time.as_second());
    match whole.split_once(" +").or_else(|| whole.split_once(" -")) {
        Some((date, _)) if !fraction.is_empty() => {
            format!("{date}.{fraction}{}", &whole[date.len()..])
        }
        _ => whole,
    }
}

/// `2025-01-31T12:00:00Z`, local.
pub fn rfc3339(unix: i64) -> String {
    utc_as_z(&local(unix).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
}

/// `2025-01-31T12:00:00.000000000Z`, local, with all nine digits.
pub fn rfc3339_nano(nanos: i128) -> String {
    let time = Timestamp::from_nanosecond(nanos).unwrap_or_default();
    let local = time.to_zoned(TimeZone::system());
    let date = local.strftime("%Y-%m-%dT%H:%M:%S");
    let offset = local.strftime("%:z").to_string();
    utc_as_z(&format!("{date}.{:09}{offset}", time.subsec_nanosecond()))
}

/// `Fri Jan 31 12:00:00 2025`, C's way.
pub fn ansi_c(text: &str) -> String {
    match unix(text) {
        Some(time) => {
            let utc = Timestamp::from_second(time).unwrap_or_default().to_zoned(TimeZone::UTC);
            utc.strftime("%a %b %e %H:%M:%S %Y").to_string()
        }
        None => text.to_owned(),
    }
}

fn utc_as_z(text: &str) -> String {
    text.strip_suffix("+00:00").map_or_else(|| text.to_owned(), |t| format!("{t}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_time() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(for_api("10s", now).unwrap(), "999990.000000000");
        assert_eq!(for_api("12345", now).unwrap(), "12345");
        assert_eq!(for_api("12345.678", now).unwrap(), "12345.678");
        assert_eq!(for_api("1970-01-01T00:00:01.5Z", now).unwrap(), "1.500000000");
        assert!(for_api("2020-01-01", now).is_ok());
        assert!(for_api("2020-01-01T10:00", now).is_ok());
        assert!(for_api("tomorrow", now).is_err() && for_api("", now).is_err());
    }

    #[test]
    fn printed() {
        assert!(rfc3339_nano(1_500_000_000).contains(".500000000"));
        assert_eq!(ansi_c("1970-01-02T00:00:00Z"), "Fri Jan  2 00:00:00 1970");
    }
}
