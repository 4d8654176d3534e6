//! How much an archive may ask for before it is refused as a bomb.

/// Bounds on what unpacking one archive may take. The defaults are far above
/// any honest image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// How many times larger than its compressed form an archive may be …
    pub ratio: u64,
    /// … once it is larger than this many bytes.
    pub ratio_from: u64,
    /// Bytes of a path or of a link's target.
    pub path: usize,
    /// Directories in a path.
    pub depth: usize,
    /// Bytes of an entry's extended headers, extended attributes included.
    pub header: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 4_000_000,
            ratio: 100,
            ratio_from: 512 << 20,
            path: 4095,
            depth: 512,
            header: 1 << 20,
        }
    }
}
