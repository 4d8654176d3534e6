//! What a container changed: its upper directory, read against the layers
//! below (overlayfs' on-disk form: kernel `Documentation/filesystems/overlayfs`).
//!
//! Be aware:
//! - The container may be running and hostile: everything is opened by name in
//!   its directory's descriptor, without following links.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{FileStat, SFlag, fstat};
use sampan_sys::inroot;

use super::ChangeKind;
use crate::tarball::{
    Below, Layers, TreeWriter, file_type, is_opaque, is_whiteout, join, look, visit_names,
};

/// Directories that can be open at once below each other.
const DEEPEST: usize = 400;

/// One entry of the upper directory, or something that it hides.
struct Found<'a> {
    /// The directory's path, relative to the root.
    parent: &'a [u8],
    name: &'a OsStr,
    kind: ChangeKind,
    /// What it is; `None` when it is gone.
    item: Option<(&'a OwnedFd, &'a FileStat)>,
    /// A directory that the container did nothing to but change its content.
    untouched: bool,
    /// It hides the directory below it, or is hidden by such a one.
    replaced: bool,
}

struct Level {
    fd: OwnedFd,
    path: Vec<u8>,
    names: std::vec::IntoIter<OsString>,
    lower: Layers,
}

/// Calls `visit` for everything, parents first.
fn walk(
    upper: &Path,
    lower: &[PathBuf],
    mut visit: impl FnMut(&Found<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let fd = inroot::open_root(upper)?;
    let names = visit_names(&fd)?.into_iter();
    let mut levels = vec![Level { fd, path: Vec::new(), names, lower: Layers::open(lower)? }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let Some((fd, stat)) = look(&level.fd, &name)? else { continue };
        let below = level.lower.child(&name)?;
        let mut found = Found {
            parent: &level.path,
            name: &name,
            kind: ChangeKind::Modified,
            item: Some((&fd, &stat)),
            untouched: false,
            replaced: false,
        };
        if is_whiteout(&stat) {
            if !matches!(below, Below::Nothing) {
                (found.kind, found.item) = (ChangeKind::Deleted, None);
                visit(&found)?;
            }
            continue;
        }
        let directory = file_type(&stat) == SFlag::S_IFDIR;
        let mut inside = Layers::default();
        match below {
            Below::Nothing => found.kind = ChangeKind::Added,
            Below::Directory(layers, below) if directory => {
                found.replaced = is_opaque(&fd)?;
                found.untouched = !found.replaced && same(&stat, &below);
                inside = layers;
            }
            _ => {}
        }
        visit(&found)?;
        if !directory {
            continue;
        }
        let replaced = found.replaced;
        let path = join(&level.path, &name);
        let names = visit_names(&fd)?;
        if replaced {
            for gone in inside.names()?.iter().filter(|n| names.binary_search(n).is_err()) {
                visit(&Found {
                    parent: &path,
                    name: gone,
                    kind: ChangeKind::Deleted,
                    item: None,
                    untouched: false,
                    replaced: true,
                })?;
            }
            inside = Layers::default();
        }
        if levels.len() == DEEPEST {
            return Err(io::Error::other(format!(
                "{}: more than {DEEPEST} directories deep",
                String::from_utf8_lossy(&path)
            )));
        }
        levels.push(Level { fd, path, names: names.into_iter(), lower: inside });
    }
    Ok(())
}

/// Whether a directory is as it was.
fn same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid, a.st_mtime, a.st_mtime_nsec)
        == (b.st_mode, b.st_uid, b.st_gid, b.st_mtime, b.st_mtime_nsec)
}

/// What `docker diff` shows, sorted by path.
pub(super) fn changes(upper: &Path, lower: &[PathBuf]) -> io::Result<Vec<(ChangeKind, PathBuf)>> {
    let mut all: Vec<(ChangeKind, PathBuf)> = Vec::new();
    let absolute = |path: &[u8]| Path::new("/").join(OsStr::from_bytes(path));
    // Directories that are shown already.
    let mut shown = std::collections::HashSet::new();
    walk(upper, lower, |found| {
        if found.untouched {
            return Ok(());
        }
        // A directory whose content came or went has changed.
        if found.kind != ChangeKind::Modified
            && !found.parent.is_empty()
            && shown.insert(found.parent.to_vec())
        {
            all.push((ChangeKind::Modified, absolute(found.parent)));
        }
        let path = join(found.parent, found.name);
        all.push((found.kind, absolute(&path)));
        if found.item.is_some_and(|(_, stat)| file_type(stat) == SFlag::S_IFDIR) {
            shown.insert(path);
        }
        Ok(())
    })?;
    all.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(all)
}

/// Writes the changes as a layer's archive; gives how many there are.
pub(super) fn archive(
    upper: &Path,
    lower: &[PathBuf],
    like: &Path,
    out: impl Write,
) -> io::Result<u64> {
    let mut tree = TreeWriter::new(out);
    let root = inroot::open_root(upper)?;
    let (own, before) = (fstat(root.as_raw_fd())?, nix::sys::stat::stat(like)?);
    if (own.st_mode, own.st_uid, own.st_gid) != (before.st_mode, before.st_uid, before.st_gid) {
        tree.item(&root, &own, b"./", true)?;
    }
    walk(upper, lower, |found| {
        let Some((fd, stat)) = found.item else {
            // What a replaced directory hides needs no mark of its own.
            return if found.replaced { Ok(()) } else { tree.whiteout(found.parent, found.name) };
        };
        let path = join(found.parent, found.name);
        tree.item(fd, stat, &path, true)?;
        if found.replaced { tree.whiteout(&path, OsStr::new(".wh..opq")) } else { Ok(()) }
    })?;
    let entries = tree.entries();
    tree.finish()?;
    Ok(entries)
}

/// Bytes of the regular files, each counted once.
pub(super) fn size(upper: &Path) -> io::Result<u64> {
    let (mut total, mut seen) = (0u64, std::collections::HashSet::new());
    walk(upper, &[], |found| {
        if let Some((_, stat)) = found.item
            && file_type(stat) == SFlag::S_IFREG
            && (stat.st_nlink == 1 || seen.insert(stat.st_ino))
        {
            total += u64::try_from(stat.st_size).unwrap_or(0);
        }
        Ok(())
    })?;
    Ok(total)
}
