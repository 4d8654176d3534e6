//! Addresses of a link alone (`--link-local-ip`), with real packets.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpStream};
use std::time::Duration;

use lab::{Lab, endpoint, network, sandbox, sh};
use sampan_net::Repairs;

const PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn neighbours_reach_each_other_by_their_links_addresses() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        lab.networks.create_network(red.clone()).await.unwrap();
        let with = |address: &str, more: &[&str]| {
            let mut endpoint = endpoint(&red.id, address);
            endpoint.link_locals = more.iter().map(|a| a.parse().unwrap()).collect();
            sandbox(vec![endpoint], &[])
        };
        let spec = with("10.60.0.2", &["169.254.7.2", "fe80::7:2"]);
        let one = lab.join(&spec).await;
        let two = lab.join(&with("10.60.0.3", &["169.254.7.3", "fe80::7:3"])).await;
        one.serve(80);
        let four: IpAddr = "169.254.7.2".parse().unwrap();
        assert_eq!(two.ask(four, 80).as_deref(), Some("169.254.7.3"));
        let link: u32 = two
            .netns
            .run(|| sh("cat /proc/net/dev_snmp6/eth0 | head -1"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let six: Ipv6Addr = "fe80::7:2".parse().unwrap();
        let to = SocketAddrV6::new(six, 80, 0, link);
        two.netns.run(|| TcpStream::connect_timeout(&to.into(), PATIENCE)).unwrap().unwrap();
        let made = lab.networks.sandbox(&spec.sandbox).unwrap();
        let shown: Vec<String> =
            made.attachments[0].link_locals.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["169.254.7.2/16", "fe80::7:2/64"]);

        // Somebody takes it away: it comes back.
        one.netns.run(|| sh("ip address delete 169.254.7.2/16 dev eth0")).unwrap();
        let others = lab.networks.sandbox(&spec.sandbox).unwrap();
        assert_eq!(others.attachments.len(), 1);
        let desired = [spec.clone(), with("10.60.0.9", &[])];
        let repairs = lab.networks.reconcile(&desired[..1]).await.unwrap();
        assert!(!repairs.restored.is_empty(), "{repairs:?}");
        assert!(one.netns.run(|| sh("ip address show eth0")).unwrap().contains("169.254.7.2/16"));
        let again = lab.networks.reconcile(&desired[..1]).await.unwrap();
        assert_eq!(again.restored, Repairs::default().restored);
    });
}

#[test]
fn an_endpoint_that_is_connected_later_has_them_too() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let red = network("red", "br-red", "10.60.0.1/24");
        lab.networks.create_network(red.clone()).await.unwrap();
        let spec = lab.spec("172.17.0.2", &[]);
        let one = lab.join(&spec).await;
        let mut later = endpoint(&red.id, "10.60.0.2");
        later.link_locals = vec!["169.254.9.9".parse().unwrap()];
        lab.networks.connect(&spec.sandbox, later).await.unwrap();
        assert!(one.netns.run(|| sh("ip address show eth1")).unwrap().contains("169.254.9.9/16"));
        let mut wrong = endpoint(&red.id, "10.60.0.3");
        wrong.link_locals = vec!["10.9.9.9".parse().unwrap()];
        let error = lab.networks.connect(&spec.sandbox, wrong).await.unwrap_err().to_string();
        assert!(error.contains("10.9.9.9 is no link-local address"), "{error}");
        assert!(!one.netns.run(|| sh("ip link")).unwrap().contains("eth2"));
    });
}
