//! The members of an image archive, on disk: what they mean is known only at
//! the archive's end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};

use crate::archive::ArchiveError;
use crate::content::{Scratch, writing};
use crate::digest::Hashing;
use crate::tarball::{EntryKind, TarReader, decompress};
use crate::{Content, Digest, ImageError, Limits};

/// Manifests, indexes and configurations are far below this.
const SMALL: u64 = 8 << 20;

/// Links from member to member are followed this far.
const HOPS: usize = 8;

/// A file of the archive.
pub(super) struct Member {
    pub scratch: Option<Scratch>,
    pub digest: Digest,
    pub size: u64,
}

/// All members.
#[derive(Default)]
pub(super) struct Spool {
    files: HashMap<String, Member>,
    links: HashMap<String, String>,
}

impl Spool {
    /// Reads the whole archive, compressed or not.
    pub(super) fn read<R: Read + Send + 'static>(
        input: R,
        content: &Content,
        limits: Limits,
    ) -> Result<Self, ImageError> {
        let (plain, _) = decompress(input, limits)?;
        let mut reader = TarReader::new(plain, limits);
        let mut spool = Self::default();
        let mut buffer = vec![0u8; 256 << 10];
        while let Some(entry) = reader.next()? {
            let name = member_name(&entry.path)?;
            match entry.kind {
                EntryKind::Directory => {}
                EntryKind::File if entry.segments.is_none() => {
                    let member = copy(&mut reader, content, &mut buffer)?;
                    spool.files.insert(name, member);
                }
                // Older archives say once what several images share.
                EntryKind::Symlink => {
                    let parent = name.rsplit_once('/').map_or("", |(p, _)| p);
                    let target = resolve(parent, &String::from_utf8_lossy(&entry.link));
                    spool.links.insert(name, target.ok_or_else(|| outside(&entry.path))?);
                }
                EntryKind::HardLink => {
                    spool.links.insert(name, member_name(&entry.link)?);
                }
                _ => {
                    return Err(ArchiveError::Refused {
                        entry: String::from_utf8_lossy(&entry.path).into_owned(),
                        reason: "an image archive has only plain files".into(),
                    }
                    .into());
                }
            }
        }
        Ok(spool)
    }

    /// The name that a name leads to.
    fn follow<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut name = name.trim_start_matches("./");
        for _ in 0..HOPS {
            if self.files.contains_key(name) {
                return Some(name);
            }
            name = self.links.get(name)?;
        }
        None
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.follow(name).is_some()
    }

    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.files.get(self.follow(name)?)
    }

    /// Takes a member out, for its file to get another name.
    pub(super) fn take(&mut self, name: &str) -> Option<Member> {
        let name = self.follow(name)?.to_owned();
        self.files.remove(&name)
    }

    /// The content of a small member.
    pub(super) fn small(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(member) = self.member(name) else { return Ok(None) };
        if member.size > SMALL {
            return Err(ImageError::Broken(format!("{name} has {} bytes", member.size)));
        }
        let mut bytes = Vec::new();
        member
            .open()?
            .read_to_end(&mut bytes)
            .map_err(|e| ArchiveError::from_io("read", name, e))?;
        Ok(Some(bytes))
    }
}

impl Member {
    pub(super) fn open(&self) -> Result<File, ImageError> {
        let scratch = self.scratch.as_ref().ok_or(ImageError::Interrupted)?;
        File::open(scratch.path()).map_err(ImageError::io("open", scratch.path()))
    }
}

fn copy(
    reader: &mut impl Read,
    content: &Content,
    buffer: &mut [u8],
) -> Result<Member, ImageError> {
    let scratch = content.scratch()?;
    let mut out = Hashing::new(scratch.file());
    loop {
        let n = reader.read(buffer).map_err(|e| ArchiveError::from_io("read", "the archive", e))?;
        if n == 0 {
            break;
        }
        out.write_all(&buffer[..n]).map_err(writing(scratch.path()))?;
    }
    let (_, digest, size) = out.finish();
    Ok(Member { scratch: Some(scratch), digest, size })
}

fn outside(path: &[u8]) -> ImageError {
    ArchiveError::Refused {
        entry: String::from_utf8_lossy(path).into_owned(),
        reason: "it leads out of the archive".into(),
    }
    .into()
}

/// A member's name without dots.
fn member_name(path: &[u8]) -> Result<String, ImageError> {
    resolve("", &String::from_utf8_lossy(path)).ok_or_else(|| outside(path))
}

fn resolve(parent: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = parent.split('/').filter(|p| !p.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}
