//! Networks and addresses of plugins, as the docker command uses them.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{SAMPAN, SOON, field, has, host};
use sampan_testkit::{Host, Lan, Plugin, eventually, skip};
use serde_json::json;

/// An IPAM plugin that gives 10.66.0.100, .101 … of the pool 10.66.0.0/24.
fn start_ipam(socket: &Path) -> Plugin {
    let mut next = 100;
    Plugin::start(socket, move |method, request| {
        Ok(match method {
            "Plugin.Activate" => json!({ "Implements": ["IpamDriver"] }),
            "IpamDriver.GetDefaultAddressSpaces" => {
                json!({ "LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there" })
            }
            "IpamDriver.RequestPool" => json!({ "PoolID": "pool1", "Pool": "10.66.0.0/24" }),
            "IpamDriver.RequestAddress" => {
                let wanted = request["Address"].as_str().unwrap();
                let gateway = request["Options"]["RequestAddressType"].is_string();
                let address = match (wanted, gateway) {
                    ("", true) => "10.66.0.1".to_owned(),
                    ("", false) => {
                        next += 1;
                        format!("10.66.0.{}", next - 1)
                    }
                    (wanted, _) => wanted.to_owned(),
                };
                json!({ "Address": format!("{address}/24") })
            }
            _ => json!({}),
        })
    })
}

/// A host whose daemon looks for plugins in a directory of the test's own.
fn host_with_plugins(test: &str) -> Option<(Lan, Host, String)> {
    let lan = Lan::new_or_skip(test)?;
    let mut h = lan.host("h1");
    let dir = h.dir().join("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    let args = ["--plugin-dir", dir.to_str().unwrap()];
    h.start_daemon(SAMPAN, &args);
    h.import_busybox();
    let dir = dir.display().to_string();
    Some((lan, h, dir))
}

fn released(asked: &Plugin) -> Vec<String> {
    let seen = asked.seen();
    let released = seen.iter().filter(|(method, _)| method == "IpamDriver.ReleaseAddress");
    released.map(|(_, r)| r["Address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_plugin_manages_the_addresses_of_a_network() {
    let test = "a_plugin_manages_the_addresses_of_a_network";
    let Some((_lan, mut h, dir)) = host_with_plugins(test) else { return };
    let asked = start_ipam(&Path::new(&dir).join("places.sock"));
    h.docker("network create --ipam-driver places --ipam-opt site=here nn");
    let pool = asked.seen().into_iter().find(|(m, _)| m == "IpamDriver.RequestPool");
    assert_eq!(pool.unwrap().1["Options"], json!({ "site": "here" }));
    let shown = h.docker("network inspect nn -f '{{json .IPAM}}'");
    has(&shown, &["\"Driver\":\"places\"", "10.66.0.0/24", "10.66.0.1", "\"site\":\"here\""]);
    h.docker("run -d --name ca --network nn busybox sleep 1000");
    h.docker("run -d --name cb --network nn --ip 10.66.0.50 busybox sleep 1000");
    let address = |name: &str| field(&h, name, "{{.NetworkSettings.Networks.nn.IPAddress}}");
    assert_eq!((address("ca").as_str(), address("cb").as_str()), ("10.66.0.100", "10.66.0.50"));
    h.docker("exec ca ping -c1 -W2 cb");
    h.docker("rm -f cb");
    eventually("the address is given back", SOON, || {
        (released(&asked) == ["10.66.0.50"]).then_some(())
    });
    // What ends while there is no daemon is given back by the next one.
    let pid = field(&h, "ca", "{{.State.Pid}}");
    h.stop_daemon("KILL");
    h.sh(&format!("kill -9 {pid}"));
    let args = ["--plugin-dir", dir.as_str()];
    h.start_daemon(SAMPAN, &args);
    eventually("the address of the dead is given back", SOON, || {
        (released(&asked) == ["10.66.0.50", "10.66.0.100"]).then_some(())
    });
    h.docker("network rm nn");
    let last = asked.methods().pop().unwrap();
    assert_eq!(last, "IpamDriver.ReleasePool");
}

#[test]
fn plugins_that_are_not_there_are_named() {
    let Some((_lan, h)) = host("plugins_that_are_not_there_are_named") else { return };
    has(&h.docker_fails("network create -d nosuch nn").1, &["plugin \"nosuch\" not found"]);
    has(&h.docker_fails("network create --ipam-driver nosuch nn").1, &["\"nosuch\" not found"]);
    has(&h.docker_fails("network create -d cni nn").1, &["-o conf="]);
    has(&h.docker_fails("network create -d cni -o conf=/no/such nn").1, &["/no/such"]);
    assert_eq!(h.docker("network ls -q -f type=custom"), "");
}

#[test]
fn cni_plugins_make_a_network() {
    let test = "cni_plugins_make_a_network";
    if !Path::new("/usr/lib/cni/bridge").exists() {
        return skip(test, "no CNI plugins in /usr/lib/cni");
    }
    let Some((lan, mut h)) = host(test) else { return };
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "cni-lan",
        "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {
            "type": "host-local", "dataDir": h.dir().join("leases"),
            "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}],
    });
    let file = h.dir().join("lan.conflist");
    std::fs::write(&file, list.to_string()).unwrap();
    h.docker(&format!("network create -d cni -o conf={} cn", file.display()));
    h.docker(&format!("run -d --name ca --network cn -p 8080:80 busybox {}", common::web(80)));
    h.docker("run -d --name cb --network cn busybox sleep 1000");
    assert_eq!(field(&h, "ca", "{{.NetworkSettings.Networks.cn.IPAddress}}"), "10.88.0.2");
    has(&h.docker("exec ca cat /etc/hosts"), &["10.88.0.2"]);
    has(&h.docker("exec cb ping -c1 -W2 ca"), &["10.88.0.2"]);
    eventually("the published port", SOON, || {
        (lan.outside(&format!("curl -fs --max-time 1 http://{}:8080/", h.ip)).code == 0)
            .then_some(())
    });
    common::crash_and_restart(&mut h);
    has(&h.docker("exec cb ping -c1 -W2 ca"), &["10.88.0.2"]);
    h.docker("rm -f ca cb");
    h.docker("network rm cn");
    assert_eq!(h.sh("ip -br link show master cni0"), "");
}
