//! Decoding JSON as Go does, so that every body which dockerd accepts is
//! accepted here.
//!
//! What differs from plain serde: the names of fields match in any case;
//! `null` is the zero value of whatever is expected; unknown fields are
//! ignored; an enumeration's empty string is "not said"; and a few lists may be
//! given as one string (Go's `strslice`).
//!
//! An error names the path of the field: `HostConfig.Memory: invalid type …`.

use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Error, Map, Value};

/// Lists that may be one string.
const STRING_LISTS: [&str; 5] = ["Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"];
/// Enumerations without a word for "not said".
const OPTIONAL_WORDS: [&str; 2] = ["Isolation", "CgroupnsMode"];

/// Decodes `value`.
pub(crate) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Lenient { value, string_list: false })
}

/// Decodes a text.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    decode(serde_json::from_slice(text)?)
}

struct Lenient {
    value: Value,
    /// A string stands for a list of one.
    string_list: bool,
}

impl Lenient {
    fn new(value: Value) -> Self {
        Self { value, string_list: false }
    }
}

/// Numbers and truth values: `null` is zero.
macro_rules! zero {
    ($($method:ident => $visit:ident($zero:expr)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                Value::Null => visitor.$visit($zero),
                value => value.$method(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = Error;

    zero! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(0),
        deserialize_i16 => visit_i16(0),
        deserialize_i32 => visit_i32(0),
        deserialize_i64 => visit_i64(0),
        deserialize_u8 => visit_u8(0),
        deserialize_u16 => visit_u16(0),
        deserialize_u32 => visit_u32(0),
        deserialize_u64 => visit_u64(0),
        deserialize_f32 => visit_f32(0.0),
        deserialize_f64 => visit_f64(0.0),
        deserialize_str => visit_str(""),
        deserialize_string => visit_str(""),
        deserialize_identifier => visit_str(""),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Object(map) => visitor.visit_map(Entries::of_map(map)),
            Value::Array(list) => visitor.visit_seq(Elements(list.into_iter(), 0)),
            value => value.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let list = match self.value {
            Value::Null => Vec::new(),
            Value::Array(list) => list,
            value @ Value::String(_) if self.string_list => vec![value],
            value => return value.deserialize_seq(visitor),
        };
        visitor.visit_seq(Elements(list.into_iter(), 0))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_map(Entries::of_map(Map::new())),
            Value::Object(map) => visitor.visit_map(Entries::of_map(map)),
            value => value.deserialize_map(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_map(Entries::of_map(Map::new())),
            Value::Object(map) => visitor.visit_map(Entries::of_struct(map, fields)),
            value => value.deserialize_struct(name, fields, visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => Value::String(String::new()).deserialize_enum(name, variants, visitor),
            value => value.deserialize_enum(name, variants, visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

struct Elements(std::vec::IntoIter<Value>, usize);

impl<'de> SeqAccess<'de> for Elements {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.0.next() else { return Ok(None) };
        let index = self.1;
        self.1 += 1;
        let element = seed.deserialize(Lenient::new(value));
        element.map(Some).map_err(|e| at(&format!("[{index}]"), &e))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries {
    rest: std::vec::IntoIter<(String, Value)>,
    current: Option<(String, Value)>,
    is_struct: bool,
}

impl Entries {
    /// A map's keys are the user's own: nothing is done to them.
    fn of_map(map: Map<String, Value>) -> Self {
        let entries: Vec<_> = map.into_iter().collect();
        Self { rest: entries.into_iter(), current: None, is_struct: false }
    }

    /// A struct's keys are the schema's: in any case, and without what says
    /// nothing.
    fn of_struct(map: Map<String, Value>, fields: &'static [&'static str]) -> Self {
        let mut exact = Vec::new();
        let mut others = Vec::new();
        for (key, value) in map {
            if value.is_null() {
                continue;
            }
            if fields.contains(&key.as_str()) {
                exact.push((key, value));
            } else if let Some(field) = fields.iter().find(|f| f.eq_ignore_ascii_case(&key)) {
                others.push(((*field).to_owned(), value));
            }
        }
        for (key, value) in others {
            if !exact.iter().any(|(k, _)| *k == key) {
                exact.push((key, value));
            }
        }
        exact.retain(|(key, value)| {
            !(OPTIONAL_WORDS.contains(&key.as_str()) && value.as_str() == Some(""))
        });
        Self { rest: exact.into_iter(), current: None, is_struct: true }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.next();
        let Some((key, _)) = &self.current else { return Ok(None) };
        let key: StringDeserializer<Error> = StringDeserializer::new(key.clone());
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, value)) = self.current.take() else {
            return Err(Error::custom("a value was asked for before its key"));
        };
        let string_list = self.is_struct && STRING_LISTS.contains(&key.as_str());
        seed.deserialize(Lenient { value, string_list }).map_err(|e| at(&key, &e))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// Puts a step of the path before an error's message.
fn at(step: &str, error: &Error) -> Error {
    let message = error.to_string();
    let joint = if starts_with_path(&message) {
        if message.starts_with('[') { "" } else { "." }
    } else {
        ": "
    };
    Error::custom(format!("{step}{joint}{message}"))
}

/// Whether a message begins with the path that [`at`] gave it.
fn starts_with_path(message: &str) -> bool {
    message.split_once(": ").is_some_and(|(path, _)| !path.contains(' '))
}

#[cfg(test)]
mod tests {
    use sampan_types::docker::{ContainerCreateBody, EndpointSettings, NetworkCreateRequest};
    use serde_json::json;

    use super::*;

    fn create(value: Value) -> ContainerCreateBody {
        decode(value).unwrap()
    }

    #[test]
    fn null_is_the_zero_value() {
        let body = create(json!({
            "Cmd": null, "Tty": null, "ExposedPorts": {"80/tcp": null}, "Labels": {"a": null},
            "HostConfig": {"Binds": null, "Memory": null, "PortBindings": {"80/tcp": null}},
            "NetworkingConfig": {"EndpointsConfig": {"n": null}},
        }));
        assert_eq!(body.cmd, None);
        assert_eq!(body.exposed_ports, Some(vec!["80/tcp".to_owned()]));
        assert_eq!(body.labels.unwrap()["a"], "");
        assert_eq!(body.host_config.unwrap().port_bindings.unwrap()["80/tcp"], None);
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints["n"], EndpointSettings::default());
        assert_eq!(create(Value::Null).image, None);
    }

    #[test]
    fn fields_match_in_any_case_but_users_keys_stay() {
        let body = create(json!({
            "image": "busybox", "CMD": ["a"], "Cmd": ["b"],
            "labels": {"Cmd": "x", "cmd": "y"}, "hostconfig": {"memory": 5},
        }));
        assert_eq!(body.image.as_deref(), Some("busybox"));
        assert_eq!(body.cmd, Some(vec!["b".to_owned()]));
        assert_eq!(body.labels.unwrap().len(), 2);
        assert_eq!(body.host_config.unwrap().memory, Some(5));
    }

    #[test]
    fn some_lists_may_be_a_string() {
        let body = create(json!({"Cmd": "top", "Entrypoint": "/bin/sh"}));
        assert_eq!(body.cmd, Some(vec!["top".to_owned()]));
        assert_eq!(body.entrypoint, Some(vec!["/bin/sh".to_owned()]));
        assert!(decode::<ContainerCreateBody>(json!({"Env": "A=1"})).is_err());
    }

    #[test]
    fn empty_words_are_not_said() {
        let body = create(json!({"HostConfig": {
            "Isolation": "", "CgroupnsMode": "", "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
        }}));
        let host = body.host_config.unwrap();
        assert_eq!(host.cgroupns_mode, None);
        assert_eq!(host.restart_policy.unwrap().maximum_retry_count, Some(0));
    }

    #[test]
    fn unknown_fields_are_ignored_and_errors_name_the_path() {
        assert!(
            decode::<NetworkCreateRequest>(json!({"Name": "n", "CheckDuplicate": true})).is_ok()
        );
        let path = |v| decode::<ContainerCreateBody>(v).unwrap_err().to_string();
        let e = path(json!({"HostConfig": {"Memory": "much"}}));
        assert!(e.starts_with("HostConfig.Memory: invalid type: string \"much\""), "{e}");
        let e = path(json!({"HostConfig": {"Mounts": [{}, {"Type": "x"}]}}));
        assert!(e.starts_with("HostConfig.Mounts[1].Type: unknown variant"), "{e}");
        let e = path(json!({"Env": [1]}));
        assert!(e.starts_with("Env[0]: invalid type: integer"), "{e}");
        assert!(decode::<ContainerCreateBody>(json!("text")).is_err());
        assert!(
            decode::<ContainerCreateBody>(json!({"HostConfig": {"BlkioWeight": 70000}})).is_err()
        );
    }
}
