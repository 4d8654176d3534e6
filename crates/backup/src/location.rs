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
}

impl FromStr for Location {
    type Err = BackupError;

    /// Reads `/directory`, `s3://bucket/prefix`, `s3:https://host/bucket/prefix`
    /// and restic's `s3:host/bucket/prefix`.
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
        let path = Path::new(given);
        if !path.is_absolute() {
            return Err(wrong("it is neither an absolute path nor an address of S3"));
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
        ] {
            assert!(given.parse::<Location>().is_err(), "{given}");
        }
    }

    #[test]
    fn keys_in_an_address_are_refused_and_not_repeated() {
        let error = "s3:https://KEY:SECRET@host/bucket".parse::<Location>().unwrap_err();
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
}
