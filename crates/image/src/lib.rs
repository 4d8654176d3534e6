//! Images: references, content, layers, records, snapshots, and safe archives.
//!
//! Layout below `<data-root>/image`:
//! - `blobs/sha256/<hex>`: manifests, configurations and layer archives, as
//!   they came from a registry or an archive;
//! - `ingest/<hex>`: blobs that are still arriving; a broken download resumes;
//! - `layers/<diff hex>/diff`: a layer unpacked for overlayfs, addressed by the
//!   digest of its uncompressed archive, so that equal layers exist once;
//! - `init/<chain hex>/diff`: the empty mount points that an image lacks;
//! - `repositories.json`: which images exist and what they are called. It is
//!   written last: what it does not reach is removed at the next start.
//!
//! `<data-root>/overlay/<container id>` holds the writable part of a container.
//!
//! Be aware:
//! - Archives and container file trees are hostile. Every path is resolved by
//!   the kernel inside its root (`openat2`), never by string operations.
//! - Work on file trees runs on blocking threads; streams between them and the
//!   async side are bounded.
//! - Content that an operation needs but that no image refers to yet is held
//!   by a [`Lease`]; without one, removal of another image may take it away.
#![forbid(unsafe_code)]

pub mod archive;
mod change;
mod config;
mod content;
mod digest;
mod error;
mod images;
mod layer;
mod lease;
mod limits;
mod manifest;
mod progress;
mod reference;
pub mod registry;
mod remove;
mod snapshot;
mod stream;
mod tarball;
mod transfer;

pub use change::{Change, ChangeError};
pub use config::{ConfigFile, HistoryEntry, RootFs};
pub use content::{Content, Ingest};
pub use digest::{Digest, DigestError, Hasher};
pub use error::ImageError;
pub use images::{
    HistoryItem, ImageRecord, ImageUse, Images, ListFilters, PruneReport, Pruning, Registration,
    RemoveOptions,
};
pub use lease::Lease;
pub use limits::Limits;
pub use manifest::{Descriptor, Index, Manifest, Platform, media};
pub use progress::{Progress, ProgressSink};
pub use reference::{Reference, ReferenceError};
pub use snapshot::{ChangeKind, MountHold, SnapshotPaths};
pub use stream::{ByteStream, ChannelWriter, pipe};
pub use transfer::{CommitRequest, ImportRequest, LoadOptions};

/// A number that no other call in this process gets, with the process' id: for
/// names of temporary files.
fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}
