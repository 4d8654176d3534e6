//! The daemon's settings, as flags and in daemon.json: each has its effect, or
//! is refused by name.

mod common;

use std::fmt::Write as _;

use common::{SAMPAN, SOON, certificates, field, has, host_with};
use sampan_testkit::{Host, Lan, eventually, missing_programs};

/// A host without a daemon.
fn bare(test: &str) -> Option<(Lan, Host)> {
    let lan = Lan::new_or_skip(test)?;
    let host = lan.host("h1");
    Some((lan, host))
}

/// Writes a configuration file; returns the flag that names it.
fn config(h: &Host, text: &str) -> String {
    let path = h.dir().join("daemon.json");
    std::fs::write(&path, text).expect("write daemon.json");
    format!("--config-file={}", path.display())
}

/// What `sampan daemon --validate ARGS` says, and whether it is content.
fn validate(h: &Host, args: &str) -> (bool, String) {
    let outcome = h.run(&format!("{SAMPAN} daemon --validate {args}"));
    (outcome.code == 0, outcome.errors())
}

#[test]
fn flags_take_effect() {
    let args = "--default-ulimit nofile=500:600 --dns 192.0.2.7 --dns-search x.test \
        --dns-opt ndots:4 --default-shm-size 8m --init --ip 127.0.0.1 --label a=b --log-driver local \
        --log-opt max-size=1m --mtu 1400 --bip 10.99.0.1/24 --fixed-cidr 10.99.0.128/25 -b br-t0 \
        --node-name node-one --group 4711 --default-address-pool base=10.98.0.0/16,size=24 \
        --insecure-registry reg.test:5000 --registry-mirror https://mirror.test";
    let args: Vec<&str> = args.split_whitespace().collect();
    let Some((_lan, h)) = host_with("flags_take_effect", &args) else { return };
    let run = |args: &str| h.docker(&format!("run --rm {args}"));
    assert_eq!(run("busybox sh -c 'ulimit -Sn; ulimit -Hn'"), "500\n600");
    assert_eq!(run("--ulimit nofile=70:80 busybox sh -c 'ulimit -Sn; ulimit -Hn'"), "70\n80");
    let resolv = run("busybox cat /etc/resolv.conf");
    has(&resolv, &["nameserver 192.0.2.7", "search x.test", "options ndots:4"]);
    has(&run("--dns 192.0.2.8 busybox cat /etc/resolv.conf"), &["192.0.2.8", "x.test"]);
    has(&run("busybox df -k /dev/shm"), &["8192"]);
    has(&run("busybox ps -o pid,args"), &["docker-init"]);
    let address = run("busybox ip -4 -o addr show eth0");
    has(&address, &["10.99.0.1", "/24"]);
    has(&run("busybox cat /sys/class/net/eth0/mtu"), &["1400"]);
    has(&run("busybox ip route"), &["default via 10.99.0.1"]);
    has(&h.sh("ip addr show br-t0"), &["10.99.0.1/24"]);
    h.docker("run -d --name web -p 8080 busybox sleep 1000");
    has(&h.docker("port web"), &["127.0.0.1:"]);
    let last = field(&h, "web", "{{.NetworkSettings.IPAddress}}");
    let last: u8 = last.rsplit('.').next().and_then(|n| n.parse().ok()).expect("an address");
    assert!(last >= 128, "not of the fixed part: {last}");
    assert_eq!(
        field(&h, "web", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}"),
        "local map[max-size:1m]"
    );
    let info = h.docker("info -f '{{json .}}'");
    for word in ["node-one", r#""Labels":["a=b"]"#, "reg.test:5000", "https://mirror.test"] {
        has(&info, &[word]);
    }
    assert_eq!(h.sh(&format!("stat -c '%g %a' {}", h.socket().display())), "4711 660");
}

#[test]
fn a_file_takes_effect() {
    let Some((_lan, mut h)) = bare("a_file_takes_effect") else { return };
    if !missing_programs(&["crun"]).is_empty() {
        return skipped("a_file_takes_effect", "crun is not installed");
    }
    let parent = format!("/sampan-settings-{}", std::process::id());
    let flag = config(
        &h,
        &format!(
            r#"{{"runtimes": {{"mine": {{"path": "crun"}}}}, "cgroup-parent": "{parent}",
              "default-ulimits": {{"nofile": {{"Name": "nofile", "Soft": 300, "Hard": 400}}}},
              "log-opts": {{"max-size": "3m"}}, "debug": true, "icc": false,
              "default-address-pools": [{{"base": "10.97.0.0/16", "size": 26}}],
              "live-restore": true, "userland-proxy": false, "storage-driver": "overlay2",
              "insecure-registries": [], "dns": ["192.0.2.9"]}}"#
        ),
    );
    h.start_daemon(SAMPAN, &[&flag]);
    h.import_busybox();
    has(&h.docker("info"), &["mine", "Debug Mode: true"]);
    h.docker("create --runtime mine busybox");
    h.docker("run -d --name one busybox sleep 1000");
    let pid = field(&h, "one", "{{.State.Pid}}");
    has(&h.sh(&format!("cat /proc/{pid}/cgroup")), &[&parent]);
    assert_eq!(h.docker("exec one sh -c 'ulimit -n'"), "300");
    let log = field(&h, "one", "{{.HostConfig.LogConfig.Config}}");
    assert_eq!(log, "map[max-file:3 max-size:3m]");
    let address = field(&h, "one", "{{.NetworkSettings.IPAddress}}");
    has(&address, &["10.97.0."]);
    // No talk between containers.
    let ping = h.run(&format!("docker run --rm busybox ping -c 1 -W 1 {address}"));
    assert_ne!(ping.code, 0, "containers reach each other in spite of icc: {}", ping.text());
    assert_eq!(h.run(&format!("busybox ping -c 1 -W 5 {address}")).code, 0);
    h.docker("rm -f one");
}

/// What the daemon must refuse, with what the message must have.
const REFUSED: &[(&str, &[&str])] = &[
    ("--no-such-flag", &["--no-such-flag"]),
    ("--userns-remap=default", &["--userns-remap"]),
    ("--live-restore=false", &["live-restore"]),
    ("--userland-proxy", &["userland-proxy"]),
    ("--storage-driver zfs", &["zfs", "overlay2"]),
    ("--store etcd", &["etcd", "redb"]),
    ("--log-driver gelf", &["log-driver", "gelf"]),
    ("--log-opt max-sise=1", &["max-sise"]),
    ("--log-level loud", &["log-level", "loud"]),
    ("--log-format xml", &["log-format", "xml"]),
    ("--default-ulimit files=3", &["default-ulimit", "files"]),
    ("--default-ulimit nofile=5:3", &["default-ulimits", "5 > 3"]),
    ("--default-runtime nope", &["default-runtime", "nope"]),
    ("--add-runtime x=/no/such/file", &["runtime x", "/no/such/file"]),
    ("--add-runtime x", &["add-runtime", "NAME=PATH"]),
    ("--init-path tini", &["init-path", "whole path"]),
    ("--max-concurrent-downloads 0", &["max-concurrent-downloads"]),
    ("--registry-mirror ftp://x", &["mirror", "ftp://x"]),
    ("--insecure-registry http://x/y", &["insecure registry", "http://x/y"]),
    ("--default-address-pool base=10.0.0.0/8", &["default-address-pool", "size"]),
    ("--default-address-pool base=fd00::/32,size=16", &["fd00::/32", "16 bits"]),
    ("--bip 10.0.0.0.1/8", &["bip", "10.0.0.0.1/8"]),
    ("--bip 10.9.0.1/24 --fixed-cidr 10.8.0.0/24", &["fixed-cidr", "10.8.0.0/24"]),
    ("--default-gateway 10.0.0.9", &["default-gateway", "bip"]),
    ("--bridge none --mtu 1400", &["mtu", "bridge none"]),
    ("--bridge a-name-that-is-too-long", &["1 to 15"]),
    ("--mtu 10", &["mtu", "68"]),
    ("--ip 300.1.1.1", &["ip", "300.1.1.1"]),
    ("--dns localhost", &["dns", "localhost"]),
    ("--default-shm-size 5x", &["5x"]),
    ("--label a", &["label", "KEY=VALUE"]),
    ("--label a=1 --label a=2", &["two values"]),
    ("--cgroup-parent /../x", &["cgroup-parent"]),
    ("--metrics-addr 9323", &["metrics-addr"]),
    ("--tls", &["tlscacert", "tlskey"]),
    ("--tlscacert /x", &["tlscacert", "tlskey"]),
    ("--tlsverify=false", &["tlsverify"]),
    ("--tls=false --tlsverify", &["contradicts"]),
    ("-H fd://", &["fd://", "socket activation"]),
    ("-H tcp://name.test:1", &["IP address"]),
    ("-H x", &["unix:///path"]),
    ("--config-file /no/such/file", &["/no/such/file"]),
];

#[test]
fn what_is_wrong_or_not_supported_is_refused_by_name() {
    let Some((_lan, h)) = bare("what_is_wrong_or_not_supported_is_refused_by_name") else { return };
    let mut wrong = String::new();
    let mut check = |args: &str, words: &[&str]| {
        let (content, said) = validate(&h, args);
        let lower = said.to_lowercase();
        if content || !words.iter().all(|w| lower.contains(&w.to_lowercase())) {
            let _ = writeln!(wrong, "{args}: {said}");
        }
    };
    for (args, words) in REFUSED {
        check(args, words);
    }
    let files: &[(&str, &[&str])] = &[
        (r#"{"userns-remap": "default", "debug": true}"#, &["userns-remap", "not supported"]),
        (r#"{"runtimes": {"x": {"path": "crun", "runtimeArgs": ["-v"]}}}"#, &["x", "runtimeArgs"]),
        (r#"{"default-ulimits": {"nofile": {"Hard": 3}}}"#, &["nofile", "Soft"]),
        (r#"{"default-ulimits": {"nofile": {"Soft": "3"}}}"#, &["Soft", "number"]),
        (r#"{"default-address-pools": [{"base": "10.0.0.0/8"}]}"#, &["size"]),
        (r#"{"log-opts": {"max-size": 5}}"#, &["max-size", "text"]),
        (r#"{"mtu": "x"}"#, &["daemon.json", "line 1"]),
        (r#"{"debug": true"#, &["daemon.json", "EOF"]),
    ];
    for (text, words) in files {
        check(&config(&h, text), words);
    }
    let flag = config(&h, r#"{"bip": "10.9.0.1/24", "hosts": ["unix:///x"]}"#);
    check(&format!("{flag} --bip 10.8.0.1/24 -H unix:///y"), &["both", "bip", "hosts"]);
    assert!(wrong.is_empty(), "not refused as it should be:\n{wrong}");
    assert_eq!(validate(&h, "--bip 10.9.0.1/24"), (true, "configuration OK".to_owned()));
    assert!(!h.dir().join("data").exists(), "--validate leaves nothing behind");
}

#[test]
fn metrics_json_log_and_pidfile() {
    let Some((_lan, mut h)) = bare("metrics_json_log_and_pidfile") else { return };
    let pidfile = h.dir().join("the.pid");
    let flag = format!("--pidfile={}", pidfile.display());
    h.start_daemon(SAMPAN, &["--metrics-addr", "127.0.0.1:9323", "--log-format", "json", &flag]);
    has(&h.sh("curl -sf http://127.0.0.1:9323/metrics"), &["# TYPE", "sampan_", "# EOF"]);
    let log = std::fs::read_to_string(h.dir().join("daemon.log")).expect("the log");
    let ready = log
        .lines()
        .map(|l| {
            serde_json::from_str::<serde_json::Value>(l).unwrap_or_else(|e| panic!("{e}: {l}"))
        })
        .find(|l| l["message"] == "ready")
        .expect("a line that says ready");
    assert_eq!(ready["level"], "INFO");
    let pid = std::fs::read_to_string(&pidfile).expect("the pidfile");
    // The daemon's id on its host, which has process ids of its own.
    has(&h.sh(&format!("cat /proc/{}/cmdline | tr '\\0' ' '", pid.trim())), &["daemon"]);
    // A second daemon is refused before it touches anything.
    let second = h.run(&format!(
        "{SAMPAN} daemon -H unix://{0}/2.sock --data-root {0}/2 --exec-root {0}/2e {flag}",
        h.dir().display()
    ));
    assert_ne!(second.code, 0);
    has(&second.errors(), &["pidfile", "is running"]);
    let second = h.run(&format!(
        "{SAMPAN} daemon -H unix://{} --data-root {1}/2 --exec-root {1}/2e",
        h.socket().display(),
        h.dir().display()
    ));
    has(&second.errors(), &["another daemon listens there"]);
    assert!(!h.dir().join("2").exists(), "the second daemon left something behind");
    let unknown = h.run(&format!("{SAMPAN} daemon -H unix:///run/x.sock -G no-such-group"));
    has(&unknown.errors(), &["no-such-group", "groupadd"]);
    assert_eq!(h.stop_daemon("TERM"), Some(0));
    assert!(!pidfile.exists() && !h.socket().exists(), "pidfile or socket stayed");
}

#[test]
fn called_as_dockerd() {
    let Some((_lan, h)) = bare("called_as_dockerd") else { return };
    let dir = h.dir().display();
    h.sh(&format!("ln -s {SAMPAN} {dir}/dockerd"));
    has(&h.sh(&format!("{dir}/dockerd --version")), &["0."]);
    has(&h.sh(&format!("{dir}/dockerd --help")), &["Usage: dockerd", "--live-restore"]);
    h.sh(&format!(
        "{dir}/dockerd -D -H unix://{dir}/sampan.sock --data-root {dir}/data --exec-root {dir}/exec \
         --pidfile {dir}/pid --live-restore --userland-proxy=false -s overlay2 >{dir}/daemon.log 2>&1 &"
    ));
    eventually("dockerd answers", SOON, || {
        (h.api("GET", "/_ping", None).status == 200).then_some(())
    });
    h.import_busybox();
    assert_eq!(h.docker("run --rm busybox echo from dockerd"), "from dockerd");
    h.sh(&format!("kill $(cat {dir}/pid)"));
    eventually("dockerd ends", SOON, || (!h.dir().join("pid").exists()).then_some(()));
}

#[test]
fn tcp_needs_mutual_tls_or_a_clear_word() {
    let Some((_lan, mut h)) = bare("tcp_needs_mutual_tls_or_a_clear_word") else { return };
    if !missing_programs(&["openssl"]).is_empty() {
        return skipped("tcp_needs_mutual_tls_or_a_clear_word", "openssl is not installed");
    }
    let dir = h.dir().display().to_string();
    let tcp = |more: &str| {
        h.run(&format!(
            "{SAMPAN} daemon -H tcp://127.0.0.1:2376 --data-root {dir}/t --exec-root {dir}/te {more}"
        ))
    };
    has(&tcp("").errors(), &["root", "--tlsverify", "--tls=false"]);
    let missing = tcp("--tlscacert /no/ca --tlscert /no/cert --tlskey /no/key").errors();
    has(&missing, &["cannot use", "/no/"]);
    h.sh(&certificates(&dir, "127.0.0.1"));
    let flags = [
        "-H=tcp://127.0.0.1:2376".to_owned(),
        "--tlsverify".to_owned(),
        format!("--tlscacert={dir}/ca.pem"),
        format!("--tlscert={dir}/server.pem"),
        format!("--tlskey={dir}/server.key"),
    ];
    h.start_daemon(SAMPAN, &flags.each_ref().map(String::as_str));
    let client = |cert: &str| {
        h.run(&format!(
            "docker -H tcp://127.0.0.1:2376 --tlsverify --tlscacert {dir}/ca.pem \
             --tlscert {dir}/{cert}.pem --tlskey {dir}/{cert}.key version -f '{{{{.Server.Version}}}}'"
        ))
    };
    assert_eq!(client("client").code, 0, "{}", client("client").errors());
    assert_ne!(client("stranger").code, 0, "a stranger's certificate was taken");
    let ca = h.run(&format!("curl -s --cacert {dir}/ca.pem https://127.0.0.1:2376/_ping"));
    assert_ne!(ca.code, 0, "a client without a certificate was served: {}", ca.text());
    assert_ne!(h.run("curl -sf http://127.0.0.1:2376/_ping").text(), "OK");
    h.stop_daemon("TERM");
    h.start_daemon(SAMPAN, &["-H", "tcp://127.0.0.1:2375", "--tls=false"]);
    has(&h.docker("-H tcp://127.0.0.1:2375 info"), &["Server Version"]);
}

fn skipped(test: &str, reason: &str) {
    let line = format!("skipped {test}: {reason}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
