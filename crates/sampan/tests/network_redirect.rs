//! Containers that reach each other past their bridge, through a daemon's
//! death and with the setting that keeps them on it.

mod common;

use common::{SAMPAN, field, has, host};
use sampan_testkit::Host;

/// The host's end of a container's first interface.
fn link(h: &Host, name: &str) -> String {
    let pid = field(h, name, "{{.State.Pid}}");
    let peer = h.sh(&format!(
        "\
        nsenter -t {pid} -n ip -o link show eth0 | sed 's/.*@if\\([0-9]*\\):.*/\\1/'"
    ));
    let own = h.sh(&format!("ip -o link | sed -n 's/^{}: \\([^@:]*\\).*/\\1/p'", peer.trim()));
    own.trim().to_owned()
}

/// Packets that came to a container by its bridge while another pinged it 20
/// times.
fn by_bridge(h: &Host, from: &str, to: &str) -> u64 {
    let counter = format!("ip -s link show dev {} | sed -n '/TX:/{{n;p}}'", link(h, to));
    let packets = || -> u64 {
        let line = h.sh(&counter);
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default()
    };
    h.docker(&format!("exec {from} ping -c1 -W2 {to}"));
    let before = packets();
    h.docker(&format!("exec {from} ping -c20 -i0.01 -W2 {to}"));
    packets() - before
}

#[test]
fn neighbours_go_straight_whatever_becomes_of_the_daemon() {
    let test = "neighbours_go_straight_whatever_becomes_of_the_daemon";
    let Some((_lan, mut h)) = host(test) else { return };
    h.docker("network create straight");
    h.docker("run -d --name one --net straight busybox sleep 1000");
    h.docker("run -d --name two --net straight busybox sleep 1000");
    let filter = |h: &Host| h.sh(&format!("tc filter show dev {} ingress", link(h, "two")));
    has(&filter(&h), &["sampan_redirect"]);
    assert!(by_bridge(&h, "one", "two") < 10);
    // What does not pass the bridge is counted all the same.
    let stats = h.api("GET", "/containers/two/stats?stream=false&one-shot=true", None).json();
    assert!(stats["networks"]["eth0"]["rx_packets"].as_u64() >= Some(20), "{stats}");

    let ip = field(&h, "two", "{{.NetworkSettings.Networks.straight.IPAddress}}");
    let pid = field(&h, "one", "{{.State.Pid}}");
    h.stop_daemon("KILL");
    h.sh(&format!("nsenter -t {pid} -n busybox ping -c2 -W2 {ip}"));
    h.start_daemon(SAMPAN, &[]);
    has(&filter(&h), &["sampan_redirect"]);
    assert!(by_bridge(&h, "one", "two") < 10);

    // One that comes back is found where it is now.
    h.docker("restart -t0 two");
    assert!(by_bridge(&h, "one", "two") < 10);
    h.docker("network disconnect straight two");
    h.docker("network connect straight two");
    assert!(by_bridge(&h, "one", "two") < 10);

    h.stop_daemon("TERM");
    h.start_daemon(SAMPAN, &["--network-redirect=false"]);
    assert!(!filter(&h).contains("sampan_redirect"));
    assert!(by_bridge(&h, "one", "two") >= 20);
    h.docker("rm -f one two");
}
