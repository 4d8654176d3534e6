//! The ports that a container exposes and binds, as its creation said it.
//!
//! Be aware: a container can have ten thousand of them, and its record is
//! copied at each change. So they are kept as one text each, which copies
//! share, instead of as the strings and tables of `ExposedPorts` and
//! `PortBindings`; these are empty in a record in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use sampan_types::docker::{ContainerConfig, HostConfig, PortMap};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a container wishes to expose and to publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WishedPorts {
    /// `ExposedPorts` as JSON; absent when it is.
    exposed: Option<Arc<str>>,
    /// `PortBindings` as JSON; absent when it is.
    bindings: Option<Arc<str>>,
}

impl WishedPorts {
    /// Those of a configuration.
    #[must_use]
    pub fn new(exposed: Option<&[String]>, bindings: Option<&PortMap>) -> Self {
        // In order, so that the same ports are the same text.
        let bindings = bindings.map(|b| b.iter().collect::<BTreeMap<_, _>>());
        Self { exposed: exposed.and_then(pack), bindings: bindings.and_then(|b| pack(&b)) }
    }

    /// Moves the ports out of a configuration.
    #[must_use]
    pub(crate) fn take(config: &mut ContainerConfig, host: &mut HostConfig) -> Self {
        let (exposed, bindings) = (config.exposed_ports.take(), host.port_bindings.take());
        Self::new(exposed.as_deref(), bindings.as_ref())
    }

    /// Puts the ports into a configuration.
    pub(crate) fn put(&self, config: &mut ContainerConfig, host: &mut HostConfig) {
        config.exposed_ports = unpack(self.exposed.as_deref());
        host.port_bindings = unpack(self.bindings.as_deref());
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exposed.is_none() && self.bindings.is_none()
    }

    /// How much memory they take, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        [&self.exposed, &self.bindings].into_iter().flatten().map(|text| text.len()).sum()
    }

    /// The exposed ports: `80/tcp`.
    #[must_use]
    pub fn exposed(&self) -> Vec<String> {
        unpack(self.exposed.as_deref()).unwrap_or_default()
    }

    /// The bound ports with their places on the host.
    #[must_use]
    pub fn bindings(&self) -> PortMap {
        unpack(self.bindings.as_deref()).unwrap_or_default()
    }
}

/// Strings, lists and tables of strings can always be written as JSON.
fn pack<T: Serialize + ?Sized>(ports: &T) -> Option<Arc<str>> {
    serde_json::to_string(ports).ok().map(Arc::from)
}

/// What [`pack`] wrote can be read.
fn unpack<T: DeserializeOwned>(text: Option<&str>) -> Option<T> {
    text.and_then(|text| serde_json::from_str(text).ok())
}

#[cfg(test)]
mod tests {
    use sampan_types::docker::PortBinding;

    use super::*;
    use crate::container::tests::record;
    use crate::record::{decode, encode};

    #[test]
    fn the_store_has_them_where_the_api_has_them() {
        let mut whole = record(&"ab".repeat(32), "web");
        whole.config.exposed_ports = Some(vec!["80/tcp".to_owned()]);
        whole.host_config.port_bindings = Some(PortMap::from([("80/tcp".to_owned(), None)]));
        let packed = whole.clone().packed();
        assert_eq!(*packed.wished_ports.exposed(), ["80/tcp"]);
        let bytes = encode(&packed).unwrap();
        assert_eq!(bytes, encode(&whole).unwrap());
        let text: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let shown = &text["container"]["host_config"]["PortBindings"];
        assert_eq!(*shown, serde_json::json!({ "80/tcp": null }));
        assert_eq!(decode("k", &bytes).unwrap(), packed);
    }

    #[test]
    fn what_is_taken_is_put_back() {
        let binding = |host_ip: Option<&str>, host_port: Option<&str>| PortBinding {
            host_ip: host_ip.map(str::to_owned),
            host_port: host_port.map(str::to_owned),
        };
        let bound = PortMap::from([
            (
                "80/tcp".to_owned(),
                Some(vec![binding(Some(""), Some("08080")), binding(None, None)]),
            ),
            ("53/udp".to_owned(), None),
            ("1/sctp".to_owned(), Some(Vec::new())),
        ]);
        let exposed = vec!["80/TCP".to_owned(), "9000-9001/udp".to_owned()];
        for (exposed, bound) in
            [(Some(exposed), Some(bound)), (None, None), (Some(Vec::new()), Some(PortMap::new()))]
        {
            let mut config =
                ContainerConfig { exposed_ports: exposed.clone(), ..Default::default() };
            let mut host = HostConfig { port_bindings: bound.clone(), ..Default::default() };
            let (config_before, host_before) = (config.clone(), host.clone());
            let ports = WishedPorts::take(&mut config, &mut host);
            assert_eq!((&config.exposed_ports, &host.port_bindings), (&None, &None));
            assert_eq!(ports.exposed(), exposed.unwrap_or_default());
            assert_eq!(ports.bindings(), bound.unwrap_or_default());
            assert_eq!(ports.is_empty(), config == config_before && host == host_before);
            ports.put(&mut config, &mut host);
            assert_eq!((config, host), (config_before, host_before));
        }
    }
}
