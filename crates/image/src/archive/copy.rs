//! Filling a volume from an image's directory.

use std::io::{self, Write};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sampan_sys::inroot;

use super::{ArchiveError, open_root};
use crate::Limits;
use crate::tarball::{Policy, TarReader, TreeWriter, unpack};

/// Copies by way of an archive, so that there is one way to make files. The
/// root's own attributes go too, as a volume's root takes the place of the
/// directory.
pub(super) fn directory(root: &Path, path: &Path, target: &Path) -> Result<(), ArchiveError> {
    let shown = path.to_string_lossy().into_owned();
    let failed = |e| ArchiveError::from_io("copy", &shown, e);
    let root = open_root(root)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let source = match inroot::open_in_root(&root, path, flags, Mode::empty()) {
        Ok(source) => source,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(e) => return Err(failed(e)),
    };
    let target = open_root(target)?;
    let (reader, writer) = io::pipe().map_err(failed)?;
    std::thread::scope(|scope| {
        let archiver = scope.spawn(move || -> io::Result<()> {
            let mut tree = TreeWriter::new(io::BufWriter::with_capacity(256 << 10, writer));
            tree.tree(source, b"./")?;
            tree.finish()?.flush()
        });
        // Plain marks of absence can't occur: the source is a mounted tree.
        let limits =
            Limits { depth: 2000, bytes: u64::MAX, entries: u64::MAX, ..Limits::default() };
        let policy = Policy {
            layer: false,
            root: true,
            owner: None,
            no_overwrite_dir_non_dir: false,
            stand_in: None,
        };
        let mut input = TarReader::new(io::BufReader::with_capacity(256 << 10, reader), limits);
        let unpacked = unpack(&mut input, &target, Path::new(""), policy, limits);
        drop(input);
        let archived = archiver.join().map_err(|_| ArchiveError::Interrupted)?;
        unpacked?;
        archived.map_err(failed)
    })
}
