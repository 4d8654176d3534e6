//! Snapshots, clones, restoring and renaming on file systems of the test's
//! own: with shared content, with subvolumes, and with neither.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and tells figures")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sampan_testkit::Disk;
use sampan_types::{ErrorKind, Kind, SnapshotName};
use sampan_volume::{ANONYMOUS_LABEL, CloneSpec, VolumeError, VolumeSpec, Volumes, Watch};

const MIB: u64 = 1 << 20;

fn spec(name: &str, options: &[(&str, &str)]) -> VolumeSpec {
    VolumeSpec {
        name: Some(name.to_owned()),
        options: map(options),
        labels: map(&[("team", "blue")]),
        ..VolumeSpec::default()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn snap(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

async fn keep(volumes: &Volumes, volume: &str, name: &str) -> Result<(), VolumeError> {
    let snapshot = volumes.snapshot(volume, &snap(name), &map(&[]), &Watch::default()).await?;
    assert_eq!((snapshot.volume.as_str(), snapshot.name.as_str()), (volume, name));
    Ok(())
}

async fn clone(
    volumes: &Volumes,
    from: &str,
    at: Option<&str>,
    to: &str,
) -> Result<(), VolumeError> {
    let at = at.map(snap);
    let spec = CloneSpec::default();
    volumes.clone_volume(from, at.as_ref(), to, &spec, &Watch::default()).await.map(drop)
}

/// What a file of a volume holds, seen as a container sees it.
async fn read(volumes: &Volumes, volume: &str, file: &str) -> Option<String> {
    let path = volumes.mount(volume, "reader").await.unwrap();
    let text = fs::read_to_string(path.join(file)).ok();
    volumes.unmount(volume, "reader").await.unwrap();
    text
}

async fn write(volumes: &Volumes, volume: &str, file: &str, text: &str) {
    let path = volumes.mount(volume, "writer").await.unwrap();
    fs::write(path.join(file), text).unwrap();
    volumes.unmount(volume, "writer").await.unwrap();
}

/// Nothing half made is below the data root.
fn is_tidy(root: &Path) {
    let mut rest = vec![root.join("volumes")];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with(".new.") && !name.starts_with(".gone."), "{name} is left");
            if entry.path().is_dir() && name != "_data" {
                rest.push(entry.path());
            }
        }
    }
}

/// A data root on a new file system of each kind, and with a plain directory.
async fn on_each<F>(test: &str, size: u64, run: impl Fn(std::path::PathBuf, &'static str) -> F)
where
    F: Future<Output = ()>,
{
    if !rustix::process::geteuid().is_root() {
        sampan_testkit::skip(test, "needs root to mount");
        return;
    }
    for kind in ["ext4", "btrfs", "xfs"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::new_or_skip(test, dir.path(), kind, size, &[], "") else { continue };
        run(disk.path(), kind).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_a_past_and_copies() {
    on_each("a_volume_has_a_past_and_copies", 400 * MIB, |root, kind| async move {
        let volumes = Volumes::open(&root).await.unwrap();
        for (name, options) in [("plain", &[] as &[_]), ("bounded", &[("size", "64m")])] {
            volumes.create(spec(name, options)).await.unwrap();
            write(&volumes, name, "f", "first").await;
            keep(&volumes, name, "one").await.unwrap();
            let again = keep(&volumes, name, "one").await.unwrap_err();
            assert!(matches!(again, VolumeError::SnapshotExists { .. }), "{again}");
            write(&volumes, name, "f", "second").await;
            // Also while it is used.
            volumes.mount(name, "c1").await.unwrap();
            keep(&volumes, name, "two").await.unwrap();
            let (copy, old) = (format!("{name}-copy"), format!("{name}-old"));
            clone(&volumes, name, None, &copy).await.unwrap();
            volumes.unmount(name, "c1").await.unwrap();
            clone(&volumes, name, Some("one"), &old).await.unwrap();
            assert_eq!(read(&volumes, &copy, "f").await.as_deref(), Some("second"), "{kind}");
            assert_eq!(read(&volumes, &old, "f").await.as_deref(), Some("first"), "{kind}");
            write(&volumes, &copy, "f", "own").await;
            assert_eq!(read(&volumes, name, "f").await.as_deref(), Some("second"));
            assert_eq!(volumes.get(&copy).unwrap().labels["team"], "blue");
            assert_eq!(volumes.get(&copy).unwrap().options, map(options));

            volumes.roll_back(name, &snap("one"), &Watch::default()).await.unwrap();
            assert_eq!(read(&volumes, name, "f").await.as_deref(), Some("first"), "{kind}");
            let names: Vec<_> = volumes.snapshots(name).await.unwrap();
            let names: Vec<_> = names.iter().map(|s| s.name.as_str()).collect();
            assert_eq!(names, ["one", "two"]);
            volumes.remove_snapshot(name, &snap("one")).await.unwrap();
            let gone = volumes.remove_snapshot(name, &snap("one")).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound);
            is_tidy(&root);
        }
        // The next daemon finds the same.
        let volumes = Volumes::open(&root).await.unwrap();
        assert!(volumes.restore(&BTreeMap::new()).await.is_empty());
        assert_eq!(volumes.snapshots("bounded").await.unwrap().len(), 1);
        assert_eq!(read(&volumes, "bounded-old", "f").await.as_deref(), Some("first"), "{kind}");
        for volume in volumes.list() {
            volumes.remove(volume.name.as_str()).await.unwrap();
        }
        assert_eq!(fs::read_dir(root.join("volumes")).unwrap().count(), 0, "{kind}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_gigabytes_are_cloned_in_a_moment_where_content_is_shared() {
    on_each("ten_gigabytes…", 14 << 30, |root, kind| async move {
        if kind == "ext4" {
            return;
        }
        let volumes = Volumes::open(&root).await.unwrap();
        let made = volumes.create(spec("large", &[])).await.unwrap().volume;
        let file = fs::File::create(made.mountpoint.join("f")).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, 10 << 30).unwrap();
        file.sync_all().unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= 10 << 30, "it has no holes");
        let begun = Instant::now();
        clone(&volumes, "large", None, "twin").await.unwrap();
        let took = begun.elapsed();
        println!("{kind}: 10 GiB in {took:?}");
        assert!(took < Duration::from_secs(1) * sampan_testkit::busy(), "{kind}: {took:?}");
        let twin = volumes.get("twin").unwrap().mountpoint.join("f");
        assert_eq!(fs::metadata(twin).unwrap().len(), 10 << 30);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_nothing_of_a_copy() {
    on_each("a_full_disk_keeps_nothing_of_a_copy", 400 * MIB, |root, kind| async move {
        if kind != "ext4" {
            return;
        }
        let volumes = Volumes::open(&root).await.unwrap();
        let made = volumes.create(spec("large", &[])).await.unwrap().volume;
        fs::write(made.mountpoint.join("f"), vec![1; 250 << 20]).unwrap();
        let before = rustix::fs::statvfs(&root).unwrap().f_bavail;
        let error = clone(&volumes, "large", None, "twin").await.unwrap_err();
        assert!(error.to_string().contains("is full"), "{error}");
        let error = keep(&volumes, "large", "one").await.unwrap_err();
        assert!(matches!(error, VolumeError::Full { .. }), "{error}");
        is_tidy(&root);
        let after = rustix::fs::statvfs(&root).unwrap().f_bavail;
        assert!(before.abs_diff(after) < 1000, "{before} blocks were free, now {after}");
        assert_eq!(volumes.list().len(), 1);
        assert!(volumes.snapshots("large").await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_refuses_and_says_so() {
    let test = "a_read_only_disk_refuses_and_says_so";
    if !rustix::process::geteuid().is_root() {
        sampan_testkit::skip(test, "needs root to mount");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new_or_skip(test, dir.path(), "ext4", 64 * MIB, &[], "") else { return };
    let volumes = Volumes::open(&disk.path()).await.unwrap();
    volumes.create(spec("data", &[])).await.unwrap();
    disk.remount("ro");
    for error in [
        keep(&volumes, "data", "one").await.unwrap_err(),
        clone(&volumes, "data", None, "twin").await.unwrap_err(),
        volumes.rename("data", "other").await.unwrap_err(),
    ] {
        assert!(error.to_string().to_lowercase().contains("read-only"), "{error}");
    }
    disk.remount("rw");
    is_tidy(&disk.path());
    keep(&volumes, "data", "one").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    volumes.create(spec("data", &[])).await.unwrap();
    volumes.create(spec("other", &[])).await.unwrap();
    let text = |e: VolumeError| e.to_string();
    let error = clone(&volumes, "data", None, "other").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(text(error).contains("there is a volume \"other\" already"));
    let error = clone(&volumes, "data", Some("none"), "new1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(text(error).starts_with("get data@none: no such snapshot"));
    assert!(text(clone(&volumes, "data", None, "a/b").await.unwrap_err()).contains("invalid"));
    assert!(text(clone(&volumes, "nope", None, "new1").await.unwrap_err()).contains("no such"));
    assert!(text(volumes.rename("data", "other").await.unwrap_err()).contains("already"));
    volumes.mount("data", "c1").await.unwrap();
    let error = volumes.rename("data", "new1").await.unwrap_err();
    assert_eq!(text(error), "rename data: it is mounted by [c1]: stop them first");
    keep(&volumes, "data", "one").await.unwrap();
    let error = volumes.roll_back("data", &snap("one"), &Watch::default()).await.unwrap_err();
    assert_eq!(text(error), "restore data: it is mounted by [c1]: stop them first");
    let elsewhere = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")];
    volumes.create(spec("elsewhere", &elsewhere)).await.unwrap();
    assert!(text(keep(&volumes, "elsewhere", "one").await.unwrap_err()).contains("is elsewhere"));
    is_tidy(dir.path());
}

#[tokio::test]
async fn a_volume_gets_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    volumes.create(spec("data", &[])).await.unwrap();
    write(&volumes, "data", "f", "x").await;
    keep(&volumes, "data", "one").await.unwrap();
    let renamed = volumes.rename("data", "files").await.unwrap();
    assert!(renamed.mountpoint.ends_with("files/_data"));
    // Again: what a daemon does that finds the work begun.
    assert_eq!(volumes.rename("data", "files").await.unwrap(), renamed);
    assert_eq!(volumes.get("data").unwrap_err().kind(), ErrorKind::NotFound);
    for volumes in [&volumes, &Volumes::open(dir.path()).await.unwrap()] {
        assert_eq!(read(volumes, "files", "f").await.as_deref(), Some("x"));
        assert_eq!(volumes.snapshots("files").await.unwrap().len(), 1);
    }
    volumes.roll_back("files", &snap("one"), &Watch::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn content_from_elsewhere_is_cloned_to_this_host() {
    let test = "content_from_elsewhere_is_cloned_to_this_host";
    if !rustix::process::geteuid().is_root() {
        sampan_testkit::skip(test, "needs root to mount");
        return;
    }
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("f"), "x").unwrap();
    let device = outside.path().to_str().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let bind = [("type", "none"), ("o", "bind"), ("device", device)];
    volumes.create(spec("bound", &bind)).await.unwrap();
    clone(&volumes, "bound", None, "copy").await.unwrap();
    assert!(volumes.get("copy").unwrap().options.is_empty());
    let bound = volumes.get("bound").unwrap().mountpoint.canonicalize().unwrap();
    assert!(!sampan_sys::mount::is_mounted(&bound).unwrap(), "it is unmounted again");
    fs::write(outside.path().join("f"), "y").unwrap();
    assert_eq!(read(&volumes, "copy", "f").await.as_deref(), Some("x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_leaves_no_copy() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let unnamed = volumes.create(VolumeSpec::default()).await.unwrap().volume;
    let from = unnamed.name.as_str();
    for n in 0..3000 {
        fs::write(unnamed.mountpoint.join(format!("f{n}")), [7; 9000]).unwrap();
    }
    let copied = Arc::new(AtomicU64::new(0));
    let (heard, (begun, first)) = (copied.clone(), std::sync::mpsc::channel());
    let watch = Watch::new(move |progress| {
        heard.store(progress.bytes, Ordering::Relaxed);
        let _ = begun.send(());
    });
    let task = {
        let (volumes, from, watch) = (volumes.clone(), from.to_owned(), watch.clone());
        let spec = CloneSpec::default();
        tokio::spawn(async move { volumes.clone_volume(&from, None, "copy", &spec, &watch).await })
    };
    tokio::task::spawn_blocking(move || first.recv()).await.unwrap().unwrap();
    task.abort();
    assert!(task.await.is_err());
    // The end of the copy is the end of its use of the volume.
    let deadline = Instant::now() + Duration::from_secs(10) * sampan_testkit::busy();
    while volumes.rename(from, "renamed").await.is_err() {
        assert!(Instant::now() < deadline, "the copy goes on");
        tokio::task::yield_now().await;
    }
    assert!(copied.load(Ordering::Relaxed) > 0);
    assert_eq!(volumes.list().len(), 1);
    is_tidy(dir.path());
    clone(&volumes, "renamed", None, "copy").await.unwrap();
    assert!(!volumes.get("copy").unwrap().labels.contains_key(ANONYMOUS_LABEL));
}

#[tokio::test]
async fn what_a_crash_left_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let made = volumes.create(spec("data", &[])).await.unwrap().volume;
    keep(&volumes, "data", "one").await.unwrap();
    let snapshots = made.mountpoint.parent().unwrap().join("snapshots");
    for name in [".new.0123/_data", ".gone.0123"] {
        fs::create_dir_all(snapshots.join(name)).unwrap();
    }
    let volumes = Volumes::open(dir.path()).await.unwrap();
    assert_eq!(volumes.snapshots("data").await.unwrap().len(), 1);
    is_tidy(dir.path());
    let users = BTreeMap::from([(made.name.clone(), BTreeSet::from(["c1".to_owned()]))]);
    assert!(volumes.restore(&users).await.is_empty());
    assert!(volumes.rename("data", "other").await.is_err());
}
