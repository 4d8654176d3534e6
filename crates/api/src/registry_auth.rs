//! `X-Registry-Auth`: credentials for one registry, JSON in base64.
//!
//! Be aware: clients differ in alphabet and padding, and some send `{}` or
//! `null` for "no credentials". Errors never quote the value.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use sampan_types::docker::AuthConfig;
use serde::Deserialize;

use crate::error::ApiError;
use crate::lenient;

const ANY_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);

/// What the header holds.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
    /// Base64 of `username:password`, from older clients.
    pub(crate) auth: String,
    pub(crate) serveraddress: String,
    pub(crate) identitytoken: String,
    pub(crate) registrytoken: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The credentials of a request; none where it brings nothing usable.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get("x-registry-auth") else { return Ok(None) };
        Self::parse(value.as_bytes())
            .map_err(|why| ApiError::invalid(format!("invalid X-Registry-Auth header: {why}")))
    }

    /// In the type that the engine takes.
    pub(crate) fn into_auth(self) -> Result<AuthConfig, ApiError> {
        if self.username.is_empty() {
            return Err(ApiError::not_implemented(
                "identity and registry tokens are not supported: log in with a user and a password",
            ));
        }
        Ok(AuthConfig {
            username: Some(self.username),
            password: Some(self.password),
            serveraddress: Some(self.serveraddress).filter(|s| !s.is_empty()),
        })
    }

    fn parse(value: &[u8]) -> Result<Option<Self>, &'static str> {
        if value.is_empty() {
            return Ok(None);
        }
        let text = URL_SAFE
            .decode(value)
            .or_else(|_| STANDARD.decode(value))
            .map_err(|_| "it is not base64")?;
        let mut found: Self = lenient::from_slice(&text).map_err(|_| "it is not a JSON object")?;
        found.split_auth();
        Ok(Some(found).filter(|c| {
            !(c.username.is_empty() && c.identitytoken.is_empty() && c.registrytoken.is_empty())
        }))
    }

    /// Takes user and password from `auth` where they are not given.
    fn split_auth(&mut self) {
        if !self.username.is_empty() || self.auth.is_empty() {
            return;
        }
        let decoded = STANDARD.decode(&self.auth).ok().and_then(|b| String::from_utf8(b).ok());
        if let Some((user, password)) = decoded.as_deref().and_then(|t| t.split_once(':')) {
            self.username = user.to_owned();
            self.password = password.trim_end_matches('\0').to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alphabet_and_padding() {
        let json = br#"{"username":"me??>>","password":"s3cret~~","serveraddress":"r.example"}"#;
        for text in [
            URL_SAFE.encode(json),
            STANDARD.encode(json),
            URL_SAFE.encode(json).trim_end_matches('=').to_owned(),
        ] {
            let c = Credentials::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!((c.username.as_str(), c.password.as_str()), ("me??>>", "s3cret~~"));
            assert!(!format!("{c:?}").contains("s3cret"));
        }
    }

    #[test]
    fn nothing_is_none() {
        for json in ["{}", "null", r#"{"username":"","password":""}"#] {
            assert_eq!(Credentials::parse(URL_SAFE.encode(json).as_bytes()), Ok(None), "{json}");
        }
        assert_eq!(Credentials::parse(b""), Ok(None));
    }

    #[test]
    fn auth_is_split() {
        let json = format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("u:p:q"));
        let c = Credentials::parse(STANDARD.encode(json).as_bytes()).unwrap().unwrap();
        assert_eq!((c.username.as_str(), c.password.as_str()), ("u", "p:q"));
    }

    #[test]
    fn errors_do_not_quote() {
        for bad in ["%%%", &STANDARD.encode("secret")] {
            let e = Credentials::parse(bad.as_bytes()).unwrap_err();
            assert!(!e.contains("secret"));
        }
    }
}
