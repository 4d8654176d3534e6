//! A repository that this host keeps for others: the files that they read and
//! write over the network, in a directory.
//!
//! Be aware:
//! - Who else can write into the directory may put links into it. None is
//!   followed: everything is reached by descriptors, step by step.
//! - A file is named after its content; what does not match is not taken. So
//!   a file that is there already stays as it is.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::store::directory::{ABANDONED, TEMPORARY};
use crate::store::{KINDS, is_foreign};

/// The one file that is not.
const CONFIG: &str = "config";

/// The name of a file in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName {
    /// Its directory; none for the configuration.
    kind: Option<&'static str>,
    name: String,
}

impl FileName {
    /// The configuration.
    #[must_use]
    pub fn config() -> Self {
        Self { kind: None, name: CONFIG.to_owned() }
    }

    /// A file of a kind, `data`, `index` …; none when there is no such kind or
    /// the name is no SHA-256 in hexadecimal digits.
    #[must_use]
    pub fn of(kind: &str, name: &str) -> Option<Self> {
        let digits =
            name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let kind = known(kind)?;
        digits.then(|| Self { kind: Some(kind), name: name.to_owned() })
    }

    /// The directories on the way to it.
    fn steps(&self) -> impl Iterator<Item = &str> {
        let fan = (self.kind == Some("data")).then(|| &self.name[..2]);
        self.kind.into_iter().chain(fan)
    }
}

fn known(kind: &str) -> Option<&'static str> {
    KINDS.into_iter().find(|known| *known == kind)
}

/// The repository.
#[derive(Debug, Clone)]
pub struct Served {
    path: PathBuf,
}

impl Served {
    /// The one in the directory `path`, which exists.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Makes the directories of a repository; repeatable.
    ///
    /// # Errors
    /// `AlreadyExists` when something else is in the directory; those of the
    /// file system.
    pub fn create(&self) -> io::Result<()> {
        // There may be a configuration, and the list has the directory itself.
        let foreign = |name: &str| is_foreign(name) && !name.starts_with('.') && name != CONFIG;
        for entry in Dir::read_from(self.directory([].into_iter(), false)?)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if foreign(&name) {
                let told = format!("something else is in it, e.g. {name}");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, told));
            }
        }
        for kind in KINDS {
            self.directory([kind].into_iter(), true)?;
        }
        Ok(())
    }

    /// The names and sizes of the files of a kind; none when there is no such
    /// kind.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn list(&self, kind: &str) -> io::Result<Option<Vec<(String, u64)>>> {
        let Some(kind) = known(kind) else { return Ok(None) };
        let mut found = Vec::new();
        match self.directory([kind].into_iter(), false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            dir => collect(&dir?, kind == "data", &mut found)?,
        }
        Ok(Some(found))
    }

    /// A file and its size; none when there is none.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(&self, file: &FileName) -> io::Result<Option<(File, u64)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = self
            .directory(file.steps(), false)
            .and_then(|dir| Ok(rustix::fs::openat(dir, &file.name, flags, Mode::empty())?));
        let opened = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => File::from(opened?),
        };
        let about = opened.metadata()?;
        // What else lies there under such a name is no file of a repository.
        Ok(about.is_file().then_some((opened, about.len())))
    }

    /// Begins to take a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn receive(&self, file: FileName) -> io::Result<Incoming> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let dir = self.directory(file.steps(), true)?;
        // Others clear up as well: what is gone meanwhile is no failure.
        _ = clear_abandoned(&dir);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY}{}-{}-{number}", file.name, std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let opened = rustix::fs::openat(&dir, &temporary, flags, mode)?;
        let (content, digest) = (File::from(opened), Sha256::new());
        Ok(Incoming { dir, file, temporary, content, digest, placed: false })
    }

    /// Removes a file; says whether there was one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(&self, file: &FileName) -> io::Result<bool> {
        let removed = self.directory(file.steps(), false).and_then(|dir| {
            rustix::fs::unlinkat(&dir, &file.name, AtFlags::empty())?;
            Ok(rustix::fs::fsync(&dir)?)
        });
        match removed {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    /// A directory, made where it is missing with `make`.
    fn directory<'a>(
        &self,
        steps: impl Iterator<Item = &'a str>,
        make: bool,
    ) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::openat(CWD, &self.path, flags, Mode::empty())?;
        for step in steps {
            if make {
                match rustix::fs::mkdirat(&dir, step, Mode::RWXU) {
                    Ok(()) => rustix::fs::fsync(&dir)?,
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            dir = rustix::fs::openat(&dir, step, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(dir)
    }
}

fn collect(dir: &OwnedFd, deeper: bool, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let about = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            about => about?,
        };
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory if deeper => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                    Err(Errno::NOENT) => {}
                    inner => collect(&inner?, false, found)?,
                }
            }
            FileType::RegularFile => {
                found.push((name.to_owned(), u64::try_from(about.st_size).unwrap_or(0)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file that is being taken. It goes when this is dropped before its end.
#[derive(Debug)]
pub struct Incoming {
    dir: OwnedFd,
    file: FileName,
    temporary: String,
    content: File,
    digest: Sha256,
    placed: bool,
}

impl Incoming {
    /// Takes a piece.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        self.digest.update(piece);
        self.content.write_all(piece)
    }

    /// Puts the whole file into its place, durably; false when its content is
    /// not what its name says.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(mut self) -> io::Result<bool> {
        let digest = std::mem::take(&mut self.digest).finalize();
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        if self.file.kind.is_some() && hex != self.file.name {
            return Ok(false);
        }
        self.content.sync_data()?;
        rustix::fs::renameat(&self.dir, &self.temporary, &self.dir, &self.file.name)?;
        self.placed = true;
        rustix::fs::fsync(&self.dir)?;
        Ok(true)
    }
}

/// Removes half-written files of writers that are long gone.
fn clear_abandoned(dir: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok().filter(|n| n.starts_with(TEMPORARY))
        else {
            continue;
        };
        let about = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let modified = u64::try_from(about.st_mtime).unwrap_or(0);
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(modified);
        if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        }
    }
    Ok(())
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.placed {
            // What stays is cleared away later.
            _ = rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The SHA-256 of `hello`.
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn names_are_hashes_of_known_kinds() {
        assert!(FileName::of("data", HELLO).is_some());
        for (kind, name) in [
            ("data", "../x"),
            ("data", &HELLO.to_uppercase()),
            ("..", HELLO),
            ("keys", ""),
            ("config", HELLO),
        ] {
            assert_eq!(FileName::of(kind, name), None, "{kind}/{name}");
        }
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let served = Served::new(dir.path());
        served.create().unwrap();
        served.create().unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let told = served.create().unwrap_err();
        assert!(told.kind() == io::ErrorKind::AlreadyExists && told.to_string().contains("other"));
        let name = FileName::of("data", HELLO).unwrap();
        assert!(served.open(&name).unwrap().is_none());
        let mut wrong = served.receive(name.clone()).unwrap();
        wrong.take(b"hallo").unwrap();
        assert_eq!(served.list("data").unwrap(), Some(vec![]), "while it is written");
        assert!(!wrong.finish().unwrap());
        for _ in 0..2 {
            let mut right = served.receive(name.clone()).unwrap();
            right.take(b"hel").unwrap();
            right.take(b"lo").unwrap();
            assert!(right.finish().unwrap());
        }
        assert_eq!(served.list("data").unwrap(), Some(vec![(HELLO.to_owned(), 5)]));
        assert_eq!(fs::read_dir(dir.path().join("data/2c")).unwrap().count(), 1);
        assert_eq!(served.open(&name).unwrap().unwrap().1, 5);
        assert!(served.remove(&name).unwrap() && !served.remove(&name).unwrap());
        assert_eq!(served.list("nothing").unwrap(), None);
        // What a writer left that died a day ago goes with the next one.
        let left = dir.path().join("data/2c/.tmp-left-1-1");
        let (old, new) = (fs::File::create(&left).unwrap(), left.with_extension("new"));
        old.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        fs::write(&new, "").unwrap();
        drop(served.receive(name).unwrap());
        assert!(!left.exists() && new.exists());
    }

    #[test]
    fn links_lead_nowhere() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let served = Served::new(dir.path());
        served.create().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("config")).unwrap();
        fs::remove_dir(dir.path().join("keys")).unwrap();
        symlink(outside.path(), dir.path().join("keys")).unwrap();
        assert!(served.open(&FileName::config()).is_err());
        assert!(served.list("keys").is_err());
        assert!(served.receive(FileName::of("keys", HELLO).unwrap()).is_err());
        // The link is replaced, not what it leads to.
        let mut config = served.receive(FileName::config()).unwrap();
        config.take(b"new").unwrap();
        assert!(config.finish().unwrap());
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"x");
    }
}
