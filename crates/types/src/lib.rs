//! The nouns that every part of the engine shares: typed ids, names, times,
//! error kinds, and the Docker API's own data types.
//!
//! Be aware:
//! - Nothing here reads a clock, a file or a socket. Random ids are the one
//!   exception: they come from the kernel's generator.
//! - The Docker types are generated; where a field of dockerd's is missing
//!   there, extend beside them, in the crate that needs it.
#![forbid(unsafe_code)]

mod error;
mod event;
mod id;
mod name;
mod time;

pub use bollard_stubs::models as docker;
pub use error::{ErrorKind, Kind};
pub use event::{Actor, Event, EventType};
pub use id::{
    ContainerId, EndpointId, ExecId, IdError, ImageId, NetworkId, SandboxId, looks_like_id_prefix,
};
pub use name::{ContainerName, NameError, NetworkName, PolicyName, SnapshotName, VolumeName};
pub use time::{Timestamp, TimestampError};
