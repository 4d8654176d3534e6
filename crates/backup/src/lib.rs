//! Backups of directories: incremental, deduplicated and encrypted, in a
//! directory, an S3-compatible storage, or a server of restic's REST protocol;
//! and the files of a repository that is kept for others ([`Served`]).
//!
//! The format is restic's (version 2), by `rustic_core`: what is backed up
//! here can be listed and restored with `restic`, also where this program is
//! not. This crate adds what a container engine needs around it: the source is
//! read, and the target written, without following a link; a backup is never
//! listed before it is whole; interrupted ones are taken over; damage is named
//! and the rest restored.
//!
//! Be aware:
//! - Everything blocks. The engine calls it on threads that may.
//! - It knows directories and names, nothing of volumes' drivers.

mod backup;
mod check;
mod error;
mod guard;
mod location;
mod progress;
mod repository;
mod restore;
mod retention;
mod schedule;
mod secret;
mod served;
mod snapshot;
mod source;
mod store;

pub use backup::Made;
pub use check::{Checked, Forgotten};
pub use error::BackupError;
pub use location::Location;
pub use progress::{Progress, Watch};
pub use repository::{Access, Repository};
pub use restore::{Damage, Restored};
pub use retention::Retention;
pub use schedule::Schedule;
pub use secret::{S3Keys, Secret};
pub use served::{FileName, Incoming, Served};
pub use snapshot::{About, Snapshot, Wanted};
