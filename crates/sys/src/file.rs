//! Files that are either the old or the new version after a crash, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Removes a file; its absence is success.
///
/// # Errors
/// Those of the file system, but for absence.
pub fn remove_file(path: &Path) -> io::Result<()> {
    absent_is_success(fs::remove_file(path))
}

/// Removes a directory tree; its absence is success.
///
/// # Errors
/// Those of the file system, but for absence.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    absent_is_success(fs::remove_dir_all(path))
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
}
