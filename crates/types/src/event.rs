//! Events: what happened to which object, as `docker events` shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The kinds of object that events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A container's life cycle.
    Container,
    /// An image was pulled, tagged, removed …
    Image,
    /// A network was created, connected …
    Network,
    /// A volume was created, mounted …
    Volume,
    /// The daemon itself.
    Daemon,
}

impl EventType {
    /// The word that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Daemon => "daemon",
        }
    }
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The object's id (an image's reference, a volume's name).
    pub id: String,
    /// Name, image, labels, exit code: what filters match on.
    pub attributes: BTreeMap<String, String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The kind of object.
    pub kind: EventType,
    /// What happened, in Docker's words: `create`, `start`, `die`, `exec_start: sh` …
    pub action: String,
    /// The object.
    pub actor: Actor,
    /// When.
    pub time: Timestamp,
}
