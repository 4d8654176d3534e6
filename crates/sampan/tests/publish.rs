//! Published ports of a running container are changed.

mod common;

use std::thread;

use common::{SAMPAN, SOON, crash_and_restart, field, has, host, web};
use sampan_testkit::{Host, Lan, eventually};

/// Runs `sampan update` with arguments; output and error.
fn update(h: &Host, args: &str) -> (i32, String) {
    let out = h.run(&format!("{SAMPAN} -H $DOCKER_HOST update {args}"));
    (out.code, format!("{}{}", out.text(), out.errors()))
}

fn reached(lan: &Lan, h: &Host, port: u16) -> bool {
    lan.outside(&format!("curl -fs --max-time 1 http://{}:{port}/", h.ip)).code == 0
}

#[test]
fn ports_are_added_to_and_removed_from_a_running_container() {
    let Some((lan, mut h)) = host("ports_are_added_to_and_removed_from_a_running_container") else {
        return;
    };
    h.docker(&format!("run -d --name ww -p 8080:80 busybox {}", web(80)));
    eventually("the first port", SOON, || reached(&lan, &h, 8080).then_some(()));
    let pid = field(&h, "ww", "{{.State.Pid}}");
    assert_eq!(
        update(&h, "--publish-add 8081:80 --publish-add 127.0.0.1:8082:80 ww"),
        (0, "ww".into())
    );
    assert!(reached(&lan, &h, 8081), "the port is there when the command is done");
    assert_eq!(h.run("curl -fs --max-time 1 http://127.0.0.1:8082/").code, 0);
    assert!(!reached(&lan, &h, 8082), "a port of 127.0.0.1 stays there");
    let ports = h.docker("port ww");
    has(&ports, &["80/tcp -> 0.0.0.0:8080", "80/tcp -> 0.0.0.0:8081", "80/tcp -> 127.0.0.1:8082"]);
    assert_eq!(update(&h, "--publish-rm 8080:80 ww").0, 0);
    assert!(!reached(&lan, &h, 8080) && reached(&lan, &h, 8081));
    assert_eq!(field(&h, "ww", "{{.State.Pid}}"), pid, "the container was left alone");
    // The port that was taken back is free for others.
    h.docker(&format!("run -d --name w2 -p 8080:80 busybox {}", web(80)));

    // It stays so over restarts of both.
    crash_and_restart(&mut h);
    assert!(reached(&lan, &h, 8081));
    h.docker("restart -t 0 ww");
    eventually("the added port after a restart", SOON, || reached(&lan, &h, 8081).then_some(()));
    assert!(!h.docker("port ww").contains("8080"));
    has(&field(&h, "ww", "{{json .HostConfig.PortBindings}}"), &["8081", "8082"]);

    // All places of one port at once.
    assert_eq!(update(&h, "--publish-rm 80 ww").0, 0);
    assert!(!reached(&lan, &h, 8081));
    assert_eq!(h.docker("port ww"), "");
}

#[test]
fn other_connections_survive_a_change() {
    let Some((lan, h)) = host("other_connections_survive_a_change") else { return };
    h.docker("run -d --name echo -p 7000:7 -p 7001:7 busybox nc -ll -p 7 -e cat");
    let dir = h.dir().display().to_string();
    let talk = format!(
        "cd {dir}; for i in $(seq 100); do exec 3<>/dev/tcp/{}/7000 && break; sleep 0.1; done
         echo one >&3; read -t 5 -u 3 _ || exit 1; touch connected
         until [ -e changed ]; do sleep 0.05; done
         echo two >&3; read -t 5 -u 3 answer && [ $answer = two ]",
        h.ip
    );
    let talk = format!("bash -c '{talk}'");
    let said = thread::scope(|s| {
        let client = s.spawn(|| lan.outside(&talk));
        eventually("a connection", SOON, || h.dir().join("connected").exists().then_some(()));
        assert_eq!(update(&h, "--publish-rm 7001:7 --publish-add 7002:7 echo").0, 0);
        std::fs::write(h.dir().join("changed"), "").unwrap();
        client.join().unwrap()
    });
    assert_eq!(said.code, 0, "a connection through another port goes on");
}

#[test]
fn wrong_changes_are_refused_and_change_nothing() {
    let Some((_lan, h)) = host("wrong_changes_are_refused_and_change_nothing") else { return };
    h.docker("run -d --name ww -p 8080:80 busybox sleep 1000");
    h.docker("run -d --name other -p 9090:80 busybox sleep 1000");
    h.docker("run -d --name hh --net host busybox sleep 1000");
    let before = h.docker("port ww");
    let (code, error) = update(&h, "--publish-add 8081:80 --publish-add 9090:81 ww");
    assert_ne!(code, 0);
    has(&error, &["9090", "already allocated", "other"]);
    let (code, error) = update(&h, "--publish-rm 8888:80 ww");
    assert_ne!(code, 0);
    has(&error, &["ww", "does not publish", "8888"]);
    let (code, error) = update(&h, "--publish-add 8081:80 hh");
    assert_ne!(code, 0);
    has(&error, &["hh", "host's network"]);
    assert_eq!(h.docker("port ww"), before);
    // The port that was to be added with the refused one is free.
    assert_eq!(update(&h, "--publish-add 8081:80 other").0, 0);
    // A container that does not run has it at its next start.
    h.docker("stop -t 0 ww");
    assert_eq!(update(&h, "--publish-add 8083:80 ww").0, 0);
    h.docker("start ww");
    has(&h.docker("port ww"), &["0.0.0.0:8083", "0.0.0.0:8080"]);
}

#[test]
fn inspect_says_who_can_reach_a_port() {
    let Some(lan) = Lan::new_or_skip("inspect_says_who_can_reach_a_port") else { return };
    let mut h = lan.host("h1");
    h.start_daemon(SAMPAN, &["--respect-host-firewall"]);
    h.import_busybox();
    h.docker(&format!("run -d --name ww -p 8080:80 -p 127.0.0.1:8081:80 busybox {}", web(80)));
    let exposure = |port: &str| {
        let ports = h.inspect("ww")["NetworkSettings"]["Ports"]["80/tcp"].clone();
        let of = ports.as_array().unwrap().iter().find(|p| p["HostPort"] == port);
        of.unwrap()["Exposure"].as_str().unwrap_or_default().to_owned()
    };
    eventually("the port", SOON, || reached(&lan, &h, 8080).then_some(()));
    assert_eq!((exposure("8080"), exposure("8081")), ("everyone".into(), "host only".into()));
    // The administrator's own rules count.
    h.sh("nft add table inet mine
          nft add chain inet mine in '{ type filter hook input priority 0; }'
          nft add rule inet mine in tcp dport 8080 drop");
    eventually("the host's rule holds", SOON, || (!reached(&lan, &h, 8080)).then_some(()));
    assert_eq!(exposure("8080"), "blocked by inet mine in");
    h.sh("nft delete table inet mine");
    eventually("the host's rule is gone", SOON, || reached(&lan, &h, 8080).then_some(()));
    assert_eq!(exposure("8080"), "everyone");
}
