//! Where a repository is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::BackupError;

/// A repository's place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory of this host.
    Directory(PathBuf),
    /// Objects below a prefix in a bucket of an S3-compatible storage.
    S3 {
        /// `https://host[:port]`; AWS's own when it is absent.
        endpoint: Option<String>,
        /// The bucket.
        bucket: String,
        /// The prefix, without slashes around it; may be empty.
        prefix: String,
    },
    /// A server of restic's REST protocol: restic's own, or another Sampan.
    Rest {
        /// `http://…` or `https://…`, without a slash at the end.
        url: String,
    },
}

/// Where another Sampan has the repositories that it keeps for others.
const REPOSITORIES: &str = "/sampan/repositories/";
/// The port of a daemon with TLS, behind the host's name.
const DAEMON_PORT: &str = ":2376";

impl FromStr for Location {
    type Err = BackupError;

    /// Reads `/directory`, `s3://bucket/prefix`, `s3:https://host/bucket/prefix`,
    /// restic's `s3:host/bucket/prefix` and `rest:https://host:port/path`, and
    /// `sampan://host[:port]/volume`.
    fn from_str(given: &str) -> Result<Self, BackupError> {
        // What stands before an @ may be a secret: it is not repeated.
        let shown = match given.rsplit_once('@') {
            Some((_, rest)) => format!("…@{rest}"),
            None => given.to_owned(),
        };
        let wrong = |reason| BackupError::Location { given: shown.clone(), reason };
        if let Some(rest) = given.strip_prefix("s3:") {
            if rest.contains('@') {
                return Err(wrong("keys don't belong into the address but into a key file"));
            }
            if rest.contains(['?', '#']) {
                return Err(wrong("an address of S3 has no parameters"));
            }
            let (endpoint, path) = match rest.strip_prefix("//") {
                Some(path) => (None, path),
                None => split_endpoint(rest).ok_or_else(|| wrong("the bucket is missing"))?,
            };
            let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
            let prefix = prefix.trim_matches('/');
            if bucket.is_empty() {
                return Err(wrong("the bucket is missing"));
            }
            if prefix.split('/').any(|part| part == "." || part == "..") {
                return Err(wrong("the prefix must not hold . or .."));
            }
            return Ok(Self::S3 { endpoint, bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if let Some(rest) = given.strip_prefix("sampan://") {
            let (host, volume) = rest.split_once('/').unwrap_or((rest, ""));
            let volume = volume.trim_end_matches('/');
            if host.is_empty() || volume.is_empty() || volume.contains('/') {
                return Err(wrong("the host or the volume is missing"));
            }
            let after_address = host.rsplit(']').next().unwrap_or(host);
            let port = if after_address.contains(':') { "" } else { DAEMON_PORT };
            return rest_server(&format!("https://{host}{port}{REPOSITORIES}{volume}"))
                .map_err(wrong);
        }
        if let Some(url) = given.strip_prefix("rest:") {
            return rest_server(url).map_err(wrong);
        }
        let path = Path::new(given);
        if !path.is_absolute() {
            return Err(wrong("it is neither an absolute path nor an address"));
        }
        let names = path.components().collect::<PathBuf>();
        if names.parent().is_none() {
            return Err(wrong("the root directory can't be a repository"));
        }
        if names.components().any(|c| c == std::path::Component::ParentDir) {
            return Err(wrong("the path must not hold .."));
        }
        Ok(Self::Directory(names))
    }
}

/// `https://host/path` or `host/path`.
fn split_endpoint(rest: &str) -> Option<(Option<String>, &str)> {
    let (scheme, rest) = match rest.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return None,
        None => ("https", rest),
    };
    let (host, path) = rest.split_once('/')?;
    (!host.is_empty()).then(|| (Some(format!("{scheme}://{host}")), path))
}

/// `http://host[:port]/path`.
fn rest_server(url: &str) -> Result<Location, &'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or("write rest:https://HOST/PATH")?;
    if rest.contains('@') {
        return Err("a server is told who asks by a certificate, not by its address");
    }
    if rest.contains(['?', '#']) || rest.split('/').any(|part| part == "." || part == "..") {
        return Err("the path must not hold ., .., ? or #");
    }
    if rest.starts_with(['/', ':']) || rest.is_empty() {
        return Err("the host is missing");
    }
    Ok(Location::Rest { url: url.trim_end_matches('/').to_owned() })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3 { endpoint, bucket, prefix } => {
                match endpoint {
                    Some(endpoint) => write!(f, "s3:{endpoint}/{bucket}")?,
                    None => write!(f, "s3://{bucket}")?,
                }
                if prefix.is_empty() { Ok(()) } else { write!(f, "/{prefix}") }
            }
            Self::Rest { url } => match url.strip_prefix("https://") {
                Some(rest) if rest.contains(REPOSITORIES) => {
                    write!(f, "sampan://{}", rest.replacen(REPOSITORIES, "/", 1))
                }
                _ => write!(f, "rest:{url}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_shown() {
        for (given, shown) in [
            ("/srv/backup/", "/srv/backup"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("s3:http://127.0.0.1:9000/bucket/x", "s3:http://127.0.0.1:9000/bucket/x"),
            ("s3:s3.example.com/bucket", "s3:https://s3.example.com/bucket"),
            ("rest:https://h:8000/a/b/", "rest:https://h:8000/a/b"),
            ("rest:http://[::1]:8000", "rest:http://[::1]:8000"),
            ("sampan://other/safe", "sampan://other:2376/safe"),
            ("sampan://[fd00::1]:1/safe/", "sampan://[fd00::1]:1/safe"),
            ("sampan://[fd00::1]/safe", "sampan://[fd00::1]:2376/safe"),
        ] {
            let location: Location = given.parse().unwrap();
            assert_eq!(location.to_string(), shown);
            assert_eq!(shown.parse::<Location>().unwrap(), location);
        }
        for given in [
            "",
            "relative",
            "/",
            "/a/../b",
            "s3:",
            "s3://",
            "s3:host",
            "s3:ftp://h/b",
            "s3://b/..",
            "s3://b?x=1",
            "sftp:h:/x",
            "rest:host/x",
            "rest:https://",
            "rest:https://h/../x",
            "sampan://host",
            "sampan://host/a/b",
            "sampan:///a",
        ] {
            assert!(given.parse::<Location>().is_err(), "{given}");
        }
    }

    #[test]
    fn keys_in_an_address_are_refused_and_not_repeated() {
        for given in ["s3:https://KEY:SECRET@host/bucket", "rest:https://me:SECRET@host/x"] {
            let error = given.parse::<Location>().unwrap_err();
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
    }
}
