//! The daemon dies at every fault point of volumes. The next one must find
//! nothing mounted, no device, no half-made volume and all of the data, and
//! taking everything away must leave the host as it was.
//!
//! Be aware: one host serves many points. Only the daemon is started anew.
#![cfg(feature = "fault-points")]
// Which point took how long is worth seeing.
#![allow(clippy::print_stdout)]

mod common;

use std::time::{Duration, Instant};

use common::{SAMPAN, SOON, host};
use sampan_engine::fault::VOLUMES;
use sampan_testkit::{Host, eventually, skip};

/// What is there before the daemon that dies.
const DATA: &str = "
set -e
docker run --rm -v keep:/k busybox sh -c 'seq 5000 >/k/numbers; ln /k/numbers /k/again; mkdir /k/d; seq 9 >/k/d/few'
echo 'what nobody knows' >$HOME/key
";

/// The digest of `DATA`'s files.
const SUM: &str = "cat /k/numbers /k/again /k/d/few | md5sum";

/// Everything that a volume can go through. `keep` holds the same after each
/// step, perhaps under another name. To grow a file system that is mounted
/// takes CAP_SYS_RESOURCE, which not every machine's root has: it may fail.
const SCENARIO: &str = "
set -e
docker run --rm -v plain:/etc busybox true
SAMPAN volume snapshot keep one
SAMPAN volume clone keep copy
SAMPAN volume clone keep@one copy2
SAMPAN volume restore keep@one
SAMPAN volume snapshot rm keep@one
SAMPAN volume rename keep moved
docker volume create -o size=24m -o uid=1000 sized
docker run -d --name cs -v sized:/etc busybox sleep 1000
SAMPAN volume resize sized 32m || [ $? = 1 ]
docker rm -f cs
SAMPAN volume resize sized 40m
SAMPAN volume snapshot sized one
docker volume create -o encrypted=true -o size=24m -o key-file=$HOME/key secret
docker run --rm -v secret:/s busybox touch /s/f
SAMPAN volume send moved >$HOME/stream
SAMPAN volume receive got <$HOME/stream
SAMPAN volume clone moved source
SAMPAN volume send source >$HOME/stream
SAMPAN volume receive twin <$HOME/stream
docker run --rm -v source:/s busybox touch /s/new
SAMPAN volume send source >$HOME/stream
SAMPAN volume receive twin <$HOME/stream
docker volume rm sized secret plain
";

/// Points that another kernel or file system passes, and what it needs.
const ELSEWHERE: &[(&str, &str)] = &[
    ("volume-create:after-directory", "needs project quotas"),
    ("volume-create:after-key", "needs a data root on ext4 with the feature encrypt"),
    ("volume-mount:after-mapping", "needs device-mapper"),
    ("volume-mount:after-place", "needs a kernel before 6.15"),
    ("volume-mount:after-key", "needs a data root on ext4 with the feature encrypt"),
];

/// What of this host's volumes is mounted, a device, or in their directory.
fn traces(h: &Host) -> String {
    let root = h.data_root();
    h.sh(&format!(
        "grep {0}/volumes/ /proc/mounts || true; \
         cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep {0} || true; \
         ls -A {0}/volumes",
        root.display()
    ))
}

/// Waits for the daemon's death at a point.
fn dies(h: &mut Host, point: &str, said: &str) {
    let began = Instant::now();
    let code = loop {
        match h.daemon_exit() {
            Some(code) => break code,
            None => assert!(began.elapsed() < SOON, "{point} is not passed: {said}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(code, 128 + 6, "{point}: the daemon should have aborted: {said}");
}

fn die_at(h: &mut Host, point: &str) {
    h.sh(DATA);
    let sum = h.docker(&format!("run --rm -v keep:/k busybox sh -c '{SUM}'"));
    h.stop_daemon("TERM");
    h.start_daemon_with(SAMPAN, &[], &[("SAMPAN_FAULT", point)]);
    let outcome = h.run(&SCENARIO.replace("SAMPAN", SAMPAN));
    dies(h, point, &format!("{}\n{}", outcome.text(), outcome.errors()));
    h.start_daemon(SAMPAN, &[]);

    // Nothing is lost, and whatever is listed can be used.
    let volumes = h.docker("volume ls -q");
    let kept: Vec<&str> = volumes.lines().filter(|v| ["keep", "moved"].contains(v)).collect();
    assert_eq!(kept.len(), 1, "{point}: {volumes}");
    assert_eq!(
        h.docker(&format!("run --rm -v {}:/k busybox sh -c '{SUM}'", kept[0])),
        sum,
        "{point}"
    );
    for volume in volumes.lines() {
        h.docker(&format!("run --rm -v {volume}:/v busybox ls /v"));
        if ["copy", "copy2", "got", "source", "twin"].contains(&volume) {
            let copied = h.docker(&format!("run --rm -v {volume}:/k busybox sh -c '{SUM}'"));
            assert_eq!(copied, sum, "{point}: {volume} is a part of the copy");
        }
    }
    let hidden = h.sh(&format!("ls -A {}/volumes", h.data_root().display()));
    assert!(!hidden.lines().any(|f| f.starts_with('.')), "{point}: half made: {hidden}");

    h.sh("docker ps -aq | xargs -r docker rm -fv; docker volume ls -q | xargs -r docker volume rm");
    eventually(&format!("{point}: the end of everything"), SOON, || {
        traces(h).is_empty().then_some(())
    });
}

/// Every third point, from `number` on. `SAMPAN_TEST_POINT` chooses those
/// whose name has it as a part.
fn part(number: usize, test: &str) {
    let Some((_lan, mut h)) = host(test) else { return };
    let wanted = std::env::var("SAMPAN_TEST_POINT").unwrap_or_default();
    for point in VOLUMES.iter().skip(number).step_by(3).filter(|p| p.contains(&wanted)) {
        if let Some((_, why)) = ELSEWHERE.iter().find(|(elsewhere, _)| elsewhere == point) {
            skip(point, why);
            continue;
        }
        let began = Instant::now();
        die_at(&mut h, point);
        println!("{point}: {:?}", began.elapsed());
    }
}

#[test]
fn volumes_survive_a_death_anywhere_1() {
    part(0, "volumes_survive_a_death_anywhere_1");
}

#[test]
fn volumes_survive_a_death_anywhere_2() {
    part(1, "volumes_survive_a_death_anywhere_2");
}

#[test]
fn volumes_survive_a_death_anywhere_3() {
    part(2, "volumes_survive_a_death_anywhere_3");
}
