//! A network moves to other subnets while containers are on it.

mod common;

use common::{SAMPAN, field, has, host};
use sampan_testkit::Host;

fn migrate(h: &Host, args: &str) -> (i32, String) {
    let out = h.run(&format!("{SAMPAN} -H $DOCKER_HOST network migrate {args}"));
    (out.code, format!("{}{}", out.text(), out.errors()))
}

fn address(h: &Host, name: &str) -> String {
    field(h, name, "{{.NetworkSettings.Networks.nn.IPAddress}}")
}

#[test]
fn containers_stay_on_a_network_that_moves() {
    let Some((_lan, mut h)) = host("containers_stay_on_a_network_that_moves") else { return };
    h.docker("network create --subnet 10.61.0.0/24 nn");
    h.docker("run -d --name ca --network nn busybox sleep 1000");
    h.docker("run -d --name cb --network nn busybox sleep 1000");
    h.docker("create --name cc --network nn busybox sleep 1000");
    let pid = field(&h, "ca", "{{.State.Pid}}");
    assert_eq!(migrate(&h, "--subnet 10.62.0.0/24 nn"), (0, "10.62.0.0/24".to_owned()));
    assert!(address(&h, "ca").starts_with("10.62.0."), "{}", address(&h, "ca"));
    has(&h.docker("exec ca ping -c1 -W2 cb"), &["10.62.0."]);
    has(&h.docker("exec ca ping -c1 -W2 10.62.0.1"), &["0% packet loss"]);
    has(&h.docker("exec ca ip route"), &["default via 10.62.0.1"]);
    assert!(!h.docker("exec ca cat /etc/hosts").contains("10.61."));
    assert!(!h.sh("ip addr; nft list ruleset").contains("10.61."), "nothing of the old subnet");
    h.docker("start cc");
    assert!(address(&h, "cc").starts_with("10.62.0."));
    assert_eq!(field(&h, "ca", "{{.State.Pid}}"), pid, "the container was left alone");
    common::crash_and_restart(&mut h);
    has(&h.docker("exec ca ping -c1 -W2 cc"), &["10.62.0."]);
    // To any free subnet.
    let (code, subnet) = migrate(&h, "nn");
    assert_eq!(code, 0, "{subnet}");
    assert!(!subnet.starts_with("10.62."), "{subnet}");
    has(&h.docker("exec ca ping -c1 -W2 cb"), &["0% packet loss"]);
}

#[test]
fn moves_that_can_not_be_are_refused() {
    let Some((_lan, h)) = host("moves_that_can_not_be_are_refused") else { return };
    h.docker("network create --subnet 10.61.0.0/24 nn");
    h.docker("network create --subnet 10.63.0.0/24 other");
    h.docker("run -d --name ca --network nn --ip 10.61.0.9 busybox sleep 1000");
    has(&migrate(&h, "--subnet 10.63.0.0/25 nn").1, &["10.63.0.0/25", "overlaps", "other"]);
    has(&migrate(&h, "--subnet 10.64.0.0/24 nn").1, &["ca", "10.61.0.9", "disconnect"]);
    has(&migrate(&h, "bridge").1, &["predefined", "--bip"]);
    has(&migrate(&h, "--subnet fd00:1::/64 nn").1, &["family"]);
    assert_eq!(address(&h, "ca"), "10.61.0.9");
}
