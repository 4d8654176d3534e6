//! One entry of a directory as the format has it.
//!
//! Modes are those of Go (`os.FileMode`): the format is restic's, and restic
//! writes them so.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustix::fs::{FileType, Stat};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHARACTER: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;

/// Permissions of a Unix mode beside those of Go's.
const PERMISSIONS: [(u32, u32); 3] = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];

/// Go's mode for that of stat(2).
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => DIR,
        FileType::Symlink => SYMLINK,
        FileType::BlockDevice => DEVICE,
        FileType::CharacterDevice => DEVICE | CHARACTER,
        FileType::Fifo => FIFO,
        FileType::Socket => SOCKET,
        _ => 0,
    };
    let special = PERMISSIONS.iter().filter(|(unix, _)| mode & unix != 0).map(|(_, go)| go);
    kind | special.sum::<u32>() | (mode & 0o777)
}

/// The permissions of Go's mode as chmod(2) takes them.
pub(crate) fn unix_mode(go: u32) -> u32 {
    let special = PERMISSIONS.iter().filter(|(_, bit)| go & bit != 0).map(|(unix, _)| unix);
    special.sum::<u32>() | (go & 0o777)
}

pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn time(seconds: i64, nanos: u64) -> Option<Timestamp> {
    let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Timestamp::from_nanosecond(nanos).ok()
}

/// The entry `name` with what stat(2) says of it. `reach` is a path on which
/// its attributes are found.
pub(super) fn node(name: &OsStr, stat: &Stat, reach: &Path) -> io::Result<Node> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeType::Dir,
        FileType::Symlink => NodeType::from_link(&link_target(reach)?),
        FileType::BlockDevice => NodeType::Dev { device: stat.st_rdev },
        FileType::CharacterDevice => NodeType::Chardev { device: stat.st_rdev },
        FileType::Fifo => NodeType::Fifo,
        FileType::Socket => NodeType::Socket,
        _ => NodeType::File,
    };
    let is_dir = is_dir(stat);
    let links = if is_dir { 0 } else { stat.st_nlink };
    let size = if is_file(stat) { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    let metadata = Metadata {
        mode: Some(go_mode(stat.st_mode)),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        atime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        // Names mean other numbers on another host, and in containers.
        user: None,
        group: None,
        inode: stat.st_ino,
        device_id: if links > 1 { stat.st_dev } else { 0 },
        size,
        links,
        extended_attributes: attributes(reach)?,
    };
    Ok(Node::new_node(name, kind, metadata))
}

fn link_target(reach: &Path) -> io::Result<PathBuf> {
    let target = rustix::fs::readlink(reach, Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// The extended attributes, by name; ACLs are among them. The library's type
/// has no public name: it is made from its written form.
fn attributes<T: DeserializeOwned>(reach: &Path) -> io::Result<Vec<T>> {
    let names = sampan_sys::xattr::list(reach)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = BTreeMap::new();
    for name in names {
        // One that went meanwhile is none.
        let Some(value) = sampan_sys::xattr::get(reach, &name)? else { continue };
        let name = name
            .into_string()
            .map_err(|_| io::Error::other("an extended attribute's name is not UTF-8"))?;
        found.insert(name, BASE64.encode(value));
    }
    let written: Vec<_> =
        found.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    serde_json::from_value(Value::Array(written)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_survive_the_way_through_gos() {
        for kind in [0o100_000, 0o040_000, 0o010_000, 0o140_000, 0o020_000, 0o060_000] {
            for permissions in [0, 0o644, 0o7777, 0o4711, 0o2755, 0o1777] {
                assert_eq!(unix_mode(go_mode(kind | permissions)), permissions);
            }
        }
        // As restic has them.
        assert_eq!(go_mode(0o100_644), 420);
        assert_eq!(go_mode(0o040_755), 2_147_484_141);
        assert_eq!(go_mode(0o120_777), 134_218_239);
    }

    #[test]
    fn times_before_1970_are_kept() {
        let early = time(-2, 500_000_000).unwrap();
        assert_eq!(early.as_nanosecond(), -1_500_000_000);
    }
}
