//! Macvlan networks with the docker command: containers on the LAN, the
//! host's access, restarts of everything, and what is refused.

mod common;

use common::{SOON, crash_and_restart, field, has, host, web};
use sampan_testkit::{Host, Lan, eventually};

/// The LAN of the test's hosts, its router, and a part of it for containers.
const ON_THE_LAN: &str = "--subnet 198.18.0.0/24 --gateway 198.18.0.254 \
                          --ip-range 198.18.0.64/27 -o parent=eth0";

fn address(h: &Host, container: &str) -> String {
    field(h, container, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
}

fn links(h: &Host) -> String {
    h.sh("ip -br link | awk '{print $1}' | sort")
}

/// Waits until somebody on the LAN is answered by a container.
#[track_caller]
fn answers_outside(lan: &Lan, ip: &str, name: &str) {
    eventually(&format!("{ip} answers as {name}"), SOON, || {
        let said = lan.outside(&format!("curl -fs --max-time 2 http://{ip}/"));
        (said.code == 0).then(|| assert_eq!(said.text(), name))
    });
}

#[test]
fn containers_are_neighbours_on_the_lan() {
    let Some((lan, mut h)) = host("containers_are_neighbours_on_the_lan") else { return };
    let before = links(&h);
    h.docker(&format!("network create -d macvlan {ON_THE_LAN} lan"));
    h.docker(&format!("run -d --name aa --hostname aa --net lan busybox {}", web(80)));
    let ip = address(&h, "aa");
    assert_eq!(ip, "198.18.0.64");
    answers_outside(&lan, &ip, "aa");
    let mac = field(&h, "aa", "{{.NetworkSettings.Networks.lan.MacAddress}}");
    has(&h.docker("exec aa ip link show eth0"), &[&mac]);
    assert_ne!(h.run(&format!("curl -fs --max-time 1 http://{ip}/")).code, 0);
    let fixed = "--ip 198.18.0.70 --mac-address 02:42:00:00:00:70";
    let published = format!("run -d --name bb --net lan {fixed} -p 8080:80 busybox sleep 600");
    let said = h.sh(&format!("docker {published} 2>&1"));
    has(&said, &["Published ports are discarded on macvlan"]);
    assert_eq!(h.docker("port bb"), "");
    assert_eq!(h.docker(&format!("exec bb wget -q -O - http://{ip}/")), "aa");
    assert_eq!(h.docker("exec bb wget -q -O - http://aa/"), "aa", "by name");
    has(&h.docker("exec bb ip link show eth0"), &["02:42:00:00:00:70"]);
    h.docker("restart -t 0 aa");
    answers_outside(&lan, &ip, "aa");
    crash_and_restart(&mut h);
    answers_outside(&lan, &ip, "aa");
    h.docker("network disconnect lan aa");
    assert_ne!(lan.outside(&format!("curl -fs --max-time 1 http://{ip}/")).code, 0);
    h.docker(&format!("network connect --ip {ip} lan aa"));
    answers_outside(&lan, &ip, "aa");
    h.docker("rm -f aa bb");
    h.docker("network rm lan");
    assert_eq!(links(&h), before);
}

#[test]
fn the_host_has_access() {
    let Some((lan, mut h)) = host("the_host_has_access") else { return };
    let before = links(&h);
    h.docker(&format!("network create -d macvlan {ON_THE_LAN} -o host_access=true lan"));
    h.docker(&format!("run -d --name aa --hostname aa --net lan busybox {}", web(80)));
    let ip = address(&h, "aa");
    h.sh(
        "mkdir -p /tmp/www && echo host > /tmp/www/index.html && busybox httpd -p 8090 -h /tmp/www",
    );
    let both = |h: &Host| {
        eventually("the host reaches the container", SOON, || {
            (h.run(&format!("curl -fs --max-time 2 http://{ip}/")).text() == "aa").then_some(())
        });
        let host = format!("exec aa wget -q -O - http://{}:8090/", h.ip);
        assert_eq!(h.docker(&host), "host");
        answers_outside(&lan, &ip, "aa");
    };
    both(&h);
    crash_and_restart(&mut h);
    both(&h);
    h.sh("ip link delete $(ip -o link | grep -o 'mv-[0-9a-f]*')");
    both(&h);
    h.docker("rm -f aa");
    assert_eq!(h.sh(&format!("ip route | grep -c '^{ip} ' || true")), "0");
    h.docker("network rm lan");
    assert_eq!(links(&h), before);
}

#[test]
fn passthru_is_for_one() {
    let Some((_lan, h)) = host("passthru_is_for_one") else { return };
    h.sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    h.docker(
        "network create -d macvlan -o parent=up0 -o macvlan_mode=passthru \
              --subnet 10.70.0.0/24 --gateway 10.70.0.9 alone",
    );
    h.sh("ip addr add 10.70.0.9/24 dev up1");
    h.docker(&format!("run -d --name aa --hostname aa --net alone busybox {}", web(80)));
    eventually("the far end of the parent is answered", SOON, || {
        let said = h.run(&format!("curl -fs --max-time 2 http://{}/", address(&h, "aa")));
        (said.text() == "aa").then_some(())
    });
    has(&h.docker_fails("run --net alone busybox true").1, &["up0", "macvlan"]);
    let given = "run --net alone --mac-address 02:42:00:00:00:70 busybox true";
    has(&h.docker_fails(given).1, &["hardware address"]);
    let second = "network create -d macvlan -o parent=up0 --subnet 10.71.0.0/24 more";
    has(&h.docker_fails(second).1, &["parent interface up0", "used by network alone"]);
    h.docker("restart -t 0 aa");
    h.docker("rm -f aa");
    h.docker("network rm alone");
}

#[test]
fn what_is_wrong_is_refused_and_nothing_is_left() {
    let Some((_lan, h)) = host("what_is_wrong_is_refused_and_nothing_is_left") else { return };
    let before = (links(&h), h.docker("network ls -q"));
    let subnet = "--subnet 10.70.0.0/24";
    for (options, words) in [
        ("-o parent=nosuch0", vec!["nosuch0", "not on this host"]),
        ("-o parent=nosuch0.10", vec!["no interface nosuch0"]),
        ("-o parent=lo", vec!["loopback"]),
        ("-o parent=eth0 -o macvlan_mode=fast", vec!["fast", "bridge, private, vepa, passthru"]),
        ("-o parent=eth0 -o speed=1", vec!["speed=1", "not supported"]),
        ("-o parent=eth0 -o com.docker.network.driver.mtu=9000", vec!["9000", "eth0"]),
        ("-o parent=eth0 -o host_access=true", vec!["host_address"]),
        ("-o parent=eth0 -o host_access=true -o macvlan_mode=vepa", vec!["host_access", "vepa"]),
        ("-o parent=an-interface-with-a-long-name", vec!["kernel allows 15"]),
    ] {
        let said = h.docker_fails(&format!("network create -d macvlan {subnet} {options} xx")).1;
        has(&said, &words);
    }
    assert_eq!((links(&h), h.docker("network ls -q")), before);
}
