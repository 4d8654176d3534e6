//! `--link`: names in the hosts file, variables in the environment, ways
//! between containers that are kept from each other.

mod common;

use common::{SAMPAN, SOON, field, has, host, host_with};
use sampan_testkit::{Host, eventually};

#[test]
fn links_on_the_default_bridge() {
    let Some((_lan, h)) = host("links_on_the_default_bridge") else { return };
    h.docker("run -dit --name web01 --expose 80 -e COLOUR=red busybox");
    h.docker("run -dit --name web02 --link web01:my-web busybox");
    let ip = field(&h, "web01", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    has(&h.docker("exec web02 cat /etc/hosts"), &[&ip, "my-web", "web01"]);
    h.docker("exec web02 ping -c1 -W2 my-web");
    let env = h.docker("exec web02 env");
    has(
        &env,
        &[
            &format!("MY_WEB_PORT=tcp://{ip}:80"),
            &format!("MY_WEB_PORT_80_TCP_ADDR={ip}"),
            "MY_WEB_NAME=/web02/my-web",
            "MY_WEB_ENV_COLOUR=red",
        ],
    );
    assert_eq!(field(&h, "web02", "{{.HostConfig.Links}}"), "[/web01:/web02/my-web]");
    // The target comes back with another address, and under another name.
    h.docker("stop -t0 web01");
    h.docker(&format!("run -dit --name other --ip {ip} busybox"));
    h.docker("rename web01 web09");
    h.docker("start web09");
    let moved = field(&h, "web09", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    assert_ne!(moved, ip);
    has(&h.docker("exec web02 grep my-web /etc/hosts"), &[&moved]);
    h.docker("exec web02 ping -c1 -W2 my-web");
    // A link is removed by its name.
    has(&h.docker_fails("rm --link web02").1, &["default link name"]);
    has(&h.docker_fails("rm --link web02/nosuch").1, &["nosuch"]);
    h.docker("rm --link web02/my-web");
    assert!(!h.docker("exec web02 cat /etc/hosts").contains("my-web"));
    h.docker("rm -f web09 web02 other");
}

#[test]
fn wrong_links_are_refused() {
    let Some((_lan, h)) = host("wrong_links_are_refused") else { return };
    h.docker("run -dit --name aa busybox");
    h.docker("create --name idle busybox");
    h.docker("run -dit --name hh --net host busybox");
    let run = |args: &str| h.docker_fails(&format!("run --rm --name xx {args} busybox true")).1;
    has(&run("--link nosuch:x"), &["could not get container for nosuch"]);
    has(&run("--link idle:x"), &["Cannot link to a non running container: /idle AS /xx/x"]);
    has(&run("--link hh:x"), &["host type networking can't be used with links"]);
    has(&run("--net host --link aa:x"), &["host type networking can't be used with links"]);
    has(&run("--net container:aa --link aa:x"), &["can't be used with links"]);
    assert_eq!(h.docker("ps -aq -f name=^xx$"), "");
}

/// Whether a container reaches a page of another one.
fn reaches(h: &Host, from: &str, url: &str) -> bool {
    reaches_from(h, &field(h, from, "{{.State.Pid}}"), url)
}

/// As [`reaches`], by the container's process.
fn reaches_from(h: &Host, pid: &str, url: &str) -> bool {
    h.run(&format!("nsenter -t {pid} -n curl -gfs --max-time 1 '{url}'")).code == 0
}

#[test]
fn links_open_what_is_exposed_on_a_closed_bridge() {
    let args = ["--icc=false", "--ipv6", "--fixed-cidr-v6=fd77::/64"];
    let Some((_lan, mut h)) = host_with("links_open_what_is_exposed_on_a_closed_bridge", &args)
    else {
        return;
    };
    let serve = "sh -c 'mkdir /www; echo x >/www/index.html; httpd -p 81 -h /www; \
                 exec httpd -f -p 80 -h /www'";
    h.docker(&format!("run -d --name aa --expose 80 busybox {serve}"));
    h.docker("run -d --name bb --link aa:x busybox sleep 1000");
    h.docker("run -d --name cc busybox sleep 1000");
    let four = field(&h, "aa", "{{.NetworkSettings.IPAddress}}");
    let six = field(&h, "aa", "{{.NetworkSettings.GlobalIPv6Address}}");
    let urls = |port: u16| [format!("http://{four}:{port}/"), format!("http://[{six}]:{port}/")];
    eventually("the page", SOON, || reaches(&h, "bb", &urls(80)[0]).then_some(()));
    let [linked, stranger] = ["bb", "cc"].map(|name| field(&h, name, "{{.State.Pid}}"));
    let check = |h: &Host, when: &str| {
        for url in urls(80) {
            assert!(reaches_from(h, &linked, &url), "{when}: {url}");
            assert!(!reaches_from(h, &stranger, &url), "{when}: a stranger");
        }
        for url in urls(81) {
            assert!(!reaches_from(h, &linked, &url), "{when}: not exposed");
        }
    };
    check(&h, "linked");
    h.stop_daemon("KILL");
    check(&h, "without a daemon");
    h.start_daemon(SAMPAN, &args);
    check(&h, "with another daemon");
    // Every one of them may be started anew, the target elsewhere.
    h.docker("restart -t0 bb");
    h.docker("stop -t0 aa");
    h.docker(&format!("run -d --name taker --ip {four} busybox sleep 1000"));
    h.docker("start aa");
    let moved = field(&h, "aa", "{{.NetworkSettings.IPAddress}}");
    assert_ne!(moved, four);
    let url = format!("http://{moved}:80/");
    eventually("the page elsewhere", SOON, || reaches(&h, "bb", &url).then_some(()));
    // What is published later is exposed, too.
    let out = h.run(&format!("{SAMPAN} -H $DOCKER_HOST update --publish-add 8081:81 aa"));
    assert_eq!(out.code, 0, "{}", out.errors());
    assert!(reaches(&h, "bb", &format!("http://{moved}:81/")));
    h.docker("rm --link bb/x");
    assert!(!reaches(&h, "bb", &url), "the link is gone");
    h.docker("rm -f aa bb cc taker");
    let left =
        h.sh("nft list set inet $(nft list tables inet | grep -o 'sampan[^ ]*' | head -1) links");
    assert!(!left.contains("elements"), "{left}");
}

#[test]
fn links_open_what_is_exposed_on_closed_networks() {
    let Some((_lan, h)) = host("links_open_what_is_exposed_on_closed_networks") else { return };
    h.docker("network create -o com.docker.network.bridge.enable_icc=false shy");
    h.docker(&format!("run -d --name aa --net shy --expose 80 busybox {}", common::web(80)));
    h.docker("run -d --name bb --net shy --link aa:x busybox sleep 1000");
    h.docker("run -d --name cc --net shy busybox sleep 1000");
    let url = format!("http://{}/", field(&h, "aa", "{{.NetworkSettings.Networks.shy.IPAddress}}"));
    eventually("the page", SOON, || reaches(&h, "bb", &url).then_some(()));
    assert!(!reaches(&h, "cc", &url));
    h.docker("network disconnect shy cc");
    h.docker("network connect --link aa:x shy cc");
    assert!(reaches(&h, "cc", &url));
    h.docker("network disconnect shy cc");
    h.docker("network connect shy cc");
    assert!(!reaches(&h, "cc", &url));
    h.docker(
        "network create --internal -o com.docker.network.bridge.enable_icc=false \
         -o com.docker.network.bridge.gateway_mode_ipv4=isolated apart",
    );
    h.docker("run -d --name dd --net apart busybox sleep 1000");
    has(
        &h.docker_fails("run --rm --net apart --link dd:x busybox true").1,
        &["network apart", "no address on the host"],
    );
}
