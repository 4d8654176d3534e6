//! Where the bytes of a pushed blob come from: a file of the content store as
//! it is, or compressed on the way.
//!
//! Be aware:
//! - Compressing is deterministic (one level, no time and no name in the
//!   header), so the digest computed in advance is that of what is sent, and a
//!   broken upload can go on in the middle of it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use futures_util::StreamExt as _;

use super::error::RegistryError;
use crate::digest::Hashing;
use crate::{Digest, stream};

/// A blob to send.
#[derive(Debug, Clone)]
pub(super) struct Source {
    path: PathBuf,
    compress: bool,
    /// Of what is sent.
    pub(super) digest: Digest,
    /// Of what is sent, in bytes.
    pub(super) size: u64,
}

impl Source {
    /// The file as it is.
    pub(super) fn stored(path: PathBuf, digest: Digest, size: u64) -> Self {
        Self { path, compress: false, digest, size }
    }

    /// The file compressed. Computes the digest: reads all of it.
    pub(super) async fn compressed(path: PathBuf) -> Result<Self, RegistryError> {
        tokio::task::spawn_blocking(move || {
            let mut hashing = Hashing::new(io::sink());
            compress(&path, &mut hashing).map_err(RegistryError::io("compress", &path))?;
            let (_, digest, size) = hashing.finish();
            Ok(Self { path, compress: true, digest, size })
        })
        .await
        .map_err(|_| RegistryError::Interrupted("the compression of a layer"))?
    }

    /// The bytes from `offset` on; `sent` counts those that were taken.
    pub(super) fn body(&self, offset: u64, sent: &Arc<AtomicU64>) -> reqwest::Body {
        let source = self.clone();
        let sent = Arc::clone(sent);
        sent.store(0, Ordering::Relaxed);
        let bytes = stream::produce(move |writer| {
            if source.compress {
                compress(&source.path, &mut Skip { writer, left: offset })
            } else {
                let mut file = File::open(&source.path)?;
                file.seek(SeekFrom::Start(offset))?;
                io::copy(&mut file.take(source.size.saturating_sub(offset)), writer).map(drop)
            }
        });
        reqwest::Body::wrap_stream(bytes.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }))
    }
}

fn compress(path: &std::path::Path, writer: &mut dyn Write) -> io::Result<()> {
    let mut encoder: GzEncoder<_> = GzBuilder::new().write(writer, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    Ok(())
}

/// Drops the first bytes.
struct Skip<'a, W: Write> {
    writer: &'a mut W,
    left: u64,
}

impl<W: Write> Write for Skip<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let dropped = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        self.left -= dropped as u64;
        self.writer.write_all(&buf[dropped..])?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_has_the_announced_digest_from_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &content).unwrap();
        let stored = Source::stored(path.clone(), Digest::of(&content), content.len() as u64);
        let compressed = Source::compressed(path).await.unwrap();
        for source in [stored, compressed] {
            let whole = collect(&source, 0).await;
            assert_eq!(
                (Digest::of(&whole), whole.len() as u64),
                (source.digest.clone(), source.size)
            );
            let middle = source.size / 3;
            assert_eq!(collect(&source, middle).await, &whole[usize::try_from(middle).unwrap()..]);
        }
    }

    async fn collect(source: &Source, offset: u64) -> Vec<u8> {
        let sent = Arc::new(AtomicU64::new(7));
        let response = http::Response::new(source.body(offset, &sent));
        let bytes = reqwest::Response::from(response).bytes().await.unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
        bytes.to_vec()
    }
}
