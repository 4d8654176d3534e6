//! Writes the content of regular files, several at a time.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use rustic_core::repofile::BlobType;
use rustic_core::{BlobId, DataId};
use sha2::{Digest, Sha256};

use super::{Job, Run, meta, one_line};
use crate::BackupError;

/// Blocks of this many zeros are left out.
const BLOCK: usize = 4096;

impl Run<'_> {
    /// Writes files until there are no more, or something stopped it.
    pub(super) fn work(&self, receive: &Mutex<Receiver<Job>>) {
        loop {
            // The lock is held while waiting: the others wait for the same.
            let job = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            if self.alive().is_err() {
                // Nothing is written any more, but the sender is not blocked.
                continue;
            }
            if let Err(error) = self.file(&job) {
                self.stop(error);
            }
        }
    }

    fn file(&self, job: &Job) -> Result<(), BackupError> {
        let real = || self.target.join(&job.path);
        let mut length = 0u64;
        for id in job.node.content.iter().flatten() {
            let bytes = match self.blob(id) {
                Ok(bytes) => bytes,
                Err((pack, reason, missing)) => {
                    self.alive()?;
                    self.damage(&job.path, pack, reason);
                    length += missing;
                    continue;
                }
            };
            write_sparse(&job.file, length, &bytes).map_err(BackupError::io("write", real()))?;
            length += bytes.len() as u64;
            self.guard.watch().bytes(bytes.len() as u64);
        }
        job.file.set_len(length).map_err(BackupError::io("write", real()))?;
        meta::apply(&job.file, OsStr::new(""), &job.node)
            .map_err(BackupError::io("set the attributes of", real()))?;
        self.count(length);
        Ok(())
    }

    /// A piece of a file; or the pack that should hold it, what is wrong, and
    /// how long it was.
    fn blob(&self, id: &DataId) -> Result<bytes::Bytes, (Option<String>, String, u64)> {
        let blob = BlobId::from(**id);
        let read = self.indexed.get_blob_cached(&blob, BlobType::Data);
        let reason = match read {
            Ok(bytes) if Sha256::digest(&bytes).as_slice() == digest(id) => return Ok(bytes),
            Ok(_) => "a piece of it is not what its name says".to_owned(),
            Err(error) => one_line(&error.display_log()),
        };
        match self.indexed.get_index_entry(id) {
            Ok(entry) => {
                let pack = entry.pack.to_hex().as_str().to_owned();
                Err((Some(pack), reason, u64::from(entry.data_length())))
            }
            Err(_) => Err((None, "a piece of it is in no pack".to_owned(), 0)),
        }
    }
}

/// The digest that is the piece's name.
fn digest(id: &DataId) -> Vec<u8> {
    let hex = id.to_hex();
    let nibble = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let pairs = hex.as_str().as_bytes().chunks_exact(2);
    pairs.filter_map(|p| Some(nibble(p[0])? << 4 | nibble(p[1])?)).collect()
}

/// Writes `bytes` at `offset` of a new file, leaving blocks of zeros out.
fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    // Up to where blocks of the file begin.
    let phase = usize::try_from(offset % BLOCK as u64).unwrap_or(0);
    let mut block_end = BLOCK - phase;
    // What is to be written before `at`.
    let mut from = 0;
    while at < bytes.len() {
        let end = block_end.min(bytes.len());
        if is_zero(&bytes[at..end]) {
            if from < at {
                file.write_all_at(&bytes[from..at], offset + from as u64)?;
            }
            from = end;
        }
        at = end;
        block_end += BLOCK;
    }
    if from < bytes.len() {
        file.write_all_at(&bytes[from..], offset + from as u64)?;
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|w| *w == [0; 16]) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_is_written_in_pieces_is_read_back(
            runs in prop::collection::vec((any::<bool>(), 1usize..20_000), 0..8),
            cut in 1usize..9000,
        ) {
            let mut content = Vec::new();
            for (zero, length) in runs {
                content.resize(content.len() + length, if zero { 0 } else { 7 });
            }
            let file = tempfile::tempfile().unwrap();
            let mut offset = 0;
            for piece in content.chunks(cut) {
                write_sparse(&file, offset, piece).unwrap();
                offset += piece.len() as u64;
            }
            file.set_len(offset).unwrap();
            let mut read = vec![1; content.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            prop_assert_eq!(read, content);
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let file = tempfile::tempfile().unwrap();
        write_sparse(&file, 100, &vec![0; 1 << 20]).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
