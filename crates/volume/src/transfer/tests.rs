//! Streams that no sender writes.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use super::format::{self, Entry, Node, kind, put_bytes};
use super::*;

fn entry(path: &[u8], node: Node) -> Entry {
    Entry {
        path: path.to_vec(),
        node,
        change: false,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (1, 2),
        rdev: 0,
        target: Vec::new(),
        xattrs: Vec::new(),
    }
}

fn symlink(path: &[u8], target: &[u8]) -> Entry {
    Entry { target: target.to_vec(), ..entry(path, Node::Symlink) }
}

fn file(path: &[u8], size: u64) -> Entry {
    Entry { size, ..entry(path, Node::File) }
}

type Frames = Vec<(u8, Vec<u8>)>;

fn entries(entries: &[Entry]) -> Frames {
    entries.iter().map(|e| (kind::ENTRY, e.encode())).collect()
}

fn paths(kind: u8, paths: &[&[u8]]) -> (u8, Vec<u8>) {
    let mut payload = Vec::new();
    paths.iter().for_each(|path| put_bytes(&mut payload, path));
    (kind, payload)
}

fn data(at: u64, bytes: &[u8]) -> (u8, Vec<u8>) {
    (kind::DATA, [&at.to_le_bytes()[..], bytes].concat())
}

fn hole(at: u64, length: u64) -> (u8, Vec<u8>) {
    (kind::HOLE, [at.to_le_bytes(), length.to_le_bytes()].concat())
}

/// A stream with these frames behind its header and the root.
fn stream(since: bool, frames: &Frames) -> Vec<u8> {
    let mut writer = format::pack(Vec::new(), STREAM).unwrap();
    let id = StreamId::random().unwrap();
    let since = since.then(|| id.clone());
    let volume = "data".to_owned();
    let header = Header { version: 1, stream: id, since, volume, labels: BTreeMap::new() };
    writer.write(kind::HEADER, &[&serde_json::to_vec(&header).unwrap()]).unwrap();
    let root = Entry { change: header.since.is_some(), ..entry(b"", Node::Directory) };
    writer.write(kind::ENTRY, &[&root.encode()]).unwrap();
    for (kind, payload) in frames {
        writer.write(*kind, &[payload]).unwrap();
    }
    writer.end().unwrap().finish().unwrap()
}

fn apply(bytes: Vec<u8>, root: &Path) -> Result<Header, VolumeError> {
    Incoming::open(Box::new(Cursor::new(bytes)))?.apply(root, &Watch::default())
}

#[test]
fn nothing_is_reached_outside_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), b"whole").unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    let path = outside.path().to_str().unwrap().as_bytes();
    let victim = [path, b"/victim"].concat();
    let into = |name: &[u8]| [b"way/", name].concat();
    let way = symlink(b"way", path);
    let dotted = [b"..", path].concat();
    let hostile: Vec<(bool, Frames)> = vec![
        (false, entries(&[way.clone(), file(&into(b"new"), 0)])),
        (false, entries(&[way.clone(), entry(&into(b"newdir"), Node::Directory)])),
        (false, entries(&[way.clone(), symlink(&into(b"newlink"), b"x")])),
        (false, entries(&[way.clone(), entry(&into(b"pipe"), Node::Fifo)])),
        (false, entries(&[symlink(b"file", &victim), file(b"file", 0)])),
        (false, entries(&[file(&dotted, 0)])),
        (false, entries(&[file(b"a/../../b", 0)])),
        (false, entries(&[file(&victim, 0)])),
        (false, entries(&[file(b"./a", 0)])),
        (false, entries(&[file(b"a//b", 0)])),
        (false, entries(&[file(b"a\0b", 0)])),
        (true, entries(&[way.clone(), Entry { change: true, ..file(&into(b"victim"), 0) }])),
        (
            true,
            entries(&[
                way.clone(),
                Entry { change: true, ..entry(&into(b"dir"), Node::Directory) },
            ]),
        ),
        (true, entries(&[symlink(b"file", &victim), Entry { change: true, ..file(b"file", 0) }])),
        (
            true,
            [entries(std::slice::from_ref(&way)), vec![paths(kind::REMOVE, &[b"way/victim"])]]
                .concat(),
        ),
        (true, vec![paths(kind::REMOVE, &[b".."])]),
        (true, vec![paths(kind::REMOVE, &[b""])]),
        (
            false,
            [
                entries(std::slice::from_ref(&way)),
                vec![paths(kind::LINK, &[b"mine", b"way/victim"])],
            ]
            .concat(),
        ),
        (
            false,
            [entries(&[way, file(b"mine", 0)]), vec![paths(kind::LINK, &[b"way/theirs", b"mine"])]]
                .concat(),
        ),
        (false, vec![paths(kind::LINK, &[b"mine", &dotted])]),
    ];
    for (number, (since, frames)) in hostile.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let done = apply(stream(*since, frames), root.path());
        assert!(
            matches!(done, Err(VolumeError::Transfer(TransferError::Damaged { .. }))),
            "{number}: {done:?}"
        );
    }
    let mut names: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dir", "victim"]);
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"whole");
    // A link to the outside is content like any other: what it says is kept.
    let root = tempfile::tempdir().unwrap();
    apply(stream(false, &entries(&[symlink(b"way", path)])), root.path()).unwrap();
    assert!(root.path().join("way").is_symlink());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let with = |frame: (u8, Vec<u8>)| [entries(&[file(b"f", 10)]), vec![frame]].concat();
    let huge = Entry {
        xattrs: vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())],
        ..file(b"f", 0)
    };
    let wrong: Vec<(bool, Frames)> = vec![
        (false, vec![data(0, b"nowhere")]),
        (false, with(data(8, b"too far"))),
        (false, with(data(u64::MAX, b"overflow"))),
        (false, with(data(0, &vec![0; (1 << 20) + 1]))),
        (false, with(hole(0, 5))),
        (true, with(hole(0, 5))),
        (true, with(hole(5, u64::MAX))),
        (false, with((99, Vec::new()))),
        (false, with((kind::HOLE, vec![1, 2, 3]))),
        (false, with(paths(kind::REMOVE, &[b"f"]))),
        (false, with(paths(kind::LINK, &[b"f", b"f"]))),
        (false, with(paths(kind::LINK, &[b"g", b"nothing"]))),
        (false, entries(&[file(b"f", 1), file(b"f", 1)])),
        (false, entries(&[file(b"f", u64::MAX)])),
        (false, entries(&[file(b"no/parent", 0)])),
        (false, entries(&[file(b"f", 0), file(b"f/below", 0)])),
        (false, entries(&[Entry { mode: 0o170_000, ..file(b"f", 0) }])),
        (false, entries(&[Entry { uid: u32::MAX, ..file(b"f", 0) }])),
        (false, entries(&[Entry { change: true, ..file(b"f", 0) }])),
        (false, entries(&[Entry { mtime: (0, 1_000_000_000), ..file(b"f", 0) }])),
        (false, entries(&[symlink(b"f", b"")])),
        (false, entries(&[file(&[b'n'; 256], 0)])),
        (false, entries(&[huge])),
        (false, vec![(kind::ENTRY, b"\xff\xff\xff\xffshort".to_vec())]),
        (true, entries(&[Entry { change: true, ..entry(b"f", Node::Fifo) }])),
    ];
    for (number, (since, frames)) in wrong.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let done = apply(stream(*since, frames), root.path());
        assert!(
            matches!(done, Err(VolumeError::Transfer(TransferError::Damaged { .. }))),
            "{number}: {done:?}"
        );
    }
}

#[test]
fn other_beginnings_and_later_versions_are_named() {
    let open = |bytes: &[u8]| Incoming::open(Box::new(Cursor::new(bytes.to_vec()))).unwrap_err();
    for bytes in [&b""[..], b"x", b"PK\x03\x04 an archive of another kind"] {
        assert!(matches!(open(bytes), VolumeError::Transfer(TransferError::NotAStream)));
    }
    let mut writer = format::pack(Vec::new(), STREAM).unwrap();
    writer.write(kind::HEADER, &[br#"{"version": 7, "anything": 1}"#]).unwrap();
    let error = open(&writer.end().unwrap().finish().unwrap());
    assert!(matches!(error, VolumeError::Transfer(TransferError::Version { version: 7, .. })));
    // A length that nobody has the room for is not believed.
    let mut frame = vec![kind::HEADER];
    frame.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(check_frames(&frame).is_err());
}

#[test]
fn directories_are_left_as_they_were_where_nothing_of_theirs_changed() {
    let root = tempfile::tempdir().unwrap();
    let paths_of = |names: &[&str]| names.iter().map(|n| root.path().join(n)).collect::<Vec<_>>();
    let first = [
        entry(b"a", Node::Directory),
        file(b"a/f", 3),
        entry(b"a/sub", Node::Directory),
        file(b"b", 0),
    ];
    apply(stream(false, &entries(&first)), root.path()).unwrap();
    let change = [
        entries(&[Entry { mtime: (9, 9), ..file(b"a/f", 3) }]),
        vec![data(0, b"new"), paths(kind::LINK, &[b"a/sub/link", b"b"])],
    ]
    .concat();
    apply(stream(true, &change), root.path()).unwrap();
    assert_eq!(fs::read(root.path().join("a/f")).unwrap(), b"new");
    use std::os::unix::fs::MetadataExt;
    for dir in paths_of(&["", "a", "a/sub"]) {
        let meta = dir.metadata().unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1, 2), "{}", dir.display());
    }
}

#[test]
fn names_of_streams_are_checked() {
    let id = StreamId::random().unwrap();
    assert_eq!(id.as_str().parse::<StreamId>().unwrap(), id);
    for wrong in ["", "../../x", &"g".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
        assert!(wrong.parse::<StreamId>().is_err(), "{wrong}");
    }
}
