//! What chains do with a packet, by rulesets that the kernel has read back.

use std::io::Write as _;
use std::process::Command;

use sampan_sys::netns::NetNs;
use sampan_sys::nft::{Family, ForeignTable, Hook, Nft};

use super::evaluate::{Fate, Place, Probe, fate};

const TCP: u8 = 6;

/// What there is at *input* after `script`; none without root.
fn input(script: &str) -> Option<Vec<ForeignTable>> {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: needs root");
        return None;
    }
    let script = script.to_owned();
    let read = NetNs::create(move || {
        let done = Command::new("sh").args(["-ec", &script]).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        Nft::open().unwrap().foreign(Hook::Input, |table| super::is_own("sampan", table)).unwrap()
    });
    Some(read.unwrap().1)
}

/// A chain *in* of a table with a policy and these rules.
fn chain(policy: &str, rules: &str) -> Option<Vec<ForeignTable>> {
    input(&format!(
        "nft 'table inet t {{
            set ports {{ type inet_service; flags interval; elements = {{ 10-20, 8080 }}; }}
            chain other {{ tcp dport 80 return; tcp dport 81 drop; }}
            chain in {{ type filter hook input priority 0; policy {policy}; {rules}; }}
        }}'"
    ))
}

fn ends(table: &str, chain: &str) -> Fate {
    Fate::Ends(Place { table: table.to_owned(), chain: chain.to_owned() })
}

fn depends(table: &str, chain: &str) -> Fate {
    Fate::Depends(Place { table: table.to_owned(), chain: chain.to_owned() })
}

fn tcp(port: u16) -> Probe {
    Probe::new(Family::Ipv4, TCP, None, port)
}

#[test]
fn ports_decide() {
    for (rules, port, passes) in [
        ("tcp dport 8080 drop", 8080, false),
        ("tcp dport 8080 drop", 8081, true),
        ("udp dport 8080 drop", 8080, true),
        ("tcp dport { 80, 8080 } drop", 8080, false),
        ("tcp dport { 80, 8080 } drop", 81, true),
        ("tcp dport 8000-9000 reject", 8080, false),
        ("tcp dport != 8000-9000 drop", 8080, true),
        ("tcp dport @ports drop", 15, false),
        ("tcp dport @ports drop", 21, true),
        ("tcp dport >= 1024 drop", 8080, false),
        ("tcp dport >= 1024 drop", 80, true),
        ("tcp dport vmap { 8080 : drop, 80 : accept }", 8080, false),
        ("tcp dport vmap { 8080 : drop, 80 : accept }", 80, true),
        ("ct state established,related drop", 80, true),
        ("ct state new drop", 80, false),
        ("ct state vmap { established : drop, new : accept }", 80, true),
        ("meta nfproto ipv6 drop", 80, true),
        ("ip6 daddr ::/0 drop", 80, true),
        ("fib daddr type local drop", 80, false),
        ("jump other", 80, true),
        ("jump other", 82, true),
        ("goto other", 82, true),
        ("accept; drop", 82, true),
    ] {
        let Some(tables) = chain("accept", rules) else { return };
        let expected = if passes { Fate::Passes } else { ends("inet t", "in") };
        assert_eq!(fate(&tables, &tcp(port)), expected, "{rules}, port {port}");
    }
    let Some(tables) = chain("drop", "tcp dport 80 accept") else { return };
    assert_eq!(fate(&tables, &tcp(80)), Fate::Passes);
    assert_eq!(fate(&tables, &tcp(81)), ends("inet t", "in"));
    let Some(tables) = chain("drop", "jump other; accept") else { return };
    assert_eq!(fate(&tables, &tcp(81)), ends("inet t", "other"));
}

#[test]
fn what_is_not_known_may_be() {
    for rules in [
        "ip saddr 192.0.2.0/24 drop",
        "iifname eth7 tcp dport 80 drop",
        "meta mark 7 drop",
        "limit rate over 3/minute drop",
        "ip saddr 192.0.2.1 jump other; drop",
        "ip saddr vmap { 192.0.2.1 : drop }",
        "tcp flags syn drop",
    ] {
        let Some(tables) = chain("accept", rules) else { return };
        let seen = fate(&tables, &tcp(80));
        let maybe = matches!(&seen, Fate::Depends(place) if place.chain == "in");
        let certain = rules.ends_with("; drop") && seen == ends("inet t", "in");
        assert!(maybe || certain, "{rules}: {seen:?}");
    }
    let Some(tables) = chain("drop", "ip saddr 192.0.2.1 accept") else { return };
    assert_eq!(fate(&tables, &tcp(80)), depends("inet t", "in"));
    let Some(tables) = chain("accept", "ip daddr 192.0.2.1 drop") else { return };
    assert_eq!(fate(&tables, &tcp(80)), depends("inet t", "in"));
    let to = |address: &str| Probe::new(Family::Ipv4, TCP, Some(address.parse().unwrap()), 80);
    assert_eq!(fate(&tables, &to("192.0.2.1")), ends("inet t", "in"));
    assert_eq!(fate(&tables, &to("192.0.2.2")), Fate::Passes);
}

#[test]
fn extensions_of_iptables_are_understood() {
    for (rule, port, passes) in [
        ("-p tcp -m tcp --dport 80", 80, false),
        ("-p tcp -m tcp ! --dport 80", 80, true),
        ("-p tcp -m multiport --dports 80,90:99", 95, false),
        ("-p tcp -m multiport --dports 80,90:99", 89, true),
        ("-p tcp -m multiport ! --dports 80,90:99", 89, false),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", 80, true),
        ("-m conntrack --ctstate NEW -m comment --comment x", 80, false),
        ("-m conntrack ! --ctstate NEW", 80, true),
        ("-p udp", 80, true),
    ] {
        let Some(tables) = input(&format!("iptables -A INPUT {rule} -j DROP")) else { return };
        let expected = if passes { Fate::Passes } else { ends("ip filter", "INPUT") };
        assert_eq!(fate(&tables, &tcp(port)), expected, "{rule}, port {port}");
        assert_eq!(fate(&tables, &Probe::new(Family::Ipv6, TCP, None, port)), Fate::Passes);
    }
    let reject = "iptables -A INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset";
    let Some(tables) = input(reject) else { return };
    assert_eq!(fate(&tables, &tcp(80)), ends("ip filter", "INPUT"));
    let recent = "iptables -A INPUT -m recent --name x --rcheck -j DROP";
    let Some(tables) = input(recent) else { return };
    assert_eq!(fate(&tables, &tcp(80)), depends("ip filter", "INPUT"));
}
