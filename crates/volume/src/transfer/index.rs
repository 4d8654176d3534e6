//! What was sent: the record of each entry and of each block of its content,
//! in the order of walking, so that the next walk goes along it.
//!
//! Be aware: entries are compared by what the kernel changes whenever they
//! change (their time of change among it). One that changed so lately that
//! another change may bear the same time is [`Item::unsure`], and is read again.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::format::{
    self, FrameReader, FrameWriter, INDEX, PATH_MOST, ReadError, Take, check_path, kind, put_bytes,
};

/// How many hashes are in a frame at most.
const HASHES: usize = 4096;
/// How exact times are: on file systems that keep fractions of seconds, and on
/// others.
const FINE: Duration = Duration::from_millis(50);
const COARSE: Duration = Duration::from_secs(2);

/// The digest of a block.
pub(super) type Hash = [u8; 32];

/// What is compared of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) ino: u64,
    /// Kind and permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) rdev: u64,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
}

impl Mark {
    pub(super) fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanos: u64| (seconds, u32::try_from(nanos).unwrap_or(0));
        Self {
            ino: stat.st_ino,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            rdev: stat.st_rdev,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether a change right after `now` could bear the same time.
    pub(super) fn is_recent(&self, now: SystemTime) -> bool {
        let Ok(seconds) = u64::try_from(self.ctime.0) else { return false };
        let exact = if self.ctime.1 == 0 { COARSE } else { FINE };
        let changed = UNIX_EPOCH + Duration::new(seconds, self.ctime.1);
        changed + exact >= now
    }
}

/// One entry that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) path: Vec<u8>,
    pub(super) mark: Mark,
    /// How many names it had.
    pub(super) nlink: u32,
    /// See [`Mark::is_recent`].
    pub(super) unsure: bool,
    /// Whether it was sent as another name of something before: the hashes are
    /// there.
    pub(super) is_link: bool,
    /// The blocks that are no holes, with their numbers.
    pub(super) blocks: Vec<(u64, Hash)>,
}

/// Writes an index.
pub(super) struct IndexWriter {
    frames: FrameWriter<zstd::stream::write::Encoder<'static, BufWriter<File>>>,
}

impl IndexWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { frames: format::pack(BufWriter::new(file), INDEX)? })
    }

    pub(super) fn write(&mut self, item: &Item) -> io::Result<()> {
        let Item { mark, .. } = item;
        let mut out = Vec::with_capacity(96 + item.path.len());
        put_bytes(&mut out, &item.path);
        for number in [mark.ino, mark.size, mark.rdev] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [mark.mode, mark.uid, mark.gid, item.nlink] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (seconds, nanos) in [mark.mtime, mark.ctime] {
            out.extend_from_slice(&seconds.to_le_bytes());
            out.extend_from_slice(&nanos.to_le_bytes());
        }
        out.push(u8::from(item.unsure));
        out.push(u8::from(item.is_link));
        self.frames.write(kind::ITEM, &[&out])?;
        for part in item.blocks.chunks(HASHES) {
            out.clear();
            for (block, hash) in part {
                out.extend_from_slice(&block.to_le_bytes());
                out.extend_from_slice(hash);
            }
            self.frames.write(kind::HASHES, &[&out])?;
        }
        Ok(())
    }

    /// Writes the end; what was written is on the disk then.
    pub(super) fn end(self) -> io::Result<()> {
        let file = self.frames.end()?.finish()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// Reads an index, one entry after the other.
pub(super) struct IndexReader {
    frames: FrameReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    /// The next entry, without its hashes.
    next: Option<Item>,
}

impl IndexReader {
    pub(super) fn open(path: &Path) -> Result<Self, ReadError> {
        let file = BufReader::new(File::open(path)?);
        let frames = format::unpack(file, INDEX)?;
        let frames = frames.ok_or_else(|| ReadError::bad("it is no index"))?;
        let mut reader = Self { frames, next: None };
        reader.advance()?;
        Ok(reader)
    }

    /// The path of the next entry.
    pub(super) fn peek(&self) -> Option<&[u8]> {
        self.next.as_ref().map(|item| &item.path[..])
    }

    /// The next entry, with its hashes.
    pub(super) fn next(&mut self) -> Result<Option<Item>, ReadError> {
        let Some(item) = self.next.take() else { return Ok(None) };
        let blocks = self.advance()?;
        Ok(Some(Item { blocks, ..item }))
    }

    /// Reads up to the next entry; gives the hashes on the way.
    fn advance(&mut self) -> Result<Vec<(u64, Hash)>, ReadError> {
        let mut blocks = Vec::new();
        loop {
            match self.frames.next()? {
                None => return Ok(blocks),
                Some((kind::ITEM, payload)) => {
                    self.next = Some(item(payload)?);
                    return Ok(blocks);
                }
                Some((kind::HASHES, payload)) => {
                    let mut take = Take(payload);
                    while !take.0.is_empty() {
                        blocks.push((take.u64()?, take.array()?));
                    }
                }
                Some((kind, _)) => return Err(ReadError::Bad(format!("a frame of kind {kind}"))),
            }
        }
    }
}

fn item(payload: &[u8]) -> Result<Item, ReadError> {
    let mut take = Take(payload);
    let path = take.bytes(PATH_MOST)?.to_vec();
    check_path(&path)?;
    let (ino, size, rdev) = (take.u64()?, take.u64()?, take.u64()?);
    let (mode, uid, gid, nlink) = (take.u32()?, take.u32()?, take.u32()?, take.u32()?);
    let mut time = || Ok::<_, ReadError>((i64::from_le_bytes(take.array()?), take.u32()?));
    let (mtime, ctime) = (time()?, time()?);
    let (unsure, is_link) = (take.u8()? != 0, take.u8()? != 0);
    let mark = Mark { ino, mode, uid, gid, size, rdev, mtime, ctime };
    Ok(Item { path, mark, nlink, unsure, is_link, blocks: Vec::new() })
}

/// The order of walking: a directory, then what is in it, by name.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let names = |path| <[u8]>::split(path, |b: &u8| *b == b'/');
    match (a.is_empty(), b.is_empty()) {
        (false, false) => names(a).cmp(names(b)),
        (a_is_root, b_is_root) => b_is_root.cmp(&a_is_root),
    }
}

/// Whether `path` is below the directory `dir`.
pub(super) fn is_below(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        _ if dir.is_empty() => !path.is_empty(),
        Some(rest) => rest.first() == Some(&b'/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_walking() {
        let sorted: [&[u8]; 6] = [b"", b"a", b"a/b", b"a/c/d", b"a.b", b"b"];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(order(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"") && is_below(b"a/b/c", b"a"));
        assert!(!is_below(b"ab", b"a") && !is_below(b"a", b"a") && !is_below(b"", b""));
    }

    #[test]
    fn an_index_is_read_as_it_was_written_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mark = Mark {
            ino: 7,
            mode: 0o100644,
            uid: 1,
            gid: 2,
            size: 1 << 33,
            rdev: 0,
            mtime: (-5, 6),
            ctime: (7, 8),
        };
        let blocks: Vec<_> = (0..5000).map(|n| (n * 2, [n as u8; 32])).collect();
        let item = |path: &[u8], blocks| Item {
            path: path.to_vec(),
            mark,
            nlink: 1,
            unsure: false,
            is_link: true,
            blocks,
        };
        let items = [item(b"", vec![]), item(b"a\xff", blocks), item(b"b", vec![(3, [4; 32])])];
        let mut writer = IndexWriter::create(&path).unwrap();
        items.iter().for_each(|i| writer.write(i).unwrap());
        writer.end().unwrap();
        let mut reader = IndexReader::open(&path).unwrap();
        for item in &items {
            assert_eq!(reader.next().unwrap().as_ref(), Some(item));
        }
        assert_eq!(reader.next().unwrap(), None);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 20);
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = IndexReader::open(&path).unwrap();
        let end = std::iter::from_fn(|| reader.next().transpose()).find(Result::is_err);
        assert!(end.is_some());
    }
}
