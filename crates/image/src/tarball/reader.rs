//! Reading: ustar, GNU and POSIX (pax) archives.

use std::io::{self, Read};

use super::sparse::{self, Segment};
use super::{BLOCK, XATTR};
use crate::Limits;
use crate::archive::ArchiveError;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry's header.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// As in the archive, `./` and all.
    pub path: Vec<u8>,
    pub kind: EntryKind,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// The target of a link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data belongs, of a file with holes.
    pub segments: Option<Vec<Segment>>,
}

/// Reads an archive's entries in order. Between two calls of [`TarReader::next`]
/// it reads as the data of the entry.
pub(crate) struct TarReader<R> {
    input: R,
    limits: Limits,
    entries: u64,
    /// Bytes of the entry's data that were not read yet.
    data: u64,
    /// Bytes between the data and the next header.
    padding: u64,
}

/// What extended headers say about the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Declared,
    bytes: usize,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R, limits: Limits) -> Self {
        Self { input, limits, entries: 0, data: 0, padding: 0 }
    }

    /// The next entry; `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_data()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(ArchiveError::TooLarge(format!(
                    "it has more than {} entries",
                    self.limits.entries
                )));
            }
            let size = field(&header[124..136], "size")?;
            match header[156] {
                b'L' => extended.path = Some(self.text(size, &mut extended.bytes)?),
                b'K' => extended.link = Some(self.text(size, &mut extended.bytes)?),
                b'x' | b'X' => {
                    let records = self.small(size, &mut extended.bytes)?;
                    self.records(&records, &mut extended)?;
                }
                // Global headers hold remarks (git archive); nothing that
                // images need.
                b'g' => {
                    self.small(size, &mut extended.bytes)?;
                }
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        extended: Extended,
    ) -> Result<Entry, ArchiveError> {
        let path = extended.path.unwrap_or_else(|| plain_path(header));
        let link = extended.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let flag = header[156];
        let kind = match flag {
            b'0' | b'\0' if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | b'\0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(ArchiveError::Refused {
                    entry: lossy(&path),
                    reason: format!("entries of type {:?} are unknown", char::from(other)),
                });
            }
        };
        let id = |field_value: Option<u64>, range: std::ops::Range<usize>, what| {
            let value = match field_value {
                Some(value) => value,
                None => field(&header[range], what)?,
            };
            u32::try_from(value)
                .ok()
                .filter(|v| *v != u32::MAX)
                .ok_or_else(|| malformed(format!("{}: {what} {value} is too large", lossy(&path))))
        };
        let (uid, gid) = (id(extended.uid, 108..116, "uid")?, id(extended.gid, 116..124, "gid")?);
        let device = |range: std::ops::Range<usize>| {
            u32::try_from(field(&header[range], "device number").unwrap_or(0)).unwrap_or(u32::MAX)
        };
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => (number(&header[136..148]).unwrap_or(0), 0),
        };
        let stored = match kind {
            EntryKind::File => extended.size.unwrap_or(size),
            _ => 0,
        };
        self.data = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        let mut entry = Entry {
            path,
            kind,
            size: stored,
            mode: u32::try_from(field(&header[100..108], "mode")? & 0o7777).unwrap_or(0),
            uid,
            gid,
            mtime,
            link,
            device: (device(329..337), device(337..345)),
            xattrs: extended.xattrs,
            segments: None,
        };
        if kind == EntryKind::File {
            let map = if flag == b'S' {
                Some(sparse::old_gnu(header, || self.block())?)
            } else {
                extended.sparse.finish(self)?
            };
            if let Some(map) = map {
                map.check(self.data, self.limits.bytes, &entry.path)?;
                entry.size = map.size;
                entry.segments = Some(map.segments);
                entry.path = map.name.unwrap_or(entry.path);
            }
        }
        self.check_path(&entry.path)?;
        self.check_path(&entry.link)?;
        Ok(entry)
    }

    /// One header that passes its checksum; `None` at the end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut header = [0u8; BLOCK];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(malformed("it ends within a header".into())),
        }
        if header.iter().all(|b| *b == 0) {
            // The end is two blocks of zeros, of which some writers save one.
            return Ok(None);
        }
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
            .sum();
        if field(&header[148..156], "checksum").ok() != Some(sum) {
            return Err(malformed("a header's checksum is wrong".into()));
        }
        Ok(Some(header))
    }

    /// One block of an entry's data.
    pub(super) fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0u8; BLOCK];
        if self.fill(&mut block)? < BLOCK {
            return Err(malformed("it ends within an entry".into()));
        }
        Ok(block)
    }

    /// As [`TarReader::block`], of data that counts as such.
    pub(super) fn data_block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        if self.data < BLOCK as u64 {
            return Err(malformed("a sparse file's map is cut off".into()));
        }
        self.data -= BLOCK as u64;
        self.block()
    }

    /// Reads until `buf` is full or the input ends.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.input.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(reading(e)),
            }
        }
        Ok(filled)
    }

    /// The content of an extended header, all of which are bounded together.
    fn small(&mut self, size: u64, so_far: &mut usize) -> Result<Vec<u8>, ArchiveError> {
        let room = self.limits.header.saturating_sub(*so_far);
        let length = usize::try_from(size).ok().filter(|l| *l <= room).ok_or_else(|| {
            ArchiveError::TooLarge(format!(
                "an entry's extended headers exceed {} bytes",
                self.limits.header
            ))
        })?;
        *so_far += length;
        let mut content = vec![0u8; length.next_multiple_of(BLOCK)];
        if self.fill(&mut content)? < content.len() {
            return Err(malformed("it ends within an extended header".into()));
        }
        content.truncate(length);
        Ok(content)
    }

    fn text(&mut self, size: u64, so_far: &mut usize) -> Result<Vec<u8>, ArchiveError> {
        let content = self.small(size, so_far)?;
        Ok(until_nul(&content).to_vec())
    }

    /// The records of a pax header: `length key=value\n`.
    fn records(&self, mut rest: &[u8], extended: &mut Extended) -> Result<(), ArchiveError> {
        let wrong = || malformed("an extended header's record is wrong".into());
        while !rest.is_empty() && rest[0] != 0 {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
            let length: usize =
                ascii(&rest[..space]).and_then(|t| t.parse().ok()).ok_or_else(wrong)?;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(wrong());
            }
            let record = &rest[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            self.record(&record[..equals], &record[equals + 1..], extended)?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn record(&self, key: &[u8], value: &[u8], to: &mut Extended) -> Result<(), ArchiveError> {
        let integer = || {
            ascii(value)
                .and_then(|t| t.parse::<u64>().ok())
                .ok_or_else(|| malformed(format!("{} is not a number", lossy(key))))
        };
        match key {
            b"path" => to.path = Some(value.to_vec()),
            b"linkpath" => to.link = Some(value.to_vec()),
            b"size" => to.size = Some(integer()?),
            b"uid" => to.uid = Some(integer()?),
            b"gid" => to.gid = Some(integer()?),
            b"mtime" => to.mtime = time(value),
            _ if key.starts_with(b"GNU.sparse.") => {
                to.sparse.record(&key[b"GNU.sparse.".len()..], value)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    to.xattrs.retain(|(n, _)| n != name);
                    to.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn check_path(&self, path: &[u8]) -> Result<(), ArchiveError> {
        let refused =
            |reason: &str| Err(ArchiveError::Refused { entry: lossy(path), reason: reason.into() });
        if path.contains(&0) {
            return refused("its name holds a zero byte");
        }
        if path.len() > self.limits.path {
            return refused("its name is too long");
        }
        Ok(())
    }

    /// Skips what is left of the entry.
    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        let left = self.data + self.padding;
        let skipped =
            io::copy(&mut (&mut self.input).take(left), &mut io::sink()).map_err(reading)?;
        // The padding of the last entry may be missing.
        if skipped < self.data {
            return Err(malformed("it ends within an entry".into()));
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    /// The data of the entry.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.data).unwrap_or(usize::MAX).min(buf.len());
        if room == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buf[..room])?;
        if n == 0 {
            let error = malformed("it ends within an entry".into());
            return Err(io::Error::other(error));
        }
        self.data -= n as u64;
        Ok(n)
    }
}

/// Name, or prefix and name of ustar.
fn plain_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().map(str::trim)
}

/// A number in octal digits, or in base 256 when the first bit is set.
pub(super) fn number(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { i64::from(*first) - 256 } else { i64::from(first & 0x7f) };
        return rest
            .iter()
            .try_fold(start, |n, b| n.checked_mul(256).and_then(|n| n.checked_add(i64::from(*b))));
    }
    let text = ascii(until_nul(bytes))?;
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok() }
}

/// A number that can't be negative.
pub(super) fn field(bytes: &[u8], what: &str) -> Result<u64, ArchiveError> {
    number(bytes)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| malformed(format!("a header's {what} is not a number")))
}

/// Seconds with a decimal fraction.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = ascii(value)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

pub(super) fn malformed(reason: String) -> ArchiveError {
    ArchiveError::Malformed(reason)
}

pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn reading(error: io::Error) -> ArchiveError {
    ArchiveError::from_io("read", "the archive", error)
}
