//! daemon.json writes some settings as objects that flags write as text. Both
//! forms are read; text is kept.
//!
//! Be aware:
//! - A field of such an object that has no place in the text is refused by
//!   name, not dropped.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

type Text = Result<String, String>;

fn either<'de, D: Deserializer<'de>>(
    deserializer: D,
    text: impl Fn(&str, &Value) -> Text,
) -> Result<Vec<String>, D::Error> {
    let list: Result<Vec<String>, String> = match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list
            .iter()
            .map(|v| v.as_str().map_or_else(|| text("", v), |t| Ok(t.to_owned())))
            .collect(),
        Value::Object(map) => {
            map.iter().map(|(key, v)| text(key, v).map_err(|why| format!("{key}: {why}"))).collect()
        }
        _ => Err("a list or an object is expected".to_owned()),
    };
    list.map_err(D::Error::custom)
}

/// The object's fields, none of which may be another than `known`.
fn fields<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or("an object is expected")?;
    match object.iter().find(|(k, v)| !known.contains(&k.as_str()) && !is_empty(v)) {
        Some((strange, _)) => Err(format!("{strange:?} is not supported here")),
        None => Ok(object),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(Map::is_empty)
}

fn text_of(object: &Map<String, Value>, key: &str) -> Text {
    object
        .get(key)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or(format!("{key:?}: text is expected"))
}

/// `log-opts`: `{"max-size": "5m"}`.
pub fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    either(deserializer, |key, value| match value.as_str() {
        Some(value) if !key.is_empty() => Ok(format!("{key}={value}")),
        _ => Err("text is expected".to_owned()),
    })
}

/// `runtimes`: `{"crun": {"path": "/usr/bin/crun"}}`.
pub fn runtimes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    either(deserializer, |name, value| {
        let object = fields(value, &["path"])?;
        Ok(format!("{name}={}", text_of(object, "path")?))
    })
}

/// `default-address-pools`: `[{"base": "10.0.0.0/8", "size": 24}]`.
pub fn address_pools<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    either(deserializer, |_, value| {
        let object = fields(value, &["base", "size"])?;
        let size =
            object.get("size").and_then(Value::as_u64).ok_or("\"size\": a number is expected")?;
        Ok(format!("base={},size={size}", text_of(object, "base")?))
    })
}

/// `default-ulimits`: `{"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}`.
pub fn ulimits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    either(deserializer, |key, value| {
        let object = fields(value, &["Name", "Soft", "Hard"])?;
        let number = |field: &str| match object.get(field) {
            None => Ok(None),
            Some(v) => v.as_i64().map(Some).ok_or(format!("{field:?}: a number is expected")),
        };
        let soft = number("Soft")?.ok_or("\"Soft\" is missing")?;
        let name = object.get("Name").and_then(Value::as_str).unwrap_or(key);
        Ok(format!("{name}={soft}:{}", number("Hard")?.unwrap_or(soft)))
    })
}
