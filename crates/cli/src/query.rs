//! Paths and queries of the API.

/// The query of a request, in the order of its making.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// An empty query.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Adds `key=1` when it is so.
    #[must_use]
    pub fn flag(self, key: &str, is: bool) -> Self {
        if is { self.set(key, "1") } else { self }
    }

    /// Adds a value when there is one.
    #[must_use]
    pub fn opt(self, key: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.set(key, value.to_string()),
            None => self,
        }
    }

    /// Adds the filters when there are any.
    #[must_use]
    pub fn filters(self, filters: &[String]) -> Self {
        match filters_json(filters) {
            Some(json) => self.set("filters", json),
            None => self,
        }
    }

    /// `?a=b&c=d`, or nothing.
    #[must_use]
    pub fn text(&self) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(k, v)| format!("{}={}", encode(k, b""), encode(v, b""))).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

/// `--filter NAME=VALUE` options as the API's map of lists.
pub fn filters_json(filters: &[String]) -> Option<String> {
    let mut map = serde_json::Map::new();
    for filter in filters {
        let (name, value) = filter.split_once('=').unwrap_or((filter, ""));
        let values =
            map.entry(name.trim().to_ascii_lowercase()).or_insert_with(|| serde_json::json!({}));
        values[value.trim()] = true.into();
    }
    (!map.is_empty()).then(|| serde_json::Value::Object(map).to_string())
}

/// Checks that every filter has a value, as docker does before it asks.
pub fn parse_filter(text: &str) -> Result<String, String> {
    if text.contains('=') {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid argument \"{text}\" for filter: NAME=VALUE is expected"))
    }
}

/// A name as part of a path. Slashes stay: names of images have them.
#[must_use]
pub fn name(text: &str) -> String {
    encode(text, b"/:@")
}

fn encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::new().set("a", "b c&d").flag("no", false).flag("yes", true);
        assert_eq!(query.opt("n", Some(3)).text(), "?a=b%20c%26d&yes=1&n=3");
        assert_eq!(Query::new().text(), "");
        assert_eq!(name("a b/c:d@e?"), "a%20b/c:d@e%3F");
    }

    #[test]
    fn filters() {
        let list = ["label=a=b".to_owned(), "label=c".to_owned(), "name=x".to_owned()];
        assert_eq!(
            filters_json(&list).as_deref(),
            Some(r#"{"label":{"a=b":true,"c":true},"name":{"x":true}}"#)
        );
        assert_eq!(filters_json(&[]), None);
        assert!(parse_filter("x").is_err());
    }
}
