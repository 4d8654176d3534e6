//! Networks of other people's programs: a driver plugin that is written here,
//! and Debian's CNI plugins.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use lab::{Container, GATEWAY, Lab, sandbox, sh};
use sampan_net::names::NoNames;
use sampan_net::{
    CniConfig, DriverConfig, EndpointSpec, NetConfig, NetworkSpec, Networks, RemoteConfig, Subnet,
};
use sampan_testkit::{Plugin, PluginAnswer};
use sampan_types::{EndpointId, NetworkId};
use serde_json::{Value, json};

/// A driver plugin that makes a bridge and a pair of links for each endpoint
/// by `ip`, in the namespace of the thread that starts it.
fn start_plugin(socket: &Path) -> Plugin {
    Plugin::start(socket, serve)
}

fn serve(method: &str, request: &Value) -> PluginAnswer {
    let id = |key: &str| request[key].as_str().unwrap()[..8].to_owned();
    match method {
        "Plugin.Activate" => return Ok(json!({ "Implements": ["NetworkDriver"] })),
        "NetworkDriver.CreateNetwork" => {
            if request["Options"]["com.docker.network.generic"]["refuse"] == "yes" {
                return Err("told to refuse".to_owned());
            }
            let (bridge, gateway) = (id("NetworkID"), &request["IPv4Data"][0]["Gateway"]);
            let gateway = gateway.as_str().unwrap();
            sh(&format!(
                "ip link add br-{bridge} type bridge; ip addr add {gateway} dev br-{bridge}; ip link set br-{bridge} up"
            ));
        }
        "NetworkDriver.DeleteNetwork" => drop(sh(&format!("ip link del br-{}", id("NetworkID")))),
        "NetworkDriver.CreateEndpoint" => {
            let (network, endpoint) = (id("NetworkID"), id("EndpointID"));
            sh(&format!(
                "ip link add p-{endpoint} type veth peer name c-{endpoint}; ip link set p-{endpoint} master br-{network} up"
            ));
        }
        "NetworkDriver.Join" => {
            return Ok(json!({
                "InterfaceName": {"SrcName": format!("c-{}", id("EndpointID")), "DstPrefix": "eth"},
                "Gateway": "10.77.0.1",
                "StaticRoutes": [{"Destination": "10.78.0.0/24", "RouteType": 0, "NextHop": "10.77.0.9"}],
            }));
        }
        "NetworkDriver.Leave" => {
            // The interface has to be back.
            sh(&format!("ip link show c-{}", id("EndpointID")));
        }
        "NetworkDriver.DeleteEndpoint" => drop(sh(&format!("ip link del p-{}", id("EndpointID")))),
        _ => {}
    }
    Ok(json!({}))
}

fn remote(name: &str, options: &[(&str, &str)]) -> NetworkSpec {
    let options: BTreeMap<_, _> =
        options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let subnet =
        Subnet { net: "10.77.0.0/24".parse().unwrap(), gateway: "10.77.0.1".parse().unwrap() };
    let config = RemoteConfig {
        plugin: "wires".to_owned(),
        options,
        subnets: vec![subnet],
        internal: false,
    };
    let driver = DriverConfig::Remote(config);
    NetworkSpec { id: NetworkId::random(), name: name.to_owned(), driver }
}

fn endpoint(network: &NetworkSpec, addresses: &[&str]) -> EndpointSpec {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    EndpointSpec::new(EndpointId::random(), network.id.clone(), addresses)
}

fn with_plugins(mut config: NetConfig) -> NetConfig {
    config.plugin_dirs = vec![config.exec_root.clone()];
    config
}

#[test]
fn a_driver_plugin_makes_networks_and_endpoints() {
    lab::run_with(tokio::runtime::Builder::new_multi_thread(), || async {
        let lab = Lab::with(with_plugins).await;
        let asked = start_plugin(&lab.config.exec_root.join("wires.sock"));
        let before = sh("ip -br link; nft -s list ruleset");
        let net = remote("wired", &[("colour", "blue")]);
        lab.networks.create_network(net.clone()).await.unwrap();
        let mut first = sandbox(vec![endpoint(&net, &["10.77.0.2"])], &["8080:80"]);
        first.endpoints[0].mac = Some("02:77:00:00:00:02".parse().unwrap());
        let made = lab.networks.join(first.clone()).await.unwrap();
        let attachment = &made.attachments[0];
        assert_eq!(attachment.interface.as_deref(), Some("eth0"));
        assert_eq!(attachment.mac.unwrap().to_string(), "02:77:00:00:00:02");
        let (one, other) = (Container::of(&made), {
            lab.join(&sandbox(vec![endpoint(&net, &["10.77.0.3"])], &[])).await
        });
        one.serve(80);
        assert_eq!(other.ask([10, 77, 0, 2], 80).as_deref(), Some("10.77.0.3"));
        // Published ports and the routes of the plugin.
        assert!(lab::ask(&lab.outside, lab::HOST, 8080).is_some());
        let routes = one.netns.run(|| sh("ip route")).unwrap();
        assert!(routes.contains("default via 10.77.0.1"), "{routes}");
        assert!(routes.contains("10.78.0.0/24 via 10.77.0.9"), "{routes}");

        // A daemon that knows nothing of it takes it over; the plugin is not
        // told again.
        let mut config = lab.config.clone();
        config.networks.push(net.clone());
        let told = asked.methods().len();
        let second = Networks::open(config, Box::new(NoNames)).await.unwrap();
        let repairs = second.reconcile(std::slice::from_ref(&first)).await.unwrap();
        assert_eq!(repairs.failed, Vec::<String>::new());
        assert_eq!(second.sandbox(&first.sandbox).unwrap().attachments, made.attachments);
        let since = asked.methods()[told..].to_vec();
        // The other one is nobody's now: it was taken back.
        let orphan = ["Plugin.Activate", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"];
        assert_eq!(since, orphan);

        second.leave(&first.sandbox).await.unwrap();
        second.delete_network(&net.id).await.unwrap();
        second.settle().await;
        assert_eq!(sh("ip -br link; nft -s list ruleset"), before, "nothing is left");
        let last = asked.methods().pop();
        assert_eq!(last.as_deref(), Some("NetworkDriver.DeleteNetwork"));
    });
}

#[test]
fn a_plugin_that_refuses_or_is_absent_is_named() {
    lab::run(|| async {
        let lab = Lab::with(with_plugins).await;
        let absent = lab.networks.create_network(remote("one", &[])).await.unwrap_err();
        assert!(absent.to_string().contains("plugin \"wires\" not found"), "{absent}");
        let asked = start_plugin(&lab.config.exec_root.join("wires.sock"));
        let refused = lab.networks.create_network(remote("two", &[("refuse", "yes")])).await;
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "plugin wires: NetworkDriver.CreateNetwork: told to refuse");
        // Nothing is left of it: no note, no interface.
        assert_eq!(asked.methods().len(), 2);
        let notes = lab.config.exec_root.join("plugins");
        assert_eq!(std::fs::read_dir(notes).unwrap().count(), 0);
        // A daemon starts without the plugin of a network.
        std::fs::remove_file(lab.config.exec_root.join("wires.sock")).unwrap();
        let mut config = lab.config.clone();
        config.networks.push(remote("three", &[]));
        Networks::open(config, Box::new(NoNames)).await.unwrap();
    });
}

#[test]
fn cni_plugins_make_endpoints() {
    if !Path::new("/usr/lib/cni/bridge").exists() {
        let _ = writeln!(std::io::stderr(), "skipped: no CNI plugins in /usr/lib/cni");
        return;
    }
    lab::run(|| async {
        let lab = Lab::new().await;
        let data = lab.config.exec_root.join("host-local");
        let list = json!({
            "cniVersion": "0.4.0",
            "name": "cni-lan",
            "plugins": [
                {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {
                    "type": "host-local", "dataDir": data,
                    "ranges": [[{"subnet": "10.88.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}},
            ],
        });
        let config = CniConfig::parse("/etc/cni/lan.conflist".into(), list.to_string()).unwrap();
        let net = NetworkSpec {
            id: NetworkId::random(),
            name: "cnet".to_owned(),
            driver: DriverConfig::Cni(config),
        };
        lab.networks.create_network(net.clone()).await.unwrap();
        let spec = sandbox(
            vec![endpoint(&net, &[]), lab.spec("172.17.0.2", &[]).endpoints.remove(0)],
            &["8080:80"],
        );
        let made = lab.networks.join(spec.clone()).await.unwrap();
        let attachment = &made.attachments[0];
        assert_eq!(attachment.addresses, ["10.88.0.2/24".parse::<ipnet::IpNet>().unwrap()]);
        assert_eq!(attachment.interface.as_deref(), Some("eth0"));
        let container = Container::of(&made);
        container.serve(80);
        assert!(lab::ask_from_host([10, 88, 0, 2], 80).is_some());
        assert!(lab::ask(&lab.outside, lab::HOST, 8080).is_some(), "a published port");
        let there = container
            .netns
            .run(|| sh("ip -br link; cat /proc/sys/net/ipv4/conf/all/log_martians"))
            .unwrap();
        assert!(there.contains("eth1") && there.trim_end().ends_with('1'), "{there}");
        lab::ask(&container.netns, GATEWAY, 1);

        // Taken over as it is; made anew when somebody removed it.
        let mut config = lab.config.clone();
        config.networks.push(net.clone());
        let second = Networks::open(config, Box::new(NoNames)).await.unwrap();
        let repairs = second.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        assert_eq!((repairs.failed.len(), repairs.restored.len()), (0, 0), "{repairs:?}");
        container.netns.run(|| sh("ip link del eth0")).unwrap();
        let repairs = second.reconcile(std::slice::from_ref(&spec)).await.unwrap();
        // The published port leads to the new address as well.
        assert_eq!((repairs.failed.len(), repairs.restored.len()), (0, 2), "{repairs:?}");
        container.netns.run(|| sh("ip addr show eth0 | grep 10.88.0.")).unwrap();

        second.leave(&spec.sandbox).await.unwrap();
        second.delete_network(&net.id).await.unwrap();
        second.settle().await;
        let leases = sh(&format!("ls {}/cni-lan | grep -c '^10' || true", data.display()));
        assert_eq!(leases.trim(), "0", "addresses are given back");
        assert_eq!(sh("ip -br link show master cni0"), "");
        let notes = lab.config.exec_root.join("cni");
        assert_eq!(std::fs::read_dir(notes).unwrap().count(), 0);
    });
}

#[test]
fn a_missing_cni_plugin_is_named() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"no-such-plugin"}]}"#;
        let config = CniConfig::parse("/x".into(), list.to_owned()).unwrap();
        let driver = DriverConfig::Cni(config);
        let net = NetworkSpec { id: NetworkId::random(), name: "cnet".to_owned(), driver };
        let error = lab.networks.create_network(net).await.unwrap_err().to_string();
        assert!(error.contains("CNI plugin no-such-plugin is not in /opt/cni/bin"), "{error}");
    });
}
