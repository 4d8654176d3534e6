//! Interfaces and routes of a sandbox on several networks: names and order,
//! which of them leads out, and what connecting and disconnecting change.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::{
    Container, HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, ask, endpoint, network, network_with, sandbox,
    serve, sh, with_subnets,
};
use sampan_net::{NetworkSpec, Repairs};

fn says(address: &str) -> Option<String> {
    Some(address.to_owned())
}

/// The names of a container's interfaces, in the kernel's order.
fn interfaces(container: &Container) -> Vec<String> {
    let shown = container.netns.run(|| sh("ls /sys/class/net 2>/dev/null; ip -o link")).unwrap();
    let names = shown.lines().filter_map(|l| l.split_once(": ")?.1.split(['@', ':']).next());
    names.filter(|n| *n != "lo").map(str::to_owned).collect()
}

fn default_routes(container: &Container) -> (String, String) {
    let show = |family: &'static str| {
        let shown = container.netns.run(move || sh(&format!("ip {family} route show default")));
        let shown = shown.unwrap();
        let words: Vec<&str> = shown.split_whitespace().collect();
        words.iter().skip_while(|w| **w != "dev").nth(1).unwrap_or(&"").to_string()
    };
    (show("-4"), show("-6"))
}

async fn create(lab: &Lab, networks: &[&NetworkSpec]) {
    for network in networks {
        lab.networks.create_network((*network).clone()).await.unwrap();
    }
}

#[test]
fn interfaces_are_in_the_order_of_the_endpoints() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        let blue = network_with(network("blue", "br-blue", "10.61.0.1/24"), |c| {
            c.interface_prefix = "net".to_owned();
        });
        create(&lab, &[&red, &blue]).await;
        for _ in 0..3 {
            let mut spec = sandbox(
                vec![
                    endpoint(&blue.id, "10.61.0.2"),
                    endpoint(&red.id, "10.60.0.2"),
                    endpoint(&lab.bridge, "172.17.0.2"),
                    endpoint(&red.id, "10.60.0.3"),
                ],
                &[],
            );
            spec.endpoints[2].interface = Some("eth1".to_owned());
            let web = lab.join(&spec).await;
            assert_eq!(interfaces(&web), ["net0", "eth0", "eth1", "eth2"]);
            assert_eq!(default_routes(&web).0, "net0", "the first that leads out");
            lab.networks.leave(&spec.sandbox).await.unwrap();
            lab.networks.settle().await;
        }
        for wrong in ["lo/x", "sixteen-letters!", ""] {
            let mut spec = lab.spec("172.17.0.2", &[]);
            spec.endpoints[0].interface = Some(wrong.to_owned());
            let error = lab.networks.join(spec).await.unwrap_err().to_string();
            assert!(error.contains("no name for an interface"), "{error}");
        }
        let mut twice =
            sandbox(vec![endpoint(&red.id, "10.60.0.2"), endpoint(&blue.id, "10.61.0.2")], &[]);
        for endpoint in &mut twice.endpoints {
            endpoint.interface = Some("wan".to_owned());
        }
        let error = lab.networks.join(twice).await.unwrap_err().to_string();
        assert!(error.contains("wan"), "{error}");
    });
}

#[test]
fn the_priority_decides_who_leads_out() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let dual = with_subnets(network("dual", "br-dual", "10.60.0.1/24"), &["fd60::1/64"]);
        let four = network("four", "br-four", "10.61.0.1/24");
        let six = network("six", "br-six", "fd62::1/64");
        let inner = network_with(network("inner", "br-inner", "10.63.0.1/24"), |c| {
            c.internal = true;
        });
        create(&lab, &[&dual, &four, &six, &inner]).await;
        let mut spec = sandbox(
            vec![
                endpoint(&inner.id, "10.63.0.2"),
                endpoint(&dual.id, "10.60.0.2 fd60::2"),
                endpoint(&four.id, "10.61.0.2"),
                endpoint(&six.id, "fd62::2"),
            ],
            &["8080:80"],
        );
        spec.endpoints[0].gateway_priority = 100;
        let web = lab.join(&spec).await;
        assert_eq!(default_routes(&web), ("eth1".to_owned(), "eth1".to_owned()));
        lab.networks.leave(&spec.sandbox).await.unwrap();
        spec.endpoints[2].gateway_priority = 1;
        let web = lab.join(&spec).await;
        web.serve(80);
        assert_eq!(default_routes(&web), ("eth2".to_owned(), "eth1".to_owned()));
        assert_eq!(web.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        assert_eq!(web.ask(OUTSIDE6, 7000), says(&HOST6.to_string()));
        // The port leads to where answers leave.
        assert_eq!(ask(&lab.outside, HOST, 8080), says(&OUTSIDE.to_string()));
        let attachments = &lab.networks.sandbox(&spec.sandbox).unwrap().attachments;
        assert!(attachments[0].gateways.is_empty(), "an internal network has none");
        web.netns.run(|| sh("ip route delete default; ip -6 route delete default")).unwrap();
        let desired = [spec.clone()];
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap().restored.len(), 1);
        assert_eq!(default_routes(&web), ("eth2".to_owned(), "eth1".to_owned()));
        // A tunnel of the container's own is left alone.
        web.netns
            .run(|| {
                sh("ip link add tunnel type bridge && ip link set tunnel up");
                sh("ip route replace default dev tunnel");
            })
            .unwrap();
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap(), Repairs::default());
        assert_eq!(default_routes(&web).0, "tunnel");
    });
}

#[test]
fn connecting_and_disconnecting_reroute() {
    lab::run(|| async {
        let lab = Lab::new().await;
        serve(&lab.outside, 7000);
        let one = network("one", "br-one", "10.60.0.1/24");
        let two = with_subnets(network("two", "br-two", "10.61.0.1/24"), &["fd61::1/64"]);
        let three = network("three", "br-three", "10.62.0.1/24");
        create(&lab, &[&one, &two, &three]).await;
        let spec = sandbox(vec![endpoint(&one.id, "10.60.0.2")], &["8080:80"]);
        let id = &spec.sandbox;
        let web = lab.join(&spec).await;
        web.serve(80);
        let (mut better, mut named) =
            (endpoint(&two.id, "10.61.0.2 fd61::2"), endpoint(&three.id, "10.62.0.2"));
        better.gateway_priority = 5;
        named.interface = Some("lan".to_owned());
        named.sysctls.insert("net.ipv4.conf.IFNAME.log_martians".to_owned(), "1".to_owned());
        lab.networks.connect(id, better.clone()).await.unwrap();
        assert_eq!(default_routes(&web), ("eth1".to_owned(), "eth1".to_owned()));
        lab.networks.connect(id, named.clone()).await.unwrap();
        lab.networks.connect(id, named.clone()).await.unwrap();
        assert_eq!(interfaces(&web), ["eth0", "eth1", "lan"]);
        let martians = "cat /proc/sys/net/ipv4/conf/lan/log_martians";
        assert_eq!(web.netns.run(move || sh(martians)).unwrap(), "1\n");
        assert_eq!(web.ask(OUTSIDE6, 7000), says(&HOST6.to_string()));
        assert_eq!(ask(&lab.outside, HOST, 8080), says(&OUTSIDE.to_string()));
        lab.networks.disconnect(id, &better.endpoint).await.unwrap();
        assert_eq!(default_routes(&web), ("eth0".to_owned(), String::new()));
        assert_eq!(web.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        assert_eq!(ask(&lab.outside, HOST, 8080), says(&OUTSIDE.to_string()));
        lab.networks.disconnect(id, &spec.endpoints[0].endpoint).await.unwrap();
        assert_eq!(default_routes(&web).0, "lan");
        lab.networks.disconnect(id, &named.endpoint).await.unwrap();
        lab.networks.disconnect(id, &named.endpoint).await.unwrap();
        assert_eq!(interfaces(&web), Vec::<String>::new());
        assert_eq!(web.ask(OUTSIDE, 7000), None);
        let back = endpoint(&one.id, "10.60.0.7");
        lab.networks.connect(id, back).await.unwrap();
        assert_eq!(interfaces(&web), ["eth0"]);
        assert_eq!(web.ask(OUTSIDE, 7000), says(&HOST.to_string()));
        lab.networks.leave(id).await.unwrap();
        lab.networks.settle().await;
        assert_eq!(lab.leftovers(), (0, 0, "0\n".to_owned()));
    });
}

#[test]
fn parameters_of_an_interface_are_set() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let mut spec = lab.spec("172.17.0.2", &[]);
        let name = "net.ipv4.conf.IFNAME.forwarding".to_owned();
        spec.endpoints[0].sysctls.insert(name, "1".to_owned());
        let web = lab.join(&spec).await;
        let read = |what: &'static str| web.netns.run(move || sh(what)).unwrap();
        assert_eq!(read("cat /proc/sys/net/ipv4/conf/eth0/forwarding"), "1\n");
        for wrong in ["net.ipv4.ip_forward", "kernel.IFNAME.x", "net.ipv4.conf.eth0.forwarding"] {
            let mut other = lab.spec("172.17.0.3", &[]);
            other.endpoints[0].sysctls.insert(wrong.to_owned(), "1".to_owned());
            let error = lab.networks.join(other).await.unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        let mut unknown = lab.spec("172.17.0.3", &[]);
        let name = "net.ipv4.conf.IFNAME.no_such_thing".to_owned();
        unknown.endpoints[0].sysctls.insert(name, "1".to_owned());
        assert!(lab.networks.join(unknown).await.is_err());
        lab.networks.settle().await;
        assert_eq!(lab.leftovers().0, 1, "only the first is there");
    });
}
