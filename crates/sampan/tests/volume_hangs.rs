//! Containers that wait for a volume whose server or plugin says nothing: they
//! can be removed, stopped and killed at once, and nobody else waits.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::keeper::start_keeper;
use common::{SAMPAN, SOON, field, has};
use sampan_testkit::{Host, Lan, Plugin, Share, busy, eventually};

/// A docker command that is under way.
struct Running(Option<Child>);

impl Running {
    fn docker(h: &Host, args: &str) -> Self {
        let mut command = h.command("sh");
        command.args(["-c", &format!("exec docker {args}")]);
        Self(Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// Waits for its end; it fails, and says this.
    fn fails(mut self) -> String {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it should have failed: {said}");
        said
    }

    /// Kills it without warning. (The child here waits for it.)
    fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let docker = std::fs::read_to_string(children).unwrap();
        let killed = Command::new("kill").args(["-KILL", docker.trim()]).status().unwrap();
        assert!(killed.success(), "kill {docker}");
        child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a docker command that may take so many seconds.
#[track_caller]
fn quickly(h: &Host, args: &str, limit: u64) -> String {
    let begun = Instant::now();
    let said = h.docker(args);
    quick(args, begun, limit);
    said
}

/// As [`quickly`], for one that fails.
#[track_caller]
fn quickly_fails(h: &Host, args: &str, limit: u64) -> String {
    let begun = Instant::now();
    let said = h.docker_fails(args).1;
    quick(args, begun, limit);
    said
}

#[track_caller]
fn quick(what: &str, begun: Instant, limit: u64) {
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(limit) * busy(), "{what} took {took:?}");
}

/// A host with a volume `vol` of a plugin that can hang in Mount.
struct Hanging {
    plugin: Plugin,
    gate: Arc<(Mutex<()>, Condvar)>,
    hangs: Arc<AtomicBool>,
    h: Host,
    _lan: Lan,
}

impl Hanging {
    fn new(test: &str) -> Option<Self> {
        let lan = Lan::new_or_skip(test)?;
        let mut h = lan.host("h1");
        let (plugins, kept) = (h.dir().join("plugins"), h.dir().join("kept"));
        std::fs::create_dir_all(&plugins).unwrap();
        let gate = Arc::new((Mutex::new(()), Condvar::new()));
        let hangs = Arc::new(AtomicBool::new(false));
        let (inside, stuck) = (Arc::clone(&gate), Arc::clone(&hangs));
        let plugin = start_keeper(&plugins.join("slow.sock"), kept, move |method| {
            if method == "VolumeDriver.Mount" {
                let guard = inside.0.lock().unwrap();
                drop(inside.1.wait_while(guard, |()| stuck.load(Ordering::SeqCst)).unwrap());
            }
        });
        Self::start_daemon(&mut h);
        h.import_busybox();
        h.docker("volume create -d slow vol");
        Some(Self { plugin, gate, hangs, h, _lan: lan })
    }

    fn start_daemon(h: &mut Host) {
        let plugins = h.dir().join("plugins");
        h.start_daemon(SAMPAN, &["--plugin-dir", plugins.to_str().unwrap()]);
    }

    fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn answer(&self) {
        let _guard = self.gate.0.lock().unwrap();
        self.hangs.store(false, Ordering::SeqCst);
        self.gate.1.notify_all();
    }

    fn count(&self, method: &str) -> usize {
        self.plugin.methods().iter().filter(|m| *m == method).count()
    }

    /// Waits until the plugin was asked to mount it so often.
    fn asked(&self, times: usize) {
        eventually("the plugin is asked to mount", SOON, || {
            (self.count("VolumeDriver.Mount") >= times).then_some(())
        });
    }

    /// Waits until nobody stands in the volume's record.
    fn nobody_has_it(&self) {
        let record = self.h.data_root().join("volume-plugins/vol.json");
        eventually("nobody has the volume", SOON, || {
            let text = std::fs::read_to_string(&record).ok()?;
            text.contains("\"users\":[]").then_some(())
        });
    }

    /// And the plugin was asked to unmount what it was asked to mount, which
    /// the death of a daemon leaves open.
    fn all_is_unmounted(&self) {
        self.nobody_has_it();
        assert_eq!(
            self.count("VolumeDriver.Mount"),
            self.count("VolumeDriver.Unmount"),
            "{:?}",
            self.plugin.methods()
        );
    }
}

#[test]
fn a_start_that_waits_for_a_plugin_is_called_off() {
    let Some(lab) = Hanging::new("a_start_that_waits_for_a_plugin_is_called_off") else { return };
    let h = &lab.h;
    lab.hang();
    h.docker("create --name cc -v vol:/v busybox sleep 1000");
    let start = Running::docker(h, "start cc");
    lab.asked(1);
    assert_eq!(field(h, "cc", "{{.State.Status}}"), "created");
    has(&quickly_fails(h, "rm cc", 3), &["container is being started"]);
    has(&quickly_fails(h, "volume rm vol", 3), &["in use", &field(h, "cc", "{{.Id}}")]);
    quickly(h, "container prune -f", 3);
    quickly(h, "rm -f cc", 2);
    has(&start.fails(), &["the start of container cc was cancelled: it is being removed"]);
    has(&quickly_fails(h, "volume rm vol", 6), &["being copied or mounted"]);
    quickly(h, "volume prune -af", 6);
    quickly(h, "volume ls", 3);
    // The name is free, also for one that waits for the same volume.
    let run = Running::docker(h, "run --rm --name cc -v vol:/v busybox true");
    eventually("the other one waits", SOON, || {
        (!h.docker("ps -aq --filter name=cc").is_empty()).then_some(())
    });
    quickly(h, "rm -f cc", 2);
    has(&run.fails(), &["cancelled: it is being removed"]);
    lab.answer();
    lab.all_is_unmounted();
    h.docker("run -d --name cc -v vol:/v busybox sleep 1000");
    h.docker("rm -f cc");
    h.docker("volume rm vol");
}

#[test]
fn a_start_that_waits_is_stopped_and_killed() {
    let Some(lab) = Hanging::new("a_start_that_waits_is_stopped_and_killed") else { return };
    let h = &lab.h;
    lab.hang();
    h.docker("create --name cc --restart always -v vol:/v busybox sleep 1000");
    let start = Running::docker(h, "start cc");
    lab.asked(1);
    has(&quickly_fails(h, "kill -s USR1 cc", 3), &["is not running"]);
    quickly(h, "stop cc", 2);
    has(&start.fails(), &["the start of container cc was cancelled: it was stopped"]);
    assert_eq!(field(h, "cc", "{{.State.Status}}"), "created");
    has(&field(h, "cc", "{{.State.Error}}"), &["was cancelled"]);
    for signal in ["KILL", "INT"] {
        let start = Running::docker(h, "start cc");
        eventually("it is being started", SOON, || {
            h.run(&format!("docker kill -s {signal} cc")).errors().is_empty().then_some(())
        });
        has(&start.fails(), &["it was killed"]);
    }
    lab.answer();
    lab.all_is_unmounted();
    h.docker("start cc");
    assert_eq!(field(h, "cc", "{{.State.Running}}"), "true");
    h.docker("rm -f cc");
    lab.all_is_unmounted();
}

#[test]
fn a_daemon_that_dies_while_a_plugin_hangs() {
    let Some(mut lab) = Hanging::new("a_daemon_that_dies_while_a_plugin_hangs") else { return };
    lab.h.docker("run -d --name other --restart always busybox sleep 1000");
    lab.hang();
    let start = Running::docker(&lab.h, "run --name cc -v vol:/v busybox sleep 1000");
    lab.asked(1);
    lab.h.stop_daemon("KILL");
    start.fails();
    let begun = Instant::now();
    Hanging::start_daemon(&mut lab.h);
    quick("the daemon's start", begun, 8);
    let h = &lab.h;
    assert_eq!(field(h, "other", "{{.State.Running}}"), "true");
    quickly(h, "rm -f cc", 2);
    // Ends as it is, while the plugin hangs still.
    let begun = Instant::now();
    assert_eq!(lab.h.stop_daemon("TERM"), Some(0));
    quick("the daemon's end", begun, 4);
    lab.answer();
    Hanging::start_daemon(&mut lab.h);
    lab.nobody_has_it();
    assert!(lab.count("VolumeDriver.Unmount") >= 1, "{:?}", lab.plugin.methods());
    let h = &lab.h;
    h.docker("run --rm -v vol:/v busybox true");
    h.docker("rm -f other");
    h.docker("volume rm vol");
}

/// A host with a volume `mute` on a share whose server can fall silent.
struct Silent {
    h: Host,
    _lan: Lan,
    share: Share,
    // Where the share is mounted.
    _dir: tempfile::TempDir,
}

impl Silent {
    fn new(test: &str) -> Option<Self> {
        // Hosts see what was mounted before them.
        let dir = tempfile::tempdir().unwrap();
        let share = Share::new_or_skip(test, dir.path())?;
        let lan = Lan::new_or_skip(test)?;
        let mut h = lan.host("h1");
        h.start_daemon(SAMPAN, &[]);
        h.import_busybox();
        h.docker(&format!(
            "volume create -o type=none -o o=bind -o device={} mute",
            share.path().display()
        ));
        Some(Self { h, _lan: lan, share, _dir: dir })
    }

    /// Waits until somebody waits for the server.
    fn is_waited_for(&self) {
        eventually("somebody waits for the server", SOON, || {
            self.share.is_waited_for().then_some(())
        });
    }

    fn mounted(&self) -> String {
        self.h.sh("grep /volumes/mute/ /proc/mounts || true")
    }

    /// The server answers, and nothing stays mounted.
    fn nothing_stays(&self) {
        self.share.speak();
        eventually("the end of the late mount", SOON, || {
            let gone = self.h.run("docker volume rm mute").errors().is_empty();
            gone.then_some(())
        });
        assert_eq!(self.mounted(), "");
    }
}

#[test]
fn a_start_that_waits_for_a_share_is_called_off() {
    let Some(lab) = Silent::new("a_start_that_waits_for_a_share_is_called_off") else { return };
    let h = &lab.h;
    h.docker("run --rm -v mute:/v busybox ls /v");
    lab.share.fall_silent();
    let run = Running::docker(h, "run --rm --name cc -v mute:/v busybox true");
    lab.is_waited_for();
    // With its other networks and volumes.
    h.docker("run --rm -v other:/o busybox touch /o/f");
    quickly(h, "system df -v", 5);
    let name = serde_json::json!({ "Name": "new" });
    let renamed = h.api("POST", "/sampan/volumes/mute/rename", Some(&name));
    has(&renamed.message(), &["mounted by running containers [cc]"]);
    quickly(h, "rm -f cc", 2);
    has(&run.fails(), &["the start of container cc was cancelled: it is being removed"]);
    has(&quickly_fails(h, "volume rm mute", 6), &["being copied or mounted"]);
    lab.share.speak();
    h.docker("run --rm --name cc -v mute:/v busybox ls /v");
    assert_eq!(lab.mounted(), "");

    // Copying to a container that does not run waits as well.
    h.docker("create --name cc -v mute:/v busybox true");
    lab.share.fall_silent();
    let copy = Running::docker(h, "cp cc:/v -");
    lab.is_waited_for();
    quickly(h, "rm -f cc", 2);
    copy.fails();
    lab.nothing_stays();
}

#[test]
fn a_creation_that_waits_for_a_share_is_called_off() {
    let Some(lab) = Silent::new("a_creation_that_waits_for_a_share_is_called_off") else { return };
    let h = &lab.h;
    lab.share.fall_silent();
    // The image has something there.
    let run = Running::docker(h, "run --name cc -v mute:/etc busybox true");
    lab.is_waited_for();
    has(&quickly_fails(h, "rm cc", 2), &["No such container"]);
    quickly(h, "rm -f cc", 2);
    has(&run.fails(), &["the creation of container cc was cancelled: it is being removed"]);
    // One whose client goes away is nobody's.
    let made = || std::fs::read_dir(h.data_root().join("containers")).unwrap().count();
    let run = Running::docker(h, "run --name cc -v mute:/etc busybox true");
    eventually("it is being made", SOON, || (made() == 1).then_some(()));
    run.kill();
    eventually("it is not made", SOON, || (made() == 0).then_some(()));
    h.docker("create --name cc busybox true");
    h.docker("rm cc");
    lab.nothing_stays();
}

#[test]
fn a_daemon_that_dies_while_a_share_is_silent() {
    let Some(mut lab) = Silent::new("a_daemon_that_dies_while_a_share_is_silent") else { return };
    lab.share.fall_silent();
    let run = Running::docker(&lab.h, "run --name cc -v mute:/v busybox sleep 1000");
    lab.is_waited_for();
    lab.h.stop_daemon("KILL");
    run.fails();
    let begun = Instant::now();
    lab.h.start_daemon(SAMPAN, &[]);
    quick("the daemon's start", begun, 8);
    lab.is_waited_for();
    let begun = Instant::now();
    assert_eq!(lab.h.stop_daemon("TERM"), Some(0));
    quick("the daemon's end", begun, 4);
    lab.h.start_daemon(SAMPAN, &[]);
    quickly(&lab.h, "rm -f cc", 2);
    assert_eq!(lab.h.docker("ps -aq"), "");
    lab.nothing_stays();
}
