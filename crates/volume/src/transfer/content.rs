//! A file's content in blocks: what is a hole, what changed, what is sent.

use std::os::fd::BorrowedFd;

use rustix::fs::{self as rfs, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::format::BLOCK;
use super::index::Hash;

/// A part of a file that the receiver does not have.
pub(super) enum Piece<'a> {
    Data { at: u64, bytes: &'a [u8] },
    Hole { at: u64, length: u64 },
}

/// Goes through the `size` bytes of a file and gives those blocks to `send`
/// that differ from `base`: their hashes, with their numbers. Without a base
/// all are new. Gives the hashes of all blocks that are no holes.
///
/// What the file has no longer, because somebody cut it meanwhile, is zeros.
pub(super) fn compare(
    file: BorrowedFd<'_>,
    size: u64,
    base: Option<&[(u64, Hash)]>,
    buffer: &mut Vec<u8>,
    send: &mut dyn FnMut(Piece<'_>) -> Result<(), SendError>,
) -> Result<Vec<(u64, Hash)>, SendError> {
    let mut known = base.unwrap_or_default().iter().peekable();
    let mut hashes = Vec::new();
    let mut at = 0;
    while at < size {
        let data = data_from(file, at)?.filter(|data| *data < size);
        let block = data.map_or(size, |data| data / BLOCK * BLOCK).max(at);
        // Blocks that had bytes and are holes now.
        while let Some((gone, _)) = known.next_if(|(number, _)| start(*number) < block) {
            let at = start(*gone);
            let length = BLOCK.min(size.saturating_sub(at));
            send(Piece::Hole { at, length })?;
        }
        if block >= size {
            break;
        }
        let number = block / BLOCK;
        let length = BLOCK.min(size - block);
        let segments = segments(file, block, block + length)?;
        let hash = fill(file, block, length, &segments, buffer)?;
        let before = known.next_if(|(at, _)| *at == number);
        if before.is_none_or(|(_, hash_before)| *hash_before != hash) {
            let sent: u64 = segments.iter().map(|(from, to)| to - from).sum();
            if before.is_some() && sent < length {
                send(Piece::Hole { at: block, length })?;
            }
            for (from, to) in segments {
                let bytes = &buffer[index(from - block)..index(to - block)];
                send(Piece::Data { at: from, bytes })?;
            }
        }
        hashes.push((number, hash));
        at = block + length;
    }
    Ok(hashes)
}

/// What can go wrong: with the file, or with what it is sent to.
#[derive(Debug)]
pub(super) enum SendError {
    Read(Errno),
    Write(std::io::Error),
}

impl From<Errno> for SendError {
    fn from(error: Errno) -> Self {
        Self::Read(error)
    }
}

fn start(block: u64) -> u64 {
    block.saturating_mul(BLOCK)
}

/// Offsets in a block fit.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Where the next byte is that is in no hole.
fn data_from(file: BorrowedFd<'_>, at: u64) -> Result<Option<u64>, Errno> {
    match rfs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL) => Ok(Some(at)),
        Err(e) => Err(e),
    }
}

/// The parts from `from` to `to` that are in no hole.
fn segments(file: BorrowedFd<'_>, from: u64, to: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let mut found = Vec::new();
    let mut at = from;
    while at < to {
        let Some(data) = data_from(file, at)?.filter(|data| *data < to) else { break };
        let hole = match rfs::seek(file, SeekFrom::Hole(data)) {
            Ok(hole) => hole.min(to),
            // It was cut meanwhile.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => to,
            Err(e) => return Err(e),
        };
        if hole <= data {
            break;
        }
        found.push((data, hole));
        at = hole;
    }
    Ok(found)
}

/// Reads a block into the buffer, zeros where nothing is; gives its hash.
fn fill(
    file: BorrowedFd<'_>,
    block: u64,
    length: u64,
    segments: &[(u64, u64)],
    buffer: &mut Vec<u8>,
) -> Result<Hash, Errno> {
    buffer.clear();
    buffer.resize(index(length), 0);
    for (from, to) in segments {
        let (mut at, end) = (*from, *to);
        while at < end {
            let target = &mut buffer[index(at - block)..index(end - block)];
            match rustix::io::pread(file, target, at) {
                Ok(0) => break,
                Ok(read) => at += read as u64,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(Sha256::digest(&buffer[..]).into())
}
