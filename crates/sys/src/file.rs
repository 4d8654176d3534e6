//! Files that are either the old or the new version after a crash, never half.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Replaces the file at `path` by `content` with the permission bits `mode`:
/// a temporary file beside it is written, synchronised, renamed over it, and
/// the directory is synchronised. Durable on return.
///
/// # Errors
/// Those of the file system; the temporary file is removed then.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace(path, content, mode, true)
}

/// As [`write_atomic`], but leaves the moment of writing to the kernel: for
/// files that a reboot discards anyway.
///
/// # Errors
/// Those of the file system.
pub fn write_replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace(path, content, mode, false)
}

fn replace(path: &Path, content: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary =
        parent.join(format!(".{}.{}.{number}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable { sync_dir(parent) } else { Ok(()) }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes the temporary files in `dir` that a process left which was killed
/// in the middle of [`write_atomic`] or [`write_replace`]. Nobody else may be
/// writing there.
///
/// # Errors
/// Those of the file system.
pub fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_temporary(&entry.file_name().to_string_lossy()) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// `.NAME.PID.NUMBER.tmp`, as [`replace`] makes it.
fn is_temporary(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")) else {
        return false;
    };
    let mut parts = rest.rsplitn(3, '.');
    let is_number = |p: Option<&str>| p.is_some_and(|p| p.parse::<u64>().is_ok());
    is_number(parts.next()) && is_number(parts.next()) && parts.next().is_some()
}

/// Makes renames and removals in `dir` durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes all of the file system that `path` is in to the disk.
///
/// # Errors
/// Those of syncfs(2): also room that was promised when something was written
/// and was not there.
pub fn sync_fs(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    nix::unistd::syncfs(file.as_raw_fd()).map_err(io::Error::from)
}

/// Removes a file; its absence is success.
///
/// # Errors
/// Those of the file system, but for absence.
pub fn remove_file(path: &Path) -> io::Result<()> {
    absent_is_success(fs::remove_file(path))
}

/// Removes a directory tree; its absence is success. Links are removed, not
/// followed.
///
/// Trees may be deeper than a process may have descriptors or a stack: what
/// lies deep is moved up first.
///
/// # Errors
/// Those of the file system, but for absence.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let root = match open_dir(None, path.as_os_str()) {
        Err(Errno::ENOENT) => return Ok(()),
        // A file, or a link.
        Err(Errno::ENOTDIR | Errno::ELOOP) => return remove_file(path),
        root => root?,
    };
    while remove_content(&root)? {}
    absent_is_success(fs::remove_dir(path))
}

/// Directories below this depth are moved up before their content is removed.
const DEEP: usize = 64;

/// A directory whose content is being removed.
struct Level {
    dir: OwnedFd,
    /// What it is called in the one above.
    name: CString,
    left: std::vec::IntoIter<CString>,
}

/// Removes what is in a directory; true when something was moved up into it
/// that is still there.
fn remove_content(root: &OwnedFd) -> io::Result<bool> {
    let mut moved = false;
    let first =
        Level { dir: root.try_clone()?, name: CString::default(), left: names(root)?.into_iter() };
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.left.next() else {
            let done = levels.pop();
            if let (Some(done), Some(above)) = (done, levels.last()) {
                remove_at(&above.dir, &done.name, UnlinkatFlags::RemoveDir)?;
            }
            continue;
        };
        if remove_at(&level.dir, &name, UnlinkatFlags::NoRemoveDir)? {
            continue;
        }
        if levels.len() > DEEP {
            let from = levels.last().map(|l| l.dir.as_raw_fd());
            let up = format!(".deep.{}", COUNTER.fetch_add(1, Ordering::Relaxed));
            if renameat(from, name.as_c_str(), Some(root.as_raw_fd()), up.as_str()).is_ok() {
                moved = true;
                continue;
            }
        }
        let dir = levels.last().map(|l| l.dir.as_raw_fd());
        match open_dir(dir, OsStr::from_bytes(name.to_bytes())) {
            Ok(dir) => {
                let left = names(&dir)?.into_iter();
                levels.push(Level { dir, name, left });
            }
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(moved)
}

/// Removes one entry; its absence is success. False when it is a directory and
/// only others were meant.
fn remove_at(dir: &OwnedFd, name: &CStr, flags: UnlinkatFlags) -> io::Result<bool> {
    match unlinkat(Some(dir.as_raw_fd()), name, flags) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EISDIR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn open_dir(at: Option<RawFd>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(at, name, flags, Mode::empty())?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The names in a directory.
fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // A description of its own: it begins at the beginning.
    let mut entries = Dir::openat(Some(dir.as_raw_fd()), ".", flags, Mode::empty())?;
    let mut all = Vec::new();
    for entry in entries.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            all.push(entry.file_name().to_owned());
        }
    }
    Ok(all)
}

fn absent_is_success(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        remove_tree(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn what_was_left_half_written_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let names = [".f.json.12.3.tmp", ".f.tmp", ".12.3.tmp", "f.12.3.tmp", ".f.x.3.tmp"];
        for name in names {
            fs::write(dir.path().join(name), b"half").unwrap();
        }
        remove_temporaries(dir.path()).unwrap();
        let left = names.map(|n| dir.path().join(n).exists());
        assert_eq!(left, [false, true, true, true, true]);
    }

    #[test]
    fn trees_of_any_depth_are_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kept"), b"x").unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("out")).unwrap();
        let mut at = open_dir(None, root.as_os_str()).unwrap();
        for _ in 0..3_000 {
            let fd = Some(at.as_raw_fd());
            for name in ["d", "e"] {
                nix::sys::stat::mkdirat(fd, name, Mode::S_IRWXU).unwrap();
            }
            at = open_dir(fd, OsStr::new("d")).unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists() && dir.path().join("kept").exists());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("kept", &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(link.symlink_metadata().is_err() && dir.path().join("kept").exists());
    }
}
