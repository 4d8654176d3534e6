//! The daemon dies at every fault point, before and after every side effect.
//! The next one must find or make a world that agrees with the records, and
//! taking everything away must leave the host as it was.
//!
//! Be aware:
//! - The subnets have room for one container each: an address that leaks is
//!   missed by the next container that needs one. The published port likewise.
//! - One host serves many points. Only the daemon is started anew.
#![cfg(feature = "fault-points")]
// Which point took how long is worth seeing.
#![allow(clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::time::Instant;

use common::world::{self, World};
use common::{SAMPAN, SOON, host_with};
use sampan_engine::fault::POINTS;
use sampan_testkit::{Host, eventually};

/// `172.17.0.2` is the only address for a container.
const ARGS: &[&str] = &["--bip", "172.17.0.1/30"];

/// Everything a container can go through, so that every point is passed. The
/// file `pid` has the container's process while it must not change.
const SCENARIO: &str = "
set -e
docker create --name wa -p 8080:80 -v data:/data:idmap=0-7 -v /anon --stop-timeout 1 busybox sleep 1000
docker start wa
docker inspect -f '{{.State.Pid}}' wa >$HOME/pid
docker network create --subnet 10.9.9.0/30 nn
docker network connect nn wa
SAMPAN network migrate --subnet 10.9.8.0/30 nn
docker network disconnect nn wa
docker network rm nn
docker exec wa true
docker pause wa
docker unpause wa
SAMPAN volume snapshot --freeze data one
SAMPAN volume snapshot rm data@one
docker rename wa wb
docker update --memory 64m --memory-swap 64m --restart on-failure:3 wb
SAMPAN update --publish-add 8088:80 wb
SAMPAN update --publish-rm 8088:80 wb
SAMPAN policy create --deny egress --peer cidr=192.0.2.0/24 pp
SAMPAN policy rm pp
docker kill -s KILL wb
docker start wb
docker inspect -f '{{.State.Pid}}' wb >$HOME/pid
docker run -d --name ws --net container:wb busybox sleep 1000
docker stop -t 0 wb
docker rm -f ws
SAMPAN volume rename data moved
SAMPAN volume rename moved data
docker run -d --name wc --net none --restart on-failure:1 busybox false
timeout 20 docker wait wc
docker run --rm --net none -v /anon busybox true
docker start wb
docker inspect -f '{{.State.Pid}}' wb >$HOME/pid
docker rm -fv wb
";

/// What is there when the daemon that dies is the one that starts.
const BEFORE_THE_START: &str = "
set -e
docker run -d --name wa -p 8080:80 -v data:/data:idmap=0-7 -v /anon busybox sleep 1000
docker inspect -f '{{.State.Pid}}' wa >$HOME/pid
docker run -d --name wc --net none --restart on-failure:1 busybox sh -c 'sleep 0.3; exit 1'
docker run -d --rm --name wd --net none busybox sleep 0.3
docker create --name we --net none busybox true
";

/// Deaths in a row: at a point, then while the next daemon heals that.
const TWICE: &[(&str, &str)] = &[
    ("create:after-volume", "remove:after-record"),
    ("create:after-copy-up", "remove:after-directory"),
    ("start:after-join", "exit:after-cleanup"),
    ("start:after-create", "start:after-join"),
    ("start:after-start", "reconcile:after-network"),
    ("stop:after-record", "stop:after-signal"),
    ("exit:before-cleanup", "exit:after-record"),
    ("network-disconnect:after-record", "reconcile:after-adopt"),
    ("network-connect:after-kernel", "reconcile:after-network"),
    ("exit:after-shared-leave", "exit:after-leave"),
    ("exec:after-create", "reconcile:after-sweep"),
    ("remove:after-record", "remove:after-snapshot"),
];

/// Work that goes on in four places at once, for as long as there is a daemon.
const TRAFFIC: &str = r#"
for i in 1 2 3; do (
    set -e
    while :; do
        docker run -d --name w$i -p 808$i:80 -v v$i:/data -v /anon busybox sleep 1000
        docker exec w$i true
        docker restart -t 0 w$i
        docker rename w$i x$i
        docker run --rm --net none -v /anon busybox true
        docker stop -t 0 x$i
        docker start x$i
        docker rm -fv x$i
        docker volume rm v$i
    done
) & done
(
    set -e
    cd $HOME
    while :; do
        tar -C $HOME/some -c . | docker import - some:latest
        docker create --name yy some:latest /f
        docker rm yy
        docker save -o $HOME/some.tar some:latest
        docker rmi some:latest
        docker load -i $HOME/some.tar
        docker rmi some:latest
        docker network create nn
        docker network rm nn
    done
) &
wait
"#;

/// Whether it is the daemon's start that passes a point.
fn is_at_start(point: &str) -> bool {
    point.starts_with("reconcile:")
}

/// The records and the host agree.
fn agrees(h: &Host, parent: &str, point: &str) {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < SOON {
        let (is, should) = (world::found(h, parent), world::recorded(h));
        if is == should {
            return;
        }
        last = Some((is, should));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (is, should) = last.unwrap_or_default();
    panic!("{point}: there is {is:#?}\nbut the records say {should:#?}");
}

/// What runs, runs on as the same process and can be used.
fn is_of_use(h: &Host, point: &str) {
    for name in ["wa", "wb"] {
        let state =
            h.run(&format!("docker inspect -f '{{{{.State.Status}}}} {{{{.State.Pid}}}}' {name}"));
        let (status, pid) = match state.text().split_once(' ') {
            Some((status, pid)) => (status.to_owned(), pid.to_owned()),
            None => continue,
        };
        if status == "paused" {
            h.docker(&format!("unpause {name}"));
        } else if status != "running" {
            continue;
        }
        let noted = h.run("cat $HOME/pid").text();
        assert!(noted.is_empty() || noted == pid, "{point}: {name} was {noted} and is {pid}");
        assert_eq!(h.docker(&format!("exec {name} echo alive")), "alive", "{point}");
        let comm = h.sh(&format!("cat /proc/{pid}/comm"));
        assert_eq!(comm, "sleep", "{point}: {name} is not its program");
    }
    // A policy is carried out to its end.
    let wc = "docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' wc";
    eventually(&format!("{point}: wc ends for good"), SOON, || {
        let outcome = h.run(wc);
        let done =
            outcome.code != 0 || ["exited 1", "created 0"].contains(&outcome.text().as_str());
        done.then_some(())
    });
    eventually(&format!("{point}: what is --rm goes"), SOON, || {
        (h.run("docker inspect wd").code != 0).then_some(())
    });
}

/// Everything is removed, by the daemon, and nothing is left.
fn is_clean_afterwards(h: &Host, parent: &str, clean: &World, point: &str) {
    h.sh("docker ps -aq | xargs -r docker rm -fv; docker network ls -q -f type=custom | xargs -r docker network rm");
    h.run("docker volume rm data moved");
    h.run(&format!("{SAMPAN} policy ls -q | xargs -r {SAMPAN} policy rm"));
    is_again(h, parent, clean, point);
    // The only address and the port are free.
    h.docker("run --rm -p 8080:80 busybox true");
}

/// The host is as it was.
fn is_again(h: &Host, parent: &str, clean: &World, point: &str) {
    let began = Instant::now();
    loop {
        let is = world::found(h, parent);
        if is == *clean {
            return;
        }
        assert!(began.elapsed() < SOON, "{point}: there is left {is:#?}, not {clean:#?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// One death, perhaps a second one while the first is healed, and what comes
/// after it. The daemon runs before and after.
fn die_at(h: &mut Host, parent: &str, clean: &World, point: &str, again: Option<&str>) {
    let fault = [("SAMPAN_FAULT", point)];
    let _ = std::fs::remove_file(h.dir().join("pid"));
    let mut seen = String::new();
    if is_at_start(point) {
        seen = h.sh(BEFORE_THE_START);
        h.stop_daemon("KILL");
        h.spawn_daemon(SAMPAN, ARGS, &fault);
    } else {
        h.stop_daemon("TERM");
        h.start_daemon_with(SAMPAN, ARGS, &fault);
        let outcome = h.run(&SCENARIO.replace("SAMPAN", SAMPAN));
        seen += &format!("{}\n{}", outcome.text(), outcome.errors());
    }
    dies(h, point, &seen);
    if let Some(again) = again {
        h.spawn_daemon(SAMPAN, ARGS, &[("SAMPAN_FAULT", again)]);
        dies(h, again, point);
    }
    h.start_daemon(SAMPAN, ARGS);
    agrees(h, parent, point);
    is_of_use(h, point);
    agrees(h, parent, point);
    is_clean_afterwards(h, parent, clean, point);
}

/// Waits for the daemon's death at a point.
fn dies(h: &mut Host, point: &str, seen: &str) {
    let began = Instant::now();
    let died = loop {
        match h.daemon_exit() {
            Some(code) => break code,
            None => assert!(began.elapsed() < SOON, "{point} is not passed: {seen}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(died, 128 + 6, "{point}: the daemon should have aborted: {seen}");
}

/// The host before there is any container.
fn before(h: &Host, parent: &str) -> World {
    let none = world::recorded(h);
    is_again(h, parent, &none, "a host without containers");
    none
}

/// Every fourth point, from `number` on. `SAMPAN_TEST_POINT` chooses those
/// whose name has it as a part.
fn part(number: usize, test: &str) {
    let Some((_lan, mut h)) = host_with(test, ARGS) else { return };
    let parent = world::cgroup_parent(&h);
    let clean = before(&h, &parent);
    let wanted = std::env::var("SAMPAN_TEST_POINT").unwrap_or_default();
    for point in POINTS.iter().skip(number).step_by(4).filter(|p| p.contains(&wanted)) {
        let began = Instant::now();
        die_at(&mut h, &parent, &clean, point, None);
        println!("{point}: {:?}", began.elapsed());
    }
}

#[test]
fn dies_again_while_it_heals() {
    let Some((_lan, mut h)) = host_with("dies_again_while_it_heals", ARGS) else { return };
    let parent = world::cgroup_parent(&h);
    let clean = before(&h, &parent);
    for (point, again) in TWICE {
        die_at(&mut h, &parent, &clean, point, Some(again));
    }
}

#[test]
fn dies_anywhere_1() {
    part(0, "dies_anywhere_1");
}

#[test]
fn dies_anywhere_2() {
    part(1, "dies_anywhere_2");
}

#[test]
fn dies_anywhere_3() {
    part(2, "dies_anywhere_3");
}

#[test]
fn dies_anywhere_4() {
    part(3, "dies_anywhere_4");
}

/// Between the points there are instants too.
#[test]
fn dies_at_any_instant() {
    let Some((_lan, mut h)) = host_with("dies_at_any_instant", &[]) else { return };
    h.sh("mkdir $HOME/some && head -c 300000 /dev/urandom > $HOME/some/f");
    let parent = world::cgroup_parent(&h);
    let clean = world::found(&h, &parent);
    let images = stored(&h);
    for round in 0..rounds() {
        let what = format!("round {round}");
        std::thread::scope(|scope| {
            let pid = h.daemon().and_then(sampan_testkit::Daemon::pid).unwrap();
            let traffic = scope.spawn(|| h.run(TRAFFIC));
            // Spread over the work, the same in each run of the test.
            std::thread::sleep(std::time::Duration::from_millis(150 + round * 389 % 2000));
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            let outcome = traffic.join().unwrap();
            assert!(!outcome.errors().contains("response from daemon"), "{}", outcome.errors());
            println!("{what}: {} answers before the death", outcome.text().lines().count());
        });
        h.wait_daemon();
        h.start_daemon(SAMPAN, &[]);
        agrees(&h, &parent, &what);
        // Of those that do not end by themselves.
        for id in h.docker("ps -q -f name=^/[wx][1-3]").lines() {
            assert_eq!(h.docker(&format!("exec {id} echo alive")), "alive", "{what}");
        }
        h.sh("docker ps -aq | xargs -r docker rm -fv");
        h.sh("docker network ls -q -f type=custom | xargs -r docker network rm");
        h.sh("docker volume ls -q | xargs -r docker volume rm");
        h.sh("docker images -q | sort -u | grep -v $(docker images -q busybox) | xargs -r docker rmi -f");
        is_again(&h, &parent, &clean, &what);
        same_images(&h, &images, &what);
    }
}

/// `SAMPAN_TEST_ROUNDS`, to look for what is rare.
fn rounds() -> u64 {
    std::env::var("SAMPAN_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

/// The files of images, by name.
fn stored(h: &Host) -> BTreeSet<String> {
    let dir = h.data_root().join("image");
    let files = h.run(&format!("cd {} && find . -maxdepth 3", dir.display()));
    files.text().lines().map(str::to_owned).collect()
}

fn same_images(h: &Host, images: &BTreeSet<String>, point: &str) {
    let began = Instant::now();
    loop {
        let is = stored(h);
        if is == *images {
            return;
        }
        let (more, less) = (is.difference(images), images.difference(&is));
        assert!(began.elapsed() < SOON, "{point}: more {more:?}, less {less:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
