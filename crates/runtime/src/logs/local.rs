//! The `local` driver's own format: small binary records that can be read
//! from both ends.
//!
//! ```text
//! file   = "SAMPLOG1" u32 length of attrs, attrs as JSON, record*
//! record = u32 n, u8 flags, i64 nanoseconds since 1970, line, u32 n
//! ```
//! Numbers are little-endian; `n` counts flags, time and line. Of the flags,
//! bit 0 is standard error and bit 1 a piece of a longer line.
//!
//! Be aware:
//! - A crash can tear the last record. Opening cuts it off; readers stop there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sampan_types::Timestamp;

use super::json::Decoded;
use super::rotate::{RotatingFile, Rotation};
use super::split::MAX_LINE;
use super::{LogSink, Record, StdStream};

pub(super) const MAGIC: &[u8; 8] = b"SAMPLOG1";
/// Flags and time.
const FIXED: usize = 9;
/// No record is longer: a larger number is damage.
pub(super) const MAX_RECORD: usize = FIXED + 4 * MAX_LINE;
/// No header's attributes are longer.
const MAX_ATTRS: usize = 1 << 20;

const STDERR: u8 = 1;
const PARTIAL: u8 = 2;

/// Writes the format above.
pub(super) struct LocalSink {
    file: RotatingFile,
}

impl LocalSink {
    pub fn open(
        path: &Path,
        rotation: Rotation,
        attrs: &BTreeMap<String, String>,
    ) -> io::Result<Self> {
        cut_torn_end(path)?;
        let json = serde_json::to_vec(attrs)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&length(&json));
        header.extend_from_slice(&json);
        Ok(Self { file: RotatingFile::open(path, rotation, header)? })
    }
}

impl LogSink for LocalSink {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.file.write(|out| encode(out, record))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn dropped(&self) -> u64 {
        self.file.dropped()
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn encode(out: &mut Vec<u8>, record: &Record<'_>) {
    let n = u32::try_from(FIXED + record.line.len()).unwrap_or(u32::MAX).to_le_bytes();
    let stderr = if record.stream == StdStream::Stderr { STDERR } else { 0 };
    let partial = if record.partial { PARTIAL } else { 0 };
    out.extend_from_slice(&n);
    out.push(stderr | partial);
    out.extend_from_slice(&record.time.nanos().to_le_bytes());
    out.extend_from_slice(record.line);
    out.extend_from_slice(&n);
}

/// Reads the header: the attributes and the header's size. `None` when it is
/// torn or foreign.
pub(super) fn decode_header(bytes: &[u8]) -> Option<(BTreeMap<String, String>, usize)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let n = number(rest)?;
    let json = rest.get(4..4 + n).filter(|_| n <= MAX_ATTRS)?;
    Some((serde_json::from_slice(json).ok()?, MAGIC.len() + 4 + n))
}

/// Reads the record at the beginning of `bytes`, and its size.
///
/// `Ok(None)` when more bytes are needed, `Err` when this is no record.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Decoded, usize)>, Damaged> {
    let Some(n) = number(bytes) else { return Ok(None) };
    if !(FIXED..=MAX_RECORD).contains(&n) {
        return Err(Damaged);
    }
    let Some(whole) = bytes.get(..n + 8) else { return Ok(None) };
    if number(&whole[4 + n..]) != Some(n) {
        return Err(Damaged);
    }
    let flags = whole[4];
    let time = whole[5..13].try_into().map_or(0, i64::from_le_bytes);
    let mut line = whole[13..4 + n].to_vec();
    if flags & PARTIAL == 0 {
        line.push(b'\n');
    }
    let stream = if flags & STDERR == 0 { StdStream::Stdout } else { StdStream::Stderr };
    Ok(Some((Decoded { stream, time: Timestamp::from_nanos(time), line, attrs: None }, n + 8)))
}

/// The bytes are no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// The size of the record that ends with `bytes`.
pub(super) fn size_of_last(bytes: &[u8]) -> Option<usize> {
    let n = number(bytes.get(bytes.len().checked_sub(4)?..)?)?;
    (FIXED..=MAX_RECORD).contains(&n).then_some(n + 8)
}

fn number(bytes: &[u8]) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Cuts off what a crash left behind the last whole record. A file that is
/// none of ours is emptied.
fn cut_torn_end(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let size = file.metadata()?.len();
    let good = good_prefix(&mut file, size)?;
    if good < size { file.set_len(good) } else { Ok(()) }
}

fn good_prefix(file: &mut std::fs::File, size: u64) -> io::Result<u64> {
    let mut bytes = Vec::new();
    file.take((MAGIC.len() + 4 + MAX_ATTRS) as u64).read_to_end(&mut bytes)?;
    let Some((_, header)) = decode_header(&bytes) else { return Ok(0) };
    let mut good = header as u64;
    file.seek(SeekFrom::Start(good))?;
    bytes.clear();
    let mut reader = io::BufReader::new(file);
    while good < size {
        let mut chunk = [0u8; 4096];
        let got = reader.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..got]);
        let mut used = 0;
        while let Ok(Some((_, n))) = decode(&bytes[used..]) {
            used += n;
        }
        good += used as u64;
        bytes.drain(..used);
        if got == 0 || decode(&bytes).is_err() {
            break;
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(line: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(
            &mut out,
            &Record {
                stream: StdStream::Stderr,
                time: Timestamp::from_nanos(5),
                line,
                partial: false,
            },
        );
        out
    }

    #[test]
    fn a_torn_end_is_cut_off_at_opening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        let rotation = Rotation { max_size: 0, max_file: 1, compress: false };
        let write = |line: &[u8]| {
            let mut sink = LocalSink::open(&path, rotation, &BTreeMap::new()).unwrap();
            sink.write(&Record {
                stream: StdStream::Stdout,
                time: Timestamp::from_nanos(7),
                line,
                partial: false,
            })
            .unwrap();
            sink.flush().unwrap();
        };
        write(b"one");
        let one = std::fs::read(&path).unwrap();
        for torn in 1..11 {
            let mut bytes = one.clone();
            bytes.extend_from_slice(&record(b"torn")[..torn]);
            std::fs::write(&path, &bytes).unwrap();
            cut_torn_end(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), one, "{torn}");
        }
        write(b"two");
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = decode_header(&bytes).unwrap();
        let (first, n) = decode(&bytes[header..]).unwrap().unwrap();
        let (second, m) = decode(&bytes[header + n..]).unwrap().unwrap();
        assert_eq!((first.line, second.line), (b"one\n".to_vec(), b"two\n".to_vec()));
        assert_eq!(header + n + m, bytes.len());
        std::fs::write(&path, b"something else").unwrap();
        write(b"three");
        assert!(decode_header(&std::fs::read(&path).unwrap()).is_some());
    }

    proptest! {
        #[test]
        fn records_come_back(line in prop::collection::vec(any::<u8>(), 0..300), extra in prop::collection::vec(any::<u8>(), 0..20)) {
            let one = record(&line);
            prop_assert_eq!(size_of_last(&one), Some(one.len()));
            let mut bytes = one.clone();
            bytes.extend_from_slice(&extra);
            let (back, n) = decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(n, one.len());
            prop_assert_eq!(&back.line[..line.len()], &line[..]);
            for end in 0..one.len() {
                prop_assert_eq!(decode(&one[..end]), Ok(None));
            }
        }

        #[test]
        fn noise_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (decode(&bytes), decode_header(&bytes), size_of_last(&bytes));
        }
    }
}
