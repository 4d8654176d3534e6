//! Why a stream of a volume can't be made or taken.

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

use super::StreamId;

/// What is wrong with a stream, or with what it builds on.
#[derive(Debug, Error)]
pub enum TransferError {
    /// It is not what `volume send` writes.
    #[error("receive: this is not a stream of a volume: it comes from `sampan volume send`")]
    NotAStream,
    /// It was written by something newer.
    #[error(
        "receive: the stream has version {version}, this daemon knows {known}: use a later one"
    )]
    Version {
        /// What the stream says.
        version: u32,
        /// The latest that is known here.
        known: u32,
    },
    /// It ends too early, was altered, or says what no sender says.
    #[error("{what} is damaged: {reason}: {remedy}")]
    Damaged {
        /// The stream, or the record of an earlier one.
        what: &'static str,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An entry that the format has no room for.
    #[error("send: {path:?} can't be sent: {reason}")]
    TooLarge {
        /// Which one.
        path: String,
        /// What is too large.
        reason: &'static str,
    },
    /// The stream changes a volume that is not here.
    #[error(
        "receive {name}: the stream changes what stream {since} brought, and there is no volume \
         {name:?}: send everything with `send --full`"
    )]
    NoVolume {
        /// The volume.
        name: String,
        /// What it builds on.
        since: StreamId,
    },
    /// The stream changes something else than what the volume holds.
    #[error(
        "receive {name}: the stream changes what stream {since} brought; the volume {}. Send \
         everything with `send --full` and take it with `receive --replace`{}",
        held.as_ref().map_or_else(
            || "was not received".to_owned(),
            |held| format!("holds what stream {held} brought"),
        ),
        held.as_ref().map_or_else(String::new, |held| format!(
            ", or send what changed since then with `send --since {held}`"
        ))
    )]
    WrongBase {
        /// The volume.
        name: String,
        /// What the stream builds on.
        since: StreamId,
        /// What the volume holds.
        held: Option<StreamId>,
    },
    /// Somebody wrote to the volume after it was received.
    #[error(
        "receive {name}: the volume was changed here after it was received ({path}), so what \
         changed at the sender does not fit it: send everything with `send --full` and take it \
         with `receive --replace`, which discards the changes"
    )]
    Changed {
        /// The volume.
        name: String,
        /// Something that was changed.
        path: String,
    },
    /// The name has a volume already.
    #[error(
        "receive {name}: there is a volume of this name already: name another one, or replace \
         its content with --replace"
    )]
    Exists {
        /// The volume.
        name: String,
    },
    /// The sender does not know any more what it sent then.
    #[error(
        "send {name}: it is not known any more what stream {since} held ({}): send everything \
         with --full",
        known(kept)
    )]
    NotKept {
        /// The volume.
        name: String,
        /// What was asked for.
        since: StreamId,
        /// What is known.
        kept: Vec<StreamId>,
    },
}

fn known(kept: &[StreamId]) -> String {
    if kept.is_empty() {
        return "nothing was sent".to_owned();
    }
    let ids: Vec<&str> = kept.iter().map(StreamId::as_str).collect();
    format!("known are {}", ids.join(", "))
}

impl Kind for TransferError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAStream | Self::Version { .. } | Self::Damaged { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::NoVolume { .. } | Self::NotKept { .. } => ErrorKind::NotFound,
            Self::TooLarge { .. }
            | Self::WrongBase { .. }
            | Self::Changed { .. }
            | Self::Exists { .. } => ErrorKind::Conflict,
        }
    }
}
