//! Connections of containers to networks: while they run and while they
//! don't, with addresses, names, priorities, and the same over restarts.

mod common;

use common::{SOON, crash_and_restart, field, has, host};
use sampan_testkit::{Host, eventually};

fn endpoint(h: &Host, container: &str, network: &str, key: &str) -> String {
    field(h, container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").{key}}}}}"))
}

/// Interfaces with their hardware addresses, and the default route.
fn inside(h: &Host, container: &str) -> String {
    h.docker(&format!(
        "exec {container} sh -c 'for i in /sys/class/net/eth*; do echo $i $(cat $i/address); done; \
         ip route show default'"
    ))
}

#[test]
fn networks_are_connected_and_disconnected_live() {
    let Some((_lan, h)) = host("networks_are_connected_and_disconnected_live") else { return };
    h.docker("network create --subnet 10.81.0.0/24 n1");
    h.docker("network create --subnet 10.82.0.0/24 --ipv6 --subnet fd00:82::/64 n2");
    h.docker("run -dit --name aa --net n1 busybox");
    h.docker("run -dit --name bb --net n2 busybox");
    h.docker("network connect --ip 10.82.0.77 --ip6 fd00:82::77 --alias db n2 aa");
    assert_eq!(endpoint(&h, "aa", "n2", "IPAddress"), "10.82.0.77");
    assert_eq!(endpoint(&h, "aa", "n2", "GlobalIPv6Address"), "fd00:82::77");
    h.docker("exec bb ping -c1 -W2 10.82.0.77");
    has(&endpoint(&h, "aa", "n2", "DNSNames"), &["aa", "db"]);
    has(&h.docker("exec aa cat /etc/hosts"), &["10.82.0.77"]);
    has(&h.docker_fails("network connect n2 aa").1, &["already exists in network n2"]);
    h.docker("network disconnect n2 aa");
    assert_ne!(h.run("docker exec bb ping -c1 -W1 10.82.0.77").code, 0);
    assert!(!h.docker("exec aa cat /etc/hosts").contains("10.82.0.77"));
    assert_eq!(h.docker("exec aa sh -c 'ls /sys/class/net'").replace('\n', " "), "eth0 lo");
    has(&h.docker_fails("network disconnect n2 aa").1, &["is not connected"]);
    // The same of a container that does not run.
    h.docker("stop -t0 aa");
    h.docker("network connect --ip 10.82.0.78 n2 aa");
    h.docker("network disconnect n1 aa");
    h.docker("start aa");
    assert_eq!(h.docker("exec aa sh -c 'ls /sys/class/net'").replace('\n', " "), "eth0 lo");
    h.docker("exec bb ping -c1 -W2 10.82.0.78");
    h.docker("network disconnect -f n2 aa");
    h.docker("network disconnect -f n2 nosuch");
    h.docker("rm -f aa bb");
    h.docker("network rm n1 n2");
}

#[test]
fn wrong_connections_are_refused() {
    let Some((_lan, h)) = host("wrong_connections_are_refused") else { return };
    h.docker("network create --subnet 10.83.0.0/29 n1");
    h.docker("network create auto");
    h.docker("run -dit --name aa --net n1 --ip 10.83.0.5 busybox");
    h.docker("run -dit --name bb busybox");
    h.docker("run -dit --name hh --net host busybox");
    for (args, words) in [
        ("--ip 10.83.0.5 n1 bb", vec!["already in use", "container aa"]),
        ("--ip 10.83.0.1 n1 bb", vec!["10.83.0.1", "gateway"]),
        ("--ip 10.84.0.5 n1 bb", vec!["10.84.0.5", "subnet", "10.83.0.0/29"]),
        ("--ip 10.83.0.7 n1 bb", vec!["10.83.0.7", "broadcast"]),
        ("--ip 10.83.0.6 auto bb", vec!["user configured subnets"]),
        ("--driver-opt what=ever n1 bb", vec!["what"]),
        ("--driver-opt sampan.rate.ingress=fast n1 bb", vec!["fast", "10mbit"]),
        ("--link-local-ip 10.0.0.1 n1 bb", vec!["10.0.0.1"]),
        ("--link nosuch:x n1 bb", vec!["nosuch"]),
        ("n1 hh", vec!["host network"]),
        ("host bb", vec!["host network"]),
        ("none bb", vec!["none"]),
        ("nosuch bb", vec!["network nosuch not found"]),
        ("n1 nosuch", vec!["No such container"]),
    ] {
        has(&h.docker_fails(&format!("network connect {args}")).1, &words);
        assert_eq!(h.docker("exec bb sh -c 'ls /sys/class/net'").replace('\n', " "), "eth0 lo");
    }
    let run = |args: &str| h.docker_fails(&format!("run --rm {args} busybox true")).1;
    has(&run("--net host --ip 10.83.0.6"), &["IP"]);
    has(&run("--net n1 --net host"), &["conflicting options"]);
    has(&run("--net container:nosuch"), &["No such container"]);
    has(&run("--net n1 --mac-address 01:00:00:00:00:01"), &["unicast"]);
    // Six addresses, one the gateway's: the pool says when it is empty.
    for i in 0..4 {
        h.docker(&format!("run -dit --name c{i} --net n1 busybox"));
    }
    has(&run("--net n1"), &["no available", "10.83.0.0/29"]);
}

#[test]
fn several_networks_at_once() {
    let Some((_lan, h)) = host("several_networks_at_once") else { return };
    h.docker("network create --subnet 10.85.0.0/24 za");
    h.docker("network create --subnet 10.86.0.0/24 bb");
    h.docker("network create --subnet 10.87.0.0/24 cc");
    h.docker(
        "run -dit --name aa --network name=za,ip=10.85.0.9,alias=web,mac-address=02:00:00:00:00:99 \
         --network name=cc,driver-opt=com.docker.network.endpoint.ifname=lan9 \
         --network name=bb,gw-priority=5,driver-opt=sampan.rate.egress=10mbit busybox",
    );
    assert_eq!(endpoint(&h, "aa", "za", "IPAddress"), "10.85.0.9");
    assert_eq!(h.docker("exec aa cat /sys/class/net/eth0/address"), "02:00:00:00:00:99");
    has(&h.docker("exec aa ip -4 addr show lan9"), &["10.87.0."]);
    has(&h.docker("exec aa ip route show default"), &["10.86.0.1"]);
    has(&endpoint(&h, "aa", "bb", "DriverOpts"), &["10mbit"]);
    has(&h.docker("network inspect -v bb"), &["10000000"]);
    // On the default bridge an address can be asked for as well.
    h.docker("run -dit --name dd --ip 172.17.0.99 busybox");
    assert_eq!(endpoint(&h, "dd", "bridge", "IPAddress"), "172.17.0.99");
}

#[test]
fn restarts_change_nothing() {
    let Some((_lan, mut h)) = host("restarts_change_nothing") else { return };
    h.docker("network create zz");
    h.docker("network create mm");
    h.docker("network create aa");
    h.docker("run -dit --name c1 --restart always --stop-timeout 1 --net mm busybox");
    h.docker("network connect zz c1");
    h.docker("network connect aa c1");
    let before = (inside(&h, "c1"), h.docker("exec c1 ip -4 -o addr"));
    for round in 0..rounds() {
        h.docker("restart -t0 c1");
        assert_eq!(inside(&h, "c1"), before.0, "round {round}");
    }
    assert_eq!(
        h.docker("exec c1 ip -4 -o addr | sed 's/^[0-9]*//;s/@[^ ]*//'"),
        before
            .1
            .lines()
            .map(|l| l.trim_start_matches(char::is_numeric))
            .collect::<Vec<_>>()
            .join("\n")
    );
    crash_and_restart(&mut h);
    assert_eq!(inside(&h, "c1"), before.0);
    let pid: u32 = field(&h, "c1", "{{.State.Pid}}").parse().unwrap();
    h.sh(&format!("kill -9 {pid}"));
    eventually("the policy starts it again", SOON, || {
        let now = field(&h, "c1", "{{.State.Pid}} {{.State.Running}}");
        (now.ends_with("true") && !now.starts_with(&format!("{pid} ")) && !now.starts_with("0 "))
            .then_some(())
    });
    assert_eq!(inside(&h, "c1"), before.0);
}

/// `SAMPAN_TEST_ROUNDS`, to look for what is rare.
fn rounds() -> u32 {
    std::env::var("SAMPAN_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}
