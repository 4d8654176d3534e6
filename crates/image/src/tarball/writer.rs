//! Writing: POSIX (pax) archives, with extended headers only where the plain
//! ones don't do.

use std::io::{self, Read, Write};

use super::{BLOCK, Entry, EntryKind, XATTR};

/// Writes an archive's entries.
pub(crate) struct TarWriter<W> {
    out: W,
}

const NAME: usize = 100;
const LARGEST_OCTAL_11: u64 = 0o77_777_777_777;
const LARGEST_OCTAL_7: u32 = 0o7_777_777;

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds an entry with `entry.size` bytes of `data`. When there are fewer,
    /// because the file shrank meanwhile, zeros follow: the header is out.
    pub(crate) fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
        self.header(entry)?;
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        let copied = io::copy(&mut data.take(entry.size), &mut self.out)?;
        let end = entry.size.next_multiple_of(BLOCK as u64);
        io::copy(&mut io::repeat(0).take(end - copied), &mut self.out)?;
        Ok(())
    }

    /// A file made of `content`.
    pub(crate) fn file(&mut self, path: &str, content: &[u8], mtime: i64) -> io::Result<()> {
        let mut entry = Entry::new(path.as_bytes().to_vec(), EntryKind::File);
        entry.size = content.len() as u64;
        entry.mode = 0o644;
        entry.mtime = (mtime, 0);
        self.append(&entry, &mut &*content)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let records = records(entry);
        if !records.is_empty() {
            let mut path = b"PaxHeaders.0/".to_vec();
            let base = entry.path.rsplit(|b| *b == b'/').find(|p| !p.is_empty());
            path.extend_from_slice(base.unwrap_or(b"root"));
            let mut extended = Entry::new(path, EntryKind::File);
            extended.size = records.len() as u64;
            extended.mode = 0o644;
            self.out.write_all(&block(&extended, b'x'))?;
            self.out.write_all(&records)?;
            let padding = records.len().next_multiple_of(BLOCK) - records.len();
            self.out.write_all(&[0; BLOCK][..padding])?;
        }
        let flag = match entry.kind {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        };
        self.out.write_all(&block(entry, flag))
    }
}

impl Entry {
    /// An entry that belongs to root, of no size and no permissions.
    pub(crate) fn new(path: Vec<u8>, kind: EntryKind) -> Self {
        Self {
            path,
            kind,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            segments: None,
        }
    }
}

fn block(entry: &Entry, flag: u8) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    let put = |block: &mut [u8; BLOCK], at: usize, bytes: &[u8], width: usize| {
        let n = bytes.len().min(width);
        block[at..at + n].copy_from_slice(&bytes[..n]);
    };
    let octal = |value: u64, digits: usize| {
        let most = (1u64 << (3 * digits)) - 1;
        format!("{:0digits$o}", value.min(most))
    };
    put(&mut block, 0, &entry.path, NAME);
    put(&mut block, 100, octal(u64::from(entry.mode), 7).as_bytes(), 8);
    put(&mut block, 108, octal(u64::from(entry.uid), 7).as_bytes(), 8);
    put(&mut block, 116, octal(u64::from(entry.gid), 7).as_bytes(), 8);
    put(&mut block, 124, octal(entry.size, 11).as_bytes(), 12);
    put(&mut block, 136, octal(u64::try_from(entry.mtime.0).unwrap_or(0), 11).as_bytes(), 12);
    block[156] = flag;
    put(&mut block, 157, &entry.link, NAME);
    put(&mut block, 257, b"ustar\x0000", 8);
    put(&mut block, 329, octal(u64::from(entry.device.0), 7).as_bytes(), 8);
    put(&mut block, 337, octal(u64::from(entry.device.1), 7).as_bytes(), 8);
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes(), 8);
    block
}

/// What doesn't fit into the plain header.
fn records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(&mut records, key, value);
    if entry.path.len() > NAME {
        add(b"path", &entry.path);
    }
    if entry.link.len() > NAME {
        add(b"linkpath", &entry.link);
    }
    if entry.size > LARGEST_OCTAL_11 {
        add(b"size", entry.size.to_string().as_bytes());
    }
    if entry.uid > LARGEST_OCTAL_7 {
        add(b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid > LARGEST_OCTAL_7 {
        add(b"gid", entry.gid.to_string().as_bytes());
    }
    if entry.mtime.0 < 0 || u64::try_from(entry.mtime.0).is_ok_and(|t| t > LARGEST_OCTAL_11) {
        add(b"mtime", entry.mtime.0.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[XATTR, name].concat(), value);
    }
    records
}

/// `length key=value\n`, where the length counts itself.
fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(length.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::TarReader;
    use super::*;
    use crate::Limits;
    use proptest::prelude::*;

    fn read_all(archive: &[u8]) -> Vec<(Entry, Vec<u8>)> {
        let mut reader = TarReader::new(archive, Limits::default());
        let mut all = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            all.push((entry, data));
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(
            path in "[a-z/ä]{1,200}", link in "[a-z/]{0,150}", mode in 0u32..0o7777,
            uid in 0u32..u32::MAX, mtime in any::<i32>(), data in proptest::collection::vec(any::<u8>(), 0..2000),
            xattr in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut entry = Entry::new(path.trim_end_matches('/').as_bytes().to_vec(), EntryKind::File);
            (entry.mode, entry.uid, entry.gid) = (mode, uid, uid / 2);
            entry.mtime = (i64::from(mtime), 0);
            entry.size = data.len() as u64;
            entry.xattrs = vec![(b"user.x".to_vec(), xattr)];
            let mut symlink = Entry::new(b"l".to_vec(), EntryKind::Symlink);
            symlink.link = link.into_bytes();
            let mut writer = TarWriter::new(Vec::new());
            writer.append(&entry, &mut &data[..]).unwrap();
            writer.append(&symlink, &mut io::empty()).unwrap();
            let archive = writer.finish().unwrap();
            prop_assert_eq!(archive.len() % BLOCK, 0);
            prop_assert_eq!(read_all(&archive), vec![(entry, data), (symlink, Vec::new())]);
        }

        #[test]
        fn garbage_is_an_error_or_an_end(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in 0usize..1024, value in any::<u8>()) {
            let mut reader = TarReader::new(&bytes[..], Limits::default());
            while let Ok(Some(_)) = reader.next() {}
            let mut writer = TarWriter::new(Vec::new());
            let mut entry = Entry::new(vec![b'a'; 150], EntryKind::File);
            entry.xattrs = vec![(b"user.x".to_vec(), b"y".to_vec())];
            writer.append(&entry, &mut io::empty()).unwrap();
            bytes = writer.finish().unwrap();
            bytes[at] = value;
            let mut reader = TarReader::new(&bytes[..], Limits::default());
            while let Ok(Some(_)) = reader.next() {}
        }
    }

    #[test]
    fn shrunken_files_are_padded() {
        let mut entry = Entry::new(b"f".to_vec(), EntryKind::File);
        entry.size = 1000;
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&entry, &mut &b"abc"[..]).unwrap();
        let all = read_all(&writer.finish().unwrap());
        assert_eq!(all[0].1.len(), 1000);
    }

    #[test]
    fn extended_headers_are_bounded() {
        let limits = Limits { header: 1000, ..Limits::default() };
        let mut entry = Entry::new(b"f".to_vec(), EntryKind::File);
        entry.xattrs = vec![(b"user.x".to_vec(), vec![0; 2000])];
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&entry, &mut io::empty()).unwrap();
        let archive = writer.finish().unwrap();
        assert!(TarReader::new(&archive[..], limits).next().is_err());
    }
}
