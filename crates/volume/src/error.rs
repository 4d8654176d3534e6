//! What can go wrong with a volume, in the words that Docker's clients know.

use std::io;
use std::path::PathBuf;

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

use crate::transfer::TransferError;

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
    /// An option's value is wrong.
    #[error("create {name}: invalid option {option:?}: {reason}")]
    OptionValue {
        /// The volume's name.
        name: String,
        /// The option with its value.
        option: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A program that is needed is not there.
    #[error(
        "create {name}: {tool} is needed to make the volume's file system, and is not there: \
         install {package}"
    )]
    NoTool {
        /// The volume's name.
        name: String,
        /// The program.
        tool: &'static str,
        /// What distributions call the package that has it.
        package: &'static str,
    },
    /// The secret of an encrypted volume can't be had.
    #[error("the key of volume {name} can't be had from {from}: {source}")]
    Key {
        /// The volume's name.
        name: String,
        /// Where it should come from.
        from: String,
        /// Why not.
        source: io::Error,
    },
    /// It is not the secret that the volume was made with.
    #[error(
        "wrong passphrase or key for volume {name}: it was encrypted with another one. Nothing \
         was mounted"
    )]
    WrongKey {
        /// The volume's name.
        name: String,
    },
    /// The volume's limit can't be changed like this.
    #[error("resize {name}: {reason}")]
    CannotResize {
        /// The volume's name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The volume is mounted by somebody.
    #[error("remove {name}: volume is in use - [{}]", users.join(", "))]
    InUse {
        /// The volume's name.
        name: String,
        /// Who has it mounted.
        users: Vec<String>,
    },
    /// The driver keeps volumes and can't do more with them.
    #[error(
        "{operation} {name}: volume driver {driver:?} has no such operation; volumes of the \
         local driver have"
    )]
    NoCare {
        /// What was to be done.
        operation: &'static str,
        /// The volume's name.
        name: String,
        /// Its driver.
        driver: String,
    },
    /// The volume has no such snapshot.
    #[error(
        "get {volume}@{snapshot}: no such snapshot; `sampan volume snapshot ls {volume}` lists them"
    )]
    NoSnapshot {
        /// The volume.
        volume: String,
        /// The snapshot that was asked for.
        snapshot: String,
    },
    /// The snapshot exists.
    #[error(
        "snapshot {volume}: it has a snapshot {snapshot:?} already: choose another name, or \
         remove it first"
    )]
    SnapshotExists {
        /// The volume.
        volume: String,
        /// The snapshot's name.
        snapshot: String,
    },
    /// The new name belongs to a volume.
    #[error("{operation} {name}: there is a volume {to:?} already: choose another name")]
    Taken {
        /// What was to be done.
        operation: &'static str,
        /// With which volume.
        name: String,
        /// The name that is taken.
        to: String,
    },
    /// Somebody has the volume mounted who would be pulled the rug.
    #[error("{operation} {name}: it is mounted by [{}]: stop them first", users.join(", "))]
    Mounted {
        /// What was to be done.
        operation: &'static str,
        /// The volume's name.
        name: String,
        /// Who has it mounted.
        users: Vec<String>,
    },
    /// The volume's content is being copied or mounted.
    #[error(
        "{operation} {name}: its content is being copied or mounted: try again when that is done"
    )]
    Busy {
        /// What was to be done.
        operation: &'static str,
        /// The volume's name.
        name: String,
    },
    /// The operation makes no sense for what the volume is.
    #[error("{operation} {name}: {reason}")]
    Refused {
        /// What was to be done.
        operation: &'static str,
        /// The volume's name.
        name: String,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// The copy was told to stop.
    #[error("copying to {} was stopped; nothing of it is kept", path.display())]
    Stopped {
        /// Where it was.
        path: PathBuf,
    },
    /// There is no room.
    #[error(
        "copy {}: the file system is full; nothing of the copy is kept. Make room, or move \
         the data root to a larger disk: {source}",
        path.display()
    )]
    Full {
        /// What was being copied.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A stream of a volume can't be made or taken.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A plugin failed in what was asked of it.
    #[error("{operation} {name}: {source}")]
    Plugin {
        /// What was asked.
        operation: &'static str,
        /// Of which volume.
        name: String,
        /// Its answer.
        source: Box<dyn std::error::Error + Send + Sync>,
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
            Self::NotFound { .. } | Self::NoDriver { .. } | Self::NoSnapshot { .. } => {
                ErrorKind::NotFound
            }
            Self::InvalidName { .. }
            | Self::NameTooShort { .. }
            | Self::InvalidOption { .. }
            | Self::OptionValue { .. }
            | Self::MissingOption { .. } => ErrorKind::InvalidParameter,
            Self::Transfer(error) => error.kind(),
            Self::WrongKey { .. } => ErrorKind::Forbidden,
            Self::NoTool { .. } | Self::Unsupported { .. } | Self::NoCare { .. } => {
                ErrorKind::NotImplemented
            }
            Self::InUse { .. }
            | Self::DriverConflict { .. }
            | Self::SnapshotExists { .. }
            | Self::Taken { .. }
            | Self::Mounted { .. }
            | Self::Busy { .. }
            | Self::CannotResize { .. }
            | Self::Refused { .. } => ErrorKind::Conflict,
            Self::Mount { .. }
            | Self::Plugin { .. }
            | Self::Address { .. }
            | Self::Record { .. }
            | Self::Key { .. }
            | Self::Stopped { .. }
            | Self::Full { .. }
            | Self::Io { .. } => ErrorKind::System,
        }
    }
}
