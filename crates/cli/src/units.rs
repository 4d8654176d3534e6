//! Numbers as people read them: sizes, durations, ages.
//!
//! The wording is docker's (its units package), since scripts read it.

/// A size in powers of 1000 with three significant digits: `4.26MB`.
#[must_use]
pub fn decimal_size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 3)
}

/// A size in powers of 1000 with four significant digits: `4.264MB`.
#[must_use]
pub fn exact_size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 4)
}

/// A size in powers of 1024 with four significant digits: `61.05MiB`.
#[must_use]
pub fn binary_size(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    // A sum of nothing is -0.
    value += 0.0;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// As C's `%.{digits}g` for numbers from 0 to a few thousand.
fn significant(value: f64, digits: usize) -> String {
    let whole = if value >= 1.0 { value.log10().floor() as usize + 1 } else { 1 };
    let text = format!("{value:.0$}", digits.saturating_sub(whole));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// How long something took or is ago: `About a minute`, `3 hours`.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Bytes of a size as users write it: `64m`, `1.5g`, `512`.
///
/// # Errors
/// When the text isn't a size; the error is a sentence.
pub fn parse_size(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid size: '{text}'");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: f64 = match &lower[digits.len()..] {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = number * factor;
    if number < 0.0 || !bytes.is_finite() || bytes > 9e18 { Err(wrong()) } else { Ok(bytes as i64) }
}

/// Nanoseconds of a duration as Go writes it: `1m30s`, `500ms`.
///
/// # Errors
/// When the text isn't a duration; the error is a sentence.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid duration \"{text}\": write 30s, 1m30s, 500ms");
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let units = [
            ("ms", 1e6),
            ("us", 1e3),
            ("µs", 1e3),
            ("ns", 1.0),
            ("h", 3.6e12),
            ("m", 6e10),
            ("s", 1e9),
        ];
        let (unit, factor) =
            units.into_iter().find(|(u, _)| rest[end..].starts_with(u)).ok_or_else(wrong)?;
        total += number * factor;
        rest = &rest[end + unit.len()..];
    }
    if text.is_empty() || total > 9e18 { Err(wrong()) } else { Ok(total as i64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0.0, "0B"),
            (999.0, "999B"),
            (4_260_000.0, "4.26MB"),
            (1e9, "1GB"),
            (72_800_000.0, "72.8MB"),
        ] {
            assert_eq!(decimal_size(bytes), want);
        }
        assert_eq!(binary_size(64.0 * 1024.0 * 1024.0), "64MiB");
        assert_eq!(binary_size(1.5 * 1024.0), "1.5KiB");
        assert_eq!(parse_size("64m"), Ok(64 << 20));
        assert_eq!(parse_size("1.5g"), Ok(3 << 29));
        assert!(parse_size("x").is_err() && parse_size("-1").is_err() && parse_size("").is_err());
    }

    #[test]
    fn durations() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (200, "3 minutes"),
            (3600, "About an hour"),
            (86_400, "24 hours"),
            (3 * 86_400, "3 days"),
        ] {
            assert_eq!(human_duration(seconds), want);
        }
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("500ms"), Ok(500_000_000));
        assert!(
            parse_duration("5").is_err()
                && parse_duration("").is_err()
                && parse_duration("5x").is_err()
        );
    }
}
