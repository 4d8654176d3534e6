//! What goes in and comes out: attach, exec, logs, terminals, copies.

mod common;

use common::{SOON, field, has, host, host_with};
use sampan_testkit::eventually;

#[test]
fn exec_in_all_its_forms() {
    let Some((_lan, h)) = host("exec_in_all_its_forms") else { return };
    h.docker("run -d --name c1 -e A=1 busybox sleep 1000");
    assert_eq!(h.docker("exec c1 sh -c 'echo $((6*7)) $A'"), "42 1");
    assert_eq!(h.run("docker exec c1 sh -c 'exit 9'").code, 9);
    assert_eq!(
        h.docker("exec -e B=2 -w /tmp -u web c1 sh -c 'echo $B $(pwd) $(id -u)'"),
        "2 /tmp 1000"
    );
    assert_eq!(h.run_with("docker exec -i c1 tr a-z A-Z", b"abc").text(), "ABC");
    let missing = h.run("docker exec c1 nosuchprogram");
    assert!(matches!(missing.code, 126 | 127), "{}", missing.code);
    // The stream is open by then, so that the reason comes on it, as from dockerd.
    has(&(missing.text() + &missing.errors()), &["nosuchprogram", "not found"]);
    h.docker("exec -d c1 sh -c 'echo done > /tmp/done'");
    eventually("the detached exec", SOON, || {
        (h.run("docker exec c1 cat /tmp/done").text() == "done").then_some(())
    });
    has(&h.docker_fails("exec nosuch true").1, &["no such container"]);
    let terminal = h.run("script -qec 'docker exec -t c1 tty' /dev/null");
    if terminal.code != 127 {
        has(&terminal.text(), &["/dev/pts/"]);
    }
    h.docker("stop -t 0 c1");
    has(&h.docker_fails("exec c1 true").1, &["not running"]);
}

#[test]
fn logs_follow_tail_and_stamp() {
    let Some((_lan, h)) = host("logs_follow_tail_and_stamp") else { return };
    h.docker("run -d --name ll busybox sh -c 'for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; sleep 0.05; done'");
    // Follows to the container's end.
    let all = h.run("docker logs -f ll");
    assert_eq!((all.text().lines().count(), all.errors().lines().count()), (5, 5));
    assert_eq!(h.run("docker logs --tail 2 ll 2>&1").text().lines().count(), 2);
    let stamped =
        h.run("docker logs -t --tail 1 ll 2>/dev/null; docker logs -t ll 2>/dev/null").text();
    let line = stamped.lines().next().unwrap_or_default();
    assert!(line.contains('T') && line.contains('Z'), "{stamped}");
    let second = h.run("docker logs -t ll 2>/dev/null | sed -n 3p | cut -d' ' -f1").text();
    let since = h.run(&format!("docker logs --since {second} ll 2>/dev/null")).text();
    assert_eq!(since.lines().next(), Some("out3"), "{since}");
    let until = h.run(&format!("docker logs --until {second} ll 2>/dev/null")).text();
    assert!(until.lines().count() <= 3, "{until}");
    h.docker("run -d --name quiet --log-driver none busybox echo x");
    has(&h.docker_fails("logs quiet").1, &["does not support reading"]);
}

#[test]
fn log_drivers_and_rotation() {
    let Some((_lan, h)) = host("log_drivers_and_rotation") else { return };
    assert_eq!(field_of_default(&h), "json-file");
    h.docker("run --name rot --log-opt max-size=10k --log-opt max-file=2 busybox sh -c 'i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done' >/dev/null");
    let path = field(&h, "rot", "{{.LogPath}}");
    let files = h.sh(&format!("ls {path}* | wc -l"));
    assert_eq!(files, "2");
    let tail = h.docker("logs --tail 3 rot");
    assert_eq!(tail.lines().last(), Some("line 1999"));
    h.docker("run --name loc --log-driver local busybox sh -c 'echo one; echo two >&2'");
    let both = h.run("docker logs loc");
    assert_eq!((both.text().as_str(), both.errors().as_str()), ("one", "two"));
    has(&h.docker_fails("run --log-driver nosuch busybox true").1, &["nosuch"]);
    has(&h.docker_fails("run --log-opt nosuch=1 busybox true").1, &["unknown log opt", "nosuch"]);
}

fn field_of_default(h: &sampan_testkit::Host) -> String {
    h.docker("info --format '{{.LoggingDriver}}'")
}

#[test]
fn much_output_arrives_whole() {
    let Some((_lan, h)) = host("much_output_arrives_whole") else { return };
    let script = "dd if=/dev/zero bs=1M count=20 2>/dev/null | tr '\\0' x";
    let size = h.sh(&format!("docker run --rm busybox sh -c \"{script}\" | wc -c"));
    assert_eq!(size, (20 << 20).to_string());
    // A client that reads slowly gets everything too.
    let slow = h.sh(&format!("docker run --rm busybox sh -c \"{script}\" | (sleep 1; wc -c)"));
    assert_eq!(slow, (20 << 20).to_string());
    let digest = h.sh("head -c 3000000 /dev/urandom > /run/in; docker run -i --rm busybox md5sum < /run/in | cut -c-32");
    assert_eq!(digest, h.sh("md5sum < /run/in | cut -c-32"));
}

#[test]
fn attach_sees_output_and_survives_clients_that_leave() {
    let Some((_lan, h)) = host("attach_sees_output_and_survives_clients_that_leave") else {
        return;
    };
    h.docker("run -di --name cat busybox cat");
    // The first client leaves in the middle: the container goes on.
    h.run("timeout -s KILL 0.5 docker attach --no-stdin cat");
    // Signals are passed on to the container, so only SIGKILL ends the client.
    let echoed = h.run("(echo two; sleep 0.5) | timeout -s KILL 2 docker attach cat");
    assert!(echoed.text().contains("two"), "{}", echoed.text());
    assert_eq!(h.docker("logs cat"), "two");
    h.docker("run -dit --name term busybox");
    assert_eq!(field(&h, "term", "{{.State.Running}}"), "true");
    h.docker("run -d --name busy busybox sh -c 'while :; do echo tick; sleep 0.05; done'");
    let seen = h.run("timeout -s KILL 1 docker attach --sig-proxy=false busy");
    assert!(seen.text().contains("tick"));
    assert_eq!(field(&h, "busy", "{{.State.Running}}"), "true");
}

#[test]
fn copies_go_both_ways_and_never_escape() {
    let Some((_lan, h)) = host("copies_go_both_ways_and_never_escape") else { return };
    h.docker("run -d --name cc busybox sleep 1000");
    h.sh("echo hello > /run/f; docker cp /run/f cc:/tmp/f");
    assert_eq!(h.docker("exec cc cat /tmp/f"), "hello");
    h.sh("docker cp cc:/tmp/f /run/g; cmp /run/f /run/g");
    h.sh("mkdir -p /run/d/e; echo deep > /run/d/e/f; docker cp /run/d cc:/tmp/; docker cp cc:/tmp/d /run/back; cmp /run/d/e/f /run/back/e/f");
    assert_eq!(h.sh("docker cp cc:/etc/hostname - | tar -tf -"), "hostname");
    has(&h.docker_fails("cp cc:/nosuch /run/x").1, &["/nosuch"]);
    // A link to the host's file is resolved inside the container.
    h.docker("exec cc ln -s /etc/shadow /tmp/link");
    let escaped = h.run("docker cp -L cc:/tmp/link /run/stolen");
    assert_ne!(escaped.code, 0, "the host's file was copied");
    h.docker("exec cc ln -s / /tmp/root");
    h.sh("echo inside > /run/h; docker cp /run/h cc:/tmp/root/tmp/h");
    assert_eq!(h.docker("exec cc cat /tmp/h"), "inside");
    h.docker("stop -t 0 cc");
    h.sh("docker cp /run/f cc:/tmp/stopped; docker cp cc:/tmp/stopped /run/k; cmp /run/f /run/k");
    let diff = h.docker("diff cc");
    has(&diff, &["A /tmp/f", "A /tmp/stopped", "C /tmp"]);
    assert!(!diff.contains("/etc/hosts"), "{diff}");
    assert!(h.sh("docker export cc | tar -tf - | grep -c '^tmp/d/e/f$'") == "1");
}

#[test]
fn local_logs_are_the_default_when_the_daemon_is_told() {
    let args = ["--log-driver", "local"];
    let Some((_lan, h)) = host_with("local_logs_are_the_default_when_the_daemon_is_told", &args)
    else {
        return;
    };
    h.docker("run --name ll busybox echo kept");
    assert_eq!(h.docker("logs ll"), "kept");
    assert_eq!(field(&h, "ll", "{{.HostConfig.LogConfig.Type}}"), "local");
}
