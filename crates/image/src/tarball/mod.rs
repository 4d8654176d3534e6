//! Tar archives, as a stream, with bounded memory.
//!
//! Be aware:
//! - The reader trusts nothing: names, extended headers and numbers are
//!   bounded before they are read into memory.
//! - Paths come out as they are in the archive. Who makes files of them
//!   resolves them within a root.

mod compression;
mod reader;
mod sparse;
mod tree;
mod unpack;
mod writer;

pub(crate) use compression::{Compression, decompress};
pub(crate) use reader::{Entry, EntryKind, TarReader};
pub(crate) use tree::{
    Below, Layers, TreeWriter, file_type, is_content_xattr, is_opaque, is_whiteout, join, look,
    visit_names,
};
pub(crate) use unpack::{Policy, Unpacked, unpack};
pub(crate) use writer::TarWriter;

/// The size of headers, and what data is padded to.
pub(crate) const BLOCK: usize = 512;

/// The prefix of extended attributes in extended headers.
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";
