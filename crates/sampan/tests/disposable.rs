//! The daemon can be killed at any instant; nobody notices.

mod common;

use common::{SAMPAN, SOON, crash_and_restart, field, has, host, web};
use sampan_testkit::eventually;

#[test]
fn a_killed_daemon_is_followed_without_a_trace() {
    let Some((lan, mut h)) = host("a_killed_daemon_is_followed_without_a_trace") else { return };
    h.docker(&format!("run -d --name ww -p 8080:80 busybox {}", web(80)));
    h.docker(
        "run -d --name tick busybox sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done'",
    );
    h.docker("run -d --name ends busybox sh -c 'sleep 2; exit 23'");
    h.docker("run -d --rm --name removed busybox sleep 2");
    h.docker("run -d --name again --restart always busybox sh -c 'sleep 2; exit 1'");
    let pids: Vec<String> = ["ww", "tick"].iter().map(|n| field(&h, n, "{{.State.Pid}}")).collect();
    let url = format!("http://{}:8080/", h.ip);
    eventually("the page", SOON, || {
        (lan.outside(&format!("curl -fs --max-time 2 {url}")).code == 0).then_some(())
    });

    h.stop_daemon("KILL");
    // Traffic goes on without a daemon, and so does the log.
    assert_eq!(lan.outside(&format!("curl -fs --max-time 2 {url}")).code, 0);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let back = h.sh("date +%s%N");
    h.start_daemon(SAMPAN, &[]);

    let after: Vec<String> =
        ["ww", "tick"].iter().map(|n| field(&h, n, "{{.State.Pid}}")).collect();
    assert_eq!(pids, after);
    assert_eq!(field(&h, "ends", "{{.State.Status}} {{.State.ExitCode}}"), "exited 23");
    let began = field(&h, "ends", "{{.State.StartedAt}}");
    let ended = field(&h, "ends", "{{.State.FinishedAt}}");
    let seconds = h.sh(&format!("echo $(( $(date -d {ended} +%s) - $(date -d {began} +%s) ))"));
    assert!(["2", "3"].contains(&seconds.as_str()), "{began} {ended}");
    assert!(h.sh(&format!("date -d {ended} +%s%N")) < back, "it ended before {back}");
    eventually("--rm is carried out", SOON, || {
        (h.run("docker inspect removed").code != 0).then_some(())
    });
    eventually("the restart policy is carried out", SOON, || {
        (field(&h, "again", "{{.RestartCount}}") != "0").then_some(())
    });
    assert_eq!(h.docker("exec tick echo works"), "works");
    let seen = h.run("timeout -s KILL 1 docker attach --sig-proxy=false tick").text();
    assert!(seen.lines().count() > 3, "{seen}");
    let log = h.docker("logs tick");
    let numbers: Vec<u32> = log.lines().filter_map(|l| l.parse().ok()).collect();
    assert!(numbers.iter().enumerate().all(|(i, n)| i as u32 == *n), "lines are missing");
    assert_eq!(lan.outside(&format!("curl -fs --max-time 2 {url}")).code, 0);
    // The port is still the container's, and free after it.
    has(&h.docker_fails("run -d --name w2 -p 8080:80 busybox true").1, &["8080", "ww"]);
    h.docker("rm -f ww w2");
    h.docker("run -d --name w3 -p 8080:80 busybox sleep 1000");
    h.docker("stop -t 0 tick");
    assert_eq!(field(&h, "tick", "{{.State.ExitCode}}"), "137");
}

#[test]
fn sigterm_ends_the_daemon_with_zero_and_keeps_containers() {
    let Some((_lan, mut h)) = host("sigterm_ends_the_daemon_with_zero_and_keeps_containers") else {
        return;
    };
    h.docker("run -d --name s1 busybox sleep 1000");
    let pid = field(&h, "s1", "{{.State.Pid}}");
    assert_eq!(h.stop_daemon("TERM"), Some(0));
    h.start_daemon(SAMPAN, &[]);
    assert_eq!(field(&h, "s1", "{{.State.Pid}}"), pid);
    has(&h.docker("ps"), &["s1", "Up"]);
}

#[test]
fn a_killed_shim_is_an_exit() {
    let Some((_lan, h)) = host("a_killed_shim_is_an_exit") else { return };
    let mut events = h.events();
    h.docker("run -d --name s1 -p 8081:80 busybox sleep 1000");
    let pid = field(&h, "s1", "{{.State.Pid}}");
    let shim = h.sh(&format!("sed -n 's/^PPid:\t//p' /proc/{pid}/status"));
    h.sh(&format!("kill -9 {shim}"));
    events.wait("die", "s1", SOON);
    eventually("the container is gone with its shim", SOON, || {
        (h.run(&format!("kill -0 {pid}")).code != 0).then_some(())
    });
    assert_eq!(field(&h, "s1", "{{.State.Status}}"), "exited");
    h.docker("start s1");
    assert_eq!(field(&h, "s1", "{{.State.Running}}"), "true");
}

#[test]
fn a_damaged_store_is_set_aside_and_containers_are_adopted() {
    let Some((_lan, mut h)) = host("a_damaged_store_is_set_aside_and_containers_are_adopted")
    else {
        return;
    };
    h.docker("run -d --name s1 busybox sleep 1000");
    let pid = field(&h, "s1", "{{.State.Pid}}");
    h.stop_daemon("KILL");
    let store = h.data_root().join("store.redb");
    std::fs::write(&store, b"damaged beyond repair").unwrap();
    h.start_daemon(SAMPAN, &[]);
    assert_eq!(field(&h, "s1", "{{.State.Pid}}"), pid);
    assert_eq!(h.docker("exec s1 echo alive"), "alive");
    has(&h.log_tail(), &["store", "damaged"]);
    h.docker("rm -f s1");
}

#[test]
fn two_daemons_share_nothing() {
    let Some((lan, mut h1)) = host("two_daemons_share_nothing") else { return };
    let mut h2 = lan.host("h2");
    h2.start_daemon(SAMPAN, &[]);
    h2.import_busybox();
    for h in [&h1, &h2] {
        h.docker(&format!("run -d --name ww -p 8080:80 busybox {}", web(80)));
    }
    let pid = field(&h2, "ww", "{{.State.Pid}}");
    crash_and_restart(&mut h1);
    h1.docker("rm -f ww");
    assert_eq!(field(&h2, "ww", "{{.State.Pid}}"), pid);
    eventually("the other's page", SOON, || {
        (lan.outside(&format!("curl -fs --max-time 2 http://{}:8080/", h2.ip)).code == 0)
            .then_some(())
    });
}

#[test]
fn two_daemons_on_one_host_share_nothing() {
    let Some((lan, mut h)) = host("two_daemons_on_one_host_share_nothing") else { return };
    let dir = h.dir().display().to_string();
    let start = format!(
        "{SAMPAN} daemon -H unix:///run/two.sock --data-root {dir}/data2 --exec-root {dir}/exec2 \
         --bridge second0 --bip 172.31.0.1/24 </dev/null >>/run/two.log 2>&1 & echo $! >/run/two.pid"
    );
    let two = |h: &sampan_testkit::Host, args: &str| {
        h.sh(&format!("docker -H unix:///run/two.sock {args}"))
    };
    let answers = |h: &sampan_testkit::Host| {
        eventually("the second daemon answers", SOON, || {
            (h.run("curl -fs --unix-socket /run/two.sock http://d/_ping").code == 0).then_some(())
        });
    };
    h.sh(&start);
    answers(&h);
    h.sh(&format!("tar -C {dir}/rootfs -c . | docker -H unix:///run/two.sock import - busybox"));
    h.docker(&format!("run -d --name ww -p 8081:80 busybox {}", web(80)));
    two(&h, &format!("run -d --name ww -p 8082:80 busybox {}", web(80)));
    let pid = two(&h, "inspect -f {{.State.Pid}} ww");
    // Each daemon's start sweeps what is its own only, also while the other is dead.
    h.sh("kill -9 $(cat /run/two.pid)");
    crash_and_restart(&mut h);
    h.docker("rm -f ww");
    let page = format!("curl -fs --max-time 2 http://{}:8082/", h.ip);
    assert_eq!(lan.outside(&page).code, 0, "its port is published without a daemon");
    h.sh(&start);
    answers(&h);
    assert_eq!(two(&h, "inspect -f {{.State.Pid}} ww"), pid);
    assert_eq!(two(&h, "exec ww echo alive"), "alive");
    assert_eq!(lan.outside(&page).code, 0);
    let groups = two(&h, "run --rm --net none busybox cat /proc/self/cgroup");
    let own = groups.split('/').find(|p| p.starts_with("sampan-")).unwrap_or_default();
    two(&h, "rm -f ww");
    eventually("no link is left", SOON, || {
        (h.run("ip -o link | grep -c veth").text() == "0").then_some(())
    });
    h.sh("kill $(cat /run/two.pid)");
    assert_eq!(h.docker("run --rm busybox echo fine"), "fine");
    // The test host removes those of its own daemon only.
    h.run(&format!("rmdir /sys/fs/cgroup/*/{own} /sys/fs/cgroup/{own}"));
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let Some((_lan, h)) = host("a_second_daemon_on_the_same_data_is_refused") else { return };
    let second = h.run(&format!(
        "timeout 20 {SAMPAN} daemon -H unix:///run/second.sock --data-root {} --exec-root {}",
        h.data_root().display(),
        h.exec_root().display()
    ));
    assert!(second.code != 0 && second.code != 124, "{}", second.code);
    has(&second.errors(), &["in use"]);
    assert_eq!(h.docker("run --rm busybox echo fine"), "fine");
}

#[test]
fn a_restart_goes_on_after_the_daemons_death() {
    let Some((_lan, mut h)) = host("a_restart_goes_on_after_the_daemons_death") else { return };
    let slow = "sh -c 'trap \"sleep 1; exit 3\" TERM; echo ready; while :; do sleep 0.05; done'";
    h.docker(&format!("run -d --name again busybox {slow}"));
    eventually("the trap", SOON, || h.docker("logs again").contains("ready").then_some(()));
    let pid = field(&h, "again", "{{.State.Pid}}");
    let mut events = h.events();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| h.run("docker restart again"));
        events.wait("kill", "again", SOON);
        // Between the stop and the start; the client sees its connection break.
        let daemon = h.daemon().and_then(sampan_testkit::Daemon::pid).unwrap().to_string();
        std::process::Command::new("kill").args(["-9", &daemon]).status().unwrap();
        assert_ne!(client.join().unwrap().code, 0);
    });
    h.stop_daemon("KILL");
    h.start_daemon(SAMPAN, &[]);
    eventually("the container runs anew", SOON, || {
        let now = field(&h, "again", "{{.State.Running}} {{.State.Pid}}");
        (now.starts_with("true ") && !now.ends_with(&format!(" {pid}"))).then_some(())
    });
}
