//! `--change` of `commit` and `import`: Dockerfile instructions that alter an
//! image's configuration.

use std::str::FromStr;

use sampan_types::docker;
use thiserror::Error;

/// Why a text is not a change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Not an instruction that can be used here.
    #[error("{0} is not a valid change command")]
    Unknown(String),
    /// The instruction's arguments are wrong.
    #[error("invalid {instruction} in --change: {reason}")]
    Arguments {
        /// The instruction.
        instruction: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One instruction: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
/// SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {}

impl FromStr for Change {
    type Err = ChangeError;
    fn from_str(text: &str) -> Result<Self, ChangeError> {
        todo!()
    }
}

impl Change {
    /// Alters `config` as the instruction says.
    pub fn apply(&self, config: &mut docker::ImageConfig) {
        todo!()
    }
}
