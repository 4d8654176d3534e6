//! Interruptions and damage: what was whole before stays whole, what is
//! damaged is named.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Lab, about, noise, picture};
use sampan_backup::{BackupError, Wanted, Watch};
use tokio_util::sync::CancellationToken;

/// Overwrites some bytes in the middle.
fn damage(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().size() / 3;
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, middle).unwrap();
    file.write_all_at(&bytes.map(|b| !b), middle).unwrap();
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn an_interrupted_backup_is_taken_over_by_the_next() {
    let lab = Lab::new();
    fs::write(lab.source().join("old"), "old").unwrap();
    lab.backup();
    let before = lab.repository().list(None).unwrap();
    // More than one pack.
    const FILES: u64 = 40;
    for n in 0..FILES {
        fs::write(lab.source().join(format!("f{n}")), noise(n + 1, 3 << 20)).unwrap();
    }
    let cancel = CancellationToken::new();
    let (stop, seen) = (cancel.clone(), Arc::new(AtomicU64::new(0)));
    let packs_dir = lab.repository_dir().join("data");
    let packs = move || {
        let dirs = fs::read_dir(&packs_dir).unwrap();
        let counts = dirs.map(|d| fs::read_dir(d.unwrap().path()).unwrap().count());
        counts.sum::<usize>()
    };
    let at_start = packs();
    let watch = Watch::new(cancel, move |p| {
        // In the middle, as soon as some pack is stored.
        if p.done > 40 << 20 && packs() > at_start {
            stop.cancel();
        }
        seen.store(p.done, Ordering::Relaxed);
    });
    let error = lab.repository().backup(&lab.source(), &about(), &watch).unwrap_err();
    assert!(matches!(error, BackupError::Cancelled), "{error}");
    assert_eq!(lab.repository().list(None).unwrap(), before);
    let stored: u64 = lab.files("data").iter().map(|p| p.metadata().unwrap().len()).sum();
    assert!(stored > 8 << 20, "{stored} bytes were stored");

    let made = lab.backup();
    assert!(made.resumed);
    let all = FILES * (3 << 20);
    assert!(made.sent + stored < all + (8 << 20), "{} of {all} were sent again", made.sent);
    let target = lab.target("target");
    let done = lab.repository().restore(&Wanted::Latest(None), &target, &Watch::nobody()).unwrap();
    assert_eq!(done.damaged, vec![]);
    assert_eq!(picture(&lab.source()), picture(&target));
    assert_eq!(lab.repository().check(&Watch::nobody()).unwrap().errors, Vec::<String>::new());
    assert!(!lab.backup().resumed);
}

#[test]
fn a_damaged_pack_is_named_and_the_rest_restored() {
    let lab = Lab::new();
    fs::write(lab.source().join("first"), noise(1, 2 << 20)).unwrap();
    lab.backup();
    let packs = lab.files("data");
    fs::write(lab.source().join("second"), noise(2, 2 << 20)).unwrap();
    fs::write(lab.source().join("third"), "small").unwrap();
    lab.backup();
    // The largest of the first backup holds the content of `first`.
    let broken = packs.iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    damage(broken);
    let target = lab.target("target");
    let done = lab.repository().restore(&Wanted::Latest(None), &target, &Watch::nobody()).unwrap();
    assert!(!done.damaged.is_empty());
    for damage in &done.damaged {
        assert_eq!(damage.path, Path::new("first"));
        assert_eq!(damage.pack.as_deref(), Some(name_of(broken).as_str()));
    }
    for name in ["second", "third"] {
        let (was, is) = (fs::read(lab.source().join(name)), fs::read(target.join(name)));
        assert_eq!(was.unwrap(), is.unwrap(), "{name}");
    }
    // What is not whole has its length.
    assert_eq!(fs::metadata(target.join("first")).unwrap().len(), 2 << 20);
    let checked = lab.repository().check(&Watch::nobody()).unwrap();
    assert!(checked.errors.iter().any(|e| e.contains(&name_of(broken))), "{checked:?}");
    // A pack that is gone is named, too.
    fs::remove_file(broken).unwrap();
    let target = lab.target("target2");
    let done = lab.repository().restore(&Wanted::Latest(None), &target, &Watch::nobody()).unwrap();
    assert_eq!(done.damaged[0].pack.as_deref(), Some(name_of(broken).as_str()));
    let checked = lab.repository().check(&Watch::nobody()).unwrap();
    assert!(checked.errors.iter().any(|e| e.contains(&name_of(broken))), "{checked:?}");
}

#[test]
fn a_damaged_index_costs_nothing() {
    let lab = Lab::new();
    fs::write(lab.source().join("f"), noise(1, 100_000)).unwrap();
    lab.backup();
    let index = lab.files("index");
    damage(&index[0]);
    let target = lab.target("target");
    let done = lab.repository().restore(&Wanted::Latest(None), &target, &Watch::nobody()).unwrap();
    assert_eq!(done.damaged, vec![]);
    assert_eq!(picture(&lab.source()), picture(&target));
    let checked = lab.repository().check(&Watch::nobody()).unwrap();
    assert!(checked.errors.iter().any(|e| e.contains(&name_of(&index[0]))), "{checked:?}");
}

#[test]
fn a_damaged_snapshot_is_named_and_the_others_are_listed() {
    let lab = Lab::new();
    fs::write(lab.source().join("f"), "1").unwrap();
    let first = lab.backup();
    fs::write(lab.source().join("f"), "22").unwrap();
    lab.backup();
    damage(&lab.repository_dir().join("snapshots").join(&first.snapshot.id));
    assert_eq!(lab.repository().list(None).unwrap().len(), 1);
    let checked = lab.repository().check(&Watch::nobody()).unwrap();
    assert!(checked.errors.iter().any(|e| e.contains(&first.snapshot.id)), "{checked:?}");
    let target = lab.target("target");
    lab.repository().restore(&Wanted::Latest(None), &target, &Watch::nobody()).unwrap();
    assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "22");
}

#[test]
fn a_storage_that_refuses_leaves_what_was_there() {
    let lab = Lab::new();
    fs::write(lab.source().join("f"), "1").unwrap();
    lab.backup();
    let before = lab.repository().list(None).unwrap();
    // A file where packs of half the names should go.
    let data = lab.repository_dir().join("data");
    fs::rename(&data, lab.dir.path().join("data")).unwrap();
    fs::write(&data, "").unwrap();
    fs::write(lab.source().join("g"), noise(3, 100_000)).unwrap();
    let error = lab.repository().backup(&lab.source(), &about(), &Watch::nobody()).unwrap_err();
    assert!(matches!(error, BackupError::Storage { .. }), "{error}");
    fs::remove_file(&data).unwrap();
    fs::rename(lab.dir.path().join("data"), &data).unwrap();
    assert_eq!(lab.repository().list(None).unwrap(), before);
    assert!(lab.backup().resumed);
    assert_eq!(lab.repository().check(&Watch::nobody()).unwrap().errors, Vec::<String>::new());
}
