//! `--link`: names in the hosts file, variables in the environment.

mod common;

use common::{field, has, host, host_with};

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

#[test]
fn links_through_a_closed_bridge_are_refused() {
    let args = ["--icc=false"];
    let Some((_lan, h)) = host_with("links_through_a_closed_bridge_are_refused", &args) else {
        return;
    };
    h.docker("run -dit --name aa --expose 80 busybox");
    has(&h.docker_fails("run --rm --link aa:x busybox true").1, &["icc=false", "policy"]);
}
