//! Published ports and the host's own firewall, ports of every protocol and
//! family, and ports by the ten thousand.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{SAMPAN, SOON, has, host, host_with, web};
use sampan_testkit::{Host, Lan, eventually};

fn reached(lan: &Lan, h: &Host, port: u16) -> bool {
    lan.outside(&format!("curl -fs --max-time 1 http://{}:{port}/", h.ip)).code == 0
}

/// Who can reach the port 80 of a container, by its first place.
fn exposure(h: &Host, name: &str) -> String {
    h.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["Exposure"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn the_hosts_firewall_is_obeyed() {
    let test = "the_hosts_firewall_is_obeyed";
    let Some((lan, h)) = host_with(test, &["--respect-host-firewall"]) else { return };
    h.docker(&format!("run -d --name ww -p 8080:80 -p 8081:80 busybox {}", web(80)));
    eventually("the port", SOON, || reached(&lan, &h, 8080).then_some(()));
    assert_eq!(exposure(&h, "ww"), "everyone");
    let second = Duration::from_secs(1) * sampan_testkit::busy();
    let blocked = || (!reached(&lan, &h, 8080)).then_some(());
    let open = || reached(&lan, &h, 8080).then_some(());
    h.sh("nft 'table inet mine { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }'");
    eventually("the rule of nft is obeyed", second * 3, blocked);
    assert!(reached(&lan, &h, 8081), "other ports pass");
    assert_eq!(exposure(&h, "ww"), "blocked by inet mine in");
    h.sh("nft delete table inet mine");
    eventually("the port without the rule", second * 3, open);
    h.sh("iptables -I INPUT -p tcp -m multiport --dports 8080 -j DROP");
    eventually("the rule of iptables is obeyed", second * 3, blocked);
    assert_eq!(exposure(&h, "ww"), "blocked by ip filter INPUT");
    h.docker("rm -f ww");
    assert!(!h.sh("nft list ruleset").contains("tcp . 8080"));
}

#[test]
fn ports_of_both_families_and_every_protocol() {
    let Some((lan, h)) = host("ports_of_both_families_and_every_protocol") else { return };
    h.sh("ip -6 address add fd99::1/128 dev lo");
    h.docker("network create --ipv6 --subnet 10.60.0.0/24 --subnet fd60::/64 blue");
    h.docker(&format!(
        "run -d --name ww --network blue -p 8080:80 -p 3868:3868/sctp busybox {}",
        web(80)
    ));
    eventually("the port", SOON, || reached(&lan, &h, 8080).then_some(()));
    has(
        &h.docker("port ww"),
        &["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "3868/sctp -> 0.0.0.0:3868"],
    );
    assert_eq!(h.run("curl -fs --max-time 2 'http://[fd60::1]:8080/'").code, 0);
    assert_eq!(h.run("curl -fs --max-time 2 'http://[fd99::1]:8080/'").code, 0);
    has(&h.sh("nft list map inet sampan ports6 || nft list ruleset"), &["tcp . 8080"]);
    h.docker("rm -f ww");
    h.docker("network rm blue");
}

#[test]
fn the_host_reaches_containers_without_ipv6_by_localhost() {
    let test = "the_host_reaches_containers_without_ipv6_by_localhost";
    let Some((_lan, mut h)) = host(test) else { return };
    h.docker(&format!(
        "run -d --name ww -p 8080:80 -p 127.0.0.1:8081:80 -p [::1]:8082:80 busybox {}",
        web(80)
    ));
    let reached = |h: &Host, address: &str, port: u16| {
        h.run(&format!("curl -fs --max-time 1 'http://{address}:{port}/'")).code == 0
    };
    eventually("the port", SOON, || reached(&h, "127.0.0.1", 8080).then_some(()));
    assert!(reached(&h, "[::1]", 8080) && reached(&h, "[::1]", 8082));
    assert!(!reached(&h, "[::1]", 8081), "a port of 127.0.0.1 alone");
    h.stop_daemon("KILL");
    assert!(reached(&h, "[::1]", 8080), "without a daemon");
    h.start_daemon(SAMPAN, &[]);
    assert!(reached(&h, "[::1]", 8080) && reached(&h, "[::1]", 8082));
    h.docker("restart -t0 ww");
    eventually("the port again", SOON, || reached(&h, "[::1]", 8080).then_some(()));
    h.docker("rm -f ww");
    assert!(!reached(&h, "[::1]", 8080));

    h.docker(&format!("run -d --name off -p 8080:80 busybox {}", web(80)));
    eventually("the port", SOON, || reached(&h, "[::1]", 8080).then_some(()));
    h.stop_daemon("TERM");
    h.start_daemon(SAMPAN, &["--host-ipv6-ports=false"]);
    let some_seconds = Duration::from_secs(15);
    eventually("refused", some_seconds, || (!reached(&h, "[::1]", 8080)).then_some(()));
    assert!(reached(&h, "127.0.0.1", 8080));
    h.docker("rm -f off");
}

#[test]
fn ten_thousand_ports_of_one_container() {
    let Some((lan, h)) = host("ten_thousand_ports_of_one_container") else { return };
    let started = |name: &str, ports: &str| {
        h.docker(&format!("create --name {name} {ports} busybox {}", web(29_999)));
        let start = Instant::now();
        assert_eq!(h.api("POST", &format!("/containers/{name}/start"), None).status, 204);
        start.elapsed()
    };
    let _ = started("warm", "");
    let (bare, before) = (started("bare", ""), memory(&h));
    let range = "-p 20000-29999:20000-29999 -p 20000-29999:20000-29999/udp";
    let full = started("full", range);
    eventually("the last port", SOON, || reached(&lan, &h, 29_999).then_some(()));
    let more = memory(&h) - before;
    println!("20,000 ports: {full:?} instead of {bare:?}, {more} KiB more");
    let start = Instant::now();
    h.docker("rm -f full");
    println!("removed in {:?}", start.elapsed());
    // In a build without optimisation, on a machine that does other things.
    assert!(full < bare + Duration::from_secs(3), "{full:?} instead of {bare:?}");
}

/// The daemon's memory in KiB.
fn memory(h: &Host) -> i64 {
    let pid = h.daemon().and_then(sampan_testkit::Daemon::pid).unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|l| l.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
