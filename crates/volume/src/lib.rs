//! Volumes: directories that outlive the containers that use them.
//!
//! [`Volumes`] is what the engine talks to: it knows the drivers, finds a
//! volume by its name, and counts who uses it. [`Driver`] is the seam; the
//! [`local`] driver keeps volumes in directories below the data root.
//!
//! Be aware:
//! - A volume's record and directory come into being in one rename, and leave
//!   in one rename: a crash shows the one or the other, never a half.
//! - Which containers *refer* to a volume is the engine's knowledge (its
//!   container records). Here only those are counted for which the volume is
//!   mounted right now.
#![forbid(unsafe_code)]

mod care;
mod copy;
mod driver;
mod error;
pub mod fault;
pub mod local;
mod plugin;
pub mod transfer;
mod volumes;

pub use care::{Care, CloneSource, CloneSpec, Snapshot};
pub use copy::watch::{Progress, StopOnDrop, Watch};
pub use copy::{copy_tree, copy_tree_with, copy_up};
pub use driver::{BoxFuture, Details, Driver};
pub use error::VolumeError;
pub use local::Usage;
pub use volumes::{ANONYMOUS_LABEL, Created, Volume, VolumeSpec, Volumes};
