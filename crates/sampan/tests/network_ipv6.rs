//! IPv6 on the default bridge: `--ipv6`, `--bip6`, `--fixed-cidr-v6`, and what
//! becomes of running containers when the setting changes.

mod common;

use common::{SAMPAN, SOON, field, has, host, host_with, web};
use sampan_testkit::{Host, eventually};

const ADDRESS: &str = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
const ADDRESS6: &str = "{{.NetworkSettings.Networks.bridge.GlobalIPv6Address}}";

fn serves(h: &Host, url: &str) {
    let asked = || (h.run(&format!("curl -gfs --max-time 1 '{url}'")).code == 0).then_some(());
    eventually(url, SOON, asked);
}

fn pings(h: &Host, from: &str, to: &str) {
    has(&h.docker(&format!("exec {from} ping -6 -c2 -i0.2 -W2 {to}")), &[" 0% packet loss"]);
}

#[test]
fn the_default_bridge_has_both_families() {
    let args = ["--ipv6", "--fixed-cidr-v6=fd77::/64"];
    let Some((_lan, h)) = host_with("the_default_bridge_has_both_families", &args) else { return };
    let page = web(80);
    h.docker(&format!("run -d --name web -p 8080:80 busybox {page}"));
    h.docker("run -d --name two --ip6 fd77::22 busybox sleep 1000");
    let six = field(&h, "web", ADDRESS6);
    assert!(six.starts_with("fd77::"), "{six}");
    assert_eq!(field(&h, "web", "{{.NetworkSettings.GlobalIPv6PrefixLen}}"), "64");
    assert_eq!(field(&h, "web", "{{.NetworkSettings.IPv6Gateway}}"), "fd77::1");
    assert_eq!(field(&h, "two", ADDRESS6), "fd77::22");
    pings(&h, "two", &six);
    pings(&h, "two", "fd77::1");
    has(&h.docker("exec two ping -c1 -W2 172.17.0.1"), &[" 0% packet loss"]);
    has(&h.docker("exec two ip -6 route"), &["default via fd77::1"]);
    has(&h.docker("exec two cat /etc/hosts"), &["fd77::22"]);
    h.docker("run --rm --link web:ww busybox ping -6 -c1 -W2 ww");
    has(&h.docker("port web"), &["0.0.0.0:8080", "[::]:8080"]);
    serves(&h, "http://[fd77::1]:8080/");
    serves(&h, "http://127.0.0.1:8080/");
    let network = h.docker("network inspect bridge");
    has(
        &network,
        &["\"EnableIPv6\": true", "fd77::/64", "\"Gateway\": \"fd77::1\"", "fd77::22/64"],
    );
    h.docker("rm -f web two");
    let left = h.sh("ip -6 neighbour show dev docker0 nud permanent; nft list ruleset");
    assert!(!left.contains("8080"), "{left}");
}

#[test]
fn running_containers_follow_the_setting() {
    let Some((_lan, mut h)) = host("running_containers_follow_the_setting") else { return };
    h.docker(&format!("run -d --name web -p 8080:80 busybox {}", web(80)));
    h.docker("run -d --name two busybox sleep 1000");
    let (four, pid) = (field(&h, "web", ADDRESS), field(&h, "web", "{{.State.Pid}}"));
    let mac = h.docker("exec web cat /sys/class/net/eth0/address");
    serves(&h, "http://127.0.0.1:8080/");
    assert_eq!(field(&h, "web", ADDRESS6), "");
    // More than there was: nothing is taken away meanwhile.
    let index = h.docker("exec web cat /sys/class/net/eth0/ifindex");
    h.stop_daemon("KILL");
    h.start_daemon(SAMPAN, &["--ipv6", "--bip6=fd78::1/64"]);
    let six = field(&h, "web", ADDRESS6);
    assert!(six.starts_with("fd78::"), "{six}");
    assert_eq!(field(&h, "web", ADDRESS), four);
    assert_eq!(h.docker("exec web cat /sys/class/net/eth0/ifindex"), index, "the same link");
    pings(&h, "two", &six);
    pings(&h, "web", "fd78::1");
    has(&h.docker("exec two ip -6 route"), &["default via fd78::1"]);
    has(&h.docker("exec web cat /etc/hosts"), &[&six, &four]);
    serves(&h, "http://127.0.0.1:8080/");
    h.docker("run --rm busybox ping -6 -c1 -W2 fd78::1");
    // Another subnet, and none any more.
    h.stop_daemon("KILL");
    h.start_daemon(SAMPAN, &["--ipv6", "--fixed-cidr-v6=fd79::/64"]);
    let moved = field(&h, "web", ADDRESS6);
    assert!(moved.starts_with("fd79::"), "{moved}");
    pings(&h, "two", &moved);
    assert!(!h.sh("ip -6 address; ip -6 route").contains("fd78:"));
    h.stop_daemon("TERM");
    h.start_daemon(SAMPAN, &[]);
    assert_eq!(field(&h, "web", ADDRESS6), "");
    assert_eq!(field(&h, "web", ADDRESS), four, "IPv4 stays");
    assert_eq!(h.docker("exec web cat /sys/class/net/eth0/address"), mac);
    assert_eq!(field(&h, "web", "{{.State.Pid}}"), pid, "the container was left alone");
    assert!(!h.docker("exec web ip address").contains("fd79:"));
    assert!(!h.docker("exec web cat /etc/hosts").contains("fd79:"));
    assert!(!h.sh("ip -6 address; ip -6 route; nft list ruleset").contains("fd79:"));
    serves(&h, "http://127.0.0.1:8080/");
    has(&h.docker("exec two ping -c1 -W2 172.17.0.1"), &[" 0% packet loss"]);
    h.docker("rm -f web two");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let Some((_lan, h)) = host("settings_that_make_no_sense_are_refused") else { return };
    let refused = |args: &str| {
        let out = h.run(&format!("{SAMPAN} daemon --validate {args}"));
        assert_ne!(out.code, 0, "{args}");
        format!("{}{}", out.text(), out.errors())
    };
    has(&refused("--fixed-cidr-v6 fd77::/64"), &["fixed-cidr-v6 has no effect without ipv6"]);
    has(&refused("--ipv6 --fixed-cidr-v6 10.0.0.0/24"), &["fixed-cidr-v6"]);
    has(&refused("--ipv6 --fixed-cidr-v6 fe80::/64"), &["link-local"]);
    has(&refused("--ipv6 --fixed-cidr-v6 fd77::/127"), &["no room"]);
    has(
        &refused("--ipv6 --bip6 fd77::1/64 --fixed-cidr-v6 fd78::/64"),
        &["fixed-cidr-v6 fd78::/64", "fd77::/64"],
    );
    has(&refused("--ipv6 --mtu 1200"), &["1280"]);
    assert_eq!(h.run(&format!("{SAMPAN} daemon --validate --ipv6 --bip6 fd77::1/64")).code, 0);
}
