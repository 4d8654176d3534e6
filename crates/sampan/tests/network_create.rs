//! Making, showing and removing networks: options, subnets of both families,
//! and what is refused with nothing left behind.

mod common;

use common::{SOON, field, has, host, host_with};
use sampan_testkit::{Host, eventually};
use serde_json::json;

/// Interfaces, networks and rules, which a refusal must not change.
fn world(h: &Host) -> (String, String, String) {
    let rules = "nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*/packets 0 bytes 0/'";
    (h.sh("ip -br link | awk '{print $1}' | sort"), h.docker("network ls -q"), h.sh(rules))
}

fn address(h: &Host, container: &str, network: &str, key: &str) -> String {
    field(h, container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").{key}}}}}"))
}

#[test]
fn subnets_of_both_families() {
    let Some((_lan, h)) = host("subnets_of_both_families") else { return };
    h.docker("network create --ipv6 both");
    let net = h.docker("network inspect both --format '{{range .IPAM.Config}}{{.Subnet}} {{end}}'");
    let subnets: Vec<&str> = net.split_whitespace().collect();
    assert_eq!(subnets.len(), 2, "{net}");
    assert!(subnets[1].starts_with("fd") && subnets[1].ends_with("/64"), "{net}");
    assert_eq!(
        h.docker("network inspect both --format '{{.EnableIPv4}} {{.EnableIPv6}}'"),
        "true true"
    );
    h.docker("run -dit --name aa --net both busybox");
    h.docker("run -dit --name bb --net both busybox");
    for key in ["IPAddress", "GlobalIPv6Address"] {
        let to = address(&h, "bb", "both", key);
        eventually(&format!("ping {to}"), SOON, || {
            (h.run(&format!("docker exec aa ping -c1 -W1 {to}")).code == 0).then_some(())
        });
    }
    h.docker("network create --ipv4=false --ipv6 --subnet fd00:7::/64 --gateway fd00:7::9 six");
    h.docker("run -dit --name cc --net six --ip6 fd00:7::77 busybox");
    assert_eq!(address(&h, "cc", "six", "GlobalIPv6Address"), "fd00:7::77");
    assert_eq!(address(&h, "cc", "six", "IPAddress"), "");
    assert_eq!(address(&h, "cc", "six", "IPv6Gateway"), "fd00:7::9");
    h.docker("exec cc ping -c1 -W2 fd00:7::9");
    // The first subnet with room gives the address. The docker command would
    // name them in an order of its own.
    let subnets = json!([{ "Subnet": "10.61.0.0/30" }, { "Subnet": "10.62.0.0/24" }]);
    let two = json!({ "Name": "two", "IPAM": { "Config": subnets } });
    assert_eq!(h.api("POST", "/networks/create", Some(&two)).status, 201);
    h.docker("run -dit --name dd --net two busybox");
    h.docker("run -dit --name ee --net two busybox");
    assert_eq!(address(&h, "dd", "two", "IPAddress"), "10.61.0.2");
    assert_eq!(address(&h, "ee", "two", "IPAddress"), "10.62.0.2");
    h.docker("exec ee ping -c1 -W2 10.62.0.1");
    let full = h.docker_fails("run --net six --ip6 fd00:7::77 busybox true").1;
    has(&full, &["already in use", "fd00:7::77", "container cc"]);
    h.docker("rm -f aa bb cc dd ee");
    h.docker("network rm both six two");
}

#[test]
fn options_are_carried_out() {
    let Some((_lan, h)) = host("options_are_carried_out") else { return };
    h.docker(
        "network create -o com.docker.network.bridge.name=mybr0 -o com.docker.network.driver.mtu=1400 \
         -o com.docker.network.container_iface_prefix=lan -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 \
         -o sampan.gso_max_size=131072 --label colour=red mine",
    );
    has(&h.sh("ip -o link show mybr0"), &["mybr0"]);
    h.docker("run -dit --name aa --net mine -p 8099:80 busybox");
    has(&h.docker("exec aa ip -o link show lan0"), &["mtu 1400"]);
    has(&h.sh("ip -d link show master mybr0"), &["gso_max_size 131072"]);
    has(&h.docker("port aa"), &["127.0.0.1:8099"]);
    let ls = |filter: &str| h.docker(&format!("network ls --format '{{{{.Name}}}}' {filter}"));
    assert_eq!(ls("-f label=colour=red"), "mine");
    assert_eq!(ls("-f driver=bridge -f type=custom"), "mine");
    assert_eq!(ls("-f type=builtin -f driver=host"), "host");
    assert_eq!(ls("-f dangling=true"), "");
    assert_eq!(ls("-f scope=local -f name=min"), "mine");
    has(&h.docker_fails("network ls -f colour=red").1, &["invalid filter"]);
    let verbose = h.docker("network inspect -v mine");
    has(&verbose, &["\"DNSNames\"", "\"aa\"", "8099"]);
    h.docker("rm -f aa");
    h.docker("network create --internal --attachable -d bridge other");
    assert_eq!(h.docker("network inspect other -f '{{.Internal}} {{.Attachable}}'"), "true true");
    let pruned = h.docker("network prune -f --filter label=colour=red");
    has(&pruned, &["mine"]);
    assert!(!pruned.contains("other"), "{pruned}");
    assert_eq!(h.docker("network prune -f --filter until=1h"), "");
    h.docker("network rm other");
}

#[test]
fn configurations_are_inherited() {
    let Some((_lan, h)) = host("configurations_are_inherited") else { return };
    let before = h.sh("ip -br link | wc -l");
    h.docker("network create --config-only --subnet 10.63.0.0/24 -o com.docker.network.driver.mtu=1300 conf");
    assert_eq!(h.sh("ip -br link | wc -l"), before);
    assert_eq!(h.docker("network inspect conf -f '{{.ConfigOnly}} {{.Driver}}'"), "true null");
    h.docker("network create --config-from conf mine");
    assert_eq!(h.docker("network inspect mine -f '{{.ConfigFrom.Network}}'"), "conf");
    h.docker("run -dit --name aa --net mine busybox");
    assert_eq!(address(&h, "aa", "mine", "IPAddress"), "10.63.0.2");
    has(&h.docker("exec aa ip -o link show eth0"), &["mtu 1300"]);
    has(&h.docker_fails("network rm conf").1, &["conf", "in use", "mine"]);
    has(&h.docker_fails("run --rm --net conf busybox true").1, &["configuration-only"]);
    has(&h.docker_fails("network create --config-from nosuch xx").1, &["nosuch", "not found"]);
    has(
        &h.docker_fails("network create --config-from conf --subnet 10.64.0.0/24 xx").1,
        &["not supported"],
    );
    h.docker("rm -f aa");
    h.docker("network rm mine");
    h.docker("network rm conf");
}

#[test]
fn what_is_refused_leaves_nothing() {
    let Some((_lan, h)) = host("what_is_refused_leaves_nothing") else { return };
    h.docker("network create --subnet 10.71.0.0/24 first");
    h.sh("ip link add vpn0 type dummy 2>/dev/null || ip link add vpn0 type veth peer name vpn1; ip link set vpn0 up; ip route add 10.72.0.0/16 dev vpn0 table 77");
    let before = world(&h);
    for (args, words) in [
        ("first", vec!["already exists"]),
        ("--subnet 10.71.0.128/25 xx", vec!["overlaps", "first", "10.71.0.0/24"]),
        ("--subnet 10.72.5.0/24 xx", vec!["overlaps", "10.72.0.0/16", "vpn0", "allow_overlap"]),
        ("--subnet 10.73.0.1/24 xx", vec!["10.73.0.0/24"]),
        ("--subnet notacidr xx", vec!["invalid"]),
        ("--subnet 10.73.0.0/24 --gateway 10.74.0.1 xx", vec!["10.74.0.1"]),
        ("--subnet 10.73.0.0/31 xx", vec!["10.73.0.0/31"]),
        ("--subnet fd00:8::/64 --ipv6=false xx", vec!["fd00:8::/64", "--ipv6"]),
        ("--ipv4=false xx", vec!["IPv4 or IPv6"]),
        (
            "-o com.docker.network.bridge.name=a-much-too-long-name xx",
            vec!["a-much-too-long-name", "15"],
        ),
        ("-o com.docker.network.bridge.name=docker0 xx", vec!["docker0", "bridge"]),
        ("-o com.docker.network.driver.mtu=9 xx", vec!["MTU", "9"]),
        ("-o com.docker.network.driver.mtu=70000 xx", vec!["70000"]),
        ("-o sampan.gso_max_size=192k xx", vec!["sampan.gso_max_size", "192k", "number"]),
        ("-o sampan.gso_max_size=1000000 xx", vec!["1000000", "65536 to 524280"]),
        (
            "-o com.docker.network.bridge.gateway_mode_ipv4=isolated xx",
            vec!["isolated", "--internal"],
        ),
        ("-o no.such.option=1 xx", vec!["no.such.option"]),
        (
            "-o com.docker.network.bridge.trusted_host_interfaces=a/b xx",
            vec!["trusted_host_interfaces"],
        ),
        ("--ipam-driver nosuch xx", vec!["nosuch"]),
        ("--ipam-opt foo=bar xx", vec!["foo"]),
        ("-d nosuch xx", vec!["nosuch", "plugin"]),
        ("-d macvlan -o parent=nosuch0 xx", vec!["nosuch0"]),
        ("--scope swarm xx", vec!["scope"]),
        ("host", vec!["predefined"]),
    ] {
        let error = h.docker_fails(&format!("network create {args}")).1;
        has(&error, &words);
        assert_eq!(world(&h), before, "{args}");
    }
    // Who insists gets it.
    h.docker("network create --subnet 10.72.5.0/24 -o sampan.allow_overlap=true xx");
    h.docker("network rm xx");
    // One that nobody names goes round every route, also of other tables.
    h.sh("ip route add 172.16.0.0/12 dev vpn0 table 78");
    h.docker("network create auto");
    let subnet = h.docker("network inspect auto -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}'");
    assert!(subnet.starts_with("192.168."), "{subnet}");
    h.docker("network rm auto first");
}

#[test]
fn pools_run_out_and_say_so() {
    let args = ["--default-address-pool", "base=10.91.0.0/24,size=26", "--bip", "10.90.0.1/24"];
    let Some((_lan, h)) = host_with("pools_run_out_and_say_so", &args) else { return };
    for i in 0..4 {
        h.docker(&format!("network create n{i}"));
    }
    has(&h.docker_fails("network create n4").1, &["--default-address-pool"]);
    h.docker("network rm n1");
    h.docker("network create n5");
    assert_eq!(
        h.docker("network inspect n5 -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}'"),
        "10.91.0.64/26"
    );
}

#[test]
fn removal_names_what_is_in_the_way() {
    let Some((_lan, h)) = host("removal_names_what_is_in_the_way") else { return };
    h.docker("network create one");
    h.docker("network create two");
    h.docker("run -dit --name aa --net one busybox");
    let error = h.docker_fails("network rm one").1;
    has(&error, &["active endpoints", "\"aa\""]);
    has(
        &h.docker_fails("network rm two one nosuch").1,
        &["active endpoints", "nosuch", "not found"],
    );
    has(&h.docker_fails("network inspect two").1, &["not found"]);
    has(&h.docker_fails("network rm bridge").1, &["pre-defined"]);
    h.docker("stop -t0 aa");
    h.docker("network rm one");
    has(&h.docker_fails("start aa").1, &["one", "not found"]);
    h.docker("rm aa");
}
