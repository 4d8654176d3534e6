//! What is read about containers, in the shapes that dockerd answers with.
//!
//! Be aware:
//! - Everything works on a snapshot of the record: nothing here waits for an
//!   operation on the container.
//! - JSON is built by hand where clients tell `null`, `[]` and `""` apart.

pub mod archive;
mod changes;
pub mod commit;
mod export;
mod inspect;
mod json;
mod list;
pub mod logs;
mod mounted;
pub mod stats;
mod status;
mod top;

pub use archive::{ArchiveOptions, PathStat};
pub use commit::CommitOptions;
pub use list::ListOptions;
pub use logs::{LogOutput, Logs, LogsOptions};
pub use stats::StatsStream;
