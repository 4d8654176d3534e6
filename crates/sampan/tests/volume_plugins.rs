//! Volumes of plugins, as the docker command uses them.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::keeper::start_keeper;
use common::{SAMPAN, SOON, has};
use sampan_testkit::{Host, Lan, Plugin, eventually};
use serde_json::Value;

struct Lab {
    _lan: Lan,
    h: Host,
    plugins: PathBuf,
    kept: PathBuf,
}

impl Lab {
    fn new(test: &str) -> Option<Self> {
        let lan = Lan::new_or_skip(test)?;
        let mut h = lan.host("h1");
        let (plugins, kept) = (h.dir().join("plugins"), h.dir().join("kept"));
        for dir in [&plugins, &kept] {
            std::fs::create_dir_all(dir).unwrap();
        }
        h.start_daemon(SAMPAN, &["--plugin-dir", plugins.to_str().unwrap()]);
        h.import_busybox();
        Some(Self { _lan: lan, h, plugins, kept })
    }

    fn start(&self, name: &str, before: impl Fn(&str) + Send + 'static) -> Plugin {
        start_keeper(&self.plugins.join(format!("{name}.sock")), self.kept.clone(), before)
    }

    fn crash_and_restart(&mut self) {
        self.h.stop_daemon("KILL");
        self.h.start_daemon(SAMPAN, &["--plugin-dir", self.plugins.to_str().unwrap()]);
    }
}

fn count(plugin: &Plugin, method: &str) -> usize {
    plugin.methods().iter().filter(|m| *m == method).count()
}

#[test]
fn a_plugin_keeps_volumes() {
    let Some(mut lab) = Lab::new("a_plugin_keeps_volumes") else { return };
    let plugin = lab.start("keeper", |_| {});
    let h = &lab.h;
    h.docker("volume create -d keeper -o speed=high --label team=a vol");
    let shown: Value = serde_json::from_str(&h.docker("volume inspect vol")).unwrap();
    let vol = &shown[0];
    assert_eq!(vol["Driver"], "keeper", "{vol}");
    assert_eq!(vol["Scope"], "global", "{vol}");
    assert_eq!(vol["Options"]["speed"], "high", "{vol}");
    assert_eq!(vol["Labels"]["team"], "a", "{vol}");
    assert_eq!(vol["Status"]["opts"]["speed"], "high", "{vol}");
    has(&h.docker("volume ls"), &["keeper    found", "keeper    vol"]);
    has(
        &h.docker_fails("volume create -d keeper -o bad=1 v2").1,
        &["create v2", "no such option: bad"],
    );
    has(&h.docker_fails("volume create vol").1, &["keeper", "already has a volume"]);
    assert!(!h.docker("volume ls -q").contains("v2"));

    h.docker("run -d --name cc -v vol:/v busybox sh -c 'echo kept >/v/f; sleep 1000'");
    eventually("the file at the plugin's place", SOON, || {
        std::fs::read_to_string(lab.kept.join("vol/f")).ok().filter(|t| t == "kept\n")
    });
    has(&h.docker_fails("volume rm vol").1, &["in use"]);
    // The image's content goes into an empty volume of a plugin too.
    h.docker("run --rm -v keep2:/etc --volume-driver keeper busybox true");
    assert!(lab.kept.join("keep2/passwd").exists());

    lab.crash_and_restart();
    let h = &lab.h;
    assert_eq!(h.docker("exec cc cat /v/f"), "kept");
    let mounted = || count(&plugin, "VolumeDriver.Mount") - count(&plugin, "VolumeDriver.Unmount");
    assert_eq!(mounted(), 1, "cc has it still: {:?}", plugin.methods());
    h.docker("rm -f cc");
    assert_eq!(mounted(), 0);
    // A volume that only the plugin knew of is used like any other.
    h.docker("run --rm -v found:/v --volume-driver keeper busybox touch /v/g");
    assert!(lab.kept.join("found/g").exists());
    h.docker("volume rm vol keep2 found");
    assert_eq!(h.docker("volume ls -q"), "");
    has(&h.docker_fails("volume create -d nobody v3").1, &["plugin \"nobody\" not found"]);
    has(&h.docker_fails("run --rm -v /x --volume-driver nobody busybox true").1, &["nobody"]);
}

#[test]
fn a_plugin_that_hangs_holds_up_nobody_else() {
    let Some(lab) = Lab::new("a_plugin_that_hangs_holds_up_nobody_else") else { return };
    let gate = Arc::new((Mutex::new(()), Condvar::new()));
    let hangs = Arc::new(AtomicBool::new(false));
    let (inside, stuck) = (Arc::clone(&gate), Arc::clone(&hangs));
    let _plugin = lab.start("slow", move |_| {
        let guard = inside.0.lock().unwrap();
        drop(inside.1.wait_while(guard, |()| stuck.load(Ordering::SeqCst)).unwrap());
    });
    let h = &lab.h;
    h.docker("volume create -d slow vol");
    h.docker("run -d --name cc -v vol:/v busybox sleep 1000");
    hangs.store(true, Ordering::SeqCst);
    let quickly = |what: &str, limit: u64| {
        let begun = Instant::now();
        let said = h.docker(what);
        let took = begun.elapsed();
        let limit = Duration::from_secs(limit) * sampan_testkit::busy();
        assert!(took < limit, "{what} took {took:?}");
        said
    };
    has(&quickly("ps", 5), &["cc"]);
    quickly("inspect cc", 5);
    quickly("volume create other", 5);
    quickly("run --rm -v other:/o busybox touch /o/f", 10);
    has(&quickly("volume inspect vol", 5), &["\"slow\""]);
    has(&quickly("volume ls", 5), &["vol", "other"]);
    let listed = h.api("GET", "/volumes", None).json();
    has(&listed["Warnings"].to_string(), &["slow does not answer"]);
    hangs.store(false, Ordering::SeqCst);
    gate.1.notify_all();
    h.docker("rm -f cc");
    h.docker("volume rm vol other");
}

#[test]
fn a_plugin_that_died_is_forgotten_by_force() {
    let Some(mut lab) = Lab::new("a_plugin_that_died_is_forgotten_by_force") else { return };
    // Its socket stays, nobody answers.
    let socket = lab.plugins.join("dead.sock");
    let plugin = lab.start("dead", |_| {});
    lab.h.docker("volume create -d dead vol");
    drop(plugin);
    std::fs::remove_file(&socket).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    lab.crash_and_restart();
    let h = &lab.h;
    assert_eq!(h.docker("volume ls -q"), "vol", "the daemon starts without the plugin");
    has(&h.docker_fails("volume rm vol").1, &["vol", "dead"]);
    has(&h.docker_fails("run --rm -v vol:/v busybox true").1, &["dead"]);
    h.docker("volume rm -f vol");
    assert_eq!(h.docker("volume ls -q"), "");
}
