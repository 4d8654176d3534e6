//! What opens a repository, and what opens the storage it lies in.
//!
//! Be aware:
//! - A secret is given with each call, by a file of the daemon's host or in
//!   the request. It is in no record, message or log; `Debug` hides it.

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::BackupError;

/// No passphrase and no list of keys is larger.
const LARGEST: u64 = 64 << 10;

/// The passphrase of a repository.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A passphrase. Empty ones are refused by [`Secret::read`] alone.
    #[must_use]
    pub fn new(passphrase: impl Into<String>) -> Self {
        Self(passphrase.into())
    }

    /// Reads the passphrase from a file that only its owner may read; the
    /// newline at its end does not count.
    ///
    /// # Errors
    /// When it can't be read, is empty, or others may read it.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let text = read_private(path)?;
        let passphrase = text.trim_end_matches(['\n', '\r']);
        if passphrase.is_empty() {
            return Err(wrong(path, "it is empty; write the passphrase into it"));
        }
        Ok(Self(passphrase.to_owned()))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The keys of an S3-compatible storage.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Keys {
    /// Who asks.
    pub access_key_id: String,
    /// What requests are signed with.
    pub secret_access_key: String,
    /// The token of keys that are lent for a time.
    pub session_token: Option<String>,
    /// The region; `us-east-1` when it is absent.
    pub region: Option<String>,
}

impl S3Keys {
    /// Reads the keys from a file as AWS's own programs have it:
    /// `aws_access_key_id = …`, one a line, comments after `#` or `;`, the
    /// first section alone. Only its owner may be able to read it.
    ///
    /// # Errors
    /// When it can't be read, others may read it, or a key is missing.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        Self::parse(&read_private(path)?).map_err(|reason| wrong(path, &reason))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Self::default();
        let mut sections = 0;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') {
                sections += 1;
                if sections > 1 {
                    break;
                }
                continue;
            }
            // A line may hold a secret: errors name only the part before =.
            let Some((name, value)) = line.split_once('=') else {
                return Err("a line is not of the form NAME = VALUE".to_owned());
            };
            let value = value.trim().to_owned();
            match name.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" | "access_key_id" => keys.access_key_id = value,
                "aws_secret_access_key" | "secret_access_key" => keys.secret_access_key = value,
                "aws_session_token" | "session_token" => keys.session_token = Some(value),
                "region" | "aws_region" | "aws_default_region" => keys.region = Some(value),
                other => return Err(format!("{other} is not known")),
            }
        }
        if keys.access_key_id.is_empty() || keys.secret_access_key.is_empty() {
            return Err("it must hold aws_access_key_id and aws_secret_access_key".to_owned());
        }
        Ok(keys)
    }
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Keys").field("region", &self.region).finish_non_exhaustive()
    }
}

fn wrong(path: &Path, reason: &str) -> BackupError {
    BackupError::Credentials { path: path.to_owned(), reason: reason.to_owned() }
}

fn read_private(path: &Path) -> Result<String, BackupError> {
    let metadata = fs::metadata(path).map_err(BackupError::io("look at", path))?;
    if !metadata.is_file() || metadata.size() > LARGEST {
        return Err(wrong(path, "it is not a small regular file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(wrong(path, "others may read it; run `chmod 600` on it"));
    }
    fs::read_to_string(path).map_err(BackupError::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_a_private_file_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "correct horse\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Secret::read(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = Secret::read(&path).unwrap();
        assert_eq!(secret.reveal(), "correct horse");
        assert!(!format!("{secret:?}").contains("horse"));
        fs::write(&path, "\n").unwrap();
        assert!(Secret::read(&path).is_err());
        assert!(Secret::read(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn keys_are_read_as_aws_writes_them() {
        let text = "[default]\naws_access_key_id = AK\n# comment\naws_secret_access_key=S=K\n\
                    region = eu-1\n[other]\naws_access_key_id = no\n";
        let keys = S3Keys::parse(text).unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.as_str()), ("AK", "S=K"));
        assert_eq!(keys.region.as_deref(), Some("eu-1"));
        assert!(!format!("{keys:?}").contains("S=K"));
        assert!(S3Keys::parse("aws_access_key_id = AK").is_err());
        let error = S3Keys::parse("SECRETSECRET").unwrap_err();
        assert!(!error.contains("SECRET"), "{error}");
    }
}
