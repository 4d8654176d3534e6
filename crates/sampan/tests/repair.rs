//! What somebody else removes is restored while the daemon runs, and told of;
//! `network check`, `network stats` and `network trace`.

mod common;

use common::{SAMPAN, SOON, field, has, host_with, web};
use sampan_testkit::eventually;

#[test]
fn a_flushed_ruleset_is_restored_under_traffic() {
    let name = "a_flushed_ruleset_is_restored_under_traffic";
    let Some((lan, h)) = host_with(name, &["--metrics-addr", "127.0.0.1:9323"]) else { return };
    h.docker("network create shop");
    h.docker(&format!("run -d --name ww --network shop -p 8080:80 busybox {}", web(80)));
    let url = format!("http://{}:8080/", h.ip);
    let fetch = || lan.outside(&format!("curl -s --max-time 1 {url}"));
    eventually("the page", SOON, || (fetch().code == 0).then_some(()));
    let since = h.sh("date +%s");
    let veth = h.sh("ip -o link show type veth | grep -o 'veth[0-9a-f]*' | head -1");
    let bridge = h.sh("ip -o link show type bridge | grep -o 'br-[0-9a-f]*' | head -1");
    h.sh("nft add table ip theirs");
    let damages = [
        "nft delete table inet $(nft list tables inet | grep -o 'sampan[^ ]*$' | head -1)"
            .to_owned(),
        format!("ip link delete {veth}"),
        format!("ip address flush dev {bridge}"),
        "nft flush ruleset".to_owned(),
    ];
    for damage in &damages {
        h.sh(damage);
        // Asks all the while, from the first moment on.
        let back = "for i in $(seq 50); do curl -s --max-time 0.2 URL >/dev/null && exit 0; sleep 0.02; done; exit 1";
        let back = lan.outside(&back.replace("URL", &url));
        assert_eq!(back.code, 0, "{damage}");
    }
    assert_eq!(h.run("nft list table ip theirs").code, 1, "flushed, and not ours to restore");
    let until = format!("--since {since} --until $(date +%s) --filter event=repair");
    let format =
        "--format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.kind}}'";
    eventually("an event of each repair", SOON, || {
        let events = h.sh(&format!("docker events {until} {format}"));
        let all = ["host firewall", "shop endpoint", "shop network"];
        all.iter().all(|e| events.contains(&format!("network repair {e}"))).then_some(())
    });
    let metrics = h.sh("curl -s http://127.0.0.1:9323/metrics");
    has(&metrics, &["sampan_network_repairs_total{kind=\"firewall\"}"]);
    has(&metrics, &["kind=\"endpoint\"", "kind=\"network\""]);
    h.docker("rm -f ww");
    h.docker("network rm shop");
}

#[test]
fn the_way_to_the_name_service_comes_back() {
    let name = "the_way_to_the_name_service_comes_back";
    let Some((_lan, h)) = host_with(name, &["--metrics-addr", "127.0.0.1:9323"]) else { return };
    h.docker("network create shop");
    h.docker("run -d --name ww --network shop busybox sleep 1d");
    h.docker("run -d --name cc --network shop busybox sleep 1d");
    let pid = field(&h, "cc", "{{.State.Pid}}");
    let asks = || h.run("docker exec cc nslookup ww").code == 0;
    let rules = || h.sh(&format!("nsenter -t {pid} -n nft list ruleset"));
    eventually("an answer", SOON, || asks().then_some(()));
    let before = rules();
    // Where they are depends on the kernel.
    let table = h.sh(&format!("nsenter -t {pid} -n nft list tables"));
    let table = table.trim_start_matches("table ").trim();
    let chain = before.lines().find_map(|l| l.trim().strip_prefix("chain ")?.split(' ').next());
    let rules_count = before.lines().count();
    for damage in [
        "nft flush ruleset",
        &format!("nft delete table {table}"),
        &format!("nft flush table {table}"),
        &format!("nft insert rule {table} {} drop", chain.unwrap_or_default()),
    ] {
        h.sh(&format!("nsenter -t {pid} -n {damage}"));
        // Well before the next comparison of everything.
        eventually(damage, SOON, || {
            (rules().lines().count() == rules_count && asks()).then_some(())
        });
    }
    h.sh(&format!("nsenter -t {pid} -n nft add table inet theirs"));
    h.sh(&format!("nsenter -t {pid} -n nft delete table inet theirs"));
    let metrics = h.sh("curl -s http://127.0.0.1:9323/metrics");
    has(&metrics, &["sampan_network_repairs_total{kind=\"names\"} 4"]);
    has(&metrics, &["sampan_network_event_overruns_total 0"]);
}

#[test]
fn check_stats_and_trace_say_how_it_is() {
    let Some((_lan, h)) = host_with("check_stats_and_trace_say_how_it_is", &[]) else { return };
    h.docker("network create shop");
    h.docker("network create other");
    h.docker(&format!("run -d --name ww --network shop -p 8080:80 busybox {}", web(80)));
    h.docker("run -dit --name cc --network shop busybox");
    h.docker("run -dit --name oo --network other busybox");
    let sampan = |line: &str| h.run(&format!("{SAMPAN} network {line}"));
    eventually("the page", SOON, || {
        (h.run("curl -s --max-time 1 http://127.0.0.1:8080/").code == 0).then_some(())
    });
    let fine = sampan("check");
    assert_eq!((fine.code, fine.text().contains("as they shall be")), (0, true), "{}", fine.text());
    let stats = sampan("stats shop --no-stream").text();
    has(&stats, &["NETWORK", "PACKETS RX / TX", "shop", "ww", "cc", "eth0"]);
    assert!(!stats.contains("oo"), "{stats}");
    has(&sampan("stats --json").text(), &["\"RxBytes\":", "\"Name\":\"oo\"", "RttP99Micros"]);
    assert_eq!(sampan("stats shop --format '{{.Name}}'").text().lines().count(), 2);
    let to_web = sampan("trace cc ww --port 80");
    assert_eq!(to_web.code, 0, "{}", to_web.text());
    has(&to_web.text(), &["container cc", "bridge br-", "container ww", "arrives", "listens at"]);
    let silent = sampan("trace cc ww --port 81/tcp");
    assert_eq!(silent.code, 1);
    has(&silent.text(), &["stops", "nothing in the container listens on port 81/tcp"]);
    let apart = sampan("trace oo ww --port 80 --json");
    assert_eq!(apart.code, 1);
    has(&apart.text(), &["\"Arrives\":false", "published ports only"]);
    let published = sampan(&format!("trace 10.1.2.3 {} --port 8080", h.ip));
    assert_eq!(published.code, 0, "{}", published.text());
    assert_eq!(sampan("check nosuch").code, 1);
    let unknown = sampan("trace cc nosuch");
    assert_eq!(unknown.code, 1);
    let subnet = field(&h, "ww", "{{.NetworkSettings.Networks.shop.Gateway}}");
    let net = format!("{}.0/24", subnet.rsplit_once('.').map(|(net, _)| net).unwrap_or_default());
    h.sh(&format!("ip route add {net} dev lo"));
    let late = sampan("check shop");
    has(&late.text(), &["warning: network shop:", &net, "lo overlaps"]);
    assert_eq!(late.code, 0, "a warning is no failure: {}", late.text());
    h.sh("nft 'table ip theirs { chain forward { type filter hook forward priority 0; policy drop; }; }'");
    let dropped = sampan("check shop --json");
    assert_eq!(dropped.code, 1);
    has(&dropped.text(), &["\"Ok\":false", "chain forward of table ip theirs"]);
    h.docker("rm -f ww cc oo");
}
