//! Volumes on a share whose server says nothing: who waits for it can give up,
//! and nobody else waits.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use sampan_testkit::{Share, busy, eventually};
use sampan_volume::{VolumeError, VolumeSpec, Volumes};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

struct Lab {
    // Gone before the directory that it is mounted in.
    share: Share,
    volumes: Volumes,
    dir: TempDir,
}

impl Lab {
    async fn new(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let share = Share::new_or_skip(test, dir.path())?;
        let volumes = Volumes::open(dir.path()).await.unwrap();
        let lab = Self { share, volumes, dir };
        lab.bind("mute", &lab.share.path()).await;
        Some(lab)
    }

    /// A volume that mounts a directory.
    async fn bind(&self, name: &str, device: &Path) {
        let options = [("type", "none"), ("o", "bind"), ("device", device.to_str().unwrap())];
        let options = options.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let spec = VolumeSpec {
            name: Some(name.to_owned()),
            options: options.into(),
            ..VolumeSpec::default()
        };
        self.volumes.create(spec).await.unwrap();
    }

    fn is_mounted(&self, name: &str) -> bool {
        let target = self.dir.path().canonicalize().unwrap().join("volumes").join(name);
        sampan_sys::mount::is_mounted(&target.join("_data")).unwrap()
    }

    /// Begins to mount it for a user.
    fn begin(&self, user: &'static str) -> JoinHandle<Result<(), VolumeError>> {
        let volumes = self.volumes.clone();
        tokio::spawn(async move { volumes.mount("mute", user).await.map(drop) })
    }

    /// Begins, and waits until the server is asked.
    async fn hang(&self, user: &'static str) -> JoinHandle<Result<(), VolumeError>> {
        self.share.fall_silent();
        let mount = self.begin(user);
        self.until("a question to the server", || self.share.is_waited_for()).await;
        mount
    }

    /// Waits away from the threads that the volumes need.
    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        tokio::task::block_in_place(|| eventually(what, SOON, || condition().then_some(())));
    }
}

async fn give_up(mount: JoinHandle<Result<(), VolumeError>>) {
    mount.abort();
    assert!(mount.await.unwrap_err().is_cancelled());
}

fn quick(began: Instant, limit: u64) {
    let took = began.elapsed();
    assert!(took < Duration::from_secs(limit) * busy(), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_hangs_is_given_up() {
    let Some(lab) = Lab::new("a_mount_that_hangs_is_given_up").await else { return };
    let first = lab.hang("c1").await;
    let second = lab.begin("c2");
    let began = Instant::now();
    give_up(first).await;
    give_up(second).await;
    lab.volumes.unmount("mute", "c1").await.unwrap();
    lab.volumes.unmount("mute", "c2").await.unwrap();
    quick(began, 1);
    let error = lab.volumes.remove("mute").await.unwrap_err();
    assert!(matches!(error, VolumeError::Busy { operation: "remove", .. }), "{error}");
    quick(began, 5);
    assert_eq!(lab.volumes.list().len(), 1);

    lab.share.speak();
    eventually_removed(&lab).await;
    assert!(!lab.is_mounted("mute"));
}

async fn eventually_removed(lab: &Lab) {
    let began = Instant::now();
    while let Err(error) = lab.volumes.remove("mute").await {
        assert!(began.elapsed() < SOON, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_waits_for_stays() {
    let Some(lab) = Lab::new("what_somebody_else_waits_for_stays").await else { return };
    let first = lab.hang("c1").await;
    let second = lab.begin("c2");
    give_up(first).await;
    // The same user, once more.
    let third = lab.begin("c1");
    lab.share.speak();
    second.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    assert!(lab.is_mounted("mute"));
    let error = lab.volumes.remove("mute").await.unwrap_err();
    assert!(matches!(&error, VolumeError::InUse { users, .. } if *users == ["c1", "c2"]));
    lab.volumes.unmount("mute", "c1").await.unwrap();
    assert!(lab.is_mounted("mute"));
    lab.volumes.unmount("mute", "c2").await.unwrap();
    assert!(!lab.is_mounted("mute"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_waits_for_the_mount_is_given_up() {
    let Some(lab) = Lab::new("a_copy_that_waits_for_the_mount_is_given_up").await else { return };
    let image = lab.dir.path().join("image");
    std::fs::create_dir_all(image.join("etc")).unwrap();
    lab.share.fall_silent();
    let (volumes, rootfs) = (lab.volumes.clone(), image.clone());
    let copy =
        tokio::spawn(async move { volumes.copy_up("mute", &rootfs, Path::new("/etc")).await });
    lab.until("a question to the server", || lab.share.is_waited_for()).await;
    give_up(copy).await;
    lab.share.speak();
    eventually_removed(&lab).await;
    assert!(!lab.is_mounted("mute"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_up_no_other_at_the_start() {
    let Some(lab) = Lab::new("one_that_hangs_holds_up_no_other_at_the_start").await else {
        return;
    };
    let other = lab.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    // Sorted behind it.
    lab.bind("well", &other).await;
    lab.share.fall_silent();
    let again = Volumes::open(lab.dir.path()).await.unwrap();
    let user = BTreeSet::from(["c1".to_owned()]);
    let users = ["mute", "well"].map(|n| (n.parse().unwrap(), user.clone()));
    let began = Instant::now();
    assert!(again.restore(&BTreeMap::from(users)).await.is_empty());
    quick(began, 6);
    assert!(lab.is_mounted("well") && !lab.is_mounted("mute"));
    lab.share.speak();
    lab.until("the late mount", || lab.is_mounted("mute")).await;
    for name in ["mute", "well"] {
        again.unmount(name, "c1").await.unwrap();
        assert!(!lab.is_mounted(name));
    }
}
