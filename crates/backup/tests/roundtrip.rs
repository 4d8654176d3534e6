//! What is backed up is restored byte for byte, with everything about it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Lab, about, name, noise, picture};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use sampan_backup::{Access, BackupError, Repository, Secret, Wanted, Watch};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: needs root");
    }
    root
}

fn set_times(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with one of everything.
fn curiosities(root: &Path) {
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("large"), noise(1, 5 << 20)).unwrap();
    fs::write(root.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/one"), "linked").unwrap();
    fs::hard_link(root.join("a/b/one"), root.join("a/two")).unwrap();
    symlink("../nowhere", root.join("a/dangling")).unwrap();
    symlink(name(b"\xff\xfe"), root.join("a/raw")).unwrap();
    fs::write(root.join(name(b"not\xffutf8")), "x").unwrap();
    fs::write(root.join("quote\"back\\slash\nnewline"), "y").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 64 << 20).unwrap();
    sparse.write_all_at(&noise(2, 70_000), 3 << 20).unwrap();
    for (path, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("disk", FileType::BlockDevice, rustix::fs::makedev(7, 300)),
    ] {
        rustix::fs::mknodat(CWD, root.join(path), kind, Mode::from_raw_mode(0o640), device)
            .unwrap();
    }
    for (path, id) in [("a/b/one", 1000), ("a/dangling", 1001), ("fifo", 1002), ("a/b", 1003)] {
        let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id + 70_000)));
        rustix::fs::chownat(CWD, root.join(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    sampan_sys::xattr::set(&root.join("large"), name(b"user.note"), &noise(3, 900)).unwrap();
    sampan_sys::xattr::set(&root.join("a"), name(b"user.empty"), b"").unwrap();
    sampan_sys::xattr::set(&root.join("a/raw"), name(b"trusted.link"), b"l").unwrap();
    // cap_net_bind_service, version 2.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    sampan_sys::xattr::set(&root.join("run"), name(b"security.capability"), &capability).unwrap();
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o3770)).unwrap();
    acl(&root.join("empty"), b"system.posix_acl_access");
    acl(&root.join("a"), b"system.posix_acl_default");
    for path in ["a/dangling", "empty", "a/b/c", "a/b", "a", "fifo", "null"] {
        set_times(&root.join(path), -86_400);
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o1750)).unwrap();
    rustix::fs::chown(root, Some(Uid::from_raw(999)), Some(Gid::from_raw(998))).unwrap();
    set_times(root, 1_000_000_000);
}

/// user::rw-, user:1234:r--, group::r--, mask::r--, other::---
fn acl(path: &Path, attribute: &[u8]) {
    let mut value = vec![2, 0, 0, 0];
    let none = u32::MAX;
    for (tag, permission, id) in
        [(1u16, 6u16, none), (2, 4, 1234), (4, 4, none), (16, 4, none), (32, 0, none)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(permission.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    sampan_sys::xattr::set(path, name(attribute), &value).unwrap();
}

#[test]
fn everything_about_a_tree_comes_back() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    curiosities(&lab.source());
    let before = picture(&lab.source());
    let made = lab.backup();
    assert_eq!(made.notes, Vec::<String>::new());
    assert_eq!((made.snapshot.unreadable, made.resumed), (0, false));
    let target = lab.target("target");
    let wanted = Wanted::Latest(Some("data".to_owned()));
    let done = lab.repository().restore(&wanted, &target, &Watch::nobody()).unwrap();
    assert_eq!(done.damaged, vec![]);
    assert_eq!(done.snapshot.about, about());
    let after = picture(&target);
    for (path, text) in &before {
        assert_eq!(after.get(path), Some(text), "{}", path.display());
    }
    assert_eq!(before.len(), after.len());
    let sparse = fs::metadata(target.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    // Nothing was read but what changed; nothing sent but what is new.
    assert_eq!(picture(&lab.source()), before);
    let again = lab.backup();
    assert_eq!(again.changed, 0);
    assert!(again.sent < 100_000, "{} bytes", again.sent);
}

#[test]
fn every_tree_comes_back_and_the_second_backup_sends_little() {
    let entry = (0u8..4, prop::collection::vec(any::<u8>(), 0..3000), 0u32..0o1000);
    let trees = prop::collection::vec((prop::collection::vec(0u8..6, 1..4), entry), 0..25);
    let config = Config { cases: 4, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    runner
        .run(&(trees.clone(), trees), |(first, second)| {
            let lab = Lab::new();
            for (round, tree) in [first, second].into_iter().enumerate() {
                for (path, (kind, content, mode)) in tree {
                    grow(&lab.source(), &path, kind, &content, mode);
                }
                lab.backup();
                let target = lab.target(&format!("target{round}"));
                let wanted = Wanted::Latest(None);
                let done = lab.repository().restore(&wanted, &target, &Watch::nobody()).unwrap();
                prop_assert_eq!(done.damaged, vec![]);
                prop_assert_eq!(picture(&lab.source()), picture(&target));
            }
            Ok(())
        })
        .unwrap();
}

/// Adds or changes one entry; where something is in the way nothing happens.
fn grow(root: &Path, path: &[u8], kind: u8, content: &[u8], mode: u32) {
    let mut at = root.to_owned();
    for part in &path[..path.len() - 1] {
        at.push(format!("d{part}"));
    }
    if fs::create_dir_all(&at).is_err() {
        return;
    }
    let at = at.join(format!("f{}", path[path.len() - 1]));
    match kind {
        0 => drop(fs::remove_file(&at)),
        1 => drop(symlink("elsewhere", &at)),
        _ => {
            if fs::write(&at, content).is_ok() && !at.is_symlink() {
                fs::set_permissions(&at, fs::Permissions::from_mode(mode | 0o400)).unwrap();
            }
        }
    }
}

#[test]
fn the_same_content_is_stored_once() {
    let lab = Lab::new();
    let content = noise(7, 12 << 20);
    for n in 0..5 {
        fs::write(lab.source().join(format!("copy{n}")), &content).unwrap();
    }
    let made = lab.backup();
    assert!(made.sent < 13 << 20, "{} bytes", made.sent);
    // One byte more at the front: only the pieces around it are new.
    let shifted = [b"x", content.as_slice()].concat();
    fs::write(lab.source().join("shifted"), shifted).unwrap();
    let made = lab.backup();
    assert!(made.sent < 9 << 20, "{} bytes", made.sent);
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let lab = Lab::new();
    fs::write(lab.source().join("f"), "x").unwrap();
    lab.backup();
    let access = Access { secret: Secret::new("wrong"), ..lab.access() };
    let repository = Repository::new(access, lab.runtime.handle()).unwrap();
    let wrong = |e: BackupError| matches!(e, BackupError::WrongSecret { .. });
    assert!(wrong(repository.list(None).unwrap_err()));
    let nobody = Watch::nobody();
    assert!(wrong(repository.backup(&lab.source(), &about(), &nobody).unwrap_err()));
    let target = lab.target("target");
    assert!(wrong(repository.restore(&Wanted::Latest(None), &target, &nobody).unwrap_err()));
    assert!(wrong(repository.check(&nobody).unwrap_err()));
    assert_eq!(fs::read_dir(target).unwrap().count(), 0);
    assert_eq!(lab.repository().list(None).unwrap().len(), 1);
}

#[test]
fn backups_are_found_by_volume_and_by_the_beginning_of_their_id() {
    let lab = Lab::new();
    let repository = lab.repository();
    let none = repository.list(None).unwrap_err();
    assert!(matches!(none, BackupError::NoRepository { .. }), "{none}");
    let nobody = Watch::nobody();
    for volume in ["one", "two", "one"] {
        fs::write(lab.source().join("f"), volume).unwrap();
        let about = sampan_backup::About { volume: volume.to_owned(), ..about() };
        repository.backup(&lab.source(), &about, &nobody).unwrap();
    }
    assert_eq!(repository.list(None).unwrap().len(), 3);
    let of_one = repository.list(Some("one")).unwrap();
    assert_eq!(of_one.len(), 2);
    assert!(of_one[0].time < of_one[1].time);
    let latest = repository.find(&Wanted::Latest(Some("one".to_owned()))).unwrap();
    assert_eq!(latest, of_one[1]);
    let by_id = repository.find(&Wanted::Id(of_one[0].id[..10].to_owned())).unwrap();
    assert_eq!(by_id, of_one[0]);
    for wanted in [Wanted::Id("0".repeat(64)), Wanted::Latest(Some("three".to_owned()))] {
        let error = repository.find(&wanted).unwrap_err();
        assert!(matches!(error, BackupError::NoSnapshot { .. }), "{error}");
    }
}

#[test]
fn progress_is_told_and_a_directory_in_use_is_refused() {
    let lab = Lab::new();
    fs::write(lab.source().join("f"), noise(1, 1 << 20)).unwrap();
    lab.backup();
    fs::write(lab.source().join("g"), noise(2, 1 << 20)).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let watch = Watch::new(Default::default(), move |p| {
        assert!(p.total == 0 || p.done <= p.total);
        count.fetch_max(p.done, Ordering::Relaxed);
    });
    lab.repository().backup(&lab.source(), &about(), &watch).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 2 << 20);

    let access =
        Access { location: lab.source().to_str().unwrap().parse().unwrap(), ..lab.access() };
    let foreign = Repository::new(access, lab.runtime.handle()).unwrap();
    let error = foreign.backup(&lab.source(), &about(), &Watch::nobody()).unwrap_err();
    assert!(error.to_string().contains("neither a repository nor empty"), "{error}");
    assert!(!lab.source().join("data").exists());
}

#[test]
fn old_backups_go_by_the_rules_and_the_others_stay_whole() {
    let lab = Lab::new();
    let repository = lab.repository();
    for n in 0..4u64 {
        fs::write(lab.source().join("f"), noise(n, 200_000)).unwrap();
        lab.backup();
    }
    let other = sampan_backup::About { volume: "other".to_owned(), ..about() };
    repository.backup(&lab.source(), &other, &Watch::nobody()).unwrap();
    let keep = "2".parse().unwrap();
    let gone = repository.forget("data", "alpha", &keep, &Watch::nobody()).unwrap();
    assert_eq!((gone.gone.len(), gone.kept), (2, 2));
    assert_eq!(repository.list(Some("data")).unwrap().len(), 2);
    assert_eq!(repository.list(Some("other")).unwrap().len(), 1);
    let checked = repository.check(&Watch::nobody()).unwrap();
    assert_eq!(checked.errors, Vec::<String>::new());
    // Nothing of another host's.
    let gone = repository.forget("data", "beta", &keep, &Watch::nobody()).unwrap();
    assert_eq!(gone.kept, 0);
    // restic at work: nothing is removed; a forgotten lock is no obstacle.
    let lock = lab.repository_dir().join("locks/feed");
    fs::write(&lock, "x").unwrap();
    let keep = "1".parse().unwrap();
    let error = repository.forget("data", "alpha", &keep, &Watch::nobody()).unwrap_err();
    assert!(matches!(error, BackupError::Locked { .. }), "{error}");
    set_times(&lock, 1_000_000_000);
    let gone = repository.forget("data", "alpha", &keep, &Watch::nobody()).unwrap();
    assert_eq!(gone.gone.len(), 1);
}

#[test]
fn restic_reads_what_is_written_here() {
    use std::process::Command;
    if Command::new("restic").arg("version").output().is_err() {
        println!("SKIPPED: restic is not installed");
        return;
    }
    let lab = Lab::new();
    if is_root() {
        curiosities(&lab.source());
    }
    lab.backup();
    let target = lab.target("target");
    let restic = |arguments: &[&str]| {
        let output = Command::new("restic")
            .env("RESTIC_PASSWORD", "correct horse")
            .args(["--no-cache", "-r", lab.repository_dir().to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    restic(&["check", "--read-data"]);
    assert!(restic(&["snapshots"]).contains("alpha"));
    restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let restored = fs::read(target.join("data/large")).unwrap_or_default();
    assert_eq!(restored, fs::read(lab.source().join("large")).unwrap_or_default());
}
