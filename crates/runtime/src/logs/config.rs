//! Options of the log drivers.

use std::collections::BTreeMap;
use std::path::Path;

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

use super::LogSetup;

/// Why log options are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogOptError {
    /// No such driver.
    #[error("logger: no log driver named '{0}' is registered")]
    UnknownDriver(String),
    /// The driver has no such option.
    #[error("unknown log opt '{opt}' for {driver} log driver")]
    UnknownOption {
        /// The option.
        opt: String,
        /// The driver.
        driver: String,
    },
    /// An option's value is wrong.
    #[error("{0}")]
    Invalid(String),
}

impl Kind for LogOptError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// What tags and attributes are made from.
#[derive(Debug, Clone, Default)]
pub struct LogInfo<'a> {
    /// The whole id.
    pub container_id: &'a str,
    /// Without the leading slash.
    pub container_name: &'a str,
    /// The image's id.
    pub image_id: &'a str,
    /// The image as it was asked for.
    pub image_name: &'a str,
    /// The command.
    pub command: &'a str,
    /// `NAME=value` of the container.
    pub env: &'a [String],
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
}

/// Checks driver and options without a container. An empty driver is `json-file`.
///
/// # Errors
/// [`LogOptError`] for the first thing that is wrong.
pub fn validate(driver: &str, options: &BTreeMap<String, String>) -> Result<(), LogOptError> {
    let _ = (driver, options);
    todo!()
}

/// The complete setup; log files are placed in `directory`
/// (`containers/<id>`), as `<id>-json.log` or `local-logs/container.log`.
///
/// # Errors
/// [`LogOptError`] for the first thing that is wrong.
pub fn setup(
    driver: &str,
    options: &BTreeMap<String, String>,
    info: &LogInfo<'_>,
    directory: &Path,
) -> Result<LogSetup, LogOptError> {
    let _ = (driver, options, info, directory);
    todo!()
}
