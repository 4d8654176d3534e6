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
mod processes;
pub mod stats;
mod status;
mod top;

pub use archive::{ArchiveOptions, PathStat};
pub use commit::CommitOptions;
pub(crate) use json::{config, dns_names, null_if_empty, port_map};
pub use list::ListOptions;
pub use logs::{LogOutput, Logs, LogsOptions};
pub use stats::StatsStream;

use std::collections::BTreeMap;

use crate::record::ContainerRecord;

/// What events about a container carry: its labels, its image and its name.
pub(crate) fn attributes(record: &ContainerRecord) -> BTreeMap<String, String> {
    let labels = record.config.labels.iter().flatten();
    let mut out: BTreeMap<String, String> = labels.map(|(k, v)| (k.clone(), v.clone())).collect();
    out.insert("image".to_owned(), record.config.image.clone().unwrap_or_default());
    out.insert("name".to_owned(), record.name.to_string());
    out
}
