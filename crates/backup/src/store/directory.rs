//! A repository in a directory of this host.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Store, Stored};
use crate::BackupError;

/// What is being written has this before its name.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Half-written files of this age belong to no writer any more.
pub(crate) const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The directory.
pub(crate) struct Directory {
    path: PathBuf,
    location: String,
    temporaries: AtomicU64,
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        let location = path.display().to_string();
        Self { path, location, temporaries: AtomicU64::new(0) }
    }

    fn error<'a>(
        &'a self,
        operation: &'static str,
        object: &'a str,
    ) -> impl FnOnce(io::Error) -> BackupError + 'a {
        move |error| BackupError::Storage {
            location: self.location.clone(),
            operation,
            object: object.to_owned(),
            reason: error.to_string(),
            absent: error.kind() == io::ErrorKind::NotFound,
        }
    }

    fn walk(&self, dir: &Path, deeper: u8, seen: &mut impl FnMut(fs::DirEntry)) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if deeper > 0 && entry.file_type()?.is_dir() {
                self.walk(&entry.path(), deeper - 1, seen)?;
            } else if entry.file_type()?.is_file() {
                seen(entry);
            }
        }
        Ok(())
    }

    fn put(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!("{TEMPORARY}{name}-{}-{number}", std::process::id()));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            for part in content {
                file.write_all(part)?;
            }
            file.sync_data()?;
            fs::rename(&temporary, path)?;
            sampan_sys::file::sync_dir(dir)
        })();
        if written.is_err() {
            _ = fs::remove_file(&temporary);
        }
        written
    }
}

impl Store for Directory {
    fn location(&self) -> &str {
        &self.location
    }

    fn create(&self) -> Result<(), BackupError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let make = |dir: &str| {
            builder.create(self.path.join(dir)).map_err(self.error("make the directory", dir))
        };
        for dir in ["", "keys", "snapshots", "index", "locks"] {
            make(dir)?;
        }
        for number in 0..=u8::MAX {
            make(&format!("data/{number:02x}"))?;
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<Stored>, BackupError> {
        let mut found = Vec::new();
        let mut failed = None;
        let walked = self.walk(&self.path.join(dir), 1, &mut |entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(TEMPORARY) {
                return;
            }
            match entry.metadata() {
                Ok(m) => {
                    found.push(Stored { name, size: m.size(), modified: Some(m.mtime()) });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => failed = Some(e),
            }
        });
        match failed.map_or(walked, Err) {
            Ok(()) => Ok(found),
            Err(e) => Err(self.error("list", dir)(e)),
        }
    }

    fn size(&self, path: &str) -> Result<Option<u64>, BackupError> {
        match fs::metadata(self.path.join(path)) {
            Ok(metadata) => Ok(Some(metadata.size())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("look at", path)(e)),
        }
    }

    fn read(&self, path: &str) -> Result<Bytes, BackupError> {
        fs::read(self.path.join(path)).map(Bytes::from).map_err(self.error("read", path))
    }

    fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, BackupError> {
        let read = || {
            let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut buffer = vec![0; length];
            File::open(self.path.join(path))?.read_exact_at(&mut buffer, offset)?;
            Ok(Bytes::from(buffer))
        };
        read().map_err(self.error("read", path))
    }

    fn write(&self, path: &str, content: &[Bytes]) -> Result<(), BackupError> {
        let target = self.path.join(path);
        let written = match self.put(&target, content) {
            // A directory that somebody cleared away, or restic's of old.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let dir = target.parent().unwrap_or(&self.path);
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)
                    .and_then(|()| self.put(&target, content))
            }
            written => written,
        };
        written.map_err(self.error("write", path))
    }

    fn remove(&self, path: &str) -> Result<(), BackupError> {
        sampan_sys::file::remove_file(&self.path.join(path)).map_err(self.error("remove", path))
    }

    fn clear_leftovers(&self) -> Result<(), BackupError> {
        let now = SystemTime::now();
        for dir in ["", "keys", "snapshots", "index", "data"] {
            let depth = u8::from(dir == "data");
            let walked = self.walk(&self.path.join(dir), depth, &mut |entry| {
                let named = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
                let modified = entry.metadata().and_then(|m| m.modified());
                let age = modified.ok().and_then(|at| now.duration_since(at).ok());
                if named && age.is_some_and(|age| age > ABANDONED) {
                    _ = fs::remove_file(entry.path());
                }
            });
            walked.map_err(self.error("list", dir))?;
        }
        Ok(())
    }

    fn is_remote(&self) -> bool {
        false
    }
}
