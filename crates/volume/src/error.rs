//! What can go wrong with a volume, in the words that Docker's clients know.

use std::io;
use std::path::PathBuf;

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// Why an operation on a volume failed.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// No driver has a volume of this name.
    #[error("get {name}: no such volume")]
    NotFound {
        /// The name that was asked for.
        name: String,
    },
    /// The name breaks the rule for names.
    #[error(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
         use absolute path"
    )]
    InvalidName {
        /// The name as it was given.
        name: String,
    },
    /// The name has one character.
    #[error(
        "create {name}: volume name is too short, names should be at least two alphanumeric \
         characters"
    )]
    NameTooShort {
        /// The name as it was given.
        name: String,
    },
    /// No such driver.
    #[error("create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found")]
    NoDriver {
        /// The volume's name.
        name: String,
        /// The driver that was asked for.
        driver: String,
    },
    /// The name belongs to a volume of another driver.
    #[error(
        "create {name}: conflict: volume name must be unique: driver {owner:?} already has a \
         volume of this name"
    )]
    DriverConflict {
        /// The volume's name.
        name: String,
        /// The driver that has it.
        owner: String,
    },
    /// The driver has no such option.
    #[error("create {name}: invalid option: {option:?}")]
    InvalidOption {
        /// The volume's name.
        name: String,
        /// The option.
        option: String,
    },
    /// An option needs another one.
    #[error("create {name}: missing required option: {option:?}")]
    MissingOption {
        /// The volume's name.
        name: String,
        /// The option that is missing.
        option: String,
    },
    /// An option that this driver can't carry out.
    #[error("create {name}: option {option:?} is not supported by the local driver: {reason}")]
    Unsupported {
        /// The volume's name.
        name: String,
        /// The option.
        option: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The volume is mounted by somebody.
    #[error("remove {name}: volume is in use - [{}]", users.join(", "))]
    InUse {
        /// The volume's name.
        name: String,
        /// Who has it mounted.
        users: Vec<String>,
    },
    /// The options' mount failed.
    #[error(
        "failed to mount local volume: mount {device}:{}, flags: {flags:#x}{data}: {}",
        target.display(),
        plain(source)
    )]
    Mount {
        /// The device option.
        device: String,
        /// The volume's directory.
        target: PathBuf,
        /// The flags that were given to the kernel.
        flags: u32,
        /// `, data: …` with passwords hidden, or nothing.
        data: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The server of a network file system could not be found.
    #[error(
        "failed to mount local volume {name}: the address {address:?} can't be resolved: {source}"
    )]
    Address {
        /// The volume's name.
        name: String,
        /// The `addr=` option's value.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A record can't be read back.
    #[error("the record of volume {name} in {} is damaged: {source}", path.display())]
    Record {
        /// The volume's name.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Something nests too deeply to be copied.
    #[error("copying the image's content into the volume: {} is nested too deeply", path.display())]
    TooDeep {
        /// The directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl VolumeError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

/// The kernel's words as Docker shows them: lower case, without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

impl Kind for VolumeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::NoDriver { .. } => ErrorKind::NotFound,
            Self::InvalidName { .. }
            | Self::NameTooShort { .. }
            | Self::InvalidOption { .. }
            | Self::MissingOption { .. } => ErrorKind::InvalidParameter,
            Self::Unsupported { .. } => ErrorKind::NotImplemented,
            Self::InUse { .. } | Self::DriverConflict { .. } => ErrorKind::Conflict,
            Self::Mount { .. }
            | Self::Address { .. }
            | Self::Record { .. }
            | Self::TooDeep { .. }
            | Self::Io { .. } => ErrorKind::System,
        }
    }
}
