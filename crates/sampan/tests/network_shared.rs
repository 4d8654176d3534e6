//! Containers in another one's namespace (`--network container:NAME`): their
//! network outlives the owner's runs, and the daemon's.

mod common;

use common::{SOON, crash_and_restart, field, has, host, web};
use sampan_testkit::{Host, Lan, eventually};

const SIDE: &str = "--network container:owner";

/// An owner with a published port, and a server in its namespace.
fn pair(h: &Host) {
    h.docker("network create --subnet 10.95.0.0/24 nn");
    h.docker("run -d --name owner --net nn -p 8070:80 --restart always --stop-timeout 1 busybox sleep 1000");
    h.docker(&format!("run -d --name side {SIDE} busybox {}", web(80)));
}

/// The server in the shared namespace answers from outside the host.
fn serves(lan: &Lan, h: &Host, when: &str) {
    eventually(when, SOON, || {
        let got = lan.outside(&format!("curl -fs --max-time 1 http://{}:8070/", h.ip));
        (got.code == 0).then_some(())
    });
}

fn netns(h: &Host, name: &str) -> String {
    let pid = field(h, name, "{{.State.Pid}}");
    h.sh(&format!("readlink /proc/{pid}/ns/net"))
}

#[test]
fn dependants_keep_their_network_when_the_owner_restarts() {
    let Some((lan, mut h)) = host("dependants_keep_their_network_when_the_owner_restarts") else {
        return;
    };
    pair(&h);
    serves(&lan, &h, "the first time");
    let before = netns(&h, "side");
    assert_eq!(h.docker("exec side hostname"), h.docker("exec owner hostname"));
    has(&h.docker("exec side cat /etc/hosts"), &["10.95.0.2"]);
    h.docker("restart -t0 owner");
    assert_eq!(netns(&h, "owner"), before);
    serves(&lan, &h, "after a restart");
    // A crash: the restart policy starts it again.
    let pid = field(&h, "owner", "{{.State.Pid}}");
    h.sh(&format!("kill -9 {pid}"));
    eventually("the owner runs again", SOON, || {
        let now = field(&h, "owner", "{{.State.Pid}}");
        (now != "0" && now != pid).then_some(())
    });
    assert_eq!(netns(&h, "owner"), before);
    serves(&lan, &h, "after a crash");
    // While it is stopped, the network goes on, and over the daemon's death.
    h.docker("stop -t0 owner");
    serves(&lan, &h, "while the owner is stopped");
    has(&h.docker_fails("network rm nn").1, &["active endpoints", "owner"]);
    crash_and_restart(&mut h);
    serves(&lan, &h, "after the daemon's death");
    h.docker("network create late");
    h.docker("network connect late owner");
    has(&h.docker("exec side ls /sys/class/net"), &["eth1"]);
    h.docker("network disconnect late owner");
    h.docker(&format!("run --rm {SIDE} busybox ping -c1 -W2 10.95.0.1"));
    h.docker("start owner");
    assert_eq!(netns(&h, "owner"), before);
    serves(&lan, &h, "after its start");
    h.docker("rm -f side owner");
    h.docker("network rm nn late");
    clean(&h);
}

#[test]
fn the_last_dependant_gives_the_network_back() {
    let Some((lan, mut h)) = host("the_last_dependant_gives_the_network_back") else { return };
    pair(&h);
    serves(&lan, &h, "the first time");
    h.docker("stop -t0 owner");
    h.docker("rm -f side");
    clean(&h);
    eventually("the network is free", SOON, || {
        (h.run("docker network rm nn").code == 0).then_some(())
    });
    h.docker("rm owner");
    // The owner ends while no daemon is there, and the dependant goes on.
    pair(&h);
    h.docker("update --restart no owner");
    let pid = field(&h, "owner", "{{.State.Pid}}");
    h.stop_daemon("KILL");
    h.sh(&format!("kill -9 {pid}"));
    h.start_daemon(common::SAMPAN, &[]);
    assert_eq!(field(&h, "owner", "{{.State.Running}}"), "false");
    serves(&lan, &h, "after the daemon's death and the owner's end");
    // Owner and dependants end while no daemon is there.
    let pid = field(&h, "side", "{{.State.Pid}}");
    h.stop_daemon("KILL");
    h.sh(&format!("kill -9 {pid}"));
    h.start_daemon(common::SAMPAN, &[]);
    clean(&h);
    h.docker("rm -f side owner");
    h.docker("network rm nn");
}

#[test]
fn a_removed_owner_frees_its_ports_and_addresses() {
    let Some((lan, h)) = host("a_removed_owner_frees_its_ports_and_addresses") else { return };
    pair(&h);
    serves(&lan, &h, "the first time");
    h.docker("rm -f owner");
    clean(&h);
    // The dependant lives on, with its loopback.
    h.docker("exec side wget -qO- http://127.0.0.1/");
    h.docker(&format!(
        "run -d --name owner --net nn --ip 10.95.0.2 -p 8070:80 busybox {}",
        web(80)
    ));
    serves(&lan, &h, "the new one");
    has(&h.docker_fails("start nosuch").1, &["No such container"]);
    h.docker("stop -t0 side");
    let gone = h.docker_fails("start side").1;
    has(&gone, &["cannot join network of a non running container"]);
    h.docker("rm -f side owner");
    h.docker("network rm nn");
}

#[test]
fn a_chain_shares_one_namespace() {
    let Some((lan, h)) = host("a_chain_shares_one_namespace") else { return };
    pair(&h);
    h.docker("run -d --name third --network container:side busybox sleep 1000");
    assert_eq!(netns(&h, "third"), netns(&h, "owner"));
    has(&h.docker("exec third cat /etc/hosts"), &["10.95.0.2"]);
    h.docker("rm -f side");
    h.docker("restart -t0 owner");
    assert_eq!(netns(&h, "third"), netns(&h, "owner"));
    h.docker("rm -f third owner");
    clean(&h);
    drop(lan);
}

/// No container has a link or a namespace any more.
fn clean(h: &Host) {
    eventually("nothing is left", SOON, || {
        let left = h.sh("ip -o link | grep -c veth || true");
        let named = h.sh(&format!("ls {}/netns | wc -l", h.exec_root().display()));
        let ports = h.sh("nft list ruleset | grep -c 8070 || true");
        (left == "0" && named == "0" && ports == "0").then_some(())
    });
}
