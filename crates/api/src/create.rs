//! The body that creates a container: what old and new clients send, brought
//! to one form.

use sampan_types::docker::{ContainerCreateBody, EndpointSettings};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::body::invalid_json;
use crate::error::ApiError;
use crate::lenient;
use crate::version::{ApiVersion, MAX_API_VERSION};

/// Why a body does not create a container.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateBodyError {
    /// It is not JSON, or not of the expected shape.
    #[error("{}", invalid_json(.0))]
    Json(#[from] serde_json::Error),
    /// A MAC address for the container, but it is not said for which network.
    #[error(
        "if a container-wide MAC address is supplied, HostConfig.NetworkMode must match the \
         identity of a network in NetworkSettings.Networks"
    )]
    MacWithoutNetwork,
    /// A MAC address for a container without a network of its own.
    #[error("conflicting options: mac-address and the network mode")]
    MacWithMode,
}

impl From<CreateBodyError> for ApiError {
    fn from(error: CreateBodyError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Reads the body of `POST /containers/create` as the newest clients send it.
///
/// # Errors
/// It is not JSON, a field has a wrong type, or options conflict.
pub fn parse_create_body(text: &[u8]) -> Result<ContainerCreateBody, CreateBodyError> {
    parse(text, MAX_API_VERSION)
}

/// Fields that left the API, but not its old clients.
#[derive(Deserialize)]
struct Former {
    /// The MAC address on the container's only network, until 1.44.
    #[serde(rename = "MacAddress")]
    mac_address: Option<String>,
}

/// Reads a body as a client of `version` means it.
pub(crate) fn parse(
    text: &[u8],
    version: ApiVersion,
) -> Result<ContainerCreateBody, CreateBodyError> {
    let value: Value = serde_json::from_slice(text)?;
    let former: Former = lenient::decode(value.clone())?;
    let mut body: ContainerCreateBody = lenient::decode(value)?;
    if let Some(mac) = former.mac_address.filter(|m| !m.is_empty()) {
        move_mac_address(&mut body, mac)?;
    }
    if let Some(host) = &mut body.host_config {
        host.pids_limit = host.pids_limit.filter(|n| *n > 0);
        if version < ApiVersion::one(40) && host.ipc_mode.as_deref().is_none_or(str::is_empty) {
            // Clients of then expect that others can share it.
            host.ipc_mode = Some("shareable".to_owned());
        }
    }
    Ok(body)
}

/// Gives the container's MAC address to the network that it means, as dockerd does.
fn move_mac_address(body: &mut ContainerCreateBody, mac: String) -> Result<(), CreateBodyError> {
    let mode = body.host_config.as_ref().and_then(|h| h.network_mode.as_deref());
    let network = match mode.unwrap_or_default() {
        "" => "default",
        other => other,
    };
    if ["host", "none"].contains(&network) || network.starts_with("container:") {
        return Err(CreateBodyError::MacWithMode);
    }
    let network = network.to_owned();
    let endpoints =
        body.networking_config.get_or_insert_default().endpoints_config.get_or_insert_default();
    if endpoints.is_empty() {
        endpoints.insert(network.clone(), EndpointSettings::default());
    }
    let endpoint = endpoints.get_mut(&network).ok_or(CreateBodyError::MacWithoutNetwork)?;
    if endpoint.mac_address.as_deref().is_none_or(str::is_empty) {
        endpoint.mac_address = Some(mac);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac_of(text: &str, network: &str) -> Option<String> {
        let body = parse_create_body(text.as_bytes()).unwrap();
        body.networking_config?.endpoints_config?.get(network)?.mac_address.clone()
    }

    #[test]
    fn the_old_mac_address_moves_to_its_network() {
        let mac = "02:42:ac:11:00:09";
        let plain = format!(r#"{{"MacAddress":"{mac}","NetworkingConfig":{{}}}}"#);
        assert_eq!(mac_of(&plain, "default").as_deref(), Some(mac));
        let named = format!(
            r#"{{"MacAddress":"{mac}","HostConfig":{{"NetworkMode":"n"}},
                "NetworkingConfig":{{"EndpointsConfig":{{"n":{{"Aliases":["a"]}}}}}}}}"#
        );
        assert_eq!(mac_of(&named, "n").as_deref(), Some(mac));
        let other = named.replace(r#""NetworkMode":"n""#, r#""NetworkMode":"m""#);
        assert!(matches!(
            parse_create_body(other.as_bytes()),
            Err(CreateBodyError::MacWithoutNetwork)
        ));
        let host = named.replace(r#""NetworkMode":"n""#, r#""NetworkMode":"host""#);
        assert!(matches!(parse_create_body(host.as_bytes()), Err(CreateBodyError::MacWithMode)));
    }

    #[test]
    fn old_versions_mean_other_defaults() {
        let text = br#"{"HostConfig":{"PidsLimit":-1}}"#;
        let old = parse(text, ApiVersion::one(39)).unwrap().host_config.unwrap();
        assert_eq!(old.ipc_mode.as_deref(), Some("shareable"));
        assert_eq!(old.pids_limit, None);
        let new = parse(text, ApiVersion::one(40)).unwrap().host_config.unwrap();
        assert_eq!(new.ipc_mode, None);
    }

    #[test]
    fn wrong_bodies_are_refused() {
        for text in ["", "{", "[]", "1", "\"x\"", r#"{"Cmd":5}"#, r#"{"HostConfig":[]}"#, "\u{ff}"]
        {
            let e = parse_create_body(text.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with("invalid JSON"), "{text}: {e}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse_create_body(deep.as_bytes()).is_err());
    }
}
