//! Finding a path within a container's root, by Docker's rules (moby
//! `container/archive.go`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use sampan_sys::inroot;
use sampan_types::Timestamp;

use super::{ArchiveError, PathStat, open_root};
use crate::tarball::file_type;

/// Links are followed this often, as by the kernel.
const HOPS: usize = 40;

/// A path that was found.
pub(super) struct Place {
    /// What is there, opened for looking.
    pub fd: OwnedFd,
    pub stat: PathStat,
    /// How its entry in an archive is called.
    pub archive_name: Vec<u8>,
}

impl Place {
    pub(super) fn find(root: &Path, path: &str) -> Result<Self, ArchiveError> {
        let root = open_root(root)?;
        let absent =
            || ArchiveError::NoSuchFile { path: path.to_owned(), container: String::new() };
        // `/` and `/.` at the end ask for what a link leads to, a directory.
        let whole = Path::new("/").join(path);
        let follow = path.ends_with('/') || path.ends_with("/.") || path == "." || path.is_empty();
        let mut flags = OFlag::O_PATH;
        if follow {
            flags |= OFlag::O_DIRECTORY;
        } else {
            flags |= OFlag::O_NOFOLLOW;
        }
        let opened = inroot::open_in_root(&root, &whole, flags, Mode::empty());
        let fd = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => absent(),
            io::ErrorKind::NotADirectory => ArchiveError::NotADirectory(path.to_owned()),
            _ => ArchiveError::from_io("open", path, e),
        })?;
        let stat =
            fstat(fd.as_raw_fd()).map_err(|e| ArchiveError::from_io("examine", path, e.into()))?;
        let link_target = if file_type(&stat) == SFlag::S_IFLNK {
            follow_text(&root, &whole)
                .map_err(|e| ArchiveError::from_io("follow", path, e))?
                .to_string_lossy()
                .into_owned()
        } else {
            String::new()
        };
        let name = base_name(path);
        let archive_name = name.as_bytes().to_vec();
        let stat = PathStat {
            name,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: go_mode(&stat),
            mtime: Timestamp::from_nanos(
                stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
            ),
            link_target,
        };
        Ok(Self { fd, stat, archive_name })
    }
}

/// The last part as Go's `filepath.Base` gives it, but for `/.` at the end,
/// which stays.
fn base_name(path: &str) -> String {
    if path.ends_with("/.") || path == "." {
        return ".".to_owned();
    }
    let trimmed = path.trim_end_matches('/');
    let mut parts = Vec::new();
    for part in Path::new("/").join(trimmed).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.pop().map_or_else(|| "/".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// Type and permissions as Go's `os.FileMode` has them.
fn go_mode(stat: &FileStat) -> u32 {
    let kind = match file_type(stat) {
        SFlag::S_IFDIR => 1 << 31,
        SFlag::S_IFLNK => 1 << 27,
        SFlag::S_IFBLK => 1 << 26,
        SFlag::S_IFCHR => 1 << 26 | 1 << 21,
        SFlag::S_IFIFO => 1 << 25,
        SFlag::S_IFSOCK => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 =
        special.iter().filter(|(bit, _)| stat.st_mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | stat.st_mode & 0o777
}

/// Where a path leads, as text within the root: for showing only. What isn't
/// there is kept as it is.
fn follow_text(root: &OwnedFd, path: &Path) -> io::Result<PathBuf> {
    let mut todo: Vec<OsString> = reversed(path);
    let mut done = PathBuf::from("/");
    let mut hops = 0;
    while let Some(part) = todo.pop() {
        match part.as_bytes() {
            b"" | b"." | b"/" => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => done.push(&part),
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let Ok(fd) = inroot::open_in_root(root, &done, flags, Mode::empty()) else { continue };
        if file_type(&fstat(fd.as_raw_fd())?) != SFlag::S_IFLNK {
            continue;
        }
        hops += 1;
        if hops > HOPS {
            return Err(nix::errno::Errno::ELOOP.into());
        }
        let target = PathBuf::from(OsString::from_vec(
            readlinkat(Some(fd.as_raw_fd()), "")?.as_bytes().to_vec(),
        ));
        done.pop();
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        todo.extend(reversed(&target));
    }
    Ok(done)
}

fn reversed(path: &Path) -> Vec<OsString> {
    let parts: Vec<&[u8]> = path.as_os_str().as_bytes().split(|b| *b == b'/').collect();
    parts.into_iter().rev().map(|p| OsStr::from_bytes(p).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_docker_does() {
        for (path, name) in [
            ("/etc/passwd", "passwd"),
            ("etc/", "etc"),
            ("/etc/.", "."),
            ("/", "/"),
            ("", "/"),
            (".", "."),
            ("/a/../b", "b"),
            ("/a/..", "/"),
        ] {
            assert_eq!(base_name(path), name, "{path}");
        }
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        };
        std::fs::create_dir(dir.path().join("d")).unwrap();
        link("/d", "a");
        link("../../../etc/shadow", "up");
        link("loop", "loop");
        let root = inroot::open_root(dir.path()).unwrap();
        assert_eq!(follow_text(&root, Path::new("/a")).unwrap(), Path::new("/d"));
        assert_eq!(follow_text(&root, Path::new("/up")).unwrap(), Path::new("/etc/shadow"));
        assert!(follow_text(&root, Path::new("/loop")).is_err());
        let place = Place::find(dir.path(), "a").unwrap();
        assert_eq!((place.stat.mode >> 27 & 1, place.stat.link_target.as_str()), (1, "/d"));
        assert_eq!(Place::find(dir.path(), "/a/").unwrap().stat.mode >> 31, 1);
        assert!(matches!(Place::find(dir.path(), "/up/"), Err(ArchiveError::NoSuchFile { .. })));
        assert!(Place::find(dir.path(), "../../../../etc/passwd").is_err());
    }
}
