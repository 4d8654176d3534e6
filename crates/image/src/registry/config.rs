//! What an operator sets about registries, and what a client sends with a
//! request: credentials.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ipnet::IpNet;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::error::RegistryError;

/// The daemon's settings about registries, with the names of `daemon.json`.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries that are also spoken to in plain HTTP and with unverified
    /// TLS. Loopback addresses always are.
    pub insecure: InsecureRegistries,
    /// Where images of docker.io are looked for first.
    pub mirrors: Vec<Mirror>,
    /// The directory of certificates per registry: `<host:port>/*.crt` are
    /// roots, `*.cert` with the `*.key` beside it are client certificates.
    pub certs_dir: PathBuf,
    /// How many layers are downloaded at once, over all pulls.
    pub max_concurrent_downloads: usize,
    /// How many layers are uploaded at once, over all pushes.
    pub max_concurrent_uploads: usize,
    /// How often a transfer is tried that makes no headway.
    pub max_attempts: u32,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: InsecureRegistries::default(),
            mirrors: Vec::new(),
            certs_dir: PathBuf::from("/etc/docker/certs.d"),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            max_attempts: 5,
        }
    }
}

/// The base URL of a mirror of docker.io.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(Url);

impl Mirror {
    /// Reads `scheme://host[:port]` of `registry-mirrors`.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for another scheme, a path, a query or
    /// credentials, which dockerd refuses as well.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let refuse = |reason: &str| RegistryError::Invalid {
            what: "registry mirror",
            value: text.into(),
            reason: reason.into(),
        };
        let url = Url::parse(text).map_err(|e| refuse(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse("it must start with http:// or https:// and name a host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(RegistryError::Invalid {
                what: "registry mirror",
                value: url.host_str().unwrap_or_default().into(),
                reason: "credentials do not belong into its address".into(),
            });
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it must have no path, query or fragment"));
        }
        Ok(Self(url))
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The `insecure-registries`: networks and `host[:port]` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InsecureRegistries {
    /// Registries whose address lies in one of these.
    pub networks: Vec<IpNet>,
    /// Registries by name, in lower case, exactly as in the reference.
    pub hosts: Vec<String>,
}

impl InsecureRegistries {
    /// Sorts the entries of `insecure-registries` into networks and hosts.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for an entry with a scheme or a path.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, RegistryError> {
        let mut parsed = Self::default();
        for entry in entries {
            let entry = entry.as_ref();
            if let Ok(network) = entry.parse::<IpNet>() {
                parsed.networks.push(network.trunc());
            } else if entry.is_empty() || entry.contains('/') {
                return Err(RegistryError::Invalid {
                    what: "insecure registry",
                    value: entry.into(),
                    reason: "it must be host, host:port or a network in CIDR notation".into(),
                });
            } else {
                parsed.hosts.push(entry.to_lowercase());
            }
        }
        Ok(parsed)
    }

    /// Whether `host` (`name[:port]`) is listed, or is a loopback or listed
    /// address; names are looked up by the caller, see [`Self::covers`].
    #[must_use]
    pub fn lists(&self, host: &str) -> bool {
        let name = host_name(host);
        let loopback_name = name.eq_ignore_ascii_case("localhost");
        loopback_name
            || self.hosts.iter().any(|h| h.eq_ignore_ascii_case(host))
            || name.parse().is_ok_and(|address| self.covers(address))
    }

    /// Whether the address is loopback's or lies in a listed network.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.networks.iter().any(|n| n.contains(&address))
    }
}

/// The name in `name[:port]`, without the brackets of an IPv6 address.
pub(super) fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Credentials for one registry, as clients send them in `X-Registry-Auth`
/// and in the body of `POST /auth`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// The user's name.
    pub username: String,
    /// The user's password or access token.
    pub password: String,
    /// `username:password` in base64, instead of the two fields.
    pub auth: String,
    /// A refresh token from an earlier login, instead of the password.
    pub identitytoken: String,
    /// A bearer token that is sent as it is.
    pub registrytoken: String,
    /// The registry that they are for.
    pub serveraddress: String,
}

impl AuthConfig {
    /// Reads the header `X-Registry-Auth`: JSON in URL-safe base64. An empty
    /// header is no credentials.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`]; its text doesn't repeat the value.
    pub fn from_header(value: &str) -> Result<Option<Self>, RegistryError> {
        let refuse = |reason: &str| RegistryError::Invalid {
            what: "header",
            value: "X-Registry-Auth".into(),
            reason: reason.into(),
        };
        let value = value.trim();
        if value.is_empty() {
            return Ok(None);
        }
        let text = decode_base64(value).ok_or_else(|| refuse("it must be base64"))?;
        let auth: Option<Self> = serde_json::from_slice(&text)
            .map_err(|_| refuse("it must hold the credentials as a JSON object"))?;
        Ok(auth.filter(|a| !a.is_empty()))
    }

    /// Whether there is nothing to authenticate with.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identitytoken.is_empty()
            && self.registrytoken.is_empty()
            && self.auth.is_empty()
            && (self.username.is_empty() || self.password.is_empty())
    }

    /// The name and password, from the two fields or from `auth`.
    #[must_use]
    pub fn basic(&self) -> Option<(String, String)> {
        if !self.username.is_empty() && !self.password.is_empty() {
            return Some((self.username.clone(), self.password.clone()));
        }
        let text = String::from_utf8(decode_base64(&self.auth)?).ok()?;
        let (name, password) = text.split_once(':')?;
        (!name.is_empty()).then(|| (name.into(), password.trim_end_matches('\0').into()))
    }
}

/// Shows who, never with what.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

/// Base64 in either alphabet, with or without padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::alphabet;
    use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const ENGINES: [GeneralPurpose; 2] = [
        GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT),
        GeneralPurpose::new(&alphabet::STANDARD, LENIENT),
    ];
    if text.is_empty() {
        return None;
    }
    ENGINES.iter().find_map(|engine| engine.decode(text).ok())
}

/// The header that carries these credentials, as a client would write it.
#[must_use]
pub fn auth_header(auth: &AuthConfig) -> String {
    URL_SAFE.encode(serde_json::to_vec(auth).unwrap_or_default())
}

/// The value of `Authorization: Basic`.
pub(super) fn basic_header(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_networks_hosts_and_loopback() {
        let insecure =
            InsecureRegistries::parse(&["10.0.0.0/8", "Registry.lan:5000", "fd00::/8"]).unwrap();
        for host in [
            "127.0.0.1:5000",
            "127.9.9.9",
            "localhost",
            "localhost:5000",
            "[::1]:5000",
            "10.1.2.3:443",
            "registry.lan:5000",
            "[fd00::1]:80",
        ] {
            assert!(insecure.lists(host), "{host}");
        }
        for host in ["registry.lan", "11.0.0.1", "quay.io", "localhost.evil.org", "[fe80::1]"] {
            assert!(!insecure.lists(host), "{host}");
        }
        assert!(InsecureRegistries::parse(&["http://x:5000"]).is_err());
    }

    #[test]
    fn mirrors_are_bare_addresses() {
        assert!(Mirror::parse("https://mirror.lan:5000").is_ok());
        assert!(Mirror::parse("https://mirror.lan/").is_ok());
        for text in ["mirror.lan", "ftp://x", "https://x/path", "https://x?q", "https://"] {
            assert!(Mirror::parse(text).is_err(), "{text}");
        }
        let error = Mirror::parse("https://u:s3cret@x").unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn credentials_come_in_several_forms_and_never_show() {
        let auth = AuthConfig {
            username: "ann".into(),
            password: "pä?ß>".into(),
            ..AuthConfig::default()
        };
        let read = AuthConfig::from_header(&auth_header(&auth)).unwrap().unwrap();
        assert_eq!(read, auth);
        assert_eq!(read.basic().unwrap().1, "pä?ß>");
        assert!(!format!("{read:?}").contains("pä"));
        let packed = AuthConfig { auth: STANDARD.encode("bob:x:y"), ..AuthConfig::default() };
        assert_eq!(packed.basic(), Some(("bob".into(), "x:y".into())));
        assert_eq!(AuthConfig::from_header("").unwrap(), None);
        assert_eq!(AuthConfig::from_header("e30=").unwrap(), None, "an empty object");
        assert!(AuthConfig::from_header("!!").is_err());
    }
}
