//! Volumes with a limit, an owner or a key, on file systems of the test's own.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail, and tells figures")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sampan_testkit::{Disk, eventually};
use sampan_types::{ErrorKind, Kind, SnapshotName};
use sampan_volume::{CloneSpec, VolumeError, VolumeSpec, Volumes, Watch};

const MIB: u64 = 1 << 20;

/// A kind of data root.
struct Disks {
    name: &'static str,
    fs_type: &'static str,
    arguments: &'static [&'static str],
    options: &'static str,
}

/// All kinds; those that this machine can't have are skipped visibly.
const KINDS: [Disks; 5] = [
    Disks { name: "ext4", fs_type: "ext4", arguments: &["-O", "encrypt"], options: "" },
    Disks { name: "btrfs", fs_type: "btrfs", arguments: &[], options: "" },
    Disks { name: "xfs", fs_type: "xfs", arguments: &[], options: "" },
    Disks {
        name: "ext4 with quotas",
        fs_type: "ext4",
        arguments: &["-O", "encrypt,quota,project", "-E", "quotatype=prjquota"],
        options: "prjquota",
    },
    Disks { name: "xfs with quotas", fs_type: "xfs", arguments: &[], options: "prjquota" },
];

fn spec(name: &str, options: &[(&str, &str)]) -> VolumeSpec {
    VolumeSpec {
        name: Some(name.to_owned()),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..VolumeSpec::default()
    }
}

/// A volume's name, its options, and its root's owner and mode afterwards.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], (u32, u32));

/// A data root on a file system of its own.
struct Root {
    disk: Disk,
    _dir: tempfile::TempDir,
}

impl Root {
    fn new(test: &str, kind: &Disks) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            sampan_testkit::skip(test, "needs root to mount");
            return None;
        }
        let disk = Disk::new_or_skip(
            test,
            dir.path(),
            kind.fs_type,
            400 * MIB,
            kind.arguments,
            kind.options,
        )?;
        Some(Self { disk, _dir: dir })
    }

    fn all(test: &str) -> impl Iterator<Item = (&'static str, Self)> {
        let roots: Vec<_> =
            KINDS.iter().filter_map(|kind| Some((kind.name, Self::new(test, kind)?))).collect();
        roots.into_iter()
    }

    fn path(&self) -> PathBuf {
        self.disk.path()
    }

    async fn open(&self) -> Volumes {
        Volumes::open(&self.path()).await.unwrap()
    }

    /// Neither mounts nor loop devices below the data root, nor anything in it.
    fn is_clean(&self) {
        let below = self.path().canonicalize().unwrap().join("volumes");
        let mounts = sampan_sys::mount::list().unwrap();
        let left: Vec<_> = mounts.iter().filter(|m| m.target.starts_with(&below)).collect();
        assert!(left.is_empty(), "{left:?}");
        // Another test's namespace may have begun with a copy of the mount.
        eventually("loop devices are gone", std::time::Duration::from_secs(60), || {
            loop_files().iter().all(|f| !f.starts_with(&below)).then_some(())
        });
        let entries: Vec<_> = fs::read_dir(below).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(entries.is_empty(), "{entries:?}");
    }
}

/// The files behind all loop devices.
fn loop_files() -> Vec<PathBuf> {
    let blocks = fs::read_dir("/sys/block").unwrap();
    let files = blocks.filter_map(|b| {
        let text = fs::read_to_string(b.ok()?.path().join("loop/backing_file")).ok()?;
        Some(PathBuf::from(text.trim_end().trim_end_matches(" (deleted)")))
    });
    files.collect()
}

/// Writes until there is no room, as a container's process would; gives the
/// bytes that found some.
fn fill(path: &Path) -> u64 {
    let path = path.to_owned();
    let filler = std::thread::spawn(move || {
        // Who has it may exceed the quotas of ext4. Containers don't.
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets).unwrap();
        fill_here(&path)
    });
    filler.join().unwrap()
}

fn fill_here(path: &Path) -> u64 {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    let piece = vec![7u8; 1 << 16];
    let mut written = 0;
    loop {
        let error = match file.write(&piece) {
            Ok(n) => {
                written += n as u64;
                assert!(written < 500 * MIB, "there is no limit");
                continue;
            }
            Err(e) => e,
        };
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        assert!(full.contains(&error.kind()), "{error}");
        let _ = file.sync_all();
        return written;
    }
}

/// What can be written to the file system that `path` is on.
fn room(path: &Path) -> u64 {
    let system = rustix::fs::statvfs(path).unwrap();
    system.f_bavail * system.f_frsize
}

/// Mounts `data` for `c1`, until it has grown. It does so once nobody has it
/// open any more: a program that another test is about to start does for a moment.
async fn mount_with_room(volumes: &Volumes, wanted: u64) -> PathBuf {
    for _ in 0..50 {
        let data = volumes.mount("data", "c1").await.unwrap();
        if room(&data) >= wanted {
            return data;
        }
        volumes.unmount("data", "c1").await.unwrap();
    }
    volumes.mount("data", "c1").await.unwrap()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_volume_is_full_alone_and_grows_while_it_is_used() {
    for (kind, root) in Root::all("a limited volume") {
        let volumes = root.open().await;
        let volume = volumes.create(spec("data", &[("size", "48m")])).await.unwrap().volume;
        let data = volumes.mount("data", "c1").await.unwrap();
        assert_eq!(data, volume.mountpoint);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "{kind}");
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o755);

        let first = fill(&data.join("f"));
        assert!((30.0..49.0).contains(&mib(first)), "{kind}: {} MiB", mib(first));
        // Nothing is broken outside.
        fs::write(root.path().join("outside"), vec![1u8; 8 << 20]).unwrap();
        let usage = volumes.usage("data").await.unwrap().unwrap();
        assert_eq!(usage.limit, Some(48 * MIB), "{kind}");
        assert!(usage.bytes <= 49 * MIB && usage.bytes + MIB > first, "{kind}: {usage:?}");
        assert_eq!(volumes.size("data").await.unwrap(), Some(usage.bytes), "{kind}");

        let error = volumes.resize("data", "16m").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{kind}: {error}");
        eprintln!("{kind}: {error}");
        match volumes.resize("data", "96m").await {
            Ok(grown) => assert_eq!(grown.options["size"], "96m"),
            // This machine's root may not do everything: then it grows when it
            // is mounted again.
            Err(error) => {
                assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{kind}: {error}");
                sampan_testkit::skip("growing online", &error.to_string());
                volumes.unmount("data", "c1").await.unwrap();
                mount_with_room(&volumes, 30 * MIB).await;
            }
        }
        let second = fill(&data.join("g"));
        assert!((30.0..50.0).contains(&mib(second)), "{kind}: {} MiB", mib(second));

        // What is freed comes back.
        fs::remove_file(data.join("f")).unwrap();
        fs::remove_file(data.join("g")).unwrap();
        rustix::fs::syncfs(File::open(&data).unwrap()).unwrap();
        eventually("the room is given back", std::time::Duration::from_secs(20), || {
            let path = root.path().join("volumes/data/content.img");
            let taken = fs::metadata(path).map_or(0, |m| m.blocks() * 512);
            (taken < 30 * MIB).then_some(())
        });
        volumes.unmount("data", "c1").await.unwrap();
        let unmounted = volumes.usage("data").await.unwrap().unwrap();
        assert_eq!(unmounted.limit, Some(96 * MIB));
        volumes.remove("data").await.unwrap();
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_was_given_while_it_was_not_mounted_is_there_at_the_next_mount() {
    for (kind, root) in Root::all("a size while not mounted") {
        let volumes = root.open().await;
        volumes.create(spec("data", &[("size", "40m")])).await.unwrap();
        volumes.resize("data", "80m").await.unwrap();
        let again = root.open().await;
        let data = mount_with_room(&again, 60 * MIB).await;
        let written = fill(&data.join("f"));
        assert!(mib(written) > 60.0, "{kind}: {} MiB", mib(written));
        again.unmount("data", "c1").await.unwrap();
        again.remove("data").await.unwrap();
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_died_finds_what_is_mounted_and_takes_away_the_rest() {
    for (kind, root) in Root::all("a daemon that died") {
        let key = root.path().join("key");
        fs::write(&key, b"a key of some length").unwrap();
        let key = key.to_str().unwrap().to_owned();
        let secret = [("encrypted", "true"), ("key-file", key.as_str())];
        let volumes = root.open().await;
        for (name, options) in [("used", &[("size", "40m")][..]), ("idle", &[("size", "40m")])] {
            volumes.create(spec(name, options)).await.unwrap();
        }
        volumes.create(spec("locked", &secret)).await.unwrap();
        volumes.create(spec("open", &secret)).await.unwrap();
        let mut held = Vec::new();
        for name in ["used", "idle", "locked", "open"] {
            let data = volumes.mount(name, "c1").await.unwrap();
            fs::write(data.join("kept"), name).unwrap();
            // A container's open file.
            if name == "used" {
                held.push(File::options().append(true).open(data.join("kept")).unwrap());
            }
        }
        drop(volumes);

        let again = root.open().await;
        let user = BTreeSet::from(["c1".to_owned()]);
        let users = ["used", "open"].map(|n| (n.parse().unwrap(), user.clone()));
        let failures = again.restore(&BTreeMap::from(users)).await;
        assert!(failures.is_empty(), "{kind}: {failures:?}");
        held[0].write_all(b" and more").unwrap();
        let text =
            |name: &str| fs::read_to_string(root.path().join(format!("volumes/{name}/_data/kept")));
        assert_eq!(text("used").unwrap(), "used and more", "{kind}");
        assert_eq!(text("open").unwrap(), "open", "{kind}");
        assert!(text("locked").is_err(), "{kind}");
        if root.path().join("volumes/idle/content.img").exists() {
            assert!(text("idle").is_err(), "{kind}");
        }
        drop(held);
        for name in ["used", "open"] {
            again.unmount(name, "c1").await.unwrap();
        }
        for name in ["used", "idle", "locked", "open"] {
            let data = again.mount(name, "c2").await.unwrap();
            assert!(fs::read_to_string(data.join("kept")).unwrap().starts_with(name), "{kind}");
            again.unmount(name, "c2").await.unwrap();
            again.remove(name).await.unwrap();
        }
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_volume_is_opened_by_its_secret_alone() {
    for (kind, root) in Root::all("an encrypted volume") {
        let key = root.path().join("key");
        fs::write(&key, b"the right one").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let path = key.to_str().unwrap();
        let options = [("encrypted", "true"), ("key-file", path), ("size", "40m"), ("uid", "7")];
        // With a size: an image here. Without, ext4 encrypts by itself.
        let without = [options[0], options[1], options[3]];
        let both = [&options[..], &without[..]];
        for options in &both[..if kind.starts_with("ext4") { 2 } else { 1 }] {
            let volumes = root.open().await;
            volumes.create(spec("vault", options)).await.unwrap();
            let record = fs::read_to_string(root.path().join("volumes/vault/volume.json")).unwrap();
            assert!(!record.contains("the right one"), "{record}");
            let data = volumes.mount("vault", "c1").await.unwrap();
            assert_eq!(fs::metadata(&data).unwrap().uid(), 7, "{kind}");
            fs::write(data.join("diary"), b"dear diary, nobody reads this").unwrap();
            rustix::fs::syncfs(File::open(&data).unwrap()).unwrap();
            volumes.unmount("vault", "c1").await.unwrap();
            assert!(fs::read(data.join("diary")).is_err(), "{kind}");
            let names: Vec<_> =
                fs::read_dir(&data).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(!names.contains(&"diary".into()), "{kind}: {names:?}");
            let image = root.path().join("volumes/vault/content.img");
            if let Ok(bytes) = fs::read(image) {
                assert!(!bytes.windows(10).any(|w| w == b"dear diary"), "{kind}");
            }

            fs::write(&key, b"the wrong one").unwrap();
            let error = volumes.mount("vault", "c1").await.unwrap_err();
            assert!(matches!(error, VolumeError::WrongKey { .. }), "{kind}: {error}");
            assert_eq!(error.kind(), ErrorKind::Forbidden);
            assert!(fs::read(data.join("diary")).is_err(), "{kind}");
            fs::remove_file(&key).unwrap();
            let text = volumes.mount("vault", "c1").await.unwrap_err().to_string();
            assert!(text.contains("the key file") && text.contains("No such file"), "{text}");

            fs::write(&key, b"the right one").unwrap();
            let data = volumes.mount("vault", "c2").await.unwrap();
            assert!(fs::read(data.join("diary")).unwrap().starts_with(b"dear"), "{kind}");
            volumes.unmount("vault", "c2").await.unwrap();
            volumes.remove("vault").await.unwrap();
            root.is_clean();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_images_content_comes_into_every_kind_of_volume() {
    for (kind, root) in Root::all("an image's content") {
        let image = root.path().join("rootfs");
        fs::create_dir_all(image.join("srv/deep")).unwrap();
        fs::write(image.join("srv/page"), b"hello").unwrap();
        std::os::unix::fs::chown(image.join("srv"), Some(33), Some(33)).unwrap();
        fs::set_permissions(image.join("srv"), fs::Permissions::from_mode(0o700)).unwrap();
        let command = [("encrypted", "true"), ("passphrase-command", "echo secret")];
        let rows: [Row<'_>; 5] = [
            ("plain", &[], (33, 0o700)),
            ("owned", &[("uid", "1000"), ("mode", "2775")], (1000, 0o2775)),
            ("sized", &[("size", "40m")], (33, 0o700)),
            ("both", &[("size", "40m"), ("uid", "5"), ("gid", "6")], (5, 0o700)),
            ("vault", &command, (33, 0o700)),
        ];
        let volumes = root.open().await;
        for (name, options, (uid, mode)) in rows {
            let volume = volumes.create(spec(name, options)).await.unwrap().volume;
            // As at a container's creation, when nobody has it mounted.
            volumes.copy_up(name, &image, Path::new("/srv")).await.unwrap();
            let data = volumes.mount(name, "c1").await.unwrap();
            assert_eq!(fs::read(data.join("page")).unwrap(), b"hello", "{kind} {name}");
            let root_of = fs::metadata(&data).unwrap();
            assert_eq!((root_of.uid(), root_of.mode() & 0o7777), (uid, mode), "{kind} {name}");
            fs::remove_file(data.join("page")).unwrap();
            volumes.copy_up(name, &image, Path::new("/srv")).await.unwrap();
            assert!(!data.join("page").exists(), "{kind} {name}: never overwritten");
            volumes.unmount(name, "c1").await.unwrap();
            if name == "vault" {
                assert_eq!(volume.shown_options()["passphrase-command"], "********");
            }

            // One that died in the middle of it left a mark.
            fs::write(root.path().join(format!("volumes/{name}/filling")), b"").unwrap();
            volumes.copy_up(name, &image, Path::new("/srv")).await.unwrap();
            let data = volumes.mount(name, "c1").await.unwrap();
            assert!(data.join("page").exists() && data.join("deep").exists(), "{kind} {name}");
            volumes.unmount(name, "c1").await.unwrap();
            volumes.remove(name).await.unwrap();
        }
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_asks_once_for_a_secret() {
    for (kind, root) in Root::all("asking for a secret") {
        let asked = root.path().join("asked");
        let command = format!("sh -c 'echo x >>{}; echo secret'", asked.display());
        let secret = [("encrypted", "true"), ("passphrase-command", &*command), ("size", "40m")];
        // How often it was since the last time.
        let times = || {
            let count = fs::read_to_string(&asked).unwrap_or_default().lines().count();
            let _ = fs::remove_file(&asked);
            count
        };
        // With a size: an image here. Without, ext4 encrypts by itself.
        for options in [&secret[..], &secret[..2]] {
            let volumes = root.open().await;
            volumes.create(spec("vault", options)).await.unwrap();
            assert_eq!(times(), 1, "{kind}: create");
            let data = volumes.mount("vault", "c1").await.unwrap();
            fs::write(data.join("f"), b"kept").unwrap();
            assert_eq!(times(), 1, "{kind}: mount");
            let (watch, spec) = (Watch::default(), CloneSpec::default());
            volumes.clone_volume("vault", None, "copy", &spec, &watch).await.unwrap();
            assert_eq!(times(), 1, "{kind}: clone");
            let copied = volumes.mount("copy", "c2").await.unwrap();
            assert_eq!(fs::read(copied.join("f")).unwrap(), b"kept", "{kind}");
            for (name, user) in [("vault", "c1"), ("copy", "c2")] {
                volumes.unmount(name, user).await.unwrap();
                volumes.remove(name).await.unwrap();
            }
            times();
        }
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_and_snapshots_are_of_the_same_kind_with_keys_of_their_own() {
    for (kind, root) in Root::all("clones and snapshots") {
        let volumes = root.open().await;
        let secret = [("encrypted", "true"), ("passphrase-command", "echo secret")];
        let rows: [(&str, &[(&str, &str)]); 3] =
            [("sized", &[("size", "40m")]), ("vault", &secret), ("owned", &[("uid", "5")])];
        let watch = Watch::default();
        for (name, options) in rows {
            volumes.create(spec(name, options)).await.unwrap();
            let data = volumes.mount(name, "c1").await.unwrap();
            fs::write(data.join("f"), b"first").unwrap();
            let snapshot: SnapshotName = "before".parse().unwrap();
            volumes.snapshot(name, &snapshot, &BTreeMap::new(), &watch).await.unwrap();
            fs::write(data.join("f"), b"second").unwrap();
            let copy = format!("{name}-copy");
            let spec = CloneSpec::default();
            volumes.clone_volume(name, None, &copy, &spec, &watch).await.unwrap();
            let copied = volumes.mount(&copy, "c2").await.unwrap();
            assert_eq!(fs::read(copied.join("f")).unwrap(), b"second", "{kind} {name}");
            assert_eq!(fs::metadata(&data).unwrap().uid(), fs::metadata(&copied).unwrap().uid());
            // The one is closed, the other stays open.
            volumes.unmount(name, "c1").await.unwrap();
            fs::write(copied.join("g"), b"more").unwrap();
            assert_eq!(fs::read(copied.join("f")).unwrap(), b"second", "{kind} {name}");
            volumes.unmount(&copy, "c2").await.unwrap();
            volumes.roll_back(name, &snapshot, &watch).await.unwrap();
            let data = volumes.mount(name, "c1").await.unwrap();
            assert_eq!(fs::read(data.join("f")).unwrap(), b"first", "{kind} {name}");
            let held = volumes.usage(name).await.unwrap().map(|u| u.limit);
            let expected = (name == "sized").then_some(40 * MIB);
            assert!(name == "vault" || held.flatten() == expected, "{kind} {name}: {held:?}");
            volumes.unmount(name, "c1").await.unwrap();
            if name == "vault" {
                assert!(fs::read(data.join("f")).is_err(), "{kind}: it is closed");
            }
            volumes.remove(name).await.unwrap();
            volumes.remove(&copy).await.unwrap();
        }
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_frozen_by_who_died_can_be_written_to_again() {
    let Some(root) = Root::new("a frozen image", &KINDS[0]) else { return };
    let volumes = root.open().await;
    volumes.create(spec("data", &[("size", "24m")])).await.unwrap();
    let data = volumes.mount("data", "c1").await.unwrap();
    sampan_sys::fsattr::freeze(File::open(&data).unwrap()).unwrap();
    drop(volumes);
    let again = root.open().await;
    let users = BTreeMap::from([("data".parse().unwrap(), BTreeSet::from(["c1".to_owned()]))]);
    assert!(again.restore(&users).await.is_empty());
    fs::write(data.join("f"), b"goes on").unwrap();
    again.unmount("data", "c1").await.unwrap();
    again.remove("data").await.unwrap();
    root.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_leaves_nothing() {
    for (kind, root) in Root::all("what can't be made") {
        let volumes = root.open().await;
        volumes.create(spec("kept", &[("size", "40m")])).await.unwrap();
        root.disk.remount("ro");
        for options in [&[("size", "40m")][..], &[]] {
            let error = volumes.create(spec("new", options)).await.unwrap_err().to_string();
            assert!(error.contains("Read-only file system"), "{kind}: {error}");
        }
        if root.path().join("volumes/kept/content.img").exists() {
            let error = volumes.mount("kept", "c1").await.unwrap_err().to_string();
            assert!(error.contains("Read-only file system"), "{kind}: {error}");
        }
        root.disk.remount("rw");
        let full = fill(&root.path().join("filler"));
        eprintln!("{kind}: {} MiB filled it", mib(full));
        // There may be room for a few small things, then for none.
        let mut refused = None;
        for number in 0..2000 {
            let new = spec(&format!("new{number}"), &[("size", "40m")]);
            if let Err(error) = volumes.create(new).await {
                refused = Some((number, error.to_string()));
                break;
            }
        }
        let (number, error) = refused.expect("a full disk takes no more volumes");
        eprintln!("{kind}: after {number}: {error}");
        assert!(error.to_lowercase().contains("no space"), "{kind}: {error}");
        fs::remove_file(root.path().join("filler")).unwrap();
        for volume in root.open().await.list() {
            volumes.remove(volume.name.as_str()).await.unwrap();
        }
        root.is_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_plain_files_takes_no_size_later() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    volumes.create(spec("plain", &[])).await.unwrap();
    let bind = [("type", "none"), ("o", "bind"), ("device", "/nowhere")];
    volumes.create(spec("bound", &bind)).await.unwrap();
    for name in ["plain", "bound"] {
        let error = volumes.resize(name, "10m").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    assert!(volumes.get("plain").unwrap().options.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_volumes_are_read_and_listed_fast() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("volumes");
    for number in 0..10_000 {
        let volume = root.join(format!("volume{number}"));
        fs::create_dir_all(volume.join("_data")).unwrap();
        let record = r#"{"version":1,"created":1700000000000000000,"labels":{"a":"b"}}"#;
        fs::write(volume.join("volume.json"), record).unwrap();
    }
    let began = std::time::Instant::now();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let opened = began.elapsed();
    let began = std::time::Instant::now();
    assert_eq!(volumes.list().len(), 10_000);
    let listed = began.elapsed();
    let began = std::time::Instant::now();
    assert!(volumes.restore(&BTreeMap::new()).await.is_empty());
    eprintln!("opened in {opened:?}, listed in {listed:?}, restored in {:?}", began.elapsed());
    // Far above what an idle machine takes.
    assert!(opened.as_secs() < 20 && listed.as_millis() < 2000, "{opened:?} {listed:?}");
}

/// Namespaces that were made while a volume was mounted have a copy of the
/// mount: a file system must not be put beside the one that lives on there.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_namespace_still_holds_has_one_device() {
    for (kind, root) in Root::all("an image that is held") {
        let volumes = root.open().await;
        volumes.create(spec("held", &[("size", "40m")])).await.unwrap();
        let data = volumes.mount("held", "c1").await.unwrap();
        fs::write(data.join("before"), b"old").unwrap();
        let mut holder = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0u8; 1];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        volumes.unmount("held", "c1").await.unwrap();
        let data = volumes.mount("held", "c2").await.unwrap();
        assert_eq!(fs::read(data.join("before")).unwrap(), b"old", "{kind}");
        fs::write(data.join("after"), b"new").unwrap();
        let image = root.path().join("volumes/held/content.img");
        let devices = fs::read_dir("/sys/block").unwrap().flatten().filter(|d| {
            let text = fs::read_to_string(d.path().join("loop/backing_file")).unwrap_or_default();
            Path::new(text.trim_end()) == image
        });
        assert!(devices.count() <= 1, "{kind}: two devices of one image");
        holder.kill().unwrap();
        holder.wait().unwrap();
        volumes.unmount("held", "c2").await.unwrap();
        let data = volumes.mount("held", "c3").await.unwrap();
        assert_eq!(fs::read(data.join("after")).unwrap(), b"new", "{kind}");
        volumes.unmount("held", "c3").await.unwrap();
        volumes.remove("held").await.unwrap();
        root.is_clean();
    }
}
