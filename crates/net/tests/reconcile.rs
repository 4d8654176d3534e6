//! What somebody else removed, or a daemon that died left, is put right.

mod lab;

use std::collections::BTreeSet;

use lab::{
    Container, GATEWAY, HOST, Lab, OUTSIDE, ask, ask_from_host, endpoint, network, sandbox, sh,
};
use sampan_net::names::NoNames;
use sampan_net::{Networks, Repairs};
use sampan_types::SandboxId;

fn ids(list: &[SandboxId]) -> BTreeSet<&str> {
    list.iter().map(SandboxId::as_str).collect()
}

async fn reachable(lab: &Lab) -> bool {
    ask(&lab.outside, HOST, 8080) == Some(OUTSIDE.to_string())
        && ask_from_host(std::net::Ipv4Addr::LOCALHOST, 8080) == Some(GATEWAY.to_string())
}

#[test]
fn what_is_missing_is_restored() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &["8080:80", "127.0.0.1:5300:53/udp"]);
        let web = lab.join(&spec).await;
        web.serve(80);
        let desired = [spec.clone()];
        let nothing = lab.networks.reconcile(&desired).await.unwrap();
        assert_eq!(nothing, Repairs::default(), "nothing is changed that is right");
        let link = || lab.networks.sandbox(&spec.sandbox).unwrap().attachments[0].clone();
        let port = link().host_interface.unwrap();
        let damages = [
            "nft flush ruleset".to_owned(),
            "nft delete table inet sampan".to_owned(),
            "nft flush map inet sampan ports".to_owned(),
            "nft flush chain inet sampan forward".to_owned(),
            format!("ip link set {port} nomaster"),
            format!("ip link set {port} down"),
            "ip address flush dev docker0".to_owned(),
            "ip link set docker0 down".to_owned(),
            "ip link delete docker0".to_owned(),
            "echo 0 > /proc/sys/net/ipv4/conf/docker0/route_localnet".to_owned(),
            "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned(),
        ];
        for damage in damages {
            assert!(reachable(&lab).await, "before: {damage}");
            sh(&damage);
            let repairs = lab.networks.reconcile(&desired).await.unwrap();
            assert!(!repairs.restored.is_empty(), "{damage}: {repairs:?}");
            assert_eq!((&repairs.failed, &repairs.removed), (&vec![], &vec![]), "{damage}");
            assert!(reachable(&lab).await, "after: {damage}: {repairs:?}");
            let again = lab.networks.reconcile(&desired).await.unwrap();
            assert_eq!(again, Repairs::default(), "{damage}");
        }
        web.netns.run(|| sh("ip address flush dev eth0")).unwrap();
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap().restored.len(), 2);
        assert!(reachable(&lab).await, "address and route inside");
        let mac = link().mac;
        sh(&format!("ip link delete {port}"));
        assert_eq!(lab.networks.reconcile(&desired).await.unwrap().restored.len(), 2);
        assert!(reachable(&lab).await, "new links");
        assert_ne!(link().mac, mac, "no address was asked for");
    });
}

#[test]
fn a_flushed_ruleset_heals_with_the_next_change() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &["8080:80"]);
        lab.join(&spec).await.serve(80);
        sh("nft flush ruleset");
        let other = lab.spec("172.17.0.3", &["8081:80"]);
        lab.join(&other).await.serve(80);
        assert!(reachable(&lab).await);
        assert_eq!(ask(&lab.outside, HOST, 8081), Some(OUTSIDE.to_string()));
        sh("nft flush ruleset");
        lab.networks.leave(&other.sandbox).await.unwrap();
        assert!(reachable(&lab).await);
        assert_eq!(ask(&lab.outside, HOST, 8081), None);
    });
}

#[test]
fn a_new_daemon_takes_over() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        let gone = network("gone", "br-gone", "10.61.0.1/24");
        lab.networks.create_network(red.clone()).await.unwrap();
        lab.networks.create_network(gone.clone()).await.unwrap();
        let mut stays = lab.spec("172.17.0.2", &["8080:80", "127.0.0.1:8081:80"]);
        stays.endpoints.push(endpoint(&red.id, "10.60.0.2"));
        let ended = lab.spec("172.17.0.3", &["8090:80"]);
        let rebooted = lab.spec("172.17.0.4", &["8091:80"]);
        let web = lab.join(&stays).await;
        web.serve(80);
        lab.join(&ended).await;
        // Foreign objects of all kinds.
        sh("ip link add vethffffff0 type veth peer name foreign0; ip link set foreign0 up");
        sh("ip link set foreign0 alias 'sampan-01234567 endpoint x y'");
        sh("ip link add foreign1 type bridge; nft add table inet sampan-01234567");
        let foreign = "nft list table inet sampan-01234567; ip -br link | grep -E 'foreign|fff0'";
        let before = sh(foreign);
        let mut config = lab.config.clone();
        config.networks.push(red.clone());
        // The first daemon is not told: as after kill -9.
        let second = Networks::open(config, Box::new(NoNames)).await.unwrap();
        assert!(reachable(&lab).await, "ports work before anything was said about them");
        let repairs = second.reconcile(&[stays.clone(), rebooted.clone()]).await.unwrap();
        assert_eq!(ids(&repairs.lost), ids(std::slice::from_ref(&rebooted.sandbox)));
        assert_eq!(repairs.failed, Vec::<String>::new());
        assert_eq!(repairs.removed.len(), 3, "link, namespace, bridge: {repairs:?}");
        assert!(reachable(&lab).await);
        assert_eq!(second.sandbox(&stays.sandbox), lab.networks.sandbox(&stays.sandbox));
        assert!(second.sandbox(&ended.sandbox).is_none());
        assert_eq!(ask(&lab.outside, HOST, 8090), None);
        second.settle().await;
        let links = sh("ip -br link");
        assert!(!links.contains("br-gone") && links.contains("br-red"), "{links}");
        assert_eq!(before, sh(foreign), "what is not ours is as it was");
        let again = second.reconcile(std::slice::from_ref(&stays)).await.unwrap();
        assert_eq!(again, Repairs::default());
        second.leave(&stays.sandbox).await.unwrap();
        second.settle().await;
        assert_eq!(lab.leftovers().1, 0);
        drop(web);
    });
}

#[test]
fn an_interrupted_join_is_done_again() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &["8080:80"]);
        lab.join(&spec).await;
        // The same sandbox once more, by a daemon that knows nothing of it.
        let second = Networks::open(lab.config.clone(), Box::new(NoNames)).await.unwrap();
        let made = second.join(spec.clone()).await.unwrap();
        Container::of(&made).serve(80);
        assert!(reachable(&lab).await);
        second.settle().await;
        assert_eq!(lab.leftovers(), (1, 1, "1\n".to_owned()));
        // And once more by the one that does.
        let made = second.join(spec.clone()).await.unwrap();
        Container::of(&made).serve(80);
        assert!(reachable(&lab).await);
        second.settle().await;
        assert_eq!(lab.leftovers(), (1, 1, "1\n".to_owned()));
    });
}

#[test]
fn instances_live_side_by_side() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let dir = tempfile::tempdir().unwrap();
        let mut config = sampan_net::NetConfig::new("sampan-0badcafe", dir.path());
        let other = network("bridge", "br-other", "10.70.0.1/24");
        config.networks.push(other.clone());
        let second = Networks::open(config, Box::new(NoNames)).await.unwrap();
        let spec = lab.spec("172.17.0.2", &["8080:80"]);
        lab.join(&spec).await.serve(80);
        let theirs = sandbox(vec![endpoint(&other.id, "10.70.0.2")], &["8090:80"]);
        let made = second.join(theirs.clone()).await.unwrap();
        Container::of(&made).serve(80);
        assert!(reachable(&lab).await);
        assert_eq!(ask(&lab.outside, HOST, 8090), Some(OUTSIDE.to_string()));
        assert_eq!(lab.networks.reconcile(&[]).await.unwrap().failed, Vec::<String>::new());
        assert_eq!(ask(&lab.outside, HOST, 8090), Some(OUTSIDE.to_string()));
        assert_eq!(second.reconcile(&[theirs]).await.unwrap(), Repairs::default());
    });
}
