//! Published ports that obey the host's own firewall, and what is said about
//! who can reach them.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod lab;

use std::net::Ipv4Addr;
use std::time::Duration;

use lab::{Container, HOST, HOST6, Lab, OUTSIDE, ask, ask_from_host, network, sh, with_subnets};
use sampan_net::{Exposure, Finding, SandboxSpec, Severity};

fn says(address: impl ToString) -> Option<String> {
    Some(address.to_string())
}

async fn obedient() -> Lab {
    Lab::with(|mut config| {
        config.respect_host_firewall = true;
        config
    })
    .await
}

async fn started(lab: &Lab, spec: &SandboxSpec) -> Container {
    let container = lab.join(spec).await;
    for port in [80, 81, 82] {
        container.serve(port);
    }
    container
}

/// Waits until the outside gets this answer, at most a second of the time
/// that the copy's task had: it shares this thread with the questions.
async fn within_a_second(lab: &Lab, port: u16, wanted: Option<String>) {
    let mut left = Duration::from_secs(1);
    while ask(&lab.outside, HOST, port) != wanted {
        assert!(!left.is_zero(), "{}", sh("nft list ruleset"));
        let step = Duration::from_millis(50);
        tokio::time::sleep(step).await;
        left -= step;
    }
}

async fn exposures(lab: &Lab, spec: &SandboxSpec) -> Vec<String> {
    let known = lab.networks.exposure(&spec.sandbox).await.unwrap();
    known.into_iter().map(|(_, exposure)| exposure.to_string()).collect()
}

#[test]
fn a_port_that_the_host_drops_is_dropped() {
    lab::run(|| async {
        let lab = obedient().await;
        let spec = lab.spec("172.17.0.2", &["8080:80", "8081:81"]);
        let web = started(&lab, &spec).await;
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE));
        sh(
            "nft 'table inet mine { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }'",
        );
        within_a_second(&lab, 8080, None).await;
        assert_eq!(ask(&lab.outside, HOST, 8081), says(OUTSIDE), "other ports");
        assert_eq!(web.ask(HOST, 8080), None, "containers come in by the hook input as well");
        assert_eq!(exposures(&lab, &spec).await, ["blocked by inet mine in", "everyone"],);
        // A port that is published now obeys at once.
        let mut ports = spec.ports.clone();
        ports[1].host_port = 8082;
        sh("nft insert rule inet mine in tcp dport 8082 reject");
        lab.networks.publish(&spec.sandbox, ports).await.unwrap();
        within_a_second(&lab, 8082, None).await;
        sh("nft delete table inet mine");
        within_a_second(&lab, 8080, says(OUTSIDE)).await;
        within_a_second(&lab, 8082, says(OUTSIDE)).await;
        assert!(!sh("nft list tables").contains("host-mine"));
    });
}

#[test]
fn rules_of_iptables_legacy_are_named() {
    lab::run(|| async {
        let lab = obedient().await;
        let spec = lab.spec("172.17.0.2", &["8080:80"]);
        let _web = started(&lab, &spec).await;
        if !lab::can("iptables-legacy -S") {
            println!("skipped: no iptables-legacy here");
            return;
        }
        assert_eq!(exposures(&lab, &spec).await, ["everyone"], "empty tables mean nothing");
        sh("iptables-legacy -A INPUT -p tcp --dport 8080 -j DROP");
        let unknown = "unknown: rules of iptables-legacy are not read (ip filter INPUT)";
        assert_eq!(exposures(&lab, &spec).await, [unknown]);
        let found = lab.networks.check(None).await.unwrap();
        let named = |f: &Finding| f.text.contains("iptables-legacy") && f.text.contains("INPUT");
        assert!(found.iter().any(named), "{found:?}");
        // What is known to be stopped stays known.
        sh("nft 'table inet mine { chain on { type filter hook forward priority 0; drop; }; }'");
        assert_eq!(exposures(&lab, &spec).await, ["blocked by inet mine on"]);
        sh("nft delete table inet mine; iptables-legacy -F INPUT");
        assert_eq!(exposures(&lab, &spec).await, ["everyone"]);
        sh("iptables-legacy -P FORWARD DROP");
        let found = lab.networks.check(None).await.unwrap();
        let named = |f: &Finding| f.severity == Severity::Error && f.text.contains("FORWARD");
        assert!(found.iter().any(named), "{found:?}");
    });
}

#[test]
fn rules_of_iptables_are_obeyed() {
    lab::run(|| async {
        let lab = obedient().await;
        let spec = lab.spec("172.17.0.2", &["8080:80", "8081:81", "8082:82"]);
        let _web = started(&lab, &spec).await;
        sh("iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        sh("iptables -N UFW; iptables -A INPUT -j UFW");
        sh("iptables -A UFW -p tcp -m multiport --dports 8080,9000:9010 -j ACCEPT");
        sh("iptables -A UFW -p tcp -m tcp --dport 8081 -j REJECT --reject-with tcp-reset");
        sh("iptables -A UFW -j LOG --log-prefix x");
        sh("iptables -P INPUT DROP");
        within_a_second(&lab, 8082, None).await;
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE), "accepted by multiport");
        assert!(lab.outside.run(|| lab::refused_here(HOST, 8081)).unwrap(), "not dropped");
        assert_eq!(
            exposures(&lab, &spec).await,
            ["everyone", "blocked by ip filter UFW", "blocked by ip filter INPUT"],
        );
        assert_eq!(ask_from_host(Ipv4Addr::LOCALHOST, 8082), says("172.17.0.1"), "the host may");
        sh("nft list ruleset; iptables -S");
        sh("iptables -I INPUT -s 10.99.0.0/24 -j ACCEPT");
        within_a_second(&lab, 8082, says(OUTSIDE)).await;
        assert_eq!(exposures(&lab, &spec).await[2], "partly: ip filter INPUT decides");
    });
}

#[test]
fn sets_maps_and_intervals_are_copied() {
    lab::run(|| async {
        let lab = obedient().await;
        let blue = with_subnets(network("blue", "br-blue", "10.60.0.1/24"), &["fd60::1/64"]);
        lab.networks.create_network(blue.clone()).await.unwrap();
        let ports = ["8080:80", "8081:81", "8082:82", "[::]:8080:80", "[::]:8081:81"];
        let endpoint = lab::endpoint(&blue.id, "10.60.0.2 fd60::2");
        let spec = lab::sandbox(vec![endpoint], &ports);
        let _web = started(&lab, &spec).await;
        sh(r#"nft 'table inet fw {
            set allowed { type inet_service; flags interval; elements = { 22, 8000-8080 } }
            set banned { type ipv4_addr; elements = { 192.0.2.1 } }
            chain other { ip saddr != @banned accept; }
            chain services { tcp dport @allowed accept; tcp dport vmap { 8082 : jump other }; }
            chain in {
                type filter hook input priority filter; policy drop;
                ct state vmap { established : accept, related : accept, invalid : drop }
                iif lo accept
                meta l4proto { icmp, ipv6-icmp } accept
                jump services
            }
        }'"#);
        within_a_second(&lab, 8081, None).await;
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE));
        assert_eq!(ask(&lab.outside, HOST, 8082), says(OUTSIDE));
        assert_eq!(ask(&lab.outside, HOST6, 8080), says(lab::OUTSIDE6));
        assert_eq!(ask(&lab.outside, HOST6, 8081), None);
        let known = exposures(&lab, &spec).await;
        // `iif lo` may accept any of them.
        assert_eq!(known[0], "everyone", "{known:?}");
        assert_eq!(known[1], "partly: inet fw in decides", "{known:?}");
        sh("nft add element inet fw banned '{ 10.99.0.2 }'");
        within_a_second(&lab, 8082, None).await;
        // Somebody flushes everything: nothing is dropped, nothing is lost.
        sh("nft flush ruleset");
        assert!(lab.networks.reconcile(std::slice::from_ref(&spec)).await.is_ok());
        within_a_second(&lab, 8081, says(OUTSIDE)).await;
    });
}

#[test]
fn without_the_setting_the_hook_input_means_nothing() {
    lab::run(|| async {
        let lab = Lab::new().await;
        let spec = lab.spec("172.17.0.2", &["8080:80", "127.0.0.1:8081:81"]);
        let _web = started(&lab, &spec).await;
        // The direct way ends when somebody else has rules on the plain one.
        lab.networks.watch().await.unwrap();
        sh(
            "nft 'table inet mine { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }'",
        );
        assert_eq!(ask(&lab.outside, HOST, 8080), says(OUTSIDE));
        assert_eq!(exposures(&lab, &spec).await, ["everyone", "host only"]);
        sh(
            "nft 'table inet mine { chain onward { type filter hook forward priority 0; policy drop; }; }'",
        );
        within_a_second(&lab, 8080, None).await;
        assert_eq!(exposures(&lab, &spec).await, ["blocked by inet mine onward", "host only"]);
        let exposure = lab.networks.exposure(&spec.sandbox).await.unwrap();
        assert_eq!(exposure[1].1, Exposure::HostOnly);
    });
}
