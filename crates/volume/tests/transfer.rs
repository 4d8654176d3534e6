//! Volumes that are sent and received: the same tree at the other side, little
//! on the wire the second time, and nothing of what did not arrive whole.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and tells where")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use sampan_volume::transfer::{
    Incoming, ReceiveOptions, Received, SendOptions, Sent, TransferError,
};
use sampan_volume::{Progress, VolumeError, VolumeSpec, Volumes, Watch};

/// A sender and a receiver.
struct Two {
    _dir: tempfile::TempDir,
    from: Volumes,
    to: Volumes,
    /// Where the receiver keeps its volumes.
    kept: PathBuf,
}

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Two {
    /// With a volume `data` at the sender; gives where its content is.
    async fn new() -> (Self, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let from = Volumes::open(&dir.path().join("from")).await.unwrap();
        let to = Volumes::open(&dir.path().join("to")).await.unwrap();
        let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
        let spec = VolumeSpec { name: Some("data".to_owned()), labels, ..VolumeSpec::default() };
        let data = from.create(spec).await.unwrap().volume.mountpoint;
        let kept = dir.path().join("to/volumes");
        (Self { _dir: dir, from, to, kept }, data)
    }

    async fn send(&self, options: &SendOptions) -> (Sent, Vec<u8>) {
        let (sent, bytes, _) = self.send_watched(options).await;
        (sent, bytes)
    }

    async fn send_watched(&self, options: &SendOptions) -> (Sent, Vec<u8>, Progress) {
        let (wire, watch) = (Wire::default(), Watch::default());
        let output = Box::new(wire.clone());
        let sent = self.from.send("data", None, options, output, &watch).await.unwrap();
        let bytes = std::mem::take(&mut *wire.0.lock().unwrap());
        (sent, bytes, watch.progress())
    }

    async fn receive(&self, bytes: Vec<u8>) -> Result<Received, VolumeError> {
        self.receive_with(bytes, &ReceiveOptions::default()).await
    }

    async fn receive_with(
        &self,
        bytes: Vec<u8>,
        options: &ReceiveOptions,
    ) -> Result<Received, VolumeError> {
        let stream = Incoming::open(Box::new(std::io::Cursor::new(bytes)))?;
        self.to.receive(stream, options, &Watch::default()).await
    }

    /// What is in the receiver's directory of volumes.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.kept).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn received(&self) -> PathBuf {
        self.kept.join("data/_data")
    }
}

/// The root and all below, sorted.
fn paths(root: &Path) -> Vec<PathBuf> {
    let (mut paths, mut rest) = (vec![root.to_owned()], vec![root.to_owned()]);
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                rest.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

/// All that is to be the same, by path; which paths are the same file by the
/// first of them.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut first: HashMap<u64, PathBuf> = HashMap::new();
    for path in paths(root) {
        let meta = path.symlink_metadata().unwrap();
        let below = path.strip_prefix(root).unwrap().to_owned();
        let same_as = if meta.is_dir() {
            below.clone()
        } else {
            first.entry(meta.ino()).or_insert_with(|| below.clone()).clone()
        };
        let content = if meta.is_file() {
            format!("{:x?}", digest(&fs::read(&path).unwrap()))
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().to_string_lossy().into_owned()
        } else {
            String::new()
        };
        let size = if meta.is_file() { meta.len() } else { 0 };
        let text = format!(
            "{:o} {}:{} {size} {}.{} {:x} {:?} {same_as:?} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
            xattr(&path),
        );
        all.insert(below, text);
    }
    all
}

fn digest(bytes: &[u8]) -> (usize, u64) {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

fn xattr(path: &Path) -> Option<Vec<u8>> {
    let mut room = [0u8; 256];
    let length = rustix::fs::lgetxattr(path, "user.note", &mut room[..]).ok()?;
    Some(room[..length].to_vec())
}

fn set_xattr(path: &Path, value: &[u8]) {
    rustix::fs::lsetxattr(path, "user.note", value, XattrFlags::empty()).unwrap();
}

fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (describe(a), describe(b));
    for (path, text) in &a {
        assert_eq!(Some(text), b.get(path), "{path:?}");
    }
    let more: Vec<_> = b.keys().filter(|path| !a.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:?} are there as well");
}

/// Longer than what is changed right now could be mistaken for unchanged.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(80)).await;
}

fn sparse(path: &Path, parts: &[(u64, usize)], size: u64) {
    let file = File::create(path).unwrap();
    for (at, length) in parts {
        file.write_all_at(&vec![7; *length], *at).unwrap();
    }
    file.set_len(size).unwrap();
}

fn make(kind: FileType, path: &Path, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

/// One of everything.
fn fill(data: &Path) {
    let sub = data.join("sub/deeper");
    fs::create_dir_all(&sub).unwrap();
    fs::write(data.join("small"), b"text").unwrap();
    fs::write(data.join("empty"), b"").unwrap();
    sparse(&sub.join("sparse"), &[(5 << 20, 4096), (9 << 20, 100)], 40 << 20);
    fs::write(data.join(std::ffi::OsStr::from_bytes(b"caf\xe9\xff")), b"latin").unwrap();
    fs::hard_link(data.join("small"), sub.join("also small")).unwrap();
    symlink("../../nowhere", sub.join("link")).unwrap();
    make(FileType::Fifo, &data.join("pipe"), 0);
    make(FileType::Socket, &data.join("socket"), 0);
    make(FileType::CharacterDevice, &data.join("null"), rustix::fs::makedev(1, 3));
    set_xattr(&data.join("small"), b"kept");
    set_xattr(&sub, b"of a directory");
    std::os::unix::fs::chown(data.join("empty"), Some(70), Some(71)).unwrap();
    fs::set_permissions(data.join("empty"), fs::Permissions::from_mode(0o6711)).unwrap();
    fs::set_permissions(data, fs::Permissions::from_mode(0o1777)).unwrap();
    let old = Timespec { tv_sec: -5, tv_nsec: 6 };
    let times = Timestamps { last_access: old, last_modification: old };
    for path in [data.join("empty"), data.join("sub")] {
        rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    }
}

#[tokio::test]
async fn everything_arrives_and_the_second_time_only_what_changed() {
    let (two, data) = Two::new().await;
    fill(&data);
    settle().await;
    let (first, bytes) = two.send(&SendOptions::default()).await;
    assert_eq!(first.since, None);
    let got = two.receive(bytes).await.unwrap();
    assert!(got.new && got.volume.labels["team"] == "blue" && got.stream == first.stream);
    assert_same(&data, &two.received());
    let sparse = two.received().join("sub/deeper/sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "the holes are filled: {}", sparse.blocks());

    // Nothing changed: nothing is read, next to nothing is sent.
    let (second, bytes, read) = two.send_watched(&SendOptions::default()).await;
    assert_eq!(second.since, Some(first.stream));
    assert!(bytes.len() < 400 && read.bytes == 0, "{} bytes, {read:?}", bytes.len());
    let got = two.receive(bytes).await.unwrap();
    assert!(!got.new && got.since == second.since);
    assert_same(&data, &two.received());

    // All kinds of changes.
    fs::remove_dir_all(data.join("sub/deeper")).unwrap();
    fs::write(data.join("sub/deeper"), b"a file now").unwrap();
    fs::remove_file(data.join("pipe")).unwrap();
    fs::create_dir(data.join("pipe")).unwrap();
    fs::write(data.join("pipe/inside"), b"x").unwrap();
    rustix::fs::lremovexattr(data.join("small"), "user.note").unwrap();
    fs::hard_link(data.join("empty"), data.join("another")).unwrap();
    let (_, bytes) = two.send(&SendOptions::default()).await;
    two.receive(bytes).await.unwrap();
    assert_same(&data, &two.received());
    assert_eq!(two.names(), ["data"]);
}

#[tokio::test]
async fn of_a_large_file_the_changed_block_is_sent() {
    let (two, data) = Two::new().await;
    let path = data.join("large");
    let mut random = Random(5);
    let mut bytes = vec![0u8; 64 << 20];
    bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()));
    fs::write(&path, &bytes).unwrap();
    settle().await;
    let (_, wire) = two.send(&SendOptions::default()).await;
    assert!(wire.len() > 60 << 20);
    two.receive(wire).await.unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(b"new", 33 << 20).unwrap();
    settle().await;
    let (_, wire) = two.send(&SendOptions::default()).await;
    assert!(wire.len() < (1 << 20) + 4096, "{} bytes", wire.len());
    two.receive(wire).await.unwrap();
    assert_same(&data, &two.received());
    // A file that is written anew, as editors do, is compared as well.
    fs::write(data.join("copy"), fs::read(&path).unwrap()).unwrap();
    fs::rename(data.join("copy"), &path).unwrap();
    settle().await;
    let (_, wire) = two.send(&SendOptions::default()).await;
    assert!(wire.len() < 1024, "{} bytes", wire.len());
    two.receive(wire).await.unwrap();
    assert_same(&data, &two.received());
}

/// xorshift: the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn pick(&mut self, from: &[PathBuf]) -> PathBuf {
        from[self.below(from.len())].clone()
    }
}

/// Changes something; what can't be done is left.
fn change(data: &Path, random: &mut Random) {
    let all = paths(data);
    let is_dir = |path: &&PathBuf| path.symlink_metadata().unwrap().is_dir();
    let dirs: Vec<PathBuf> = all.iter().filter(is_dir).cloned().collect();
    let new = random.pick(&dirs).join(format!("n{}", random.below(30)));
    let old = random.pick(&all);
    let is_file = old.symlink_metadata().unwrap().is_file();
    let _ = match random.below(13) {
        0 | 1 => fs::create_dir(&new),
        2 | 3 => {
            let blocks = random.below(4) as u64;
            let parts = [((blocks << 20) + random.below(9000) as u64, random.below(70_000))];
            sparse(&random.pick(&dirs).join("s"), &parts, (blocks + 2) << 20);
            fs::write(&new, vec![random.below(256) as u8; random.below(3 << 20)])
        }
        4 if is_file => {
            let file = File::options().write(true).open(&old).unwrap();
            file.write_all_at(&[random.below(256) as u8; 9], random.below(4 << 20) as u64)
        }
        5 if is_file => {
            let file = File::options().write(true).open(&old).unwrap();
            file.set_len(0).unwrap();
            file.set_len(random.below(5 << 20) as u64)
        }
        6 | 7 => fs::hard_link(&old, &new),
        8 => fs::rename(&old, &new),
        9 if old != data => {
            if is_file {
                fs::remove_file(&old)
            } else {
                fs::remove_dir_all(&old)
            }
        }
        10 => symlink(format!("t{}", random.below(9)), &new),
        11 if !old.is_symlink() => {
            let mode = 0o600 | random.below(0o200) as u32;
            fs::set_permissions(&old, fs::Permissions::from_mode(mode))
        }
        12 if old.exists() && !old.is_symlink() => {
            let note = random.next().to_le_bytes();
            let done = rustix::fs::lsetxattr(&old, "user.note", &note, XattrFlags::empty());
            done.map_err(Into::into)
        }
        _ => Ok(()),
    };
}

#[tokio::test]
async fn random_trees_arrive_after_every_change() {
    for seed in 1..=3 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed << 20));
        let (two, data) = Two::new().await;
        for round in 0..7 {
            for _ in 0..25 {
                change(&data, &mut random);
            }
            if round % 3 == 1 {
                settle().await;
            }
            let (sent, bytes) = two.send(&SendOptions::default()).await;
            assert_eq!(sent.since.is_some(), round > 0);
            let done = two.receive(bytes).await;
            done.unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
            println!("seed {seed}, round {round}");
            assert_same(&data, &two.received());
        }
    }
}

#[tokio::test]
async fn what_does_not_arrive_whole_leaves_nothing() {
    let (two, data) = Two::new().await;
    fill(&data);
    let (_, bytes) = two.send(&SendOptions::default()).await;
    let mut random = Random(77);
    for _ in 0..60 {
        let mut damaged = bytes.clone();
        match random.below(3) {
            0 => damaged.truncate(random.below(bytes.len())),
            1 => {
                let at = random.below(bytes.len());
                damaged[at] ^= 1 << random.below(8);
            }
            _ => damaged.extend_from_slice(b"more"),
        }
        let is_whole = damaged.len() == bytes.len();
        let error = match two.receive(damaged).await {
            Err(error) => error,
            // A bit of the packing that means nothing.
            Ok(_) => {
                assert!(is_whole, "something is missing or too much");
                assert_same(&data, &two.received());
                two.to.remove("data").await.unwrap();
                continue;
            }
        };
        // What was altered may be refused by the kernel before the digest comes.
        let is_named = matches!(
            error,
            VolumeError::Transfer(
                TransferError::Damaged { .. }
                    | TransferError::NotAStream
                    | TransferError::Version { .. }
            )
        );
        assert!(is_named || is_whole, "{error}");
        assert_eq!(two.names(), [""; 0]);
    }
    // The same of a change: what was there stays.
    two.receive(bytes).await.unwrap();
    let before = describe(&two.received());
    fs::write(data.join("more"), b"of it").unwrap();
    let (_, mut bytes) = two.send(&SendOptions::default()).await;
    let at = bytes.len() - 3;
    bytes[at] ^= 0x10;
    two.receive(bytes.clone()).await.unwrap_err();
    assert_eq!(describe(&two.received()), before);
    assert_eq!(two.names(), ["data"]);
    bytes[at] ^= 0x10;
    two.receive(bytes).await.unwrap();
    assert_same(&data, &two.received());
}

fn transfer_error(done: Result<Received, VolumeError>) -> TransferError {
    match done {
        Err(VolumeError::Transfer(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_change_fits_only_what_it_builds_on() {
    let (two, data) = Two::new().await;
    fs::write(data.join("a"), b"1").unwrap();
    let (first, full) = two.send(&SendOptions::default()).await;
    fs::write(data.join("a"), b"2").unwrap();
    let (second, lost) = two.send(&SendOptions::default()).await;
    assert!(matches!(transfer_error(two.receive(lost).await), TransferError::NoVolume { .. }));
    two.receive(full.clone()).await.unwrap();
    let again = transfer_error(two.receive(full).await);
    assert!(matches!(again, TransferError::Exists { .. }), "{again}");

    // The second got lost: the third builds on what never arrived.
    let (_, third) = two.send(&SendOptions::default()).await;
    let error = transfer_error(two.receive(third).await);
    assert!(error.to_string().contains(&format!("send --since {}", first.stream)), "{error}");
    // Both that it builds on and itself are known; the first no longer.
    let since = |stream: &sampan_volume::transfer::StreamId| SendOptions {
        since: Some(stream.clone()),
        ..SendOptions::default()
    };
    let (_, fourth) = two.send(&since(&second.stream)).await;
    transfer_error(two.receive(fourth).await);
    let output = Box::new(Wire::default());
    let options = since(&first.stream);
    let error = two.from.send("data", None, &options, output, &Watch::default()).await.unwrap_err();
    assert!(error.to_string().contains("--full"), "{error}");

    let (_, full) = two.send(&SendOptions { full: true, since: None }).await;
    let replace = ReceiveOptions { replace: true, ..ReceiveOptions::default() };
    assert!(!two.receive_with(full, &replace).await.unwrap().new);
    assert_same(&data, &two.received());

    // A failed receiver's way back.
    fs::write(data.join("a"), b"3").unwrap();
    let (fifth, _lost) = two.send(&SendOptions::default()).await;
    let (_, sixth) = two.send(&since(fifth.since.as_ref().unwrap())).await;
    two.receive(sixth).await.unwrap();
    assert_same(&data, &two.received());
}

#[tokio::test]
async fn what_was_changed_here_or_is_used_is_not_overwritten() {
    let (two, data) = Two::new().await;
    fs::create_dir(data.join("d")).unwrap();
    fs::write(data.join("d/a"), b"1").unwrap();
    let (_, full) = two.send(&SendOptions::default()).await;
    two.receive(full.clone()).await.unwrap();
    let (_, change) = two.send(&SendOptions::default()).await;
    two.to.mount("data", "somebody").await.unwrap();
    let error = two.receive(change.clone()).await.unwrap_err();
    assert!(matches!(&error, VolumeError::Mounted { users, .. } if *users == ["somebody"]));
    two.to.unmount("data", "somebody").await.unwrap();
    settle().await;
    for path in ["d/a", "new"] {
        fs::write(two.received().join(path), b"here").unwrap();
        let error = transfer_error(two.receive(change.clone()).await);
        assert!(matches!(error, TransferError::Changed { .. }), "{path}: {error}");
        let replace = ReceiveOptions { replace: true, ..ReceiveOptions::default() };
        two.receive_with(full.clone(), &replace).await.unwrap();
        settle().await;
    }
    two.receive(change).await.unwrap();
    assert_same(&data, &two.received());
    // By another name, with labels of its own.
    let options = ReceiveOptions {
        name: Some("copy".to_owned()),
        labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
        ..ReceiveOptions::default()
    };
    let copy = two.receive_with(full, &options).await.unwrap().volume;
    assert_eq!(copy.labels["team"], "red");
    assert_same(&data, &copy.mountpoint);
    assert_eq!(two.names(), ["copy", "data"]);
}

/// Content that is mounted only while it is used: an image where the file
/// system has no quota.
#[tokio::test]
async fn volumes_with_a_limit_are_received_too() {
    let (two, data) = Two::new().await;
    fill(&data);
    settle().await;
    let (_, bytes) = two.send(&SendOptions::default()).await;
    let options = ReceiveOptions {
        options: BTreeMap::from([("size".to_owned(), "64m".to_owned())]),
        ..ReceiveOptions::default()
    };
    match two.receive_with(bytes, &options).await {
        Err(error @ VolumeError::NoTool { .. }) => {
            return sampan_testkit::skip(
                "volumes_with_a_limit_are_received_too",
                &error.to_string(),
            );
        }
        received => assert_eq!(received.unwrap().volume.options["size"], "64m"),
    }
    let same = async || {
        let got = two.to.mount("data", "reader").await.unwrap();
        assert_same(&data, &got);
        two.to.unmount("data", "reader").await.unwrap();
    };
    same().await;
    fs::write(data.join("sub/new"), b"more").unwrap();
    fs::remove_file(data.join("small")).unwrap();
    let (_, change) = two.send(&SendOptions::default()).await;
    two.receive(change).await.unwrap();
    same().await;
    // More than fits.
    fs::write(data.join("large"), vec![3; 80 << 20]).unwrap();
    let (sent, change) = two.send(&SendOptions::default()).await;
    let error = two.receive(change).await.unwrap_err();
    assert!(matches!(error, VolumeError::Full { .. }), "{error}");
    fs::remove_file(data.join("large")).unwrap();
    let (_, change) = two.send(&SendOptions { full: false, since: sent.since }).await;
    two.receive(change).await.unwrap();
    same().await;
    // What somebody wrote into the image.
    let got = two.to.mount("data", "writer").await.unwrap();
    fs::write(got.join("sub/new"), b"here").unwrap();
    two.to.unmount("data", "writer").await.unwrap();
    let (_, change) = two.send(&SendOptions::default()).await;
    let error = transfer_error(two.receive(change).await);
    assert!(matches!(error, TransferError::Changed { .. }), "{error}");
    assert_eq!(two.names(), ["data"]);
    two.to.remove("data").await.unwrap();
}
