//! Archives that want out, or too much: refused, with nothing left.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::{Instance, Tar, docker_archive, gzip, root};
use sampan_image::{ImageError, Limits};

/// Loads and imports the layer; both must fail and leave nothing. Gives the
/// message of the import.
async fn refused(limits: Limits, layer: Vec<u8>) -> String {
    let instance = Instance::with(limits).await;
    let outside = instance.dir.path().join("outside");
    std::fs::write(&outside, "safe").unwrap();
    let error: ImageError = instance.import(layer.clone(), "bad").await.unwrap_err();
    assert_eq!(instance.inventory(), [0; 4], "import: {error}");
    let loaded = instance.load(docker_archive(Some("bad"), &[layer])).await;
    assert!(loaded.is_err());
    assert_eq!(instance.inventory(), [0; 4], "load: {error}");
    assert!(instance.images.list().is_empty());
    assert_eq!(common::text(&outside), "safe");
    error.to_string()
}

#[tokio::test]
async fn paths_that_lead_out() {
    if !root() {
        return;
    }
    for (tar, word) in [
        (Tar::new().file("../outside", b"x"), "out of the archive"),
        (Tar::new().file("a/../../outside", b"x"), "out of the archive"),
        (Tar::new().symlink("a", "../../../outside"), "outside of the image"),
        (Tar::new().dir("d").symlink("d/a", "../../x").file("d/a/y", b""), "outside of the image"),
        (Tar::new().hardlink("a", "../outside"), "out of the archive"),
        (Tar::new().hardlink("a", "/etc/passwd"), "not there"),
        (Tar::new().symlink("l", "/etc").hardlink("a", "l/passwd"), "not there"),
        (Tar::new().symlink("l", "/nowhere").file("l/x", b"x"), "not a directory"),
        (Tar::new().file("f", b"").file("f/x", b"x"), "not a directory"),
        (Tar::new().file(".wh...", b""), "marks nothing"),
        (Tar::new().file("d/.wh.", b""), "marks nothing"),
    ] {
        let message = refused(Limits::default(), tar.done()).await;
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn links_are_followed_only_inside() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let tar = Tar::new()
        .dir("etc")
        .symlink("abs", "/etc")
        .file("abs/passwd", b"inside")
        .file("/rooted", b"r")
        .symlink("leaf", "/etc/passwd")
        .file("leaf", b"replaced, not written through")
        .done();
    let image = instance.import(tar, "a").await.unwrap();
    let (_, merged) = instance.container(&image).await;
    assert_eq!(common::text(&merged.join("etc/passwd")), "inside");
    assert_eq!(common::text(&merged.join("rooted")), "r");
    assert_eq!(common::text(&merged.join("leaf")), "replaced, not written through");
    assert_ne!(common::text(std::path::Path::new("/etc/passwd")), "inside");
}

#[tokio::test]
async fn device_nodes_and_overlayfs_own_marks() {
    if !root() {
        return;
    }
    use tar::EntryType::{Block, Char};
    for tar in [
        Tar::new().device("dev/sda", Block, 8, 0),
        Tar::new().device("dev/mem", Char, 1, 1),
        Tar::new().device("gone", Char, 0, 0),
        Tar::new().xattr("trusted.overlay.redirect", b"/etc").dir("d"),
        Tar::new().xattr("user.overlay.opaque", b"y").dir("d"),
    ] {
        let message = refused(Limits::default(), tar.done()).await;
        assert!(message.contains("device nodes") || message.contains("overlayfs"), "{message}");
    }
    // What debootstrap leaves is harmless.
    let instance = Instance::new().await;
    let tar = Tar::new().device("dev/null", Char, 1, 3).device("dev/tty", Char, 5, 0).done();
    instance.import(tar, "debian").await.unwrap();
}

#[tokio::test]
async fn bombs() {
    if !root() {
        return;
    }
    let small = Limits {
        ratio_from: 1 << 20,
        entries: 1000,
        header: 4096,
        bytes: 8 << 20,
        ..Limits::default()
    };
    let zeros = Tar::new().file("zeros", &vec![0; 4 << 20]).done();
    assert!(refused(small, gzip(&zeros)).await.contains("times its size"));
    let squared = gzip(&gzip(&zeros));
    assert!(!refused(small, squared).await.is_empty());
    let mut many = Tar::new();
    for i in 0..1001 {
        many = many.file(&format!("f{i}"), b"");
    }
    assert!(refused(small, many.done()).await.contains("entries"));
    let long = "x/".repeat(49);
    assert!(
        refused(Limits { depth: 20, ..small }, Tar::new().dir(&long).done()).await.contains("deep")
    );
    let attributes = Tar::new().xattr("user.x", &[0; 8000]).file("f", b"").done();
    assert!(refused(small, attributes).await.contains("extended headers"));
    let large = Tar::new().file("f", &vec![1; 9 << 20]).done();
    assert!(refused(small, large).await.contains("more than"));
}

#[tokio::test]
async fn broken_archives() {
    if !root() {
        return;
    }
    let whole = Tar::new().file("a", &[7; 5000]).file("b", &[8; 5000]).done();
    for broken in [
        whole[..3000].to_vec(),
        whole[..700].to_vec(),
        gzip(&whole)[..60].to_vec(),
        b"not a tar archive at all, but long enough to be one".repeat(40),
        b"\xfd7zXZ\0 and more".to_vec(),
    ] {
        assert!(!refused(Limits::default(), broken).await.is_empty());
    }
}

#[tokio::test]
async fn archives_of_images_that_contradict_themselves() {
    if !root() {
        return;
    }
    let instance = Instance::new().await;
    let layer = Tar::new().file("a", b"x").done();
    let other = Tar::new().file("a", b"y").done();
    let good = String::from_utf8_lossy(&docker_archive(Some("a"), std::slice::from_ref(&layer)))
        .into_owned();
    assert!(good.contains("manifest.json"));
    let cases = [
        // The layer is not the one that the configuration names.
        Tar::new()
            .file("l", &other)
            .file("c", config(&[&layer]).as_bytes())
            .file("manifest.json", br#"[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]"#),
        Tar::new().file("manifest.json", br#"[{"Config":"c","Layers":[]}]"#),
        Tar::new()
            .file("c", config(&[&layer]).as_bytes())
            .file("manifest.json", br#"[{"Config":"c","Layers":["l"]}]"#),
        Tar::new()
            .file("l", &layer)
            .file("c", config(&[&layer, &layer]).as_bytes())
            .file("manifest.json", br#"[{"Config":"c","Layers":["l"]}]"#),
        Tar::new()
            .file("l", &layer)
            .file("c", config(&[&layer]).as_bytes())
            .file("manifest.json", br#"[{"Config":"c","RepoTags":["Bad Name"],"Layers":["l"]}]"#),
        Tar::new().file("manifest.json", b"{"),
        Tar::new().file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#),
        Tar::new().file("../manifest.json", b"[]"),
        Tar::new().symlink("manifest.json", "/etc/passwd"),
        Tar::new().symlink("manifest.json", "loop").symlink("loop", "manifest.json"),
        Tar::new().file("hello", b"a root file system"),
    ];
    for (i, case) in cases.into_iter().enumerate() {
        let error = instance.load(case.done()).await.unwrap_err();
        assert_eq!(instance.inventory(), [0; 4], "{i}: {error}");
        assert!(instance.images.list().is_empty());
    }
}

fn config(layers: &[&Vec<u8>]) -> String {
    let diff_ids: Vec<String> =
        layers.iter().map(|l| common::plain_digest(l).to_string()).collect();
    serde_json::json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
}
