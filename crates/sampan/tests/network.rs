//! The default bridge, host, none and published ports, with real packets.

mod common;

use common::{SOON, field, has, host, web};
use sampan_testkit::{Lan, eventually};

#[test]
fn the_default_bridge_connects_and_masquerades() {
    let Some((_lan, h)) = host("the_default_bridge_connects_and_masquerades") else { return };
    h.docker("run -dit --name ca busybox");
    h.docker("run -dit --name cb busybox");
    let ip = field(&h, "cb", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    assert!(ip.starts_with("172.17.0."), "{ip}");
    h.docker(&format!("exec ca ping -c1 -W2 {ip}"));
    h.docker(&format!("exec ca ping -c1 -W2 {}", Lan::OUTSIDE_IP));
    has(&h.sh("ip -o link show master docker0"), &["veth"]);
    assert_eq!(field(&h, "ca", "{{.NetworkSettings.Networks.bridge.Gateway}}"), "172.17.0.1");
    h.docker("rm -f ca cb");
    eventually("the links are gone", SOON, || {
        h.sh("ip -o link show master docker0").is_empty().then_some(())
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let Some((lan, h)) = host("a_published_port_is_reached_from_everywhere") else { return };
    h.docker(&format!("run -d --name ww -p 8080:80 busybox {}", web(80)));
    h.docker("run -dit --name cc busybox");
    let name = h.docker("exec ww hostname");
    let fetch = |from: &str, got: &dyn Fn() -> sampan_testkit::Outcome| {
        eventually(from, SOON, || (got().text() == name).then_some(()));
    };
    let url = format!("http://{}:8080/", h.ip);
    fetch("outside", &|| lan.outside(&format!("curl -s --max-time 2 {url}")));
    fetch("127.0.0.1", &|| h.run("curl -s --max-time 2 http://127.0.0.1:8080/"));
    fetch("the host's address", &|| h.run(&format!("curl -s --max-time 2 {url}")));
    fetch("another container", &|| {
        h.run(&format!("docker exec cc wget -T2 -qO- {url} || docker exec cc wget -qO- {url}"))
    });
    fetch("the container itself", &|| h.run(&format!("docker exec ww wget -qO- {url}")));
    assert_eq!(h.docker("port ww"), "80/tcp -> 0.0.0.0:8080");
    has(&h.docker("ps"), &["0.0.0.0:8080->80/tcp"]);
    let taken = h.docker_fails("run -d --name w2 -p 8080:80 busybox sleep 100").1;
    has(&taken, &["8080", "already", "ww"]);
    h.docker("rm -f ww");
    assert_ne!(h.run("curl -s --max-time 1 http://127.0.0.1:8080/").code, 0);
    h.docker("rm -f w2 cc");
}

#[test]
fn a_port_in_use_by_a_process_names_it() {
    let Some((_lan, h)) = host("a_port_in_use_by_a_process_names_it") else { return };
    h.sh("busybox httpd -p 8085 -h /tmp");
    let error = h.docker_fails("run -d -p 8085:80 busybox sleep 100").1;
    has(&error, &["8085", "in use", "busybox"]);
    h.sh("kill $(ss -Hlntp 'sport = :8085' | sed 's/.*pid=\\([0-9]*\\).*/\\1/')");
}

#[test]
fn the_clients_address_is_kept() {
    let Some((lan, h)) = host("the_clients_address_is_kept") else { return };
    let cgi = "sh -c 'mkdir -p /www/cgi-bin; printf \"#!/bin/sh\\necho; echo \\$REMOTE_ADDR\\n\" > /www/cgi-bin/ip; chmod +x /www/cgi-bin/ip; exec httpd -f -p 80 -h /www'";
    h.docker(&format!("run -d --name ww -p 8088:80 busybox {cgi}"));
    let url = format!("http://{}:8088/cgi-bin/ip", h.ip);
    eventually("the page", SOON, || {
        let seen = lan.outside(&format!("curl -s --max-time 2 {url}")).text();
        (!seen.is_empty()).then(|| assert!(seen.contains(Lan::OUTSIDE_IP), "{seen}"))
    });
}

#[test]
fn random_single_address_range_and_udp_ports() {
    let Some((lan, h)) = host("random_single_address_range_and_udp_ports") else { return };
    h.docker(&format!("run -d --name rnd -p 80 busybox {}", web(80)));
    let port: u16 = h
        .docker("port rnd 80")
        .lines()
        .next()
        .unwrap()
        .rsplit_once(':')
        .unwrap()
        .1
        .parse()
        .unwrap();
    assert!((32768..=60999).contains(&port), "{port}");
    let url = format!("http://{}:{port}/", h.ip);
    eventually("the random port", SOON, || {
        (lan.outside(&format!("curl -fs --max-time 2 {url}")).code == 0).then_some(())
    });
    h.docker(&format!("run -d --name all --expose 80 --expose 81 -P busybox {}", web(80)));
    assert_eq!(h.docker("port all").lines().filter(|l| l.contains("0.0.0.0")).count(), 2);
    h.docker(&format!("run -d --name lo -p 127.0.0.1:9000:80 busybox {}", web(80)));
    eventually("the loopback port", SOON, || {
        (h.run("curl -fs --max-time 2 http://127.0.0.1:9000/").code == 0).then_some(())
    });
    assert_ne!(lan.outside(&format!("curl -fs --max-time 1 http://{}:9000/", h.ip)).code, 0);
    h.docker(&format!(
        "run -d --name rng -p 9100-9110:9100-9110 -p 5353:53/udp busybox {}",
        web(9105)
    ));
    eventually("a port of the range", SOON, || {
        (lan.outside(&format!("curl -fs --max-time 2 http://{}:9105/", h.ip)).code == 0)
            .then_some(())
    });
    has(&h.docker("port rng"), &["53/udp -> 0.0.0.0:5353", "9110/tcp -> 0.0.0.0:9110"]);
    // Datagrams themselves are tested in the network crate: busybox sends none.
}

#[test]
fn what_is_not_published_is_not_reached() {
    let Some((lan, h)) = host("what_is_not_published_is_not_reached") else { return };
    h.docker(&format!("run -d --name ww busybox {}", web(80)));
    let ip = field(
        &h,
        "ww",
        "{{.NetworkSettings.IPAddress}}{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
    );
    let ip = &ip[..ip.len() / if ip.matches("172.").count() > 1 { 2 } else { 1 }];
    eventually("the server", SOON, || {
        (h.run(&format!("curl -fs --max-time 2 http://{ip}/")).code == 0).then_some(())
    });
    let routed = lan.outside(&format!(
        "ip route add 172.17.0.0/16 via {}; curl -s --max-time 1 http://{ip}/",
        h.ip
    ));
    assert_ne!(routed.code, 0, "{}", routed.text());
}

#[test]
fn host_and_none() {
    let Some((lan, h)) = host("host_and_none") else { return };
    has(&h.docker("run --rm --net host busybox ip -4 addr show eth0"), &[&h.ip]);
    h.docker(&format!("run -d --name hw --net host busybox {}", web(8181)));
    eventually("the host's port", SOON, || {
        (lan.outside(&format!("curl -fs --max-time 2 http://{}:8181/", h.ip)).code == 0)
            .then_some(())
    });
    let links = h.docker("run --rm --net none busybox ip -o link");
    assert_eq!(links.lines().count(), 1, "{links}");
    has(&links, &["lo"]);
    let rows = h.docker("network ls --format '{{.Name}} {{.Driver}}'");
    has(&rows, &["bridge bridge", "host host", "none null"]);
    has(&h.docker_fails("network rm bridge").1, &["pre-defined"]);
    has(&h.docker_fails("network create -d host another").1, &["only one instance"]);
}

#[test]
fn foreign_rules_are_left_alone_and_ours_go_with_the_container() {
    let Some((_lan, h)) = host("foreign_rules_are_left_alone_and_ours_go_with_the_container")
    else {
        return;
    };
    h.sh("nft add table inet mine; nft add chain inet mine c '{ type filter hook input priority 0; }'; nft add rule inet mine c tcp dport 9 drop");
    let clean = h.sh("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*/packets 0 bytes 0/'");
    h.docker("run -d --name a1 -p 8001:80 -p 8002:81/udp busybox sleep 1000");
    let used = h.sh("nft list ruleset");
    has(&used, &["8001", "8002", "table inet mine"]);
    h.docker("rm -f a1");
    let after = h.sh("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*/packets 0 bytes 0/'");
    assert_eq!(after, clean);
}
