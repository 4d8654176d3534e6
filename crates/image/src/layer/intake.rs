//! Layers that come without a blob: from an archive, a container, a root file
//! system. The blob is made while the layer is unpacked.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::LayerStore;
use crate::content::{Scratch, verify, writing};
use crate::digest::Hashing;
use crate::tarball::{Compression, decompress};
use crate::{Descriptor, Digest, ImageError, Lease, media};

impl LayerStore {
    /// Unpacks `input` as a layer and keeps its archive as a blob: as it is
    /// when it is compressed, and compressed with gzip when it is not. Both are
    /// pinned by `lease`. Gives the diff id and the blob.
    pub(crate) fn intake<R: Read + Send + 'static>(
        &self,
        lease: &Lease,
        mut input: R,
        expected: Option<&Digest>,
    ) -> Result<(Digest, Descriptor), ImageError> {
        let scratch = self.content.scratch()?;
        let mut start = Vec::with_capacity(6);
        input.by_ref().take(6).read_to_end(&mut start).map_err(ImageError::Input)?;
        let compression = Compression::detect(&start)?;
        let input = io::Cursor::new(start).chain(input);
        let unfinished = self.begin()?;
        let (unpacked, diff_id, digest, size) = if compression == Compression::None {
            let (plain, _) = decompress(input, self.limits)?;
            let (tee, worker) = compressor(plain, &scratch)?;
            let filled = self.fill(&unfinished, Box::new(tee));
            let written = worker.join().unwrap_or_else(|_| Err(io::Error::other("gzip died")));
            // A failure to write is the cause of the other one, if there are both.
            let (digest, size) = written.map_err(writing(scratch.path()))?;
            let (unpacked, diff_id) = filled?;
            (unpacked, diff_id, digest, size)
        } else {
            let file = scratch.file().try_clone().map_err(writing(scratch.path()))?;
            let copy = Arc::new(Mutex::new(Hashing::new(file)));
            let tee = Copying { input, copy: Arc::clone(&copy) };
            let (plain, _) = decompress(tee, self.limits)?;
            let (unpacked, diff_id) = self.fill(&unfinished, plain)?;
            let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
            let whole = std::mem::replace(
                &mut *copy,
                Hashing::new(scratch.file().try_clone().map_err(writing(scratch.path()))?),
            );
            let (_, digest, size) = whole.finish();
            (unpacked, diff_id, digest, size)
        };
        if let Some(expected) = expected {
            verify("the uncompressed layer", expected, &diff_id)?;
        }
        let media_type = match compression {
            Compression::Zstd => media::OCI_LAYER_ZSTD,
            Compression::Gzip | Compression::None => media::OCI_LAYER_GZIP,
        };
        lease.pin(&diff_id);
        lease.pin(&digest);
        // Another image may have brought the same layer with another archive;
        // one is enough.
        if let Some(blob) = self.blob(lease, &diff_id) {
            return Ok((diff_id, blob));
        }
        let blob = Descriptor::new(media_type, digest, size);
        self.content.adopt(scratch, &blob.digest)?;
        self.finish(unfinished, &diff_id, unpacked, blob.clone())?;
        Ok((diff_id, blob))
    }
}

/// Copies what is read into a file.
struct Copying<R, W> {
    input: R,
    copy: Arc<Mutex<Hashing<W>>>,
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.copy.lock().unwrap_or_else(PoisonError::into_inner).write_all(&buf[..n])?;
        Ok(n)
    }
}

/// Sends what is read to a thread that compresses it.
struct Sending {
    input: Box<dyn Read + Send>,
    sender: SyncSender<Vec<u8>>,
}

impl Read for Sending {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        if n > 0 && self.sender.send(buf[..n].to_vec()).is_err() {
            return Err(io::Error::other("the layer's archive can't be written"));
        }
        Ok(n)
    }
}

type Worker = JoinHandle<io::Result<(Digest, u64)>>;

fn compressor(
    input: Box<dyn Read + Send>,
    scratch: &Scratch,
) -> Result<(Sending, Worker), ImageError> {
    let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(16);
    let file = scratch.file().try_clone().map_err(writing(scratch.path()))?;
    let worker = std::thread::Builder::new()
        .name("gzip".into())
        .spawn(move || {
            let out = io::BufWriter::with_capacity(256 << 10, Hashing::new(file));
            let mut gzip = GzEncoder::new(out, Level::fast());
            for chunk in receiver {
                gzip.write_all(&chunk)?;
            }
            let out = gzip.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            let (_, digest, size) = out.finish();
            Ok((digest, size))
        })
        .map_err(ImageError::io("start a thread for", scratch.path()))?;
    Ok((Sending { input, sender }, worker))
}
