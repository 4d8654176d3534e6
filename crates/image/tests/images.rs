//! Images from archives and containers, their names, and their removal.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Instance, Tar, collect, docker_archive, gzip, root, text};
use sampan_image::{
    CommitRequest, ImageUse, ImportRequest, ListFilters, LoadOptions, Progress, ProgressSink,
    Pruning, Reference, RemoveOptions,
};
use sampan_types::docker::ImageDeleteResponseItem;
use sampan_types::{ContainerId, ImageId};

fn unused(_: &ImageId) -> Vec<ImageUse> {
    Vec::new()
}

fn told(items: &[ImageDeleteResponseItem]) -> Vec<String> {
    items
        .iter()
        .map(|i| match (&i.untagged, &i.deleted) {
            (Some(tag), _) => format!("-{tag}"),
            (_, Some(id)) => id.clone(),
            _ => String::new(),
        })
        .collect()
}

fn layers() -> [Vec<u8>; 3] {
    [
        Tar::new().dir("bin").owned("bin/sh", b"#!", 0o4755, 0).file("both", b"lower").done(),
        gzip(&Tar::new().owned("home/me", b"me", 0o600, 1000).file("both", b"upper").done()),
        zstd::encode_all(&Tar::new().hardlink_pair().done()[..], 1).unwrap(),
    ]
}

trait Pair {
    fn hardlink_pair(self) -> Self;
}

impl Pair for Tar {
    fn hardlink_pair(self) -> Self {
        self.file("h1", b"linked").hardlink("h2", "./h1")
    }
}

#[tokio::test]
async fn load_save_and_load_again() {
    if !root() {
        return;
    }
    let first = Instance::new().await;
    let (sender, mut messages) = tokio::sync::mpsc::channel::<Progress>(100);
    let archive = docker_archive(Some("app:1"), &layers());
    let input = std::io::Cursor::new(gzip(&archive));
    let options = LoadOptions::default();
    let loaded = first.images.load(input, options, ProgressSink::new(sender)).await.unwrap();
    let id = loaded[0].0.clone();
    let mut streams = Vec::new();
    while let Some(message) = messages.recv().await {
        streams.extend(message.stream);
    }
    assert_eq!(streams, ["Loaded image: app:1\n"]);
    first.images.tag("app:1", &"localhost:5000/other".parse().unwrap()).await.unwrap();
    let (_, manifest) = first.images.manifest(&id).unwrap();
    let names = ["app:1".to_owned(), "localhost:5000/other".to_owned(), id.to_string()];
    let saved = collect(first.images.save(&names, None).await.unwrap()).await;

    let second = Instance::new().await;
    let again = second.load(saved.clone()).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].0, id);
    let mut tags: Vec<String> = again[0].1.iter().map(Reference::familiar).collect();
    tags.sort();
    assert_eq!(tags, ["app:1", "localhost:5000/other:latest"]);
    let (_, manifest_again) = second.images.manifest(&id).unwrap();
    assert_eq!(manifest_again, manifest);
    // The same as a plain OCI layout.
    let third = Instance::new().await;
    third.load(without(&saved, "manifest.json")).await.unwrap();
    assert_eq!(third.images.resolve("app:1").unwrap(), id);
    assert_eq!(third.images.resolve("localhost:5000/other").unwrap(), id);

    for instance in [&first, &second, &third] {
        let (_, merged) = instance.container(&id).await;
        assert_eq!(text(&merged.join("both")), "upper");
        let me = std::fs::metadata(merged.join("home/me")).unwrap();
        assert_eq!((me.uid(), me.mode() & 0o7777, me.mtime()), (1000, 0o600, 1_700_000_000));
        assert_eq!(std::fs::metadata(merged.join("bin/sh")).unwrap().mode() & 0o7777, 0o4755);
        let inode = |name: &str| std::fs::metadata(merged.join(name)).unwrap().ino();
        assert_eq!(inode("h1"), inode("h2"));
        let record = instance.images.inspect(&id).unwrap();
        assert_eq!(record.size, 2 + 5 + 2 + 5 + 6);
        assert_eq!(instance.images.history(&id).unwrap().len(), 3);
    }
    // Loading what is there is cheap and changes nothing.
    let before = second.inventory();
    second.load(archive).await.unwrap();
    assert_eq!(second.inventory(), before);
}

fn without(archive: &[u8], name: &str) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    let mut input = tar::Archive::new(archive);
    for entry in input.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes() != name.as_bytes() {
            let header = entry.header().clone();
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
            out.append(&header, &data[..]).unwrap();
        }
    }
    out.into_inner().unwrap()
}

#[tokio::test]
async fn import_with_changes() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    // As `tar -C root -c .` makes it, with a duplicate and a long name.
    let long = format!("./{}", "d/".repeat(80));
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o640);
    tar.append_data(&mut header, format!("{long}f"), &b"x"[..]).unwrap();
    let tar = [
        Tar::new()
            .dir("./")
            .dir("./bin/")
            .file("./bin/busybox", b"old")
            .symlink("./bin/sh", "busybox")
            .file("./bin/busybox", b"new")
            .xattr(
                "security.capability",
                &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )
            .file("./bin/ping", b"ping")
            .done()
            .strip_end(),
        tar.into_inner().unwrap(),
    ]
    .concat();
    let request = ImportRequest {
        reference: Some("mine:1".parse().unwrap()),
        changes: vec![r#"CMD ["sh"]"#.parse().unwrap(), "ENV A=b".parse().unwrap()],
        message: "hello".into(),
        platform: None,
    };
    let id = instance.images.import(std::io::Cursor::new(tar), request).await.unwrap();
    instance.reopen().await;
    let record = instance.images.inspect(&id).unwrap();
    assert_eq!(record.run_config().cmd.unwrap(), ["sh"]);
    assert_eq!(record.config.comment.as_deref(), Some("hello"));
    assert_eq!(record.tags[0].familiar(), "mine:1");
    assert_eq!(instance.images.history(&id).unwrap()[0].comment, "hello");
    let (_, merged) = instance.container(&id).await;
    assert_eq!(text(&merged.join("bin/sh")), "new");
    assert_eq!(text(&merged.join(format!("{long}f"))), "x");
    let capability =
        sampan_sys::xattr::get(&merged.join("bin/ping"), "security.capability".as_ref());
    assert_eq!(capability.unwrap().unwrap().len(), 20);
}

trait StripEnd {
    fn strip_end(self) -> Self;
}

impl StripEnd for Vec<u8> {
    fn strip_end(mut self) -> Self {
        while self.len() > 512 && self[self.len() - 512..].iter().all(|b| *b == 0) {
            self.truncate(self.len() - 512);
        }
        self
    }
}

#[tokio::test]
async fn commit_keeps_what_was_done() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    let base = instance.load(docker_archive(Some("base"), &layers())).await.unwrap()[0].0.clone();
    let (container, merged) = instance.container(&base).await;
    std::fs::write(merged.join("new"), "n").unwrap();
    std::fs::remove_file(merged.join("both")).unwrap();
    std::fs::remove_dir_all(merged.join("bin")).unwrap();
    std::fs::create_dir(merged.join("bin")).unwrap();
    std::fs::write(merged.join("bin/other"), "o").unwrap();
    let request = CommitRequest {
        container: container.clone(),
        image: base.clone(),
        config: instance.images.inspect(&base).unwrap().run_config(),
        reference: Some("child:2".parse().unwrap()),
        changes: vec!["USER me".parse().unwrap()],
        author: "A".into(),
        message: "M".into(),
    };
    let child = instance.images.commit(request.clone()).await.unwrap();
    let record = instance.images.inspect(&child).unwrap();
    assert_eq!(record.parent.as_ref(), Some(&base));
    assert_eq!(
        (record.config.author.as_deref(), record.config.comment.as_deref()),
        (Some("A"), Some("M"))
    );
    assert_eq!(record.run_config().user.as_deref(), Some("me"));
    let history = instance.images.history(&child).unwrap();
    assert_eq!(
        (history.len(), history[0].id.as_ref(), history[1].id.as_ref()),
        (4, Some(&child), Some(&base))
    );
    let (other, merged) = instance.container(&child).await;
    assert_eq!(text(&merged.join("new")), "n");
    assert!(!merged.join("both").exists());
    assert_eq!(std::fs::read_dir(merged.join("bin")).unwrap().count(), 1);
    assert_eq!(text(&merged.join("home/me")), "me");
    // A container that did nothing makes no layer.
    let nothing =
        CommitRequest { container: other, image: child.clone(), reference: None, ..request };
    let same = instance.images.commit(nothing).await.unwrap();
    assert_eq!(
        instance.images.inspect(&same).unwrap().config.rootfs,
        instance.images.inspect(&child).unwrap().config.rootfs
    );
    // A parent can't go before its children, and goes with the last of them.
    let options = || RemoveOptions { force: true, noprune: false, in_use: &unused };
    let error = instance.images.remove(base.as_str(), options()).await.unwrap_err().to_string();
    assert!(error.ends_with("(cannot be forced) - image has dependent child images"), "{error}");
    instance.images.remove("base", options()).await.unwrap();
    assert!(instance.images.inspect(&base).is_ok());
    instance.images.remove(same.as_str(), options()).await.unwrap();
    assert!(instance.images.inspect(&child).is_ok());
    instance.images.remove("child:2", options()).await.unwrap();
    assert!(instance.images.list().is_empty());
    // The containers still have their files, also after a restart.
    instance.reopen().await;
    assert_eq!(text(&instance.images.mount(&container).await.unwrap().join("home/me")), "me");
    for id in std::fs::read_dir(instance.dir.path().join("overlay")).unwrap() {
        let id: ContainerId = id.unwrap().file_name().to_string_lossy().parse().unwrap();
        instance.images.discard(&id).await.unwrap();
        instance.images.discard(&id).await.unwrap();
    }
    instance.images.settle().await;
    assert_eq!(instance.inventory(), [0; 4]);
    assert_eq!(std::fs::read_dir(instance.dir.path().join("overlay")).unwrap().count(), 0);
}

#[tokio::test]
async fn names_and_removal_as_docker_does() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let images = &instance.images;
    let [one, two, _] = layers();
    let a = instance.load(docker_archive(Some("a:1"), std::slice::from_ref(&one))).await.unwrap()
        [0]
    .0
    .clone();
    let ab = instance.load(docker_archive(Some("b"), &[one, two])).await.unwrap()[0].0.clone();
    assert_eq!(images.resolve(a.short()).unwrap(), a);
    assert_eq!(images.resolve(a.hex()).unwrap(), a);
    assert_eq!(images.resolve("docker.io/library/b:latest").unwrap(), ab);
    assert_eq!(images.resolve("nope").unwrap_err().to_string(), "No such image: nope:latest");
    assert_eq!(
        images.resolve("A").unwrap_err().to_string(),
        "invalid reference format: repository name (library/A) must be lowercase"
    );
    let size = |id: &ImageId| images.inspect(id).unwrap().size;
    assert_eq!(images.shared_size(&ab), size(&a));
    assert_eq!(images.layers_size(), size(&ab));

    images.tag("a:1", &"a:2".parse().unwrap()).await.unwrap();
    let user = ContainerId::random();
    let run = |running: bool| {
        let user = user.clone();
        move |_: &ImageId| vec![ImageUse { container: user.clone(), running }]
    };
    let (stopped, running) = (run(false), run(true));
    let gentle = RemoveOptions { force: false, noprune: false, in_use: &unused };
    let error = images.remove(a.short(), gentle).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            a.short()
        )
    );
    // One of two names goes, even in use.
    let options = RemoveOptions { force: false, noprune: false, in_use: &running };
    assert_eq!(told(&images.remove("a:2", options).await.unwrap()), ["-a:2"]);
    let options = RemoveOptions { force: false, noprune: false, in_use: &stopped };
    let error = images.remove("a:1", options).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "conflict: unable to remove repository reference \"a:1\" (must force) - container {} is using its referenced image {}",
            user.short(),
            a.short()
        )
    );
    let options = RemoveOptions { force: true, noprune: false, in_use: &running };
    let error = images.remove(a.hex(), options).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
            a.short(),
            user.short()
        )
    );
    // Shared layers stay with the other image.
    let options = RemoveOptions { force: true, noprune: false, in_use: &stopped };
    assert_eq!(
        told(&images.remove("a:1", options).await.unwrap()),
        ["-a:1".to_owned(), a.to_string()]
    );
    let chains: Vec<String> = images
        .inspect(&ab)
        .unwrap()
        .config
        .chain_ids()
        .iter()
        .rev()
        .map(ToString::to_string)
        .collect();
    let options = RemoveOptions { force: false, noprune: false, in_use: &unused };
    let gone = told(&images.remove("b", options).await.unwrap());
    assert_eq!(gone, [vec!["-b:latest".to_owned(), ab.to_string()], chains].concat());
    assert_eq!(instance.inventory(), [0; 4]);
}

#[tokio::test]
async fn filters_and_prune() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    let tar = |n: u8| Tar::new().file("f", &[n; 1000]).done();
    let mut ids = Vec::new();
    for n in 0..4u8 {
        let request = ImportRequest {
            reference: Some(format!("img{n}").parse().unwrap()),
            changes: vec![format!("LABEL n={n} all=1").parse().unwrap()],
            ..ImportRequest::default()
        };
        ids.push(instance.images.import(std::io::Cursor::new(tar(n)), request).await.unwrap());
    }
    // The tag moves; the old image dangles.
    instance.images.tag("img1", &"img0".parse().unwrap()).await.unwrap();
    let list = |filters: ListFilters| -> Vec<ImageId> {
        instance.images.list_filtered(&filters).unwrap().iter().map(|r| r.id.clone()).collect()
    };
    let newest_first: Vec<ImageId> = ids.iter().rev().cloned().collect();
    assert_eq!(list(ListFilters::default()), newest_first);
    assert_eq!(list(ListFilters { dangling: Some(true), ..Default::default() }), [ids[0].clone()]);
    assert_eq!(
        list(ListFilters { dangling: Some(false), ..Default::default() }),
        newest_first[..3]
    );
    assert_eq!(
        list(ListFilters { labels: vec!["n=2".into(), "all".into()], ..Default::default() }),
        [ids[2].clone()]
    );
    assert_eq!(
        list(ListFilters { before: vec!["img2".into()], ..Default::default() }),
        newest_first[2..]
    );
    assert_eq!(
        list(ListFilters { since: vec!["img2".into()], ..Default::default() }),
        [ids[3].clone()]
    );
    let named = ListFilters { references: vec!["img[0-1]".into()], ..Default::default() };
    let named = instance.images.list_filtered(&named).unwrap();
    assert_eq!((named.len(), named[0].tags.len()), (1, 2));
    assert!(
        instance
            .images
            .list_filtered(&ListFilters { before: vec!["x".into()], ..Default::default() })
            .is_err()
    );

    let prune = |dangling: bool, in_use| Pruning {
        dangling,
        until: None,
        labels: Vec::new(),
        not_labels: Vec::new(),
        in_use,
    };
    let report = instance.images.prune(prune(true, &unused)).await.unwrap();
    assert_eq!(report.reclaimed, 1000);
    assert_eq!(told(&report.deleted)[0], ids[0].to_string());
    let used = ids[3].clone();
    let in_use = move |id: &ImageId| {
        let container = ContainerId::random();
        (*id == used).then_some(ImageUse { container, running: false }).into_iter().collect()
    };
    let report = instance
        .images
        .prune(Pruning { labels: vec!["n=2".into()], ..prune(false, &in_use) })
        .await
        .unwrap();
    assert_eq!(report.reclaimed, 1000);
    let report = instance.images.prune(prune(false, &in_use)).await.unwrap();
    assert_eq!(report.reclaimed, 1000);
    assert_eq!(instance.images.list().len(), 1);
    instance.reopen().await;
    assert_eq!(instance.images.list()[0].id, ids[3]);
}

#[tokio::test]
async fn starts_sweep_what_was_left() {
    if !root() {
        return;
    }
    let mut instance = Instance::new().await;
    instance.load(docker_archive(Some("a"), &layers())).await.unwrap();
    let before = instance.inventory();
    let image = instance.dir.path().join("image");
    std::fs::create_dir_all(image.join("layers/.tmp-1-1/diff/x")).unwrap();
    std::fs::create_dir_all(image.join(format!("layers/{}/diff", "0".repeat(64)))).unwrap();
    std::fs::write(image.join(format!("blobs/sha256/{}", "0".repeat(64))), "x").unwrap();
    std::fs::write(image.join("ingest/scratch-1-1"), "x").unwrap();
    std::fs::create_dir_all(instance.dir.path().join("overlay/.trash-1-1/upper/a")).unwrap();
    instance.reopen().await;
    instance.images.settle().await;
    assert_eq!(instance.inventory(), before);
    assert!(!instance.dir.path().join("overlay/.trash-1-1").exists());
    // A broken list is set aside, and nothing is thrown away because of it.
    std::fs::write(image.join("repositories.json"), "{").unwrap();
    instance.reopen().await;
    assert_eq!(instance.inventory(), before);
    assert!(instance.images.list().is_empty());
}

#[tokio::test]
async fn files_with_holes() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    for i in 0..40u64 {
        file.write_all_at(format!("piece {i}").as_bytes(), i * 100_000 + 70_000).unwrap();
    }
    file.set_len(5_000_000).unwrap();
    let expected = std::fs::read(dir.path().join("sparse")).unwrap();
    let instance = Instance::new().await;
    for form in [
        "--format=gnu",
        "--format=posix --sparse-version=0.0",
        "--format=posix --sparse-version=0.1",
        "--format=posix --sparse-version=1.0",
    ] {
        let made = std::process::Command::new("tar")
            .args(form.split(' '))
            .args(["-S", "-c", "-C"])
            .arg(dir.path())
            .arg("sparse")
            .output();
        let Ok(made) = made else {
            eprintln!("skipped: no tar program");
            return;
        };
        assert!(made.status.success() && made.stdout.len() < 1_000_000, "{form}");
        let id = instance.import(made.stdout, "holes").await.unwrap();
        let (_, merged) = instance.container(&id).await;
        assert!(std::fs::read(merged.join("sparse")).unwrap() == expected, "{form}");
        assert!(std::fs::metadata(merged.join("sparse")).unwrap().blocks() * 512 < 1_000_000);
    }
}
