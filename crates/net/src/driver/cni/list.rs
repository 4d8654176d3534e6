//! Network configuration lists of CNI, and what each plugin of one is given
//! (source: the CNI specification 1.0, sections 1 and 3). Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::config::EndpointSpec;

/// A network configuration list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct List {
    /// The network's name, as the plugins know it.
    pub name: String,
    /// The version of the specification that it is written in.
    pub version: String,
    /// Whether nobody shall ask the plugins to check what they did.
    pub unchecked: bool,
    /// The plugins' configurations, in their order.
    plugins: Vec<Map<String, Value>>,
}

impl List {
    /// Reads a list, or the configuration of a single plugin.
    pub fn parse(text: &str) -> Result<Self, String> {
        let root: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let Value::Object(root) = root else { return Err("it is no JSON object".to_owned()) };
        let text = |key: &str| root.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, version) = (text("name").to_owned(), text("cniVersion").to_owned());
        let unchecked = root.get("disableCheck").is_some_and(|v| *v == json!(true));
        let listed = match root.get("plugins") {
            Some(Value::Array(plugins)) => plugins.clone(),
            Some(_) => return Err("plugins is no list".to_owned()),
            None => vec![Value::Object(root.clone())],
        };
        let mut plugins = Vec::with_capacity(listed.len());
        for plugin in listed {
            let Value::Object(plugin) = plugin else {
                return Err("a plugin's configuration is no JSON object".to_owned());
            };
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
                return Err(format!("{kind:?} is no name of a plugin (key type)"));
            }
            plugins.push(plugin);
        }
        if plugins.is_empty() {
            return Err("it names no plugin".to_owned());
        }
        if name.is_empty() {
            return Err("the key name is missing".to_owned());
        }
        if !matches!(version.as_str(), "0.3.0" | "0.3.1" | "0.4.0" | "1.0.0" | "1.1.0") {
            return Err(format!(
                "cniVersion {version:?} is not spoken here: 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are"
            ));
        }
        Ok(Self { name, version, unchecked, plugins })
    }

    /// Whether its version has the command CHECK.
    pub fn has_check(&self) -> bool {
        !self.unchecked && !self.version.starts_with("0.3.")
    }

    /// The plugins' types and configurations.
    pub fn plugins(&self) -> impl DoubleEndedIterator<Item = (&str, &Map<String, Value>)> {
        self.plugins.iter().map(|p| (p["type"].as_str().unwrap_or_default(), p))
    }

    /// What a plugin reads: its part of the list, what the one before it did,
    /// and what it says that it can make use of.
    pub fn input(
        &self,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
        endpoint: &EndpointSpec,
    ) -> Value {
        let mut input = plugin.clone();
        let capabilities = input.remove("capabilities");
        input.insert("name".to_owned(), json!(self.name));
        input.insert("cniVersion".to_owned(), json!(self.version));
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        let known = runtime(endpoint);
        let wants = |key: &str| {
            capabilities.as_ref().is_some_and(|c| c.get(key).is_some_and(|v| *v == json!(true)))
        };
        let runtime: Map<String, Value> = known
            .into_iter()
            .filter(|(key, _)| wants(key))
            .map(|(k, v)| (k.to_owned(), v))
            .collect();
        if !runtime.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        Value::Object(input)
    }
}

/// What is known of an endpoint, by the conventional names of capabilities.
fn runtime(endpoint: &EndpointSpec) -> BTreeMap<&'static str, Value> {
    let mut known = BTreeMap::new();
    if let Some(mac) = endpoint.mac {
        known.insert("mac", json!(mac.to_string()));
    }
    let ips: Vec<String> = endpoint.addresses.iter().map(IpAddr::to_string).collect();
    if !ips.is_empty() {
        known.insert("ips", json!(ips));
    }
    known
}

#[cfg(test)]
mod tests {
    use sampan_types::{EndpointId, NetworkId};

    use super::*;

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "lan", "plugins": [
        {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}},
        {"type": "tuning", "capabilities": {"mac": true, "portMappings": true}}]}"#;

    #[test]
    fn plugins_get_their_part_and_what_they_can_use() {
        let list = List::parse(LIST).unwrap();
        let mut endpoint = EndpointSpec::new(EndpointId::random(), NetworkId::random(), vec![]);
        endpoint.mac = Some("02:00:00:00:00:01".parse().unwrap());
        let plugins: Vec<_> = list.plugins().collect();
        assert_eq!(plugins.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["bridge", "tuning"]);
        let first = list.input(plugins[0].1, None, &endpoint);
        assert_eq!(first["name"], "lan");
        assert_eq!((first.get("prevResult"), first.get("runtimeConfig")), (None, None));
        let second = list.input(plugins[1].1, Some(&json!({"ips": []})), &endpoint);
        assert_eq!(second["prevResult"], json!({"ips": []}));
        assert_eq!(second["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
        assert!(second.get("capabilities").is_none() && list.has_check());
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = List::parse(r#"{"cniVersion":"0.3.1","name":"n","type":"ptp"}"#).unwrap();
        assert_eq!((list.plugins().count(), list.has_check()), (1, false));
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        for (text, reason) in [
            ("{", "EOF"),
            ("[]", "no JSON object"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "no plugin"),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../x"}]}"#,
                "no name of a plugin",
            ),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "name is missing"),
            (r#"{"cniVersion":"0.1.0","name":"n","type":"x"}"#, "not spoken"),
        ] {
            let error = List::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
