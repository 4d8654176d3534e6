//! The `sampan` command, end to end, beside the docker command on one daemon.

mod common;

use common::{SAMPAN, SOON, has, host};
use sampan_testkit::{Host, Outcome, eventually};

/// Runs `sampan ARGS`.
fn sampan(h: &Host, args: &str) -> Outcome {
    h.run(&format!("{SAMPAN} {args}"))
}

/// The output of `sampan ARGS`, which must succeed.
#[track_caller]
fn ok(h: &Host, args: &str) -> String {
    let outcome = sampan(h, args);
    assert_eq!(outcome.code, 0, "sampan {args}: {}{}", outcome.text(), outcome.errors());
    outcome.text()
}

/// The code and the errors of `sampan ARGS`, which must fail.
#[track_caller]
fn fails(h: &Host, args: &str) -> (i32, String) {
    let outcome = sampan(h, args);
    assert_ne!(outcome.code, 0, "sampan {args} should have failed: {}", outcome.text());
    (outcome.code, outcome.errors())
}

/// Whether the docker command here is one to be compared with: 28 or later
/// (Debian 12 has 20.10, which prints less and says it otherwise).
fn comparable(h: &Host, test: &str) -> bool {
    let version = h.docker("version -f '{{.Client.Version}}'");
    let major = version.split('.').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if major < 28 {
        let line = format!("skipped {test}: compares with docker 28 or later, here is {version}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
    major >= 28
}

/// Asserts that both commands say the same and end with the same code.
#[track_caller]
fn same(h: &Host, args: &str) {
    let seen = |o: Outcome| (o.code, o.text(), o.errors().replace("sampan", "docker"));
    let docker = || seen(h.run(&format!("docker {args}")));
    let mut before = docker();
    loop {
        let ours = seen(sampan(h, args));
        if ours == before {
            return;
        }
        // Ages ("3 seconds ago") may have changed between the two.
        let after = docker();
        assert_ne!(before, after, "sampan {args} said {ours:?}");
        before = after;
    }
}

#[test]
fn looking_is_the_same_as_dockers() {
    let Some((_lan, h)) = host("looking_is_the_same_as_dockers") else { return };
    if !comparable(&h, "looking_is_the_same_as_dockers") {
        return;
    }
    h.docker("run -d --name web -p 8080:80 -p 81:81 --label a=b,c --label x=y busybox sleep 1000");
    h.run("docker run --name done busybox sh -c 'echo out; echo err >&2; exit 3'");
    h.docker("volume create --label k=v data");
    h.docker("run -d --name filled -v filled:/data -v /tmp:/host busybox sleep 1000");
    h.docker("exec filled sh -c 'seq 1000 >/data/f'");
    h.docker("tag busybox other/name:1");
    h.docker("commit done");
    for args in [
        "ps",
        "ps -a",
        "ps -aq",
        "ps -a --no-trunc",
        "ps -l",
        "ps -as",
        "ps -a --format json",
        "ps -f name=web -q",
        "ps -f nosuch=x",
        r#"ps -a --format 'table {{.ID}}\t{{.Names}}\t{{.Label "a"}}\t{{.Mounts}}'"#,
        "container ls -a",
        "images",
        "images -q --no-trunc",
        "images --digests",
        "images --format json",
        "history busybox",
        "history --no-trunc --format json busybox",
        "inspect web",
        "inspect -s done",
        "inspect nosuch",
        "inspect -f '{{.Name}}' nosuch web",
        "inspect --type image web",
        "inspect -f '{{json .Config.Labels}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}' web",
        "image inspect busybox",
        "network inspect bridge",
        "volume inspect data",
        "logs done",
        "logs -t done",
        "logs --tail 1 done",
        "logs nosuch",
        "port web",
        "port web 80",
        "port web 99",
        "top web",
        "top web -o pid,comm",
        "diff done",
        "network ls",
        "network ls --no-trunc --format json",
        "volume ls",
        "volume ls -q -f label=k",
        "volume ls --format json",
        "system df",
        "system df --format '{{json .}}'",
        "system df -v",
        "system df -v --format json",
        "system df -v --format '{{json .}}'",
        "system df -v --format '{{json .Volumes}}'",
        "system df -v --format '{{range .Volumes}}{{.Name}} {{.Size}} {{.Links}}\\n{{end}}'",
        r#"system df -v --format '{{range .Volumes}}{{.Label "k"}} {{.Labels}} {{.Mountpoint}} {{.Status}};{{end}}'"#,
        "system df -v --format '{{range .Images}}{{json .}} {{.SharedSize}} {{.UniqueSize}} {{.Digest}}|{{end}}'",
        "system df -v --format '{{range $i, $c := .Containers}}{{$i}} {{$c.ID}} {{.Image}} {{.Command}} {{.Size}} {{.Platform}}|{{end}}'",
        "system df -v --format 'table {{range .Containers}}{{.ID}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}} {{.Ports}}|{{end}}'",
        "system df -v --format '{{len .BuildCache}}{{range .BuildCache}}{{.ID}}{{end}}'",
        "ps -a --format '{{json .}} {{.Platform}} {{json .Ports}}'",
        "wait done",
        "events --since 10m --until 0s",
        "version -f '{{.Server.Version}}'",
        "info -f '{{.Driver}} {{.Containers}}'",
    ] {
        same(&h, args);
    }
}

#[test]
fn refusals_are_the_same_as_dockers() {
    let Some((_lan, h)) = host("refusals_are_the_same_as_dockers") else { return };
    if !comparable(&h, "refusals_are_the_same_as_dockers") {
        return;
    }
    h.docker("run -d --name web busybox sleep 1000");
    for args in [
        "run --rm busybox nosuch",
        "run --rm busybox /etc",
        "run --rm busybox /etc/passwd",
        "run --rm --pull never nosuch",
        "run --rm --memory 1k busybox true",
        "run --rm --user nosuch busybox true",
        "run --name web busybox true",
        "run -d -a stdout busybox true",
        "run --rm --restart always busybox true",
        "run -it --rm busybox true",
        "start nosuch",
        "stop nosuch web2",
        "rm web",
        "rm -f nosuch",
        "kill -s NOSUCH web",
        "exec nosuch true",
        "exec -it web true",
        "update web",
        "attach nosuch",
        "cp web:/nosuch /tmp",
        "cp web:/a web:/b",
        "cp a b",
        "rmi busybox",
        "rmi nosuch",
        "tag nosuch x",
        "network inspect nosuch",
        "volume rm nosuch",
        "load -i /dev/null",
    ] {
        same(&h, args);
    }
    for (args, code) in [
        ("ps --nosuch", 125),
        ("run --nosuch", 125),
        ("run", 1),
        ("exec web", 1),
        ("nosuch", 1),
        ("-H unix:///nosuch ps", 1),
        ("-H unix:///nosuch run busybox", 125),
    ] {
        assert_eq!(fails(&h, args).0, code, "{args}");
    }
    has(&fails(&h, "-H unix:///nosuch ps").1, &["cannot connect", "unix:///nosuch"]);
}

#[test]
fn run_streams_and_ends_as_the_container() {
    let Some((_lan, h)) = host("run_streams_and_ends_as_the_container") else { return };
    let outcome = sampan(&h, "run --rm busybox sh -c 'echo out; echo err >&2; exit 7'");
    let seen = (outcome.code, outcome.text(), outcome.errors());
    assert_eq!(seen, (7, "out".to_owned(), "err".to_owned()));
    assert_eq!(ok(&h, "run --rm=true -h name busybox hostname"), "name");
    assert_eq!(ok(&h, "run --rm -e A=1 --entrypoint sh busybox -c 'echo $A'"), "1");
    let piped = |args: &str| h.run_with(&format!("{SAMPAN} {args}"), b"piped").text();
    assert_eq!(piped("run -i --rm busybox tr a-z A-Z"), "PIPED");
    let big = "seq 1 100000 | SAMPAN run -i --rm busybox cat | md5sum";
    assert_eq!(h.sh(&big.replace("SAMPAN", SAMPAN)), h.sh("seq 1 100000 | md5sum"));
    assert_eq!(ok(&h, "ps -aq"), "", "--rm left a container");
    let id = ok(&h, "run -d --name bg --cidfile /run/cid busybox sleep 1000");
    assert_eq!(h.sh("cat /run/cid"), id);
    has(&fails(&h, "run --cidfile /run/cid busybox true").1, &["container ID file found"]);
    assert_eq!(ok(&h, "exec bg echo hi"), "hi");
    assert_eq!(piped("exec -i bg cat"), "piped");
    assert_eq!(ok(&h, "exec -w /tmp -e B=2 bg sh -c 'pwd; echo $B'"), "/tmp\n2");
    ok(&h, "exec -d bg touch /made");
    eventually("the file", SOON, || (sampan(&h, "exec bg ls /made").code == 0).then_some(()));
    // A reader that goes away ends the command, not the test.
    h.sh(&format!("{SAMPAN} ps -a | true"));
}

#[test]
fn signals_and_terminals() {
    let Some((_lan, h)) = host("signals_and_terminals") else { return };
    let trap = "trap \"echo got; exit 3\" TERM; echo ready; while :; do sleep 0.05; done";
    let script = format!(
        "{SAMPAN} run --rm busybox sh -c '{trap}' >/run/out & \
         until grep -q ready /run/out; do sleep 0.05; done; kill -TERM $!; wait $!; echo $?"
    );
    assert_eq!(h.sh(&script), "3");
    assert_eq!(h.sh("cat /run/out"), "ready\ngot");
    let typed = |args: &str, keys: &str| {
        h.run(&format!(
            "(sleep 1; printf '{keys}'; sleep 2) | script -qec '{SAMPAN} {args}' /dev/null"
        ))
    };
    let shell = typed("run -it --name tty busybox sh", "tty\\nexit 4\\n");
    assert_eq!(shell.code, 4, "{}", shell.text());
    has(&shell.text(), &["/dev/"]);
    let again = typed("start -ai tty", "echo a$((20+22))\\nexit 5\\n");
    assert_eq!(again.code, 5, "{}", again.text());
    has(&again.text(), &["a42"]);
    ok(&h, "start tty");
    let detached =
        typed("attach --detach-keys x,y tty", "echo b$((20+22))\\n'; sleep 1; printf 'xy");
    has(&detached.text(), &["b42", "read escape sequence"]);
    assert_eq!(h.docker("inspect -f '{{.State.Running}}' tty"), "true");
}

#[test]
fn every_verb_of_the_life_cycle() {
    let Some((_lan, h)) = host("every_verb_of_the_life_cycle") else { return };
    let state = |name: &str| ok(&h, &format!("inspect -f '{{{{.State.Status}}}}' {name}"));
    ok(&h, "create --name c1 busybox sleep 1000");
    assert_eq!(state("c1"), "created");
    assert_eq!(ok(&h, "start c1"), "c1");
    assert_eq!(ok(&h, "pause c1"), "c1");
    assert_eq!(state("c1"), "paused");
    assert_eq!(ok(&h, "unpause c1"), "c1");
    ok(&h, "rename c1 c2");
    assert_eq!(ok(&h, "update --restart on-failure:2 c2"), "c2");
    assert_eq!(ok(&h, "inspect -f '{{.HostConfig.RestartPolicy.MaximumRetryCount}}' c2"), "2");
    assert_eq!(ok(&h, "restart -t 0 c2"), "c2");
    has(&ok(&h, "stats --no-stream"), &["CPU %", "c2"]);
    assert_eq!(ok(&h, "stop -t 0 c2"), "c2");
    assert_eq!(ok(&h, "wait c2"), "137");
    assert_eq!(ok(&h, "rm c2"), "c2");
    h.sh(&format!(
        "{SAMPAN} run -d --name follow busybox sh -c 'for i in 1 2 3; do echo $i; sleep 0.2; done'"
    ));
    assert_eq!(ok(&h, "logs -f follow"), "1\n2\n3");
    ok(&h, "wait follow");
    has(&ok(&h, "container prune -f"), &["Deleted Containers", "Total reclaimed space"]);
    assert_eq!(ok(&h, "volume create vol"), "vol");
    assert_eq!(ok(&h, "volume rm vol"), "vol");
    has(&ok(&h, "system prune -af --volumes"), &["Deleted Images", "Total reclaimed space"]);
    assert_eq!(ok(&h, "images -q"), "");
}

#[test]
fn files_and_images_in_and_out() {
    let Some((_lan, h)) = host("files_and_images_in_and_out") else { return };
    h.sh("mkdir -p /run/d && echo f > /run/f && echo g > /run/d/g && ln -s f /run/link");
    ok(&h, "run -d --name box busybox sleep 1000");
    for (from, to) in [
        ("/run/f", "/tmp/"),
        ("/run/f", "/tmp/renamed"),
        ("/run/d", "/tmp/"),
        ("/run/d", "/tmp/new"),
        ("/run/d/.", "/tmp/content"),
        ("/run/link", "/tmp/"),
        ("-L /run/link", "/tmp/followed"),
    ] {
        ok(&h, &format!("cp {from} box:{to}"));
    }
    let files = ok(&h, "exec box sh -c 'cd /tmp && find . | sort | xargs'");
    assert_eq!(
        files,
        ". ./content ./content/g ./d ./d/g ./f ./followed ./link ./new ./new/g ./renamed"
    );
    h.sh("mkdir /run/back");
    for (from, to) in
        [("/tmp/d", "/run/back"), ("/tmp/d/.", "/run/back/new"), ("/tmp/f", "/run/back/x")]
    {
        ok(&h, &format!("cp box:{from} {to}"));
    }
    assert_eq!(h.sh("cd /run/back && find . | sort | xargs"), ". ./d ./d/g ./new ./new/g ./x");
    assert_eq!(h.sh(&format!("{SAMPAN} cp box:/tmp/d - | tar t | xargs")), "d/ d/g");
    h.sh(&format!("tar -C /run -c d | {SAMPAN} cp - box:/"));
    assert_eq!(ok(&h, "exec box cat /d/g"), "g");
    has(&ok(&h, "diff box"), &["A /d/g", "C /tmp"]);
    has(&ok(&h, "commit -c 'CMD [\"echo\",\"made\"]' box made:1"), &["sha256:"]);
    assert_eq!(ok(&h, "run --rm made:1"), "made");
    ok(&h, "tag made:1 made:2");
    ok(&h, "save -o /run/made.tar made:1 made:2");
    has(&ok(&h, "rmi made:1 made:2"), &["Untagged: made:1", "Deleted: sha256:"]);
    assert_eq!(ok(&h, "load -i /run/made.tar"), "Loaded image: made:1\nLoaded image: made:2");
    has(&h.sh(&format!("{SAMPAN} export box | {SAMPAN} import - flat:1")), &["sha256:"]);
    assert_eq!(ok(&h, "run --rm flat:1 cat /d/g"), "g");
}

#[test]
fn another_machine_is_reached_by_ssh() {
    let Some((_lan, h)) = host("another_machine_is_reached_by_ssh") else { return };
    // Stands for ssh: runs what would run on the other machine.
    h.sh(&format!(
        "mkdir /run/bin && ln -s {SAMPAN} /run/bin/sampan && cat > /run/bin/ssh <<'END'\n\
         #!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\nEND\n\
         chmod +x /run/bin/ssh"
    ));
    let far = format!("PATH=/run/bin:$PATH {SAMPAN} -H ssh://me@far:22");
    assert_eq!(h.sh(&format!("echo in | {far} run -i --rm busybox cat")), "in");
    assert_eq!(h.run(&format!("{far} run --rm busybox sh -c 'exit 9'")).code, 9);
}

#[test]
fn completions_and_man_pages_are_made() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(SAMPAN).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        has(&run(&["completion", shell]), &["sampan", "prune"]);
    }
    let dir = tempfile::tempdir().unwrap();
    run(&["system", "man", dir.path().to_str().unwrap()]);
    for page in ["sampan.1", "sampan-run.1", "sampan-network-create.1"] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        has(&text, &[".TH", "NAME"]);
    }
    has(&run(&["--help"]), &["daemon", "container", "run"]);
}
