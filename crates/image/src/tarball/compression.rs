//! Compressed archives, known by their first bytes, and the bound on how much
//! they may grow.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::Limits;
use crate::archive::ArchiveError;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

const BUFFER: usize = 128 << 10;

impl Compression {
    /// From the first bytes.
    pub(crate) fn detect(start: &[u8]) -> Result<Self, ArchiveError> {
        let unsupported = |what: &str| {
            Err(ArchiveError::Malformed(format!(
                "it is compressed with {what}, which is not supported: use gzip or zstd"
            )))
        };
        match start {
            [0x1f, 0x8b, 0x08, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => unsupported("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
            _ => Ok(Self::None),
        }
    }
}

/// `input` uncompressed, within the limits, and how it was compressed. The
/// reader fails when more comes out than the limits allow.
pub(crate) fn decompress<R: Read + Send + 'static>(
    input: R,
    limits: Limits,
) -> Result<(Box<dyn Read + Send>, Compression), ArchiveError> {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Counted { input, taken: Arc::clone(&taken) };
    let mut input = BufReader::with_capacity(BUFFER, counted);
    let start = peek(&mut input).map_err(|e| ArchiveError::from_io("read", "the archive", e))?;
    let compression = Compression::detect(&start)?;
    let input = io::Cursor::new(start).chain(input);
    let plain: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::with_buffer(input)
                .and_then(|mut d| d.window_log_max(27).map(|()| d))
                .map_err(|e| ArchiveError::from_io("decompress", "the archive", e))?,
        ),
    };
    let ratio = (compression != Compression::None).then_some(limits.ratio);
    Ok((Box::new(Bounded { input: plain, given: 0, taken, ratio, limits }), compression))
}

/// The first six bytes, fewer only when there are no more.
fn peek(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut start)?;
    Ok(start)
}

/// Counts the bytes of the compressed form.
struct Counted<R> {
    input: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.taken.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Fails when more has come out than the limits allow.
struct Bounded {
    input: Box<dyn Read + Send>,
    given: u64,
    taken: Arc<AtomicU64>,
    ratio: Option<u64>,
    limits: Limits,
}

impl Read for Bounded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.given += n as u64;
        if self.given > self.limits.bytes {
            return Err(too_large(format!("it holds more than {} bytes", self.limits.bytes)));
        }
        if let Some(ratio) = self.ratio.filter(|_| self.given > self.limits.ratio_from) {
            let taken = self.taken.load(Ordering::Relaxed).max(1);
            if self.given / taken > ratio {
                return Err(too_large(format!(
                    "it grows to more than {ratio} times its size when it is uncompressed"
                )));
            }
        }
        Ok(n)
    }
}

fn too_large(reason: String) -> io::Error {
    io::Error::other(ArchiveError::TooLarge(reason))
}
