//! Names and numbers of signals, as `docker kill` and `--stop-signal` take them.

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why a text is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(String);

impl Kind for SignalError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// Reads `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-2`.
///
/// # Errors
/// When there is no such signal.
pub fn parse(text: &str) -> Result<i32, SignalError> {
    let _ = text;
    todo!()
}
