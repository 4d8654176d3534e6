//! Docker's `filters` parameter: names with sets of values.
//!
//! A filter's values are alternatives (labels excepted: all must match), the
//! filters of a request must all match. See moby's `api/types/filters`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why filters are refused, in dockerd's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// The parameter is not what it should be.
    #[error("invalid filter: a JSON object of names and sets of values expected: {0}")]
    Malformed(String),
    /// No such filter here.
    #[error("invalid filter '{0}'")]
    Unknown(String),
    /// The filter has no such value.
    #[error("invalid filter '{name}=[{}]'", values.join(" "))]
    Value {
        /// The filter.
        name: String,
        /// Its values.
        values: Vec<String>,
    },
}

impl Kind for FilterError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// The filters of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// From the query parameter: `{"name":{"value":true}}`, or the older
    /// `{"name":["value"]}`. Empty text is no filters.
    ///
    /// # Errors
    /// [`FilterError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let sets: Result<HashMap<String, HashMap<String, bool>>, _> = serde_json::from_str(text);
        let malformed = match sets {
            Ok(sets) => {
                let chosen = |set: HashMap<String, bool>| {
                    set.into_iter().filter_map(|(value, on)| on.then_some(value)).collect()
                };
                return Ok(Self(sets.into_iter().map(|(k, set)| (k, chosen(set))).collect()));
            }
            Err(e) => e,
        };
        match serde_json::from_str::<BTreeMap<String, BTreeSet<String>>>(text) {
            Ok(lists) => Ok(Self(lists)),
            Err(_) => Err(FilterError::Malformed(malformed.to_string())),
        }
    }

    /// Adds a value to a filter.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_default().insert(value.to_owned());
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this filter was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A filter's values, sorted.
    pub fn get<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Refuses filters that are not among `accepted`.
    ///
    /// # Errors
    /// [`FilterError::Unknown`].
    pub fn validate(&self, accepted: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|k| !accepted.contains(&k.as_str())) {
            Some(name) => Err(FilterError::Unknown(name.clone())),
            None => Ok(()),
        }
    }

    /// Refuses values of `name` for which `is_value` says no.
    ///
    /// # Errors
    /// [`FilterError::Value`] with the first of them.
    pub fn validate_values(
        &self,
        name: &str,
        is_value: impl Fn(&str) -> bool,
    ) -> Result<(), FilterError> {
        match self.get(name).find(|v| !is_value(v)) {
            Some(v) => {
                Err(FilterError::Value { name: name.to_owned(), values: vec![v.to_owned()] })
            }
            None => Ok(()),
        }
    }

    /// The error that says that a filter's values make no sense.
    #[must_use]
    pub fn wrong_value(&self, name: &str) -> FilterError {
        let values = self.get(name).map(str::to_owned).collect();
        FilterError::Value { name: name.to_owned(), values }
    }

    /// A filter that is a yes or a no; `None` when it was not given.
    ///
    /// # Errors
    /// [`FilterError::Value`] for anything but `1`, `true`, `0`, `false`, and
    /// for both.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.0.get(name) else { return Ok(None) };
        let yes = values.contains("1") || values.contains("true");
        let no = values.contains("0") || values.contains("false");
        if yes == no {
            return Err(self.wrong_value(name));
        }
        Ok(Some(yes))
    }

    /// Whether `source` is one of the values, or the filter was not given.
    #[must_use]
    pub fn exact(&self, name: &str, source: &str) -> bool {
        self.given(name).is_none_or(|values| values.contains(source))
    }

    /// As [`Filters::exact`], and beginnings match too.
    #[must_use]
    pub fn prefix(&self, name: &str, source: &str) -> bool {
        self.given(name).is_none_or(|values| values.iter().any(|v| source.starts_with(v.as_str())))
    }

    /// As [`Filters::exact`], and regular expressions that match anywhere in
    /// `source` match too. Those that are none match nothing.
    #[must_use]
    pub fn pattern(&self, name: &str, source: &str) -> bool {
        self.given(name).is_none_or(|values| {
            values.contains(source) || values.iter().any(|v| pattern_matches(v, source))
        })
    }

    /// Whether all values, each `key` or `key=value`, are among the labels.
    #[must_use]
    pub fn labels<'a, M>(&self, name: &str, labels: M) -> bool
    where
        M: Fn(&str) -> Option<&'a str>,
    {
        self.get(name).all(|wanted| {
            let (key, value) = match wanted.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (wanted, None),
            };
            labels(key).is_some_and(|found| value.is_none_or(|v| v == found))
        })
    }

    /// Whether `label` matches and `label!` (none of which may match) does not.
    #[must_use]
    pub fn labels_and_not<'a, M>(&self, labels: M) -> bool
    where
        M: Fn(&str) -> Option<&'a str>,
    {
        self.labels("label", &labels)
            && (self.given("label!").is_none() || !self.labels("label!", &labels))
    }

    /// The point in time of a filter like `until`: a duration before `now`,
    /// seconds since 1970, or RFC 3339.
    ///
    /// # Errors
    /// [`FilterError::Value`] for several values and for what is none of these.
    pub fn time(
        &self,
        name: &str,
        now: sampan_types::Timestamp,
    ) -> Result<Option<sampan_types::Timestamp>, FilterError> {
        let Some(values) = self.0.get(name) else { return Ok(None) };
        let (Some(value), 1) = (values.first(), values.len()) else {
            return Err(self.wrong_value(name));
        };
        parse_time(value, now).map(Some).ok_or_else(|| self.wrong_value(name))
    }

    /// The values of a filter that restricts: `None` when there are none.
    fn given(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name).filter(|values| !values.is_empty())
    }
}

fn pattern_matches(pattern: &str, source: &str) -> bool {
    // Most are plain words.
    if pattern.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b)) {
        return source.contains(pattern);
    }
    regex_lite::Regex::new(pattern).is_ok_and(|r| r.is_match(source))
}

/// A point in time as users give it: a Go duration before `now` (`10m`,
/// `1h30m`), seconds since 1970, RFC 3339, or a date.
#[must_use]
pub fn parse_time(text: &str, now: sampan_types::Timestamp) -> Option<sampan_types::Timestamp> {
    if let Ok(time) = sampan_types::Timestamp::parse(text) {
        return Some(time);
    }
    if let Some(nanos) = parse_duration(text) {
        return Some(sampan_types::Timestamp::from_nanos(now.nanos().saturating_sub(nanos)));
    }
    let local: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    i64::try_from(zoned.timestamp().as_nanosecond()).ok().map(sampan_types::Timestamp::from_nanos)
}

/// Nanoseconds of a duration in Go's form: `1h30m`, `300ms`, `-1.5h`.
fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[unit..];
    }
    #[expect(clippy::cast_precision_loss, reason = "only compared")]
    let fits = total < i64::MAX as f64;
    #[expect(clippy::cast_possible_truncation, reason = "checked before; fractions are dropped")]
    let nanos = fits.then_some(total as i64)?;
    Some(if negative { -nanos } else { nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::Timestamp;

    fn filters(text: &str) -> Filters {
        Filters::parse(text).unwrap()
    }

    #[test]
    fn both_forms_are_read() {
        let new = filters(r#"{"status":{"running":true,"paused":true,"dead":false}}"#);
        let old = filters(r#"{"status":["running","paused"]}"#);
        assert_eq!(new, old);
        assert_eq!(new.get("status").collect::<Vec<_>>(), ["paused", "running"]);
        assert!(filters("").is_empty() && filters("{}").is_empty());
        for bad in ["[", "[]", "x", r#"{"a":1}"#, r#"{"a":{"b":1}}"#] {
            let error = Filters::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("invalid filter"), "{bad}");
            assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        }
    }

    #[test]
    fn unknown_names_and_values_are_refused() {
        let f = filters(r#"{"colour":["red"],"dangling":["maybe"]}"#);
        let error = f.validate(&["dangling"]).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'colour'");
        let error = f.flag("dangling").unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'dangling=[maybe]'");
        assert_eq!(filters(r#"{"dangling":["1"]}"#).flag("dangling"), Ok(Some(true)));
        assert_eq!(filters(r#"{"dangling":["false"]}"#).flag("dangling"), Ok(Some(false)));
        assert!(filters(r#"{"dangling":["0","1"]}"#).flag("dangling").is_err());
        assert_eq!(f.flag("other"), Ok(None));
        assert!(f.validate_values("colour", |v| v == "red").is_ok());
        assert!(f.validate_values("colour", |v| v == "blue").is_err());
    }

    #[test]
    fn values_match_as_dockers() {
        let f = filters(r#"{"name":["^/web","db.?[0-9]","("],"id":["ab"],"x":[]}"#);
        assert!(f.pattern("name", "/web1") && !f.pattern("name", "/myweb"));
        assert!(f.pattern("name", "/my-db7") && !f.pattern("name", "/db"));
        assert!(f.prefix("id", "abc") && !f.prefix("id", "cab"));
        assert!(f.exact("id", "ab") && !f.exact("id", "abc"));
        assert!(f.exact("x", "anything") && f.exact("none", "anything"));
        let plain = filters(r#"{"name":["web"]}"#);
        assert!(plain.pattern("name", "/myweb2") && !plain.pattern("name", "/db"));
    }

    #[test]
    fn labels_must_all_match() {
        let labels = |key: &str| match key {
            "a" => Some("1"),
            "b" => Some(""),
            _ => None,
        };
        assert!(filters(r#"{"label":["a","b"]}"#).labels("label", labels));
        assert!(filters(r#"{"label":["a=1"]}"#).labels("label", labels));
        assert!(!filters(r#"{"label":["a=2"]}"#).labels("label", labels));
        assert!(!filters(r#"{"label":["a","c"]}"#).labels("label", labels));
        assert!(!filters(r#"{"label!":["a"]}"#).labels_and_not(labels));
        assert!(filters(r#"{"label!":["c"]}"#).labels_and_not(labels));
    }

    #[test]
    fn times_are_durations_or_points() {
        let now = Timestamp::from_nanos(10_000_000_000_000);
        let ago = |text: &str| parse_time(text, now).map(|t| (now.nanos() - t.nanos()) / 1_000_000);
        assert_eq!(ago("1h30m"), Some(5_400_000));
        assert_eq!(ago("1.5s"), Some(1500));
        assert_eq!(ago("-2m"), Some(-120_000));
        assert_eq!(parse_time("1700000000", now).unwrap().seconds(), 1_700_000_000);
        let day = parse_time("2024-01-02", now).unwrap();
        assert_eq!(day.to_string(), "2024-01-02T00:00:00Z");
        for bad in ["", "x", "1x", "h", "-"] {
            assert_eq!(parse_time(bad, now), None, "{bad}");
        }
        assert!(filters(r#"{"until":["x"]}"#).time("until", now).is_err());
        assert!(filters(r#"{"until":["1h","2h"]}"#).time("until", now).is_err());
    }
}
