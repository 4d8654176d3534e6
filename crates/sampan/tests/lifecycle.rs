//! A container's life, through the docker command.

mod common;

use common::{SOON, field, has, host};
use sampan_testkit::eventually;
use serde_json::json;

#[test]
fn run_prints_and_exits_with_the_containers_code() {
    let Some((_lan, h)) = host("run_prints_and_exits_with_the_containers_code") else { return };
    assert_eq!(h.docker("run --rm busybox echo hi"), "hi");
    assert_eq!(h.run("docker run --rm busybox sh -c 'exit 7'").code, 7);
    let outcome = h.run("docker run --rm busybox sh -c 'echo out; echo err >&2'");
    assert_eq!((outcome.text().as_str(), outcome.errors().as_str()), ("out", "err"));
    assert_eq!(h.docker("ps -aq"), "", "--rm left a container");
    assert_eq!(h.run_with("docker run -i --rm busybox tr a-z A-Z", b"piped").text(), "PIPED");
}

#[test]
fn every_verb_of_the_life_cycle() {
    let Some((_lan, h)) = host("every_verb_of_the_life_cycle") else { return };
    let mut events = h.events();
    h.docker("create --name c1 busybox sleep 1000");
    assert_eq!(field(&h, "c1", "{{.State.Status}}"), "created");
    h.docker("start c1");
    events.wait("start", "c1", SOON);
    assert_eq!(field(&h, "c1", "{{.State.Status}} {{.State.ExitCode}}"), "running 0");
    let pid = field(&h, "c1", "{{.State.Pid}}");
    assert_ne!(pid, "0");
    h.docker("pause c1");
    assert_eq!(field(&h, "c1", "{{.State.Status}} {{.State.Paused}}"), "paused true");
    has(&h.docker_fails("exec c1 true").1, &["paused"]);
    h.docker("unpause c1");
    h.docker("rename c1 c2");
    has(&h.docker("ps"), &["c2", "Up"]);
    has(&h.docker("top c2"), &["PID", "sleep 1000"]);
    has(&h.docker("stats --no-stream c2"), &["c2", "%"]);
    h.docker("restart -t 0 c2");
    assert_ne!(field(&h, "c2", "{{.State.Pid}}"), pid);
    h.docker("kill -s TERM c2; docker kill c2");
    events.wait("die", "c2", SOON);
    assert_eq!(h.docker("wait c2"), "137");
    assert_eq!(field(&h, "c2", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    has(&h.docker_fails("rm nosuch").1, &["no such container"]);
    h.docker("start c2");
    has(&h.docker_fails("rm c2").1, &["running", "force"]);
    h.docker("rm -f c2");
    events.wait("destroy", "c2", SOON);
    assert_eq!(h.docker("ps -aq"), "");
}

#[test]
fn stop_asks_first_and_kills_then() {
    let Some((_lan, h)) = host("stop_asks_first_and_kills_then") else { return };
    let polite = "sh -c 'trap \"exit 3\" TERM; echo ready; while :; do sleep 0.05; done'";
    h.docker(&format!("run -d --name polite busybox {polite}"));
    eventually("the trap", SOON, || h.docker("logs polite").contains("ready").then_some(()));
    h.docker("stop polite");
    assert_eq!(field(&h, "polite", "{{.State.ExitCode}}"), "3");
    let deaf = "sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.05; done'";
    h.docker(&format!("run -d --name deaf busybox {deaf}"));
    eventually("the trap", SOON, || h.docker("logs deaf").contains("ready").then_some(()));
    h.docker("stop -t 1 deaf");
    assert_eq!(field(&h, "deaf", "{{.State.ExitCode}}"), "137");
    h.docker("run -d --name usr --stop-signal USR1 busybox sh -c 'trap \"exit 4\" USR1; echo ready; while :; do sleep 0.05; done'");
    eventually("the trap", SOON, || h.docker("logs usr").contains("ready").then_some(()));
    h.docker("stop usr");
    assert_eq!(field(&h, "usr", "{{.State.ExitCode}}"), "4");
}

#[test]
fn wait_conditions_and_prune() {
    let Some((_lan, h)) = host("wait_conditions_and_prune") else { return };
    h.docker("create --name ww busybox sh -c 'exit 5'");
    let removed = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| h.api("POST", "/containers/ww/wait?condition=removed", None));
        let exited = scope.spawn(|| h.api("POST", "/containers/ww/wait?condition=next-exit", None));
        // Both must be waiting before the start; the daemon has no event for that.
        std::thread::sleep(std::time::Duration::from_millis(300));
        h.docker("start ww");
        assert_eq!(exited.join().unwrap().json()["StatusCode"], 5);
        h.docker("rm ww");
        waiter.join().unwrap()
    });
    assert_eq!(removed.json()["StatusCode"], 5);
    h.docker("run --name p1 busybox true");
    h.docker("run -d --name p2 busybox sleep 1000");
    let pruned = h.api("POST", "/containers/prune", None).json();
    assert_eq!(pruned["ContainersDeleted"].as_array().unwrap().len(), 1);
    assert_eq!(h.docker("ps -a --format '{{.Names}}'"), "p2");
}

#[test]
fn restart_policies() {
    let Some((_lan, h)) = host("restart_policies") else { return };
    let mut events = h.events();
    h.docker("run -d --name ff --restart on-failure:2 busybox false");
    for _ in 0..3 {
        events.wait("die", "ff", SOON);
    }
    eventually("two restarts", SOON, || {
        (field(&h, "ff", "{{.State.Status}} {{.RestartCount}}") == "exited 2").then_some(())
    });
    h.docker("run -d --name al --restart always busybox sh -c 'sleep 0.1; exit 1'");
    for _ in 0..3 {
        events.wait("die", "al", SOON);
    }
    h.docker("stop al");
    assert_eq!(field(&h, "al", "{{.State.Status}}"), "exited");
    h.docker("run -d --name ok --restart on-failure busybox true");
    events.wait("die", "ok", SOON);
    eventually("no restart after success", SOON, || {
        (field(&h, "ok", "{{.State.Status}} {{.RestartCount}}") == "exited 0").then_some(())
    });
    has(&h.docker_fails("run --rm --restart always busybox true").1, &["conflicting options"]);
}

#[test]
fn health_checks() {
    let Some((_lan, h)) = host("health_checks") else { return };
    let mut events = h.events();
    h.docker(
        "run -d --name hc --health-cmd 'test -f /tmp/ok' --health-interval 200ms --health-retries 2 busybox sleep 1000",
    );
    let event = events.wait("health_status", "hc", SOON);
    assert_eq!(event["Action"], "health_status: unhealthy");
    h.docker("exec hc touch /tmp/ok");
    let event = events.wait("health_status", "hc", SOON);
    assert_eq!(event["Action"], "health_status: healthy");
    has(&h.docker("ps"), &["(healthy)"]);
    h.docker("exec hc rm /tmp/ok");
    events.wait("health_status", "hc", SOON);
    assert_eq!(field(&h, "hc", "{{.State.Health.Status}}"), "unhealthy");
    let log = h.inspect("hc")["State"]["Health"]["Log"].clone();
    assert!((1..=5).contains(&log.as_array().unwrap().len()));
    h.docker("run -d --name slow --health-cmd 'sleep 100' --health-interval 100ms --health-timeout 300ms --health-retries 1 busybox sleep 1000");
    let event = events.wait("health_status", "slow", SOON);
    assert_eq!(event["Action"], "health_status: unhealthy");
}

#[test]
fn update_changes_limits_and_policy_live() {
    let Some((_lan, h)) = host("update_changes_limits_and_policy_live") else { return };
    h.docker("run -d --name mm --memory 64m --cpus 0.5 --pids-limit 50 busybox sleep 1000");
    let config = h.inspect("mm")["HostConfig"].clone();
    assert_eq!(config["Memory"], 67_108_864);
    assert_eq!(config["NanoCpus"], 500_000_000);
    assert_eq!(config["PidsLimit"], 50);
    h.docker("update --memory 128m --memory-swap 256m --restart unless-stopped mm");
    has(&h.docker("stats --no-stream mm"), &["128MiB"]);
    assert_eq!(field(&h, "mm", "{{.HostConfig.RestartPolicy.Name}}"), "unless-stopped");
    has(&h.docker_fails("update --memory 1m mm").1, &["minimum memory limit"]);
    assert_eq!(h.run("docker run --rm --memory 32m busybox sh -c 'tail /dev/zero'").code, 137);
    h.run("docker run --name oom --memory 32m busybox sh -c 'tail /dev/zero'");
    assert_eq!(field(&h, "oom", "{{.State.OOMKilled}}"), "true");
}

#[test]
fn lists_filter_and_limit() {
    let Some((_lan, h)) = host("lists_filter_and_limit") else { return };
    h.docker("run -d --name a1 --label tier=web busybox sleep 1000");
    h.run("docker run --name a2 --label tier=db busybox sh -c 'exit 3'");
    h.docker("create --name a3 busybox");
    let names = |filter: &str| {
        let out = h.docker(&format!("ps -a --format '{{{{.Names}}}}' {filter}"));
        let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names("--filter label=tier=web"), "a1");
    assert_eq!(names("--filter label=tier"), "a1 a2");
    assert_eq!(names("--filter status=exited"), "a2");
    assert_eq!(names("--filter status=created"), "a3");
    assert_eq!(names("--filter exited=3"), "a2");
    assert_eq!(names("--filter name=a"), "a1 a2 a3");
    assert_eq!(names("--filter name=^/a1$"), "a1");
    assert_eq!(names("--filter ancestor=busybox"), "a1 a2 a3");
    assert_eq!(names("--filter since=a1"), "a2 a3");
    assert_eq!(names("--filter before=a2"), "a1");
    assert_eq!(names("--filter network=bridge --filter status=running"), "a1");
    assert_eq!(names("-n 2"), "a2 a3");
    has(&h.docker_fails("ps --filter nosuch=1").1, &["invalid filter"]);
    let sized = h.docker("ps -s");
    has(&sized, &["virtual"]);
    let listed = h.api("GET", "/v1.43/containers/json?all=1&size=1", None).json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert!(h.api("GET", "/containers/a1/json?size=1", None).json()["SizeRootFs"].is_number());
}

#[test]
fn events_are_replayed_and_filtered() {
    let Some((_lan, h)) = host("events_are_replayed_and_filtered") else { return };
    h.docker("run --name e1 busybox true");
    h.docker("run --name e2 busybox true");
    // The command cuts times to whole seconds, so the API is asked.
    let now = h.sh("date +%s.%N");
    let ask = |filters: &str| {
        let path = format!("/events?since=0&until={now}&filters={filters}");
        let body = String::from_utf8(h.api("GET", &path, None).body).unwrap();
        let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let action = |line: &str| event(line)["Action"].as_str().unwrap().to_owned();
        body.lines().map(action).collect::<Vec<_>>()
    };
    let actions = ask("%7B%22container%22%3A%5B%22e1%22%5D%7D");
    let order = ["create", "attach", "start", "die"];
    let positions: Vec<_> =
        order.iter().map(|a| actions.iter().position(|s| s == a).expect(a)).collect();
    assert!(positions.is_sorted(), "{actions:?}");
    assert_eq!(ask("%7B%22type%22%3A%5B%22image%22%5D%7D"), ["import"]);
}

#[test]
fn create_answers_warnings_and_refuses_what_conflicts() {
    let Some((_lan, h)) = host("create_answers_warnings_and_refuses_what_conflicts") else {
        return;
    };
    let create = |body: serde_json::Value| h.api("POST", "/containers/create", Some(&body));
    let made = create(json!({"Image": "busybox", "Cmd": "true"}));
    assert_eq!(made.status, 201, "{}", made.message());
    assert!(made.json()["Warnings"].is_array());
    assert_eq!(create(json!({"Image": "nosuch:1"})).status, 404);
    let negative = create(json!({"Image": "busybox", "HostConfig": {"Memory": 1024}}));
    assert_eq!((negative.status, negative.message().contains("6MB")), (400, true));
    let both = create(json!({"Image": "busybox", "HostConfig":
        {"NanoCpus": 1_000_000_000, "CpuPeriod": 100_000, "CpuQuota": 50_000}}));
    assert_eq!(both.status, 400, "{}", both.message());
    assert_eq!(h.docker("ps -aq --filter status=created").lines().count(), 1);
}
