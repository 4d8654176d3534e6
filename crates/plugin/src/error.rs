//! What can go wrong with plugins.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// A plugin that is not there, or does not do what it is asked for.
#[derive(Debug, Error)]
pub enum PluginError {
    /// None of this name.
    #[error(
        "plugin {name:?} not found: no {name}.sock, {name}.spec or {name}.json in {}",
        places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// Its description can't be used.
    #[error("plugin {name}: {}: {reason}", path.display())]
    Description {
        /// The plugin.
        name: String,
        /// The file that describes it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It drives something else.
    #[error("plugin {name} is no {wanted}: it implements {implements}")]
    WrongKind {
        /// The plugin.
        name: String,
        /// What was wanted.
        wanted: &'static str,
        /// What it says that it implements.
        implements: String,
    },
    /// A call failed.
    #[error("plugin {name}: {method}: {reason}")]
    Call {
        /// The plugin.
        name: String,
        /// The method.
        method: String,
        /// Why.
        reason: CallError,
    },
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody answers at its address.
    #[error("it can't be reached at {address}: {source}")]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It does not know the method.
    #[error("it does not know this method")]
    Unknown,
    /// The answer is longer than any could be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The answer, or the question, is not what it should be.
    #[error("malformed JSON: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl PluginError {
    pub(crate) fn call(name: &str, method: &str, reason: CallError) -> Self {
        Self::Call { name: name.to_owned(), method: method.to_owned(), reason }
    }

    /// Whether the plugin answered, and refused in its own words.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Call { reason: CallError::Refused(_), .. })
    }

    /// Whether the plugin may have done what it was asked for all the same: the
    /// question reached it, and it did not refuse.
    #[must_use]
    pub fn may_have_acted(&self) -> bool {
        use CallError::{Http, Malformed, TimedOut, TooLong};
        matches!(self, Self::Call { reason: Http(_) | TimedOut(_) | TooLong(_) | Malformed(_), .. })
    }

    /// Whether the plugin does not know the method that was called.
    #[must_use]
    pub fn is_unknown_method(&self) -> bool {
        matches!(self, Self::Call { reason: CallError::Unknown, .. })
    }
}

impl Kind for PluginError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::WrongKind { .. } => ErrorKind::InvalidParameter,
            Self::Description { .. } | Self::Call { .. } => ErrorKind::System,
        }
    }
}
