//! The content store: blobs addressed by their digest.
//!
//! Be aware:
//! - A blob has its final name only when it is whole and verified. It is on
//!   disk for good once an image that refers to it is recorded
//!   ([`crate::Images::register`] synchronises the file system first); what no
//!   image refers to is removed at the next start, so a torn blob is never used.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::archive::ArchiveError;
use crate::stream::blocking;
use crate::{Digest, Hasher, ImageError, Lease};

/// Manifests and configurations are far below this.
const SMALL: u64 = 8 << 20;

/// How much is gathered before it is written.
const GATHER: usize = 512 << 10;

/// How the names of files begin that get their digest when they are whole.
const SCRATCH: &str = "scratch-";

/// How long a broken download can be resumed.
const RESUMABLE: Duration = Duration::from_secs(24 * 3600);

/// The blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Content {
    blobs: Arc<Path>,
    ingest: Arc<Path>,
    arriving: Arc<Arriving>,
}

/// One permit for each digest that arrives, so that a blob is fetched once.
type Arriving = Mutex<HashMap<Digest, Weak<Semaphore>>>;

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let (blobs, ingest) = (root.join("blobs/sha256"), root.join("ingest"));
        for dir in [&blobs, &ingest] {
            fs::create_dir_all(dir).map_err(ImageError::io("make", dir))?;
        }
        let content = Self { blobs: blobs.into(), ingest: ingest.into(), arriving: Arc::default() };
        content.sweep_ingest(RESUMABLE)?;
        sampan_sys::file::remove_temporaries(&content.blobs)
            .map_err(ImageError::io("clean", &content.blobs))?;
        for entry in fs::read_dir(&content.ingest)
            .map_err(ImageError::io("list", &content.ingest))?
            .flatten()
            .filter(|e| e.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes()))
        {
            sampan_sys::file::remove_file(&entry.path())
                .map_err(ImageError::io("remove", &entry.path()))?;
        }
        Ok(content)
    }

    /// Removes what has been arriving for longer than `age`.
    pub(crate) fn sweep_ingest(&self, age: Duration) -> Result<(), ImageError> {
        let list = fs::read_dir(&self.ingest).map_err(ImageError::io("list", &self.ingest))?;
        for entry in list.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| !n.starts_with(SCRATCH)) else { continue };
            let busy = Some(name)
                .and_then(|hex| format!("sha256:{hex}").parse().ok())
                .is_some_and(|digest| self.is_arriving(&digest));
            let modified = entry.metadata().and_then(|m| m.modified());
            let old =
                modified.is_ok_and(|m| SystemTime::now().duration_since(m).is_ok_and(|a| a >= age));
            if old && !busy {
                let path = entry.path();
                sampan_sys::file::remove_file(&path).map_err(ImageError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn is_arriving(&self, digest: &Digest) -> bool {
        let arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.get(digest).and_then(Weak::upgrade).is_some_and(|s| s.available_permits() == 0)
    }

    /// Where the blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// The length of the blob, if it is here, whole and verified.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Whether the blob is here, whole and verified.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    /// The digests of all blobs.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, ImageError> {
        let list = fs::read_dir(&self.blobs).map_err(ImageError::io("list", &self.blobs))?;
        Ok(list
            .flatten()
            .filter_map(|e| format!("sha256:{}", e.file_name().to_str()?).parse().ok())
            .collect())
    }

    /// Opens the blob for reading.
    ///
    /// # Errors
    /// [`ImageError::NoBlob`] when it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(ImageError::NoBlob(digest.clone()))
            }
            Err(e) => Err(ImageError::io("open", &path)(e)),
        }
    }

    /// Reads a small blob (a manifest or configuration, 8 MiB at most).
    /// Blocks for one file read.
    ///
    /// # Errors
    /// [`ImageError::NoBlob`] when it is not here; [`ImageError::Broken`] when
    /// it is too large; [`ImageError::DigestMismatch`] when the file was damaged.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(SMALL + 1)
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("read", &self.path(digest)))?;
        if bytes.len() as u64 > SMALL {
            return Err(ImageError::Broken(format!("{digest} is larger than {SMALL} bytes")));
        }
        verify(&format!("blob {}", digest.short()), digest, &Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Stores a small blob and pins it by `lease`.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn write(&self, lease: &Lease, bytes: Vec<u8>) -> Result<Digest, ImageError> {
        let digest = Digest::of(&bytes);
        lease.pin(&digest);
        let (content, named) = (self.clone(), digest.clone());
        blocking(move || content.store_small(&named, &bytes)).await?;
        Ok(digest)
    }

    /// As [`Content::write`], on a blocking thread, of a pinned digest.
    pub(crate) fn store_small(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.path(digest);
        if path.exists() {
            return Ok(());
        }
        sampan_sys::file::write_replace(&path, bytes, 0o600).map_err(writing(&path))
    }

    /// A file to fill, that [`Content::adopt`] makes a blob.
    pub(crate) fn scratch(&self) -> Result<Scratch, ImageError> {
        Scratch::new(&self.ingest)
    }

    /// Makes a file, whose digest was computed and pinned, a blob.
    pub(crate) fn adopt(&self, scratch: Scratch, digest: &Digest) -> Result<(), ImageError> {
        scratch.rename(&self.path(digest))
    }

    /// Begins, or resumes, the arrival of a blob, and pins it by `lease`. `None`
    /// when it is here already. While another ingest of the same digest is in
    /// progress this waits for its end.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn ingest(
        &self,
        lease: &Lease,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Option<Ingest>, ImageError> {
        lease.pin(digest);
        let turn = {
            let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
            arriving.retain(|_, turn| turn.strong_count() > 0);
            let known = arriving.get(digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(Semaphore::new(1));
                arriving.insert(digest.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        let turn = turn.acquire_owned().await.map_err(|_| ImageError::Interrupted)?;
        if self.contains(digest) {
            return Ok(None);
        }
        let path = self.ingest.join(digest.hex());
        let file = blocking(move || Partial::resume(path, size, turn)).await?;
        Ok(Some(Ingest {
            digest: digest.clone(),
            size,
            target: self.path(digest),
            offset: file.length,
            file: Some(file),
            gathered: Vec::new(),
            gathered_bytes: 0,
        }))
    }
}

/// A blob that is arriving. Dropped before [`Ingest::commit`], what has arrived
/// stays and the next ingest of the same digest goes on from there.
#[derive(Debug)]
pub struct Ingest {
    digest: Digest,
    size: Option<u64>,
    target: PathBuf,
    offset: u64,
    /// Away while a blocking thread writes.
    file: Option<Partial>,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

impl Ingest {
    /// How many bytes are here: from where the source should go on.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds the next bytes. Waits when the disk is slower than the source.
    ///
    /// # Errors
    /// Those of the file system (a full disk among them), and
    /// [`ImageError::SizeMismatch`] when more comes than was announced.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ImageError> {
        self.offset += bytes.len() as u64;
        if let Some(expected) = self.size.filter(|s| self.offset > *s) {
            let (what, actual) = (format!("blob {}", self.digest.short()), self.offset);
            self.restart().await?;
            return Err(ImageError::SizeMismatch { what, expected, actual });
        }
        self.gathered_bytes += bytes.len();
        self.gathered.push(bytes);
        if self.gathered_bytes >= GATHER { self.flush().await } else { Ok(()) }
    }

    /// Forgets what has arrived, for a source that can't resume.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn restart(&mut self) -> Result<(), ImageError> {
        (self.offset, self.gathered_bytes) = (0, 0);
        self.gathered.clear();
        self.with_file(Partial::truncate).await
    }

    /// Verifies digest and size, and makes the blob part of the store.
    ///
    /// # Errors
    /// [`ImageError::DigestMismatch`] (what arrived is removed then) or
    /// [`ImageError::SizeMismatch`] (what arrived is kept when it was too
    /// short); those of the file system.
    pub async fn commit(mut self) -> Result<(), ImageError> {
        self.flush().await?;
        if let Some(expected) = self.size.filter(|s| *s != self.offset) {
            let what = format!("blob {}", self.digest.short());
            return Err(ImageError::SizeMismatch { what, expected, actual: self.offset });
        }
        let (digest, target) = (self.digest.clone(), self.target.clone());
        self.with_file(move |file| file.finish(&digest, &target)).await
    }

    /// Writes what was gathered, so that it is there for the next ingest.
    pub(crate) async fn flush(&mut self) -> Result<(), ImageError> {
        let gathered = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        self.with_file(move |file| gathered.iter().try_for_each(|bytes| file.append(bytes))).await
    }

    async fn with_file<F>(&mut self, work: F) -> Result<(), ImageError>
    where
        F: FnOnce(&mut Partial) -> Result<(), ImageError> + Send + 'static,
    {
        // It is gone when an earlier call was cancelled half-way.
        let mut file = self.file.take().ok_or(ImageError::Interrupted)?;
        let (file, result) = blocking(move || {
            let result = work(&mut file);
            Ok((file, result))
        })
        .await?;
        self.file = Some(file);
        result
    }
}

/// The file of what has arrived, with its digest so far.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    /// Held here, so that a thread which still writes after its ingest was
    /// dropped keeps the next one waiting.
    _turn: OwnedSemaphorePermit,
}

impl Partial {
    fn resume(
        path: PathBuf,
        size: Option<u64>,
        turn: OwnedSemaphorePermit,
    ) -> Result<Self, ImageError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(writing(&path))?;
        let mut partial = Self { path, file, hasher: Hasher::new(), length: 0, _turn: turn };
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            let n =
                partial.file.read(&mut buffer).map_err(ImageError::io("read", &partial.path))?;
            if n == 0 {
                break;
            }
            partial.hasher.update(&buffer[..n]);
            partial.length += n as u64;
        }
        if size.is_some_and(|s| partial.length > s) {
            partial.truncate()?;
        }
        Ok(partial)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if let Err(e) = self.file.write_all(bytes) {
            if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                // Room for others; a download that doesn't fit can't go on.
                let _ = sampan_sys::file::remove_file(&self.path);
            }
            return Err(writing(&self.path)(e));
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn truncate(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).map_err(writing(&self.path))?;
        (self.hasher, self.length) = (Hasher::new(), 0);
        Ok(())
    }

    fn finish(&mut self, digest: &Digest, target: &Path) -> Result<(), ImageError> {
        let actual = std::mem::take(&mut self.hasher).finish();
        if let Err(e) = verify(&format!("blob {}", digest.short()), digest, &actual) {
            let _ = sampan_sys::file::remove_file(&self.path);
            return Err(e);
        }
        fs::rename(&self.path, target).map_err(writing(target))
    }
}

/// A file that is removed when it is dropped without being given a name.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    pub(crate) fn new(dir: &Path) -> Result<Self, ImageError> {
        let path = dir.join(format!("{SCRATCH}{}", crate::unique()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(writing(&path))?;
        Ok(Self { path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn rename(self, target: &Path) -> Result<(), ImageError> {
        fs::rename(&self.path, target).map_err(writing(target))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Absent when it got its name.
        let _ = fs::remove_file(&self.path);
    }
}

/// For `map_err`: a full disk is told apart.
pub(crate) fn writing(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |e| ArchiveError::from_io("write", &path.to_string_lossy(), e).into()
}

/// That a digest is the expected one.
pub(crate) fn verify(what: &str, expected: &Digest, actual: &Digest) -> Result<(), ImageError> {
    if expected == actual {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        what: what.to_owned(),
        expected: expected.clone(),
        actual: actual.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Pins;

    fn setup() -> (tempfile::TempDir, Content, Lease) {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        (dir, content, Lease::new(Arc::new(Pins::default())))
    }

    #[tokio::test]
    async fn resumes_and_verifies() {
        let (dir, content, lease) = setup();
        let data = vec![7u8; 100_000];
        let digest = Digest::of(&data);
        let size = Some(data.len() as u64);
        let mut first = content.ingest(&lease, &digest, size).await.unwrap().unwrap();
        first.write(Bytes::copy_from_slice(&data[..60_000])).await.unwrap();
        first.flush().await.unwrap();
        drop(first);

        let mut second = content.ingest(&lease, &digest, size).await.unwrap().unwrap();
        assert_eq!(second.offset(), 60_000);
        second.write(Bytes::copy_from_slice(&data[60_000..])).await.unwrap();
        second.commit().await.unwrap();
        assert_eq!(content.read(&digest).unwrap(), data);
        assert!(content.ingest(&lease, &digest, size).await.unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn wrong_content_never_gets_the_name() {
        let (dir, content, lease) = setup();
        let digest = Digest::of(b"right");
        let mut ingest = content.ingest(&lease, &digest, None).await.unwrap().unwrap();
        ingest.write(Bytes::from_static(b"wrong")).await.unwrap();
        assert!(matches!(ingest.commit().await, Err(ImageError::DigestMismatch { .. })));
        let mut ingest = content.ingest(&lease, &digest, Some(3)).await.unwrap().unwrap();
        let long = ingest.write(Bytes::from_static(b"right")).await;
        assert!(matches!(long, Err(ImageError::SizeMismatch { .. })));
        ingest.write(Bytes::from_static(b"ri")).await.unwrap();
        assert!(matches!(ingest.commit().await, Err(ImageError::SizeMismatch { .. })));
        assert!(!content.contains(&digest));
        // Damage is found when it is read.
        let digest = content.write(&lease, b"small".to_vec()).await.unwrap();
        fs::write(content.path(&digest), b"smell").unwrap();
        assert!(matches!(content.read(&digest), Err(ImageError::DigestMismatch { .. })));
        content.sweep_ingest(Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn one_arrival_at_a_time() {
        let (_dir, content, lease) = setup();
        let digest = Digest::of(b"x");
        let mut first = content.ingest(&lease, &digest, None).await.unwrap().unwrap();
        let second = content.ingest(&lease, &digest, None);
        tokio::pin!(second);
        tokio::select! {
            biased;
            _ = &mut second => panic!("both arrive at once"),
            () = std::future::ready(()) => {}
        }
        first.write(Bytes::from_static(b"x")).await.unwrap();
        first.commit().await.unwrap();
        assert!(second.await.unwrap().is_none());
    }
}
