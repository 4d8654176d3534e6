//! Removal of trees that a container made: of any depth.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::renameat;
use nix::sys::stat::SFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use sampan_sys::inroot;

use crate::tarball::{file_type, look, visit_names};

/// Directories that are open at once below each other.
const DEEPEST: usize = 64;

/// Removes a directory tree; its absence is success. A tree deeper than
/// descriptors or paths allow is taken apart.
///
/// # Errors
/// Those of the file system.
pub(crate) fn remove_deep(path: &Path) -> io::Result<()> {
    let top = match inroot::open_root(path) {
        Ok(top) => top,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return fs::remove_file(path),
        Err(e) => return Err(e),
    };
    while level(&top, &top, 0)? {}
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Empties `dir`; gives whether something was too deep and is at the top now.
fn level(top: &OwnedFd, dir: &OwnedFd, depth: usize) -> io::Result<bool> {
    let mut moved = false;
    for name in visit_names(dir)? {
        let Some((fd, stat)) = look(dir, &name)? else { continue };
        let flag = if file_type(&stat) == SFlag::S_IFDIR {
            if depth == DEEPEST {
                let aside = format!(".sampan-{}", crate::unique());
                renameat(
                    Some(dir.as_raw_fd()),
                    name.as_os_str(),
                    Some(top.as_raw_fd()),
                    aside.as_str(),
                )?;
                moved = true;
                continue;
            }
            moved |= level(top, &fd, depth + 1)?;
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        match unlinkat(Some(dir.as_raw_fd()), name.as_os_str(), flag) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, mkdirat};

    #[test]
    fn removes_what_no_path_can_name() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut fd = inroot::open_root(&top).unwrap();
        let name = "d".repeat(200);
        for _ in 0..300 {
            mkdirat(Some(fd.as_raw_fd()), name.as_str(), Mode::S_IRWXU).unwrap();
            let flags = nix::fcntl::OFlag::O_PATH;
            fd = inroot::open_at(&fd, name.as_ref(), flags, Mode::empty()).unwrap();
        }
        remove_deep(&top).unwrap();
        assert!(!top.exists());
        remove_deep(&top).unwrap();
    }
}
