//! Bad input: a clear error, and nothing left behind.

mod common;

use common::{SOON, field, has, host};
use sampan_testkit::{Host, eventually};
use serde_json::json;

/// What would be left behind: mounts, links, cgroups, namespaces, records.
fn traces(h: &Host) -> String {
    h.sh(&format!(
        "grep -c ' {data}/overlay' /proc/self/mountinfo; ip -o link | grep -c veth; ls {exec}/containers {exec}/netns 2>/dev/null | wc -l; docker ps -aq | wc -l; true",
        data = h.data_root().display(),
        exec = h.exec_root().display()
    ))
}

#[test]
fn every_wrong_request_is_answered_and_leaves_nothing() {
    let Some((_lan, h)) = host("every_wrong_request_is_answered_and_leaves_nothing") else {
        return;
    };
    let before = traces(&h);
    let malformed = h.api_raw("POST", "/containers/create", Some(b"{\"Image\": "));
    assert_eq!(malformed.status, 400, "{}", malformed.message());
    assert!(!malformed.message().is_empty());
    let wrong_type = h.api_raw("POST", "/containers/create", Some(br#"{"Image": 5}"#));
    assert_eq!(wrong_type.status, 400, "{}", wrong_type.message());
    let name = h.api("POST", "/containers/create?name=a%20b", Some(&json!({"Image": "busybox"})));
    assert_eq!(name.status, 400, "{}", name.message());
    has(&name.message(), &["invalid container name"]);
    assert_eq!(h.api("GET", "/containers/nosuch/json", None).status, 404);
    assert_eq!(h.api("GET", "/v1.20/info", None).status, 400);
    assert_eq!(h.api("GET", "/v9.99/info", None).status, 400);
    assert_eq!(h.api("GET", "/nosuch", None).status, 404);
    assert_eq!(h.api("GET", "/containers/json?filters=nonsense", None).status, 400);

    let (code, error) = h.docker_fails("run --rm busybox nosuchprogram");
    assert_eq!(code, 127);
    has(&error, &["nosuchprogram", "not found"]);
    let (code, error) = h.docker_fails("run --rm busybox /etc/passwd");
    assert_eq!(code, 126, "{error}");
    has(&error, &["permission denied"]);
    let (code, error) = h.docker_fails("run --rm -u nobodyhere busybox true");
    assert_ne!(code, 0);
    has(&error, &["nobodyhere"]);
    h.docker_fails("run --rm -v /run/nosuchfile:/etc/passwd/below busybox true");
    h.docker_fails("run --rm -w /etc/passwd busybox true");
    h.docker_fails("run --rm --name same -p 99999:80 busybox true");
    has(&h.docker_fails("run nosuch.invalid/image:none true").1, &["nosuch.invalid"]);
    eventually("nothing is left", SOON, || (traces(&h) == before).then_some(()));

    h.docker("create --name taken busybox");
    has(&h.docker_fails("create --name taken busybox").1, &["already in use", "taken"]);
    h.docker("rm taken");
}

#[test]
fn a_full_disk_is_reported_and_left_clean() {
    let Some(lan) = sampan_testkit::Lan::new_or_skip("a_full_disk_is_reported_and_left_clean")
    else {
        return;
    };
    let mut h = lan.host("h1");
    // A small file system for the data root alone.
    let made = h.run(&format!(
        "mkdir -p {0} && mount -t tmpfs -o size=24m tmpfs {0}",
        h.data_root().display()
    ));
    assert_eq!(made.code, 0, "{}", made.errors());
    h.start_daemon(common::SAMPAN, &[]);
    h.import_busybox();
    h.sh("mkdir -p /run/big && head -c 40000000 /dev/zero > /run/big/f && tar -C /run/big -cf /run/big.tar .");
    let (_, error) = h.docker_fails("import /run/big.tar big:1");
    has(&error, &["space"]);
    assert_eq!(h.docker("images -q").lines().count(), 1);
    assert_eq!(h.docker("run --rm busybox echo works"), "works");
    let (code, _) =
        h.docker_fails("run --name filler busybox sh -c 'head -c 60000000 /dev/zero > /f'");
    assert_ne!(code, 0);
    h.docker("rm filler");
    assert_eq!(h.docker("run --rm busybox echo again"), "again");
}

#[test]
fn clients_that_leave_in_the_middle_harm_nobody() {
    let Some((_lan, h)) = host("clients_that_leave_in_the_middle_harm_nobody") else { return };
    h.docker("run -d --name c1 busybox sh -c 'while :; do echo x; sleep 0.02; done'");
    h.run("timeout -s KILL 0.3 docker attach c1");
    h.run("timeout -s KILL 0.3 docker logs -f c1");
    h.run("timeout -s KILL 0.3 docker exec c1 sleep 1000");
    h.run("timeout -s KILL 0.3 docker events");
    h.run("timeout -s KILL 0.5 docker stats c1");
    h.sh("docker save busybox > /run/b.tar");
    h.run("(head -c 100000 /run/b.tar; sleep 1) | timeout -s KILL 0.3 docker load");
    h.run("docker export c1 | head -c 1000 > /dev/null");
    assert_eq!(field(&h, "c1", "{{.State.Running}}"), "true");
    assert_eq!(h.docker("exec c1 echo fine"), "fine");
    assert_eq!(h.docker("images -q").lines().count(), 1);
    h.docker("rm -f c1");
}

#[test]
fn a_stuck_container_blocks_nobody_else() {
    let Some((_lan, h)) = host("a_stuck_container_blocks_nobody_else") else { return };
    h.docker("run -d --name deaf --stop-timeout 20 busybox sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    h.docker("run -d --name other busybox sleep 1000");
    std::thread::scope(|scope| {
        scope.spawn(|| h.run("docker stop deaf"));
        eventually("the stop is under way", SOON, || {
            h.docker("events --since 1m --until 0s --filter event=kill --format '{{.Action}}'")
                .contains("kill")
                .then_some(())
        });
        assert_eq!(field(&h, "deaf", "{{.State.Running}}"), "true");
        assert_eq!(h.docker("ps -q").lines().count(), 2);
        h.docker("rm -f other");
        h.docker("kill deaf");
    });
    assert_eq!(field(&h, "deaf", "{{.State.Status}}"), "exited");
}
