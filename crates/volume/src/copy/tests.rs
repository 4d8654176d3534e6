//! Copies are compared with their sources down to the last attribute. Owners,
//! devices and access lists need root; those tests say so when skipped.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};

use super::*;

/// All that a file is, but for where.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    links: u64,
    modified: (i64, i64),
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
    /// The path that sorts first among the names of this file.
    first: Vec<u8>,
}

fn shown(root: &Path) -> BTreeMap<Vec<u8>, Shown> {
    let mut all = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let names = sampan_sys::xattr::list(&path).unwrap();
        let value = |n: &OsStr| sampan_sys::xattr::get(&path, n).unwrap().unwrap();
        let attributes =
            names.iter().map(|n| (n.as_bytes().to_vec(), value(n))).collect::<BTreeMap<_, _>>();
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let one = Shown {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            device: meta.rdev(),
            size: if meta.is_dir() { 0 } else { meta.size() },
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            modified: (meta.mtime(), meta.mtime_nsec()),
            attributes,
            content,
            first: Vec::new(),
        };
        all.insert(name, (meta.ino(), one));
    }
    let mut firsts = BTreeMap::new();
    for (name, (inode, _)) in &all {
        firsts.entry(*inode).or_insert_with(|| name.clone());
    }
    let with_first = |(name, (inode, one)): (Vec<u8>, (u64, Shown))| {
        (name, Shown { first: firsts[&inode].clone(), ..one })
    };
    all.into_iter().map(with_first).collect()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root for owners and devices");
    }
    is_root
}

fn old(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    let at = rustix::fs::CWD;
    rustix::fs::utimensat(at, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// One of everything.
fn everything(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("a/small"), b"hello").unwrap();
    fs::write(root.join("a/none"), b"").unwrap();
    fs::write(root.join("a/large"), vec![7; 3 << 20]).unwrap();
    let sparse = fs::File::create(root.join("a/sparse")).unwrap();
    sparse.write_at(b"middle", 5 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    fs::File::create(root.join("a/hole")).unwrap().set_len(1 << 20).unwrap();
    fs::hard_link(root.join("a/small"), root.join("a/b/c/again")).unwrap();
    fs::hard_link(root.join("a/small"), root.join("thrice")).unwrap();
    symlink("/etc/passwd", root.join("a/link")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not \xff utf-8\n")), b"x").unwrap();
    let at = rustix::fs::CWD;
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(at, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("pipe", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    let owned = |name: &str, mode, uid, gid| {
        std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    owned("a/large", 0o4755, 33, 34);
    owned("a/b", 0o2770, 5, 6);
    owned("empty", 0o1777, 0, 0);
    owned("null", 0o666, 7, 8);
    std::os::unix::fs::lchown(root.join("a/link"), Some(9), Some(10)).unwrap();
    let set = |name: &str, attribute: &str, value: &[u8]| {
        sampan_sys::xattr::set(&root.join(name), OsStr::new(attribute), value).unwrap();
    };
    set("a/small", "user.colour", b"red");
    set("a/small", "trusted.big", &[1; 2000]);
    set("a/link", "trusted.of-a-link", b"y");
    set("null", "trusted.of-a-device", b"z");
    // cap_net_bind_service=ep, version 2.
    let mut capability = [0u8; 20];
    (capability[3], capability[0], capability[5]) = (2, 1, 4);
    set("a/large", "security.capability", &capability);
    // user::rwx user:1000:rwx group::r-x mask::rwx other::r-x
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    set("a/b", "system.posix_acl_access", &list);
    set("a/b", "system.posix_acl_default", &list);
    for (n, name) in ["a/b/c", "a/b", "a/small", "a/link", "pipe", "a", ""].iter().enumerate() {
        old(&root.join(name), 1_000_000_000 + i64::try_from(n).unwrap());
    }
}

#[test]
fn one_of_everything_is_copied_whole() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir_in(".").unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    everything(&from);
    let before = shown(&from);
    for threads in [1, 4] {
        fs::create_dir(&to).unwrap();
        copy_tree_with(&from, &to, threads).unwrap();
        assert_eq!(shown(&to), before);
        let blocks = |name: &str| fs::metadata(to.join(name)).unwrap().blocks() * 512;
        assert!(blocks("a/sparse") < 1 << 20, "the holes are kept");
        assert_eq!(blocks("a/hole"), 0);
        fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn many_files_and_names_are_all_there() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for sub in 0..20 {
        let sub = from.join(format!("d{sub}/e/f"));
        fs::create_dir_all(&sub).unwrap();
        for file in 0..150 {
            fs::write(sub.join(format!("f{file}")), format!("{file}")).unwrap();
        }
        fs::hard_link(from.join("d0/e/f/f0"), sub.join("same")).unwrap();
    }
    fs::create_dir(&to).unwrap();
    let watch = Watch::new(|_| {});
    copy_tree(&from, &to, &watch).unwrap();
    assert_eq!(shown(&to), shown(&from));
    assert_eq!(watch.progress().files, 20 * 151 + 61);
}

#[test]
fn trees_may_be_deeper_than_descriptors_reach() {
    const DEPTH: usize = 3000;
    let dir = tempfile::tempdir_in(".").unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    let mut at = open_dir(&from).unwrap();
    for level in 0..DEPTH {
        rfs::mkdirat(&at, "down", Mode::RWXU).unwrap();
        rfs::mkdirat(&at, "side", Mode::RWXU).unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE;
        if level.is_multiple_of(100) {
            rfs::openat(&at, format!("f{level}"), flags, Mode::RUSR).unwrap();
        }
        at = rfs::openat(&at, "down", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    copy_tree(&from, &to, &Watch::default()).unwrap();
    let mut at = open_dir(&to).unwrap();
    let exists = |at: &OwnedFd, name: &str| rfs::statat(at, name, AtFlags::empty()).is_ok();
    for level in 0..DEPTH {
        assert!(exists(&at, "side") && exists(&at, &format!("f{level}")) == (level % 100 == 0));
        at = rfs::openat(&at, "down", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    for tree in [&from, &to] {
        sampan_sys::file::remove_tree(tree).unwrap();
    }
}

#[test]
fn a_copy_is_stopped() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    for file in 0..100 {
        fs::write(from.join(format!("f{file}")), b"x").unwrap();
    }
    let watch = Watch::default();
    watch.stop();
    let error = copy_tree(&from, &to, &watch).unwrap_err();
    assert!(matches!(error, VolumeError::Stopped { .. }), "{error}");
    assert!(fs::read_dir(&to).unwrap().count() < 100);
}

/// Somebody changes the source all the time: into links that lead out, pipes
/// that would be waited for, nothing.
#[test]
fn a_source_that_changes_leads_nowhere_else() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/file"), b"secret").unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    for n in 0..50 {
        fs::create_dir(from.join(format!("d{n}"))).unwrap();
        fs::write(from.join(format!("d{n}/file")), b"public").unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let changer = {
        let (done, from, out) = (done.clone(), from.clone(), outside.join("sub"));
        std::thread::spawn(move || {
            let pipe = |path: &Path| {
                let mode = Mode::RUSR | Mode::WUSR;
                rfs::mknodat(rfs::CWD, path, FileType::Fifo, mode, 0)
            };
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                let (sub, moved) = (from.join(format!("d{}", n % 50)), from.join("moved"));
                let file = sub.join("file");
                n += 1;
                let _ = fs::rename(&sub, &moved);
                let _ = symlink(&out, &sub);
                let _ = fs::remove_file(&sub);
                let _ = fs::rename(&moved, &sub);
                let _ = fs::remove_file(&file);
                let _ = pipe(&file);
                let _ = fs::remove_file(&file);
                let _ = fs::write(&file, b"public");
            }
        })
    };
    for n in 0..30 {
        let to = dir.path().join(format!("to{n}"));
        fs::create_dir(&to).unwrap();
        copy_tree(&from, &to, &Watch::default()).unwrap();
        let found = shown(&to);
        assert!(found.values().all(|one| one.content != b"secret"), "a link was followed");
    }
    done.store(true, Ordering::Relaxed);
    changer.join().unwrap();
}
