//! Network policies of the daemon: from a container's first packet on, on
//! those that run, over restarts and deaths of the daemon.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{SAMPAN, SOON, crash_and_restart, has, host, web};
use sampan_testkit::{Host, eventually};
use serde_json::json;

/// Runs `sampan policy` with arguments; the exit code with output and error.
fn policy(h: &Host, args: &str) -> (i32, String) {
    let out = h.run(&format!("{SAMPAN} policy {args}"));
    (out.code, format!("{}{}", out.text(), out.errors()))
}

/// As [`policy`], which has to succeed.
#[track_caller]
fn done(h: &Host, args: &str) -> String {
    let (code, text) = policy(h, args);
    assert_eq!(code, 0, "sampan policy {args}: {text}");
    text
}

/// Whether a container gets an answer from another one.
fn reaches(h: &Host, from: &str, to: &str, port: u16) -> bool {
    h.run(&format!("docker exec {from} nc -w 1 {to} {port} </dev/null")).code == 0
}

fn address(h: &Host, name: &str, network: &str) -> String {
    h.docker(&format!(
        "inspect -f '{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}' {name}"
    ))
}

#[test]
fn a_container_is_kept_from_its_first_packet() {
    let Some((_lan, h)) = host("a_container_is_kept_from_its_first_packet") else { return };
    h.docker("network create nn");
    h.docker(&format!("run -d --name server --net nn busybox {}", web(80)));
    let at = address(&h, "server", "nn");
    eventually("the server", SOON, || {
        (h.run(&format!("docker run --rm --net nn busybox nc -w 1 {at} 80 </dev/null")).code == 0)
            .then_some(())
    });
    done(&h, "create --deny egress --label kept --peer name=server kept");
    // The container's process begins with a thousand attempts.
    let knock = |args: &str| {
        let attempts = format!(
            "i=0; while [ $i -lt 1000 ]; do nc -w 1 {at} 80 </dev/null >/dev/null 2>&1 && echo in & \
             i=$((i+1)); [ $((i%200)) = 0 ] && wait; done; wait"
        );
        let seen = h.run(&format!("docker run --rm {args} --net nn busybox sh -c '{attempts}'"));
        seen.text().lines().filter(|line| *line == "in").count()
    };
    assert!(knock("") > 900, "others are not kept");
    for _ in 0..2 {
        assert_eq!(knock("--label kept"), 0);
    }
    has(&done(&h, "ls"), &["kept", "deny", "egress", "label=kept", "name=server"]);
    let packets: u64 = done(&h, "inspect -f '{{.Counters.Packets}}' kept").parse().unwrap();
    assert!(packets >= 2000, "{packets}");
}

#[test]
fn policies_change_what_running_containers_may() {
    let Some((lan, mut h)) = host("policies_change_what_running_containers_may") else { return };
    h.docker("network create nn");
    h.docker("network create other");
    for (name, label) in [("web", "app=web"), ("db", "app=db"), ("cron", "app=cron")] {
        h.docker(&format!("run -d --name {name} --label {label} --net nn busybox {}", web(80)));
    }
    let db = address(&h, "db", "nn");
    eventually("the servers", SOON, || {
        (reaches(&h, "web", &db, 80) && reaches(&h, "cron", &db, 80)).then_some(())
    });
    done(
        &h,
        "create --allow ingress --label app=db --peer label=app=web --port tcp/80 --priority 10 \
         db-web",
    );
    let began = Instant::now();
    let body = json!({
        "Name": "db-others", "Direction": "ingress", "Action": "deny",
        "Subjects": { "Labels": ["app=db"] },
    });
    assert_eq!(h.api("POST", "/sampan/policies", Some(&body)).status, 201);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(500) * sampan_testkit::busy(), "a policy took {took:?}");
    println!("a policy took {took:?}");
    assert!(!reaches(&h, "cron", &db, 80) && reaches(&h, "web", &db, 80));
    // Who comes later, connects later or is called otherwise later.
    h.docker("run -d --name web2 --label app=web --net nn busybox sleep 1000");
    assert!(reaches(&h, "web2", &db, 80));
    h.docker("run -d --name web3 --label app=web --net other busybox sleep 1000");
    h.docker("network connect nn web3");
    assert!(reaches(&h, "web3", &db, 80));
    h.docker("network disconnect nn web3");
    h.docker("network connect other db");
    let on_other = address(&h, "db", "other");
    assert!(reaches(&h, "web3", &on_other, 80) && !reaches(&h, "cron", &db, 80));
    done(&h, "create --deny egress --name 'web-*' renamed");
    assert!(reaches(&h, "web2", &db, 80));
    h.docker("rename web2 web-two");
    assert!(!reaches(&h, "web-two", &db, 80));
    // It stays so when the daemon dies, and while it is dead.
    for name in ["cron", "web"] {
        h.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name} >$HOME/{name}.pid"));
    }
    // By nsenter: there is no daemon to exec.
    let inside = |h: &Host, name: &str| {
        let enter = format!("nsenter -t $(cat $HOME/{name}.pid) -n busybox");
        h.run(&format!("{enter} nc -w 1 {db} 80 </dev/null")).code == 0
    };
    assert!(inside(&h, "web") && !inside(&h, "cron"));
    h.stop_daemon("KILL");
    assert!(inside(&h, "web") && !inside(&h, "cron"), "without a daemon");
    h.start_daemon(SAMPAN, &[]);
    assert!(inside(&h, "web") && !inside(&h, "cron"));
    assert_eq!(done(&h, "ls -q"), "db-web\ndb-others\nrenamed");
    // Containers that start again have other addresses, perhaps each other's.
    h.docker("stop -t 0 web cron");
    h.docker("start cron web");
    eventually("the client", SOON, || reaches(&h, "web", &db, 80).then_some(()));
    assert!(!reaches(&h, "cron", &db, 80));
    crash_and_restart(&mut h);
    assert!(!reaches(&h, "cron", &db, 80) && reaches(&h, "web", &db, 80));
    // Without them all is as before, and nothing is left.
    done(&h, "rm db-web db-others renamed");
    assert!(reaches(&h, "cron", &db, 80) && reaches(&h, "web-two", &db, 80));
    assert!(!h.run("nft list tables").text().contains("policy"));
    drop(lan);
}

#[test]
fn stats_say_what_was_denied_to_whom() {
    let Some((_lan, mut h)) = host("stats_say_what_was_denied_to_whom") else { return };
    h.docker("network create nn");
    for name in ["web", "db"] {
        h.docker(&format!("run -d --name {name} --label app={name} --net nn busybox {}", web(80)));
    }
    let db = address(&h, "db", "nn");
    eventually("the server", SOON, || reaches(&h, "web", &db, 80).then_some(()));
    let denied = |h: &Host| -> [u64; 2] {
        let stats =
            h.sh(&format!("{SAMPAN} network stats --format '{{{{.Name}}}} {{{{.Denied}}}}' nn"));
        ["web", "db"].map(|name| {
            let line = stats.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            line.trim().parse().unwrap_or_else(|_| panic!("{name}: {stats}"))
        })
    };
    has(&h.sh(&format!("{SAMPAN} network stats --no-stream nn")), &["DENIED"]);
    assert_eq!(denied(&h), [0, 0]);
    done(&h, "create --deny ingress --label app=db db-closed");
    assert!(!reaches(&h, "web", &db, 80));
    let [web, first] = denied(&h);
    assert!(web == 0 && first > 0, "{web} {first}");
    let counted: u64 = done(&h, "inspect -f '{{.Counters.Packets}}' db-closed").parse().unwrap();
    assert_eq!(counted, first, "the policy stopped nothing else");
    done(&h, "create --deny egress --label app=web web-closed");
    crash_and_restart(&mut h);
    assert!(!reaches(&h, "web", &db, 80));
    let [sent, received] = denied(&h);
    assert!(sent > 0 && received >= first, "{sent} {received}");
    let json = h.sh(&format!("{SAMPAN} network stats --json nn"));
    has(&json, &[&format!("\"DeniedPackets\":{sent}"), "\"DeniedBytes\":"]);
    // Whoever starts again has another endpoint.
    h.docker("restart -t 0 web");
    assert_eq!(denied(&h)[0], 0);
    done(&h, "rm db-closed web-closed");
    assert_eq!(denied(&h), [0, 0]);
}

#[test]
fn a_container_leaves_with_its_own_address() {
    let Some((lan, h)) = host("a_container_leaves_with_its_own_address") else { return };
    h.docker("run -d --name mail --label app=mail busybox sleep 1000");
    let own = "10.88.99.99";
    h.sh(&format!("ip address add {own}/32 dev lo"));
    done(&h, &format!("create --source {own} --label app=mail mail-out"));
    let addresses = lan.outside("ip -o -4 addr show | awk '!/127.0.0.1/ {print $4}' | head -1");
    let addresses = addresses.text();
    let outside = addresses.split('/').next().unwrap_or_default();
    assert!(!outside.is_empty());
    h.run(&format!("docker exec mail nc -w 1 {outside} 9 </dev/null"));
    let rules = h.run("nft list ruleset").text();
    has(&rules, &["snat ip to", own]);
    let packets: u64 = done(&h, "inspect -f '{{.Counters.Packets}}' mail-out").parse().unwrap();
    assert_eq!(packets, 1, "{rules}");
}

#[test]
fn wrong_policies_are_refused_by_name() {
    let Some((_lan, h)) = host("wrong_policies_are_refused_by_name") else { return };
    let refused = |args: &str, words: &[&str]| {
        let (code, text) = policy(&h, args);
        assert_ne!(code, 0, "{args}");
        has(&text, words);
    };
    refused("create --deny egress --network nowhere pp", &["network nowhere not found"]);
    refused("create --deny egress --port http pp", &["http", "tcp/80"]);
    refused("create --deny ingress --peer dns=example.org pp", &["DNS", "egress"]);
    refused("create --deny egress --peer web pp", &["web", "label="]);
    refused("create --deny egress --allow egress pp", &["cannot be used with"]);
    refused("inspect pp", &["No such policy: pp"]);
    refused("rm pp", &["No such policy: pp"]);
    done(&h, "rm -f pp");
    done(&h, "create --deny egress --peer dns=*.Example.org pp");
    refused("create --deny egress pp", &["policy pp already exists"]);
    let body = json!({ "Name": "qq", "Direction": "egress", "Action": "deny", "Port": ["tcp/1"] });
    let response = h.api("POST", "/sampan/policies", Some(&body));
    assert_eq!(response.status, 400);
    has(&response.message(), &["Port"]);
    // What was shown can be changed and applied.
    done(&h, "inspect pp | sed s/100/7/ > $HOME/p.json");
    assert_eq!(done(&h, "apply -f $HOME/p.json"), "pp");
    assert_eq!(done(&h, "ls --format '{{.Name}} {{.Priority}} {{.Peers}}'"), "pp 7 *.example.org");
    done(&h, "rm pp");
    assert_eq!(done(&h, "ls -q"), "");
}

/// A file of policies for [`policy`], in the host's home.
fn file(h: &Host, name: &str, policies: &serde_json::Value) {
    std::fs::write(h.dir().join(name), policies.to_string()).unwrap();
}

#[test]
fn a_file_of_policies_comes_into_force_whole_or_not_at_all() {
    let Some((_lan, mut h)) = host("a_file_of_policies_comes_into_force_whole_or_not_at_all")
    else {
        return;
    };
    h.docker("network create nn");
    for (name, label) in [("web", "app=web"), ("db", "app=db"), ("cron", "app=cron")] {
        h.docker(&format!("run -d --name {name} --label {label} --net nn busybox {}", web(80)));
    }
    let db = address(&h, "db", "nn");
    eventually("the server", SOON, || reaches(&h, "web", &db, 80).then_some(()));
    let allow = json!({
        "Name": "db-web", "Priority": 10, "Direction": "ingress", "Action": "allow",
        "Subjects": { "Labels": ["app=db"] },
        "Peers": [{ "Containers": { "Labels": ["app=web"] } }],
    });
    let deny = json!({
        "Name": "db-others", "Direction": "ingress", "Action": "deny",
        "Subjects": { "Labels": ["app=db"] },
    });
    // The one that stops comes first: nobody may be stopped by half of a file.
    file(&h, "db.json", &json!([deny, allow]));
    let applied = format!("apply -f {}", h.dir().join("db.json").display());
    assert_eq!(done(&h, &applied), "db-others\ndb-web");
    assert!(reaches(&h, "web", &db, 80) && !reaches(&h, "cron", &db, 80));
    let counted = |name: &str, what: &str| -> u64 {
        let format = format!("inspect -f '{{{{.Counters.{what}}}}}' {name}");
        done(&h, &format).parse().unwrap()
    };
    let (packets, bytes) = (counted("db-web", "Packets"), counted("db-web", "Bytes"));
    assert!(packets >= 4 && bytes >= packets * 40, "a connection: {packets} of {bytes} bytes");
    assert!(counted("db-others", "Packets") >= 1, "what was stopped");
    has(&done(&h, "ls"), &["PACKETS", "BYTES"]);
    // One that can't be keeps all of them away.
    let open = json!({ "Name": "db-open", "Priority": 1, "Direction": "ingress", "Action": "allow",
                       "Subjects": { "Labels": ["app=db"] } });
    let nowhere = json!({ "Name": "late", "Direction": "egress", "Action": "deny",
                          "Network": "nowhere" });
    let changed = json!({ "Name": "db-others", "Direction": "ingress", "Action": "allow",
                          "Subjects": { "Labels": ["app=db"] } });
    for (bad, says) in [
        (json!([open, changed, nowhere]), "nowhere"),
        (json!([open, changed, open]), "db-open is given twice"),
        (json!([open, { "Name": "pp", "Direction": "up", "Action": "deny" }]), "up"),
        (json!([open, { "Direction": "egress", "Action": "deny" }]), "without a Name"),
    ] {
        file(&h, "bad.json", &bad);
        let (code, text) = policy(&h, &format!("apply -f {}", h.dir().join("bad.json").display()));
        assert_ne!(code, 0, "{text}");
        has(&text, &[says]);
        assert_eq!(done(&h, "ls -q"), "db-web\ndb-others");
        assert!(!reaches(&h, "cron", &db, 80), "{says}: half a file is in force");
    }
    crash_and_restart(&mut h);
    assert_eq!(done(&h, "ls -q"), "db-web\ndb-others");
    // What was shown can be applied.
    done(&h, "inspect db-web db-others | sed s/100/20/ > $HOME/shown.json");
    assert_eq!(done(&h, "apply -f $HOME/shown.json"), "db-web\ndb-others");
    assert_eq!(done(&h, "ls --format '{{.Priority}}'"), "10\n20");
}

/// Answers 10.88.0.1 to every question for a name, as the host's name server.
fn serve_names(h: &Host) {
    let server = r#"
        socket(S, 2, 2, 17) or die; bind(S, pack("SnC4x8", 2, 53, 127, 0, 0, 53)) or die;
        while (defined($peer = recv(S, $m, 512, 0))) {
            my $r = substr($m, 0, 2) . pack("n5", 0x8180, 1, 1, 0, 0) . substr($m, 12);
            $r .= pack("n3Nn", 0xc00c, 1, 1, 0, 4) . pack("C4", 10, 88, 0, 1);
            send(S, $r, 0, $peer);
        }"#;
    let script = h.dir().join("names.pl");
    std::fs::write(&script, server).unwrap();
    h.sh(&format!("perl {} >/dev/null 2>&1 </dev/null &", script.display()));
    h.sh("echo 'nameserver 127.0.0.53' >/etc/resolv.conf");
}

#[test]
fn names_are_allowed_from_the_answer_on() {
    let Some((_lan, mut h)) = host("names_are_allowed_from_the_answer_on") else { return };
    serve_names(&h);
    h.sh("ip address add 10.88.0.1/32 dev lo; ip address add 10.88.0.2/32 dev lo");
    h.sh("mkdir $HOME/www; busybox httpd -p 80 -h $HOME/www");
    h.docker("network create nn");
    done(&h, "create --allow egress --label kept --peer dns=*.allowed.test --priority 1 names");
    done(&h, "create --deny egress --label kept rest");
    h.docker("run -d --name kept --label kept --net nn busybox sleep 1000");
    let (named, other) = ("10.88.0.1", "10.88.0.2");
    let look = |h: &Host, name: &str| {
        eventually(name, SOON, || {
            let out = h.run(&format!("docker exec kept nslookup -type=a {name} 2>&1")).text();
            out.contains(named).then_some(())
        });
    };
    assert!(!reaches(&h, "kept", named, 80));
    look(&h, "www.other.test");
    assert!(!reaches(&h, "kept", named, 80), "the same address by another name");
    look(&h, "www.allowed.test");
    assert!(reaches(&h, "kept", named, 80) && !reaches(&h, "kept", other, 80));
    // What was told is remembered, whoever dies or removes it.
    crash_and_restart(&mut h);
    assert!(reaches(&h, "kept", named, 80) && !reaches(&h, "kept", other, 80));
    h.sh("nft flush ruleset");
    eventually("the rules are there again", SOON, || {
        (h.run("nft list tables").text().matches("policy").count() == 2).then_some(())
    });
    eventually("and so is the address", SOON, || reaches(&h, "kept", named, 80).then_some(()));
    assert!(!reaches(&h, "kept", other, 80));
    look(&h, "www.allowed.test");
    done(&h, "rm names");
    assert!(!reaches(&h, "kept", named, 80));
}
