//! The version of the API that a request speaks: the prefix `/v1.NN` of its
//! path.

use std::fmt;

use thiserror::Error;

/// The oldest API version that is answered.
pub const MIN_API_VERSION: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// The newest API version that is answered, and the one that a request
/// without a prefix speaks.
pub const MAX_API_VERSION: ApiVersion = ApiVersion { major: 1, minor: 53 };

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    /// Version 1.`minor`.
    #[must_use]
    pub const fn one(minor: u32) -> Self {
        Self { major: 1, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a version is refused, in dockerd's words: clients match on them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum VersionError {
    #[error(
        "client version {0} is too old. Minimum supported API version is {MIN_API_VERSION}, \
         please upgrade your client to a newer version"
    )]
    TooOld(String),
    #[error("client version {0} is too new. Maximum supported API version is {MAX_API_VERSION}")]
    TooNew(String),
}

/// Splits `/v1.44/containers/json` into the version and `/containers/json`.
/// A path without a prefix speaks the newest version.
pub(crate) fn split(path: &str) -> Result<(ApiVersion, &str), VersionError> {
    let Some((text, rest)) = prefix(path) else {
        return Ok((MAX_API_VERSION, path));
    };
    let mut parts = text.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let version = ApiVersion {
        major: parts.next().unwrap_or_default(),
        minor: parts.next().unwrap_or_default(),
    };
    if version < MIN_API_VERSION {
        return Err(VersionError::TooOld(text.to_owned()));
    }
    if version > MAX_API_VERSION {
        return Err(VersionError::TooNew(text.to_owned()));
    }
    Ok((version, rest))
}

/// The text of the version and the rest of the path, when there is a prefix.
fn prefix(path: &str) -> Option<(&str, &str)> {
    let after = path.strip_prefix("/v")?;
    let (text, _) = after.split_once('/')?;
    let is_version = text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_version.then(|| (text, &after[text.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_split_off() {
        assert_eq!(split("/v1.44/containers/json"), Ok((ApiVersion::one(44), "/containers/json")));
        assert_eq!(split("/_ping"), Ok((MAX_API_VERSION, "/_ping")));
        assert_eq!(split("/version"), Ok((MAX_API_VERSION, "/version")));
        assert_eq!(split("/volumes/v1"), Ok((MAX_API_VERSION, "/volumes/v1")));
        assert_eq!(split("/v1.44"), Ok((MAX_API_VERSION, "/v1.44")));
    }

    #[test]
    fn versions_outside_are_refused_in_dockerds_words() {
        let old = split("/v1.20/info").unwrap_err().to_string();
        assert!(old.starts_with(
            "client version 1.20 is too old. Minimum supported API version is 1.24, please"
        ));
        let new = split("/v9.9/info").unwrap_err().to_string();
        assert_eq!(new, "client version 9.9 is too new. Maximum supported API version is 1.53");
        assert!(split("/v1/info").is_err());
        assert!(split("/v1.9/info").is_err());
        assert!(split("/v1.99999999999/info").is_err());
    }
}
