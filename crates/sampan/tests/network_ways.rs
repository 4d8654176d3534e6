//! Ways beside a network's own: addresses of a link alone, interfaces of the
//! host that a network trusts.

mod common;

use common::{SOON, crash_and_restart, field, has, host, web};
use sampan_testkit::eventually;

#[test]
fn containers_have_addresses_of_their_link() {
    let Some((_lan, mut h)) = host("containers_have_addresses_of_their_link") else { return };
    h.docker("network create nn");
    h.docker("run -d --name one --net nn --link-local-ip 169.254.7.1 busybox sleep 1000");
    h.docker("run -d --name two busybox sleep 1000");
    h.docker("network connect --link-local-ip 169.254.7.2 --link-local-ip fe80::7:2 nn two");
    has(&h.docker("exec two ip address show eth1"), &["169.254.7.2/16", "fe80::7:2/64"]);
    has(&h.docker("exec two ping -c1 -W2 169.254.7.1"), &[" 0% packet loss"]);
    let shown = "{{json .NetworkSettings.Networks.nn.IPAMConfig.LinkLocalIPs}}";
    assert_eq!(field(&h, "two", shown), "[\"169.254.7.2\",\"fe80::7:2\"]");
    crash_and_restart(&mut h);
    h.docker("restart -t0 one");
    has(&h.docker("exec two ping -c1 -W2 169.254.7.1"), &[" 0% packet loss"]);
    let refused = |args: &str| h.docker_fails(args).1;
    has(
        &refused("network connect --link-local-ip 10.0.0.1 bridge one"),
        &["link-local", "10.0.0.1"],
    );
    has(
        &refused("run --rm --net nn --link-local-ip 169.254.7.2 busybox true"),
        &["169.254.7.2", "container two"],
    );
    has(&refused("run --rm --net host --link-local-ip 169.254.7.9 busybox true"), &["169.254.7.9"]);
    // Somebody takes it away.
    let pid = field(&h, "two", "{{.State.Pid}}");
    h.sh(&format!("nsenter -t {pid} -n ip address delete 169.254.7.2/16 dev eth1"));
    eventually("the address", SOON, || {
        h.docker("exec two ip address show eth1").contains("169.254.7.2/16").then_some(())
    });
    h.docker("network disconnect nn two");
    assert!(!h.docker("exec two ip address").contains("169.254."));
}

#[test]
fn a_network_trusts_interfaces_of_the_host() {
    let Some((lan, h)) = host("a_network_trusts_interfaces_of_the_host") else { return };
    h.docker(
        "network create --subnet 10.61.0.0/24 \
         -o com.docker.network.bridge.trusted_host_interfaces=wg0:eth0 open",
    );
    h.docker("network create --subnet 10.62.0.0/24 closed");
    h.docker(&format!("run -d --name one --net open --ip 10.61.0.9 busybox {}", web(80)));
    h.docker(&format!("run -d --name two --net closed --ip 10.62.0.9 busybox {}", web(80)));
    let via = |net: &str| format!("ip route replace {net} via {}", h.ip);
    assert_eq!(lan.outside(&format!("{}; {}", via("10.61.0.0/24"), via("10.62.0.0/24"))).code, 0);
    let ask = |ip: &str| lan.outside(&format!("curl -fs --max-time 1 http://{ip}/")).code;
    eventually("the trusted way", SOON, || (ask("10.61.0.9") == 0).then_some(()));
    assert_ne!(ask("10.62.0.9"), 0);
    let refused = |value: &str, more: &str| {
        let key = "com.docker.network.bridge.trusted_host_interfaces";
        h.docker_fails(&format!("network create {more} -o {key}={value} xx")).1
    };
    has(&refused("eth0::", ""), &["trusted_host_interfaces", "names of interfaces"]);
    has(&refused("eth0", "--internal"), &["internal"]);
}

#[test]
fn what_a_container_on_the_lan_receives_is_limited() {
    let Some((_lan, h)) = host("what_a_container_on_the_lan_receives_is_limited") else { return };
    h.sh("ip link add upper type veth peer name lower; ip link set upper up; ip link set lower up");
    h.docker("network create -d macvlan --subnet 10.63.0.0/24 -o parent=upper lan");
    h.docker(
        "run -d --name one --network name=lan,driver-opt=sampan.rate.ingress=5mbit busybox \
         sleep 1000",
    );
    let pid = field(&h, "one", "{{.State.Pid}}");
    let limits = h.sh(&format!("nsenter -t {pid} -n tc qdisc show"));
    has(&limits, &["tbf", "rate 5Mbit", "ifb-"]);
    let stats = h.api("GET", "/containers/one/stats?stream=false&one-shot=true", None).json();
    assert_eq!(stats["networks"].as_object().map(|n| n.len()), Some(1), "{}", stats["networks"]);
    has(&h.docker("network inspect -v lan"), &["5000000"]);
    h.docker("network create nn");
    h.docker("network connect nn one");
    h.docker("network disconnect lan one");
    assert!(!h.sh(&format!("nsenter -t {pid} -n ip link")).contains("ifb-"));
}
