//! Containers' file systems on real overlay mounts, and `docker cp`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::{Instance, Tar, collect, docker_archive, root, text};
use sampan_image::archive::{self, ArchiveError, ExtractOptions};
use sampan_image::{ChangeKind, ImageError, Limits};
use sampan_types::ContainerId;

#[tokio::test]
async fn whiteouts_hide_what_is_below() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let layers = [
        Tar::new()
            .file("gone", b"")
            .file("stays", b"s")
            .file("opaque/old", b"")
            .file("replaced/old", b"")
            .file("turned/old", b"")
            .done(),
        Tar::new()
            .file(".wh.gone", b"")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/new", b"n")
            .file(".wh.replaced", b"")
            .file("replaced/new", b"n")
            .dir("turned")
            .file(".wh.turned", b"")
            .file(".wh..wh.plnk", b"")
            .file(".wh.absent", b"")
            .done(),
        Tar::new().dir("gone").file("gone/again", b"a").done(),
    ];
    let id = instance.load(docker_archive(Some("w"), &layers)).await.unwrap()[0].0.clone();
    let (_, merged) = instance.container(&id).await;
    let names = |dir: &str| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(merged.join(dir))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("opaque"), ["new"]);
    assert_eq!(names("replaced"), ["new"]);
    assert_eq!(names("turned"), Vec::<String>::new());
    assert_eq!(names("gone"), ["again"]);
    assert_eq!(text(&merged.join("stays")), "s");
    assert!(!names("").iter().any(|n| n.starts_with(".wh.") || n == "absent"));
}

#[tokio::test]
async fn the_root_of_a_layer_can_hide_all_below() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let mut private = tar::Header::new_gnu();
    private.set_entry_type(tar::EntryType::Directory);
    private.as_old_mut().name[..2].copy_from_slice(b"./");
    private.set_mode(0o700);
    private.set_uid(7);
    private.set_gid(7);
    private.set_size(0);
    let layers = [
        Tar::new().raw(private, &[]).file("a", b"").done(),
        Tar::new().file(".wh..wh..opq", b"").file("b", b"").done(),
    ];
    let id = instance.load(docker_archive(Some("o"), &layers)).await.unwrap()[0].0.clone();
    let (_, merged) = instance.container(&id).await;
    assert!(!merged.join("a").exists() && merged.join("b").exists());
    let meta = std::fs::metadata(&merged).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o700, 7));
}

#[tokio::test]
async fn a_hundred_and_thirty_layers() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    let layers: Vec<Vec<u8>> = (0..130)
        .map(|i| {
            let name = format!("f{i}");
            Tar::new().file(&name, name.as_bytes()).file("top", name.as_bytes()).done()
        })
        // The first layer once more, as builders make it.
        .chain([Tar::new().file("f0", b"f0").file("top", b"f0").done()])
        .collect();
    let id = instance.load(docker_archive(Some("many"), &layers)).await.unwrap()[0].0.clone();
    let (container, merged) = instance.container(&id).await;
    assert_eq!((text(&merged.join("top")), text(&merged.join("f7"))), ("f0".into(), "f7".into()));
    let started = std::time::Instant::now();
    instance.images.unmount(&container).await.unwrap();
    instance.images.unmount(&container).await.unwrap();
    instance.reopen().await;
    let merged = instance.images.mount(&container).await.unwrap();
    assert_eq!(instance.images.mount(&container).await.unwrap(), merged);
    assert!(merged.join("f129").exists(), "{:?}", started.elapsed());
    assert_eq!(instance.images.snapshot(&container).unwrap().lower.len(), 131);
}

#[tokio::test]
async fn changes_are_the_containers_only() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let layer = Tar::new()
        .dir("etc")
        .file("etc/passwd", b"p")
        .file("etc/keep", b"k")
        .dir("d")
        .file("d/x", b"x")
        .file("d/y", b"y")
        .file("lonely/f", b"f")
        .done();
    let id = instance.load(docker_archive(Some("c"), &[layer])).await.unwrap()[0].0.clone();
    let (container, merged) = instance.container(&id).await;
    for point in
        ["etc/hosts", "etc/resolv.conf", "etc/hostname", "dev/console", "dev/pts", "proc", "sys"]
    {
        assert!(merged.join(point).exists(), "{point}");
    }
    assert_eq!(instance.images.changes(&container).await.unwrap(), []);
    std::fs::write(merged.join("etc/new"), "12345").unwrap();
    std::fs::remove_file(merged.join("etc/passwd")).unwrap();
    std::fs::remove_dir_all(merged.join("d")).unwrap();
    std::fs::create_dir(merged.join("d")).unwrap();
    std::fs::write(merged.join("d/x"), "again").unwrap();
    std::fs::set_permissions(merged.join("lonely/f"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir_all(merged.join("n/m")).unwrap();
    use ChangeKind::{Added, Deleted, Modified};
    let expected: Vec<(ChangeKind, std::path::PathBuf)> = [
        (Modified, "/d"),
        (Added, "/d/x"),
        (Deleted, "/d/y"),
        (Modified, "/etc"),
        (Added, "/etc/new"),
        (Deleted, "/etc/passwd"),
        (Modified, "/lonely/f"),
        (Added, "/n"),
        (Added, "/n/m"),
    ]
    .map(|(kind, path)| (kind, path.into()))
    .to_vec();
    assert_eq!(instance.images.changes(&container).await.unwrap(), expected);
    assert_eq!(instance.images.upper_size(&container).await.unwrap(), 5 + 5 + 1);
    assert_eq!(instance.images.root_size(&container).await.unwrap(), 11 + 5);
}

#[tokio::test]
async fn export_and_import_give_the_same_files() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let layer = Tar::new().owned("bin/sh", b"#!", 0o4755, 7).symlink("l", "/bin/sh").done();
    let id = instance.load(docker_archive(Some("e"), &[layer])).await.unwrap()[0].0.clone();
    let (container, merged) = instance.container(&id).await;
    std::fs::write(merged.join("own"), "o").unwrap();
    instance.images.unmount(&container).await.unwrap();
    let archive = collect(instance.images.export(&container).await.unwrap()).await;
    instance.images.settle().await;
    assert_eq!(std::fs::read_dir(&merged).unwrap().count(), 0, "unmounted again");
    let copy = instance.import(archive, "copy").await.unwrap();
    let (_, merged) = instance.container(&copy).await;
    assert_eq!(std::fs::read_link(merged.join("l")).unwrap(), Path::new("/bin/sh"));
    assert_eq!(text(&merged.join("own")), "o");
    let meta = std::fs::metadata(merged.join("bin/sh")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o4755, 7));
}

#[tokio::test]
async fn snapshots_of_unknown_containers_go() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    let layer = Tar::new().file("a", b"").done();
    let id = instance.load(docker_archive(Some("s"), &[layer])).await.unwrap()[0].0.clone();
    let (kept, _) = instance.container(&id).await;
    let (lost, _) = instance.container(&id).await;
    instance.images.prepare(&kept, &id).await.unwrap();
    std::fs::create_dir(instance.dir.path().join("overlay").join(ContainerId::random().as_str()))
        .unwrap();
    instance.reopen().await;
    instance.images.sweep(&HashSet::from([kept.clone()])).await.unwrap();
    instance.images.settle().await;
    let left: Vec<_> = std::fs::read_dir(instance.dir.path().join("overlay"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, [kept.as_str()]);
    assert!(matches!(instance.images.mount(&lost).await, Err(ImageError::NoSnapshot(_))));
    assert!(
        instance
            .images
            .prepare(&lost, &format!("sha256:{}", "0".repeat(64)).parse().unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn copies_stay_in_the_root() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (host, inside) = (dir.path().join("host"), dir.path().join("root"));
    std::fs::create_dir_all(inside.join("data/sub")).unwrap();
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("secret"), "secret").unwrap();
    std::fs::write(inside.join("data/f"), "f").unwrap();
    symlink(host.join("secret"), inside.join("data/leak")).unwrap();
    symlink(&host, inside.join("out")).unwrap();
    symlink("/data", inside.join("alias")).unwrap();

    // Out: a link is copied as a link, and leads nowhere as a parent.
    let (stat, stream) = archive::read(inside.clone(), "/alias/.").await.unwrap();
    assert_eq!(stat.name, ".");
    let bytes = collect(stream).await;
    let mut names = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let entry = entry.unwrap();
        names.push(String::from_utf8(entry.path_bytes().to_vec()).unwrap());
        assert_ne!(entry.size(), 6);
    }
    assert_eq!(names, ["./", "./f", "./leak", "./sub/"]);
    let missing = archive::read(inside.clone(), "/out/secret").await.err().unwrap();
    let ArchiveError::NoSuchFile { .. } = missing else { panic!("{missing}") };
    assert_eq!(
        missing.in_container("web").to_string(),
        "Could not find the file /out/secret in container web"
    );
    let (stat, stream) = archive::read(inside.clone(), "data").await.unwrap();
    assert_eq!((stat.name.as_str(), stat.mode >> 31), ("data", 1));
    assert!(collect(stream).await.starts_with(b"data/"));
    let stat = archive::stat(inside.clone(), "/data/leak").await.unwrap();
    assert_eq!(stat.link_target, host.join("secret").to_string_lossy());

    // In: through links of the container, only inside.
    let put = |tar: Tar, path: &'static str, options: ExtractOptions| {
        archive::write(inside.clone(), path, options, std::io::Cursor::new(tar.done()))
    };
    let keep = ExtractOptions { copy_uid_gid: true, ..ExtractOptions::default() };
    put(Tar::new().owned("new", b"n", 0o640, 5), "/alias", keep).await.unwrap();
    assert_eq!(std::fs::metadata(inside.join("data/new")).unwrap().uid(), 5);
    let owner = ExtractOptions { owner: (9, 9), ..ExtractOptions::default() };
    put(Tar::new().owned("newer", b"n", 0o640, 5), "/data", owner).await.unwrap();
    assert_eq!(std::fs::metadata(inside.join("data/newer")).unwrap().uid(), 9);
    put(Tar::new().file("leak", b"mine"), "/data", keep).await.unwrap();
    assert_eq!(text(&inside.join("data/leak")), "mine");
    put(Tar::new().file(".wh.f", b"plain"), "/data", keep).await.unwrap();
    assert!(inside.join("data/.wh.f").exists() && inside.join("data/f").exists());
    let outside = put(Tar::new().file("secret", b"x"), "/out", keep).await;
    assert!(matches!(outside, Err(ArchiveError::NoSuchFile { .. })));
    let file = put(Tar::new().file("x", b"x"), "/data/f", keep).await.unwrap_err();
    assert_eq!(file.to_string(), "extraction point is not a directory");
    assert!(put(Tar::new().file("../../host/secret", b"x"), "/data", keep).await.is_err());
    let careful = ExtractOptions { no_overwrite_dir_non_dir: true, ..keep };
    let over = put(Tar::new().file("sub", b"x"), "/data", careful).await.unwrap_err();
    assert_eq!(over.to_string(), "cannot overwrite directory \"sub\" with non-directory");
    put(Tar::new().file("sub", b"x"), "/data", keep).await.unwrap();
    assert_eq!(text(&host.join("secret")), "secret");
    assert_eq!(std::fs::read_dir(&host).unwrap().count(), 1);
}

/// A container swaps a directory for a link to the host while files are copied
/// through it.
#[tokio::test(flavor = "multi_thread")]
async fn copies_stay_in_a_root_that_changes() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (host, inside) = (dir.path().join("host"), dir.path().join("root"));
    for made in [&host, &inside, &inside.join("d"), &inside.join("spare")] {
        std::fs::create_dir(made).unwrap();
    }
    std::fs::write(host.join("secret"), "secret").unwrap();
    std::fs::write(inside.join("d/secret"), "inside").unwrap();
    symlink(&host, inside.join("link")).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, at) = (stop.clone(), inside.clone());
    let attacker = std::thread::spawn(move || {
        use nix::fcntl::{RenameFlags, renameat2};
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            renameat2(None, &at.join("d"), None, &at.join("link"), RenameFlags::RENAME_EXCHANGE)
                .unwrap();
        }
    });
    for i in 0..300 {
        let options = ExtractOptions { copy_uid_gid: true, ..ExtractOptions::default() };
        let tar = Tar::new().file(&format!("f{i}"), b"x").done();
        let _ = archive::write(inside.clone(), "/d", options, std::io::Cursor::new(tar)).await;
        if let Ok((_, stream)) = archive::read(inside.clone(), "/d/secret").await {
            let bytes = collect(stream).await;
            assert!(!bytes.windows(6).skip(512).any(|w| w == b"secret"));
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    attacker.join().unwrap();
    assert_eq!(std::fs::read_dir(&host).unwrap().count(), 1);
}

#[tokio::test]
async fn volumes_are_filled_with_attributes() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (inside, volume) = (dir.path().join("root"), dir.path().join("volume"));
    std::fs::create_dir_all(inside.join("var/www")).unwrap();
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(inside.join("var/www/index"), "hi").unwrap();
    std::os::unix::fs::chown(inside.join("var/www"), Some(33), Some(33)).unwrap();
    std::fs::set_permissions(inside.join("var/www"), PermissionsExt::from_mode(0o2750)).unwrap();
    archive::copy_out(inside.clone(), Path::new("/var/www"), &volume).await.unwrap();
    archive::copy_out(inside, Path::new("/absent"), &volume).await.unwrap();
    assert_eq!(text(&volume.join("index")), "hi");
    let meta = std::fs::metadata(&volume).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (33, 0o2750));
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing() {
    if !root() {
        return;
    }
    let small = tempfile::tempdir().unwrap();
    if let Err(e) = sampan_sys::mount::mount_fs("tmpfs", "tmpfs", small.path(), "size=4m") {
        eprintln!("skipped: no tmpfs mount here: {e}");
        return;
    }
    let images = sampan_image::Images::open_with(small.path(), Limits::default()).await.unwrap();
    let noise: Vec<u8> =
        (0u32..3 << 20).flat_map(|i| [(i.wrapping_mul(2_654_435_761) >> 13) as u8]).collect();
    let tar = Tar::new().file("a", &noise).file("b", &noise).done();
    let request = sampan_image::ImportRequest::default();
    let error = images.import(std::io::Cursor::new(tar.clone()), request).await.unwrap_err();
    assert!(error.to_string().contains("no space left on device"), "{error}");
    let archive = docker_archive(Some("x"), &[tar]);
    let loaded = images
        .load(std::io::Cursor::new(archive), Default::default(), sampan_image::ProgressSink::none())
        .await;
    assert!(loaded.unwrap_err().to_string().contains("no space left on device"));
    for path in ["blobs/sha256", "layers", "ingest"] {
        let left = std::fs::read_dir(small.path().join("image").join(path)).unwrap().count();
        assert_eq!(left, 0, "{path}");
    }
    // And there is room again.
    let tar = Tar::new().file("a", &noise[..1 << 20]).done();
    images.import(std::io::Cursor::new(tar), Default::default()).await.unwrap();
    drop(images);
    sampan_sys::mount::unmount(small.path()).unwrap();
}

/// The paths exceed what the new mount calls take: short relative ones do.
#[tokio::test]
async fn a_data_root_with_a_long_path() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    let long = instance.dir.path().join("a,b:c".repeat(20)).join("x".repeat(150));
    std::fs::create_dir_all(&long).unwrap();
    instance.images = sampan_image::Images::open(&long).await.unwrap();
    let layers = [Tar::new().file("a", b"lower").done(), Tar::new().file("a", b"upper").done()];
    let id = instance.load(docker_archive(Some("l"), &layers)).await.unwrap()[0].0.clone();
    let (container, merged) = instance.container(&id).await;
    assert_eq!(text(&merged.join("a")), "upper");
    std::fs::write(merged.join("b"), "b").unwrap();
    let changes = instance.images.changes(&container).await.unwrap();
    assert_eq!(changes, [(ChangeKind::Added, "/b".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_leaves_nothing() {
    if !root() {
        return;
    }
    let instance = std::sync::Arc::new(Instance::new().await);
    let layers: Vec<Vec<u8>> =
        (0..3).map(|i| Tar::new().file(&format!("f{i}"), &[i; 5000]).done()).collect();
    let unused = |_: &sampan_types::ImageId| Vec::new();
    let mut tasks = Vec::new();
    for worker in 0..6usize {
        let (instance, layers) = (instance.clone(), layers.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..8 {
                let tag = format!("w{worker}:{round}");
                let archive = docker_archive(Some(&tag), &layers[..=(worker + round) % 3]);
                let id = instance.load(archive).await.unwrap()[0].0.clone();
                let container = ContainerId::random();
                // Another worker may have removed the image by its id.
                if instance.images.prepare(&container, &id).await.is_ok() {
                    let merged = instance.images.mount(&container).await.unwrap();
                    assert_eq!(std::fs::read(merged.join("f0")).unwrap(), [0; 5000]);
                    let name = if round % 2 == 0 { tag } else { id.to_string() };
                    let options = sampan_image::RemoveOptions {
                        force: true,
                        noprune: false,
                        in_use: &unused,
                    };
                    let _ = instance.images.remove(&name, options).await;
                    assert_eq!(std::fs::read(merged.join("f0")).unwrap(), [0; 5000]);
                    instance.images.discard(&container).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let what = sampan_image::Pruning {
        dangling: false,
        until: None,
        labels: Vec::new(),
        not_labels: Vec::new(),
        in_use: &unused,
    };
    instance.images.settle().await;
    instance.images.prune(what).await.unwrap();
    assert_eq!(instance.inventory(), [0; 4]);
    assert_eq!(std::fs::read_dir(instance.dir.path().join("overlay")).unwrap().count(), 0);
}
