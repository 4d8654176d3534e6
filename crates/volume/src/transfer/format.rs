//! How a stream is written: a magic, then compressed frames, the last of which
//! has the digest of all before.
//!
//! ```text
//! stream  = magic, zstd( frame* )
//! frame   = kind: u8, length: u32, payload     all numbers little endian
//! ```
//!
//! Be aware:
//! - What is read was written by somebody else. Every length has a bound, room
//!   is taken as bytes arrive and not as they are announced, paths are checked
//!   here and resolved below a directory later.
//! - What was read is true only when [`FrameReader::next`] said that it was
//!   all: the digest comes last.

use std::io::{self, BufRead, Read, Write};

use sha2::{Digest as _, Sha256};

/// The first bytes of a stream, and of the record of what was sent.
pub(super) const STREAM: &[u8; 8] = b"SMPNVOL\x01";
pub(super) const INDEX: &[u8; 8] = b"SMPNIDX\x01";

/// The longest payload of a frame.
pub(super) const MOST: usize = 4 << 20;
/// The bytes that are hashed, compared and sent at once.
pub(super) const BLOCK: u64 = 1 << 20;
/// The longest path, in bytes.
pub(super) const PATH_MOST: usize = 0xffff;
/// The longest name in a directory.
const NAME_MOST: usize = 255;
/// The kernel's bound on an extended attribute's value.
const VALUE_MOST: usize = 1 << 16;
/// Memory that unpacking may take: 2^25 bytes.
const WINDOW: u32 = 25;

/// What is wrong with bytes that were read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// Reading failed.
    Io(io::Error),
    /// They are not what a sender writes.
    Bad(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::bad("it ends in the middle"),
            // What the unpacking finds wrong.
            io::ErrorKind::Other | io::ErrorKind::InvalidData if error.raw_os_error().is_none() => {
                Self::Bad(error.to_string())
            }
            _ => Self::Io(error),
        }
    }
}

impl ReadError {
    pub(super) fn bad(reason: &str) -> Self {
        Self::Bad(reason.to_owned())
    }
}

/// The kinds of frames.
pub(super) mod kind {
    pub(in super::super) const HEADER: u8 = 1;
    pub(in super::super) const ENTRY: u8 = 2;
    pub(in super::super) const DATA: u8 = 3;
    pub(in super::super) const HOLE: u8 = 4;
    pub(in super::super) const LINK: u8 = 5;
    pub(in super::super) const REMOVE: u8 = 6;
    /// Of an index.
    pub(in super::super) const ITEM: u8 = 7;
    pub(in super::super) const HASHES: u8 = 8;
    pub(super) const END: u8 = 255;
}

/// Writes frames.
pub(super) struct FrameWriter<W: Write> {
    output: W,
    digest: Sha256,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output, digest: Sha256::new() }
    }

    /// Writes a frame whose payload is these parts.
    pub(super) fn write(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        let length =
            u32::try_from(length).ok().filter(|l| *l as usize <= MOST).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "a frame is longer than frames may be")
            })?;
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_le_bytes());
        for part in [&head[..]].iter().chain(parts) {
            self.digest.update(part);
            self.output.write_all(part)?;
        }
        Ok(())
    }

    /// Writes the last frame and gives the output back.
    pub(super) fn end(mut self) -> io::Result<W> {
        let digest = self.digest.finalize();
        let length = u32::try_from(digest.len()).unwrap_or_default().to_le_bytes();
        self.output.write_all(&[kind::END])?;
        self.output.write_all(&length)?;
        self.output.write_all(&digest)?;
        Ok(self.output)
    }
}

/// Reads frames.
pub(super) struct FrameReader<R: Read> {
    input: R,
    digest: Sha256,
    payload: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, digest: Sha256::new(), payload: Vec::new() }
    }

    /// The next frame; `None` when the last one was there and its digest fits
    /// all before.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &[u8])>, ReadError> {
        let mut head = [0; 5];
        self.input.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > MOST {
            return Err(ReadError::Bad(format!("a frame says that it has {length} bytes")));
        }
        self.payload.clear();
        // Takes room as bytes arrive.
        let read = (&mut self.input).take(length as u64).read_to_end(&mut self.payload)?;
        if read < length {
            return Err(ReadError::bad("it ends in the middle"));
        }
        if kind == kind::END {
            let digest = std::mem::take(&mut self.digest).finalize();
            if digest[..] != self.payload[..] {
                return Err(ReadError::bad("its digest does not fit"));
            }
            return Ok(None);
        }
        self.digest.update(head);
        self.digest.update(&self.payload);
        Ok(Some((kind, &self.payload)))
    }

    /// What is read from.
    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }
}

/// Packs what is written, behind a magic.
pub(super) fn pack<W: Write>(
    mut output: W,
    magic: &[u8; 8],
) -> io::Result<FrameWriter<zstd::stream::write::Encoder<'static, W>>> {
    output.write_all(magic)?;
    // The fastest: what is slow is the network and the disks.
    Ok(FrameWriter::new(zstd::stream::write::Encoder::new(output, 1)?))
}

/// Unpacks what follows a magic; `None` when there is another one.
pub(super) fn unpack<R: BufRead>(
    mut input: R,
    magic: &[u8; 8],
) -> Result<Option<FrameReader<zstd::stream::read::Decoder<'static, R>>>, ReadError> {
    let mut found = [0; 8];
    match input.read_exact(&mut found) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    if found != *magic {
        return Ok(None);
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
    decoder.window_log_max(WINDOW)?;
    Ok(Some(FrameReader::new(decoder)))
}

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Character,
    Block,
}

const NODES: [Node; 7] = [
    Node::File,
    Node::Directory,
    Node::Symlink,
    Node::Fifo,
    Node::Socket,
    Node::Character,
    Node::Block,
];

/// An extended attribute: name and value.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// An entry with all that is kept of it but for its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it is below the root, which is empty itself.
    pub(super) path: Vec<u8>,
    pub(super) node: Node,
    /// Whether it is there and becomes this. Otherwise it is made anew, and
    /// what is in its place is removed first.
    pub(super) change: bool,
    /// Permission bits, at most 0o7777.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes of a file.
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Numbers of a device.
    pub(super) rdev: u64,
    /// What a symbolic link says.
    pub(super) target: Vec<u8>,
    /// Extended attributes, access lists among them.
    pub(super) xattrs: Vec<Xattr>,
}

/// One step of changing a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Entry(Entry),
    /// Bytes of the entry before.
    Data {
        at: u64,
        bytes: &'a [u8],
    },
    /// A part of the entry before that has no bytes any more.
    Hole {
        at: u64,
        length: u64,
    },
    /// A second name of something that is there.
    Link {
        path: &'a [u8],
        to: &'a [u8],
    },
    Remove {
        path: &'a [u8],
    },
}

impl Entry {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.path.len());
        put_bytes(&mut out, &self.path);
        out.push(NODES.iter().position(|n| *n == self.node).unwrap_or_default() as u8);
        out.push(u8::from(self.change));
        for number in [self.mode, self.uid, self.gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.mtime.0.to_le_bytes());
        out.extend_from_slice(&self.mtime.1.to_le_bytes());
        out.extend_from_slice(&self.rdev.to_le_bytes());
        put_bytes(&mut out, &self.target);
        for (name, value) in &self.xattrs {
            put_bytes(&mut out, name);
            put_bytes(&mut out, value);
        }
        out
    }

    fn decode(payload: &[u8]) -> Result<Self, ReadError> {
        let mut take = Take(payload);
        let path = take.bytes(PATH_MOST)?.to_vec();
        check_path(&path)?;
        let node = take.u8()?;
        let node = NODES.get(usize::from(node)).copied();
        let node = node.ok_or_else(|| ReadError::bad("an entry of a kind that is not known"))?;
        let change = take.u8()? != 0;
        let (mode, uid, gid) = (take.u32()?, take.u32()?, take.u32()?);
        let size = take.u64()?;
        let mtime = (i64::from_le_bytes(take.array()?), take.u32()?);
        let rdev = take.u64()?;
        let target = take.bytes(PATH_MOST)?.to_vec();
        let mut xattrs = Vec::new();
        while !take.0.is_empty() {
            let name = take.bytes(NAME_MOST)?;
            let value = take.bytes(VALUE_MOST)?;
            if name.is_empty() || name.contains(&0) || !is_carried(name) {
                return Err(ReadError::bad("an extended attribute that none can have"));
            }
            xattrs.push((name.to_vec(), value.to_vec()));
        }
        let is_link = node == Node::Symlink;
        let fits = mode <= 0o7777
            && i64::try_from(size).is_ok()
            && mtime.1 < 1_000_000_000
            // -1 means "leave it as it is" to the kernel.
            && uid != u32::MAX
            && gid != u32::MAX
            && is_link != target.is_empty()
            && !target.contains(&0)
            && (node == Node::File || size == 0)
            && (node == Node::Directory || !path.is_empty());
        if !fits {
            return Err(ReadError::bad("an entry says what none can have"));
        }
        Ok(Self { path, node, change, mode, uid, gid, size, mtime, rdev, target, xattrs })
    }
}

impl<'a> Step<'a> {
    pub(super) fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, ReadError> {
        let mut take = Take(payload);
        let step = match kind {
            kind::ENTRY => return Entry::decode(payload).map(Self::Entry),
            kind::DATA => {
                let at = take.u64()?;
                let bytes = std::mem::take(&mut take.0);
                if bytes.len() as u64 > BLOCK {
                    return Err(ReadError::bad("more bytes at once than a block has"));
                }
                Self::Data { at, bytes }
            }
            kind::HOLE => Self::Hole { at: take.u64()?, length: take.u64()? },
            kind::LINK => {
                let (path, to) = (take.bytes(PATH_MOST)?, take.bytes(PATH_MOST)?);
                check_name_of(path)?;
                check_name_of(to)?;
                Self::Link { path, to }
            }
            kind::REMOVE => {
                let path = take.bytes(PATH_MOST)?;
                check_name_of(path)?;
                Self::Remove { path }
            }
            kind => return Err(ReadError::Bad(format!("a frame of kind {kind}"))),
        };
        if take.0.is_empty() { Ok(step) } else { Err(ReadError::bad("a frame is too long")) }
    }
}

/// Whether an extended attribute belongs to what a volume holds: not what
/// describes an overlay's layers, or this host's own policy.
pub(super) fn is_carried(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.")
        && !name.starts_with(b"user.overlay.")
        && name != b"security.selinux"
}

/// A path that leads nowhere but down; empty is the root.
pub(super) fn check_path(path: &[u8]) -> Result<(), ReadError> {
    let fits = |name: &[u8]| {
        !name.is_empty()
            && name.len() <= NAME_MOST
            && name != b"."
            && name != b".."
            && !name.contains(&0)
    };
    if path.is_empty() || path.split(|b| *b == b'/').all(fits) {
        return Ok(());
    }
    Err(ReadError::Bad(format!("the path {:?}", String::from_utf8_lossy(path))))
}

fn check_name_of(path: &[u8]) -> Result<(), ReadError> {
    if path.is_empty() {
        return Err(ReadError::bad("the root can't be removed or linked"));
    }
    check_path(path)
}

/// Bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What is left of a payload.
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl<'a> Take<'a> {
    fn some(&mut self, length: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| ReadError::bad("a frame is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.some(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ReadError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes behind their length, which is `most` at most.
    pub(super) fn bytes(&mut self, most: usize) -> Result<&'a [u8], ReadError> {
        let length = self.u32()? as usize;
        if length > most {
            return Err(ReadError::Bad(format!("a field says that it has {length} bytes")));
        }
        self.some(length)
    }
}
