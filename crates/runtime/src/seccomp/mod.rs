//! Seccomp profiles: Docker's default as a table, custom ones from JSON.

use oci_spec::runtime::LinuxSeccomp;
use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why a profile is refused.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// Not the JSON of a profile.
    #[error("Decoding seccomp profile failed: {0}")]
    Json(#[from] serde_json::Error),
    /// A value in it is wrong.
    #[error("seccomp profile: {0}")]
    Invalid(String),
}

impl Kind for SeccompError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// Docker's default profile for a process with the capabilities `caps`
/// (`CAP_…`) on a kernel of version `kernel`.
#[must_use]
pub fn default_profile(caps: &[&str], kernel: (u32, u32)) -> LinuxSeccomp {
    let _ = (caps, kernel);
    todo!()
}

/// A profile in Docker's JSON format for the same.
///
/// # Errors
/// [`SeccompError`] when it is malformed.
pub fn custom_profile(
    json: &str,
    caps: &[&str],
    kernel: (u32, u32),
) -> Result<LinuxSeccomp, SeccompError> {
    let _ = (json, caps, kernel);
    todo!()
}
