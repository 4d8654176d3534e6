//! The local driver on a real file system. Mounts and owners need root; those
//! tests say so when they are skipped.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail, and says so when it is skipped"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use sampan_types::{ErrorKind, Kind};
use sampan_volume::{ANONYMOUS_LABEL, VolumeError, VolumeSpec, Volumes};

fn spec(name: &str, options: &[(&str, &str)]) -> VolumeSpec {
    VolumeSpec {
        name: Some(name.to_owned()),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..VolumeSpec::default()
    }
}

/// Whether this process may mount; says so when not.
fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        println!("skipped: needs root to mount");
    }
    may
}

fn mounted(path: &Path) -> bool {
    sampan_sys::mount::is_mounted(&path.canonicalize().unwrap()).unwrap()
}

#[tokio::test]
async fn volumes_live_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let first = volumes.create(spec("data", &[])).await.unwrap();
    assert!(first.new);
    assert!(!volumes.create(spec("data", &[])).await.unwrap().new);
    let unnamed = volumes.create(VolumeSpec::default()).await.unwrap().volume;
    assert_eq!(unnamed.name.as_str().len(), 64);
    assert!(unnamed.labels.contains_key(ANONYMOUS_LABEL));

    fs::write(first.volume.mountpoint.join("f"), b"12345").unwrap();
    fs::hard_link(first.volume.mountpoint.join("f"), first.volume.mountpoint.join("g")).unwrap();
    assert_eq!(volumes.size("data").await.unwrap(), Some(5));

    fs::create_dir(dir.path().join("volumes/.new.0123")).unwrap();
    fs::create_dir(dir.path().join("volumes/.gone.0123")).unwrap();
    let again = Volumes::open(dir.path()).await.unwrap();
    assert_eq!(again.list(), volumes.list());
    assert_eq!(again.list().len(), 2);
    assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 2);

    again.remove("data").await.unwrap();
    assert_eq!(again.remove("data").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(again.get("data").unwrap_err().to_string(), "get data: no such volume");
    assert!(!first.volume.mountpoint.exists());
}

#[tokio::test]
async fn bad_requests_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    for (name, part) in [("a", "too short"), ("a/b", "invalid characters"), ("../x", "invalid")] {
        let error = volumes.create(spec(name, &[])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        assert!(error.to_string().contains(part), "{error}");
    }
    let wrong = VolumeSpec { driver: "nope".to_owned(), ..spec("vol", &[]) };
    let error = volumes.create(wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("plugin \"nope\" not found"), "{error}");
    assert!(volumes.create(spec("vol", &[("x", "y")])).await.is_err());
    assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_mounted_volume_stays() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    volumes.create(spec("data", &[])).await.unwrap();
    volumes.mount("data", "c1").await.unwrap();
    volumes.mount("data", "c1").await.unwrap();
    let error = volumes.remove("data").await.unwrap_err();
    assert_eq!(error.to_string(), "remove data: volume is in use - [c1]");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    volumes.unmount("data", "c1").await.unwrap();
    volumes.unmount("data", "c1").await.unwrap();
    volumes.unmount("nothing", "c1").await.unwrap();
    volumes.remove("data").await.unwrap();
}

#[tokio::test]
async fn options_mount_with_the_first_user_and_unmount_with_the_last() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), b"x").unwrap();
    let device = outside.path().to_str().unwrap().to_owned();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let bind = [("type", "none"), ("o", "bind,ro"), ("device", device.as_str())];
    let bound = volumes.create(spec("bound", &bind)).await.unwrap().volume;
    let tmpfs = [("type", "tmpfs"), ("o", "size=64k,uid=7"), ("device", "tmpfs")];
    let tmp = volumes.create(spec("tmp", &tmpfs)).await.unwrap().volume;

    assert!(!mounted(&bound.mountpoint));
    for user in ["c1", "c2"] {
        volumes.mount("bound", user).await.unwrap();
    }
    assert!(bound.mountpoint.join("kept").exists());
    assert!(fs::write(bound.mountpoint.join("new"), b"").is_err(), "read-only");
    volumes.unmount("bound", "c1").await.unwrap();
    assert!(mounted(&bound.mountpoint));
    assert_eq!(volumes.size("bound").await.unwrap(), None);

    volumes.mount("tmp", "c1").await.unwrap();
    assert_eq!(fs::metadata(&tmp.mountpoint).unwrap().uid(), 7);

    // The daemon comes back: c2 still runs, whoever used tmp is gone.
    let again = Volumes::open(dir.path()).await.unwrap();
    let users = BTreeMap::from([(bound.name.clone(), BTreeSet::from(["c2".to_owned()]))]);
    assert!(again.restore(&users).await.is_empty());
    assert!(mounted(&bound.mountpoint) && !mounted(&tmp.mountpoint));
    assert!(again.remove("bound").await.is_err());
    again.unmount("bound", "c2").await.unwrap();
    assert!(!mounted(&bound.mountpoint));

    // Somebody mounted it by hand: removing must not reach through.
    sampan_sys::mount::bind(outside.path(), &bound.mountpoint, false).unwrap();
    again.remove("bound").await.unwrap();
    assert!(outside.path().join("kept").exists());
    again.remove("tmp").await.unwrap();
}

#[tokio::test]
async fn a_missing_device_is_told_at_the_first_use() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let bind = [("type", "none"), ("o", "bind"), ("device", "/does/not/exist")];
    volumes.create(spec("bound", &bind)).await.unwrap();
    let text = volumes.mount("bound", "c1").await.unwrap_err().to_string();
    assert!(text.starts_with("failed to mount local volume: mount /does/not/exist:"), "{text}");
    assert!(text.ends_with("flags: 0x1000: no such file or directory"), "{text}");
    volumes.remove("bound").await.unwrap();
}

#[tokio::test]
async fn an_empty_volume_takes_the_images_content_once() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("rootfs");
    let content = image.join("srv/www");
    fs::create_dir_all(content.join("deep")).unwrap();
    fs::write(content.join("page"), b"hello").unwrap();
    fs::hard_link(content.join("page"), content.join("deep/same")).unwrap();
    symlink("/etc/passwd", content.join("link")).unwrap();
    std::os::unix::fs::chown(content.join("page"), Some(33), Some(34)).unwrap();
    fs::set_permissions(content.join("page"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(&content, fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(&content, Some(33), Some(33)).unwrap();
    // A link of the image's that is absolute stays inside the image.
    symlink("/srv/www", image.join("www")).unwrap();

    let volumes = Volumes::open(dir.path()).await.unwrap();
    let volume = volumes.create(spec("web", &[])).await.unwrap().volume;
    volumes.copy_up("web", &image, Path::new("www")).await.unwrap();
    let at = |name: &str| fs::symlink_metadata(volume.mountpoint.join(name)).unwrap();
    let page = at("page");
    assert_eq!((page.uid(), page.gid(), page.mode() & 0o7777), (33, 34, 0o4751));
    assert_eq!(page.ino(), at("deep/same").ino());
    assert!(at("link").is_symlink());
    assert_eq!((at("").uid(), at("").mode() & 0o7777), (33, 0o1777));
    assert_eq!(page.mtime_nsec(), fs::metadata(content.join("page")).unwrap().mtime_nsec());

    fs::remove_dir_all(volume.mountpoint.join("deep")).unwrap();
    volumes.copy_up("web", &image, Path::new("/srv/www")).await.unwrap();
    assert!(!volume.mountpoint.join("deep").exists(), "content is never overwritten");

    let other = volumes.create(spec("other", &[])).await.unwrap().volume;
    volumes.mount("other", "c1").await.unwrap();
    volumes.copy_up("other", &image, Path::new("/nowhere")).await.unwrap();
    assert_eq!(fs::read_dir(&other.mountpoint).unwrap().count(), 0);
    volumes.copy_up("other", &image, Path::new("/../../srv/www")).await.unwrap();
    assert_eq!(fs::read(other.mountpoint.join("deep/same")).unwrap(), b"hello");
}

#[tokio::test]
async fn links_of_the_image_do_not_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"x").unwrap();
    let image = dir.path().join("rootfs");
    fs::create_dir(&image).unwrap();
    symlink(outside.path(), image.join("data")).unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let volume = volumes.create(spec("vol", &[])).await.unwrap().volume;
    volumes.copy_up("vol", &image, Path::new("/data")).await.unwrap();
    assert_eq!(fs::read_dir(&volume.mountpoint).unwrap().count(), 0);
}

#[tokio::test]
async fn one_name_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(dir.path()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let volumes = volumes.clone();
        tasks.spawn(async move { volumes.create(spec("same", &[])).await });
    }
    let made: Result<Vec<_>, VolumeError> = tasks.join_all().await.into_iter().collect();
    assert_eq!(made.unwrap().len(), 20);
    assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 1);
}
