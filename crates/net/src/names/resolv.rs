//! `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a container's `/etc/resolv.conf` comes from.
#[derive(Debug, Clone, Default)]
pub struct ResolvInput<'a> {
    /// The path of the host's file, for the comment.
    pub source: &'a str,
    /// The content of the host's file; empty when there is none.
    pub host: &'a str,
    /// `--dns`, else the daemon's; empty for the host's.
    pub servers: &'a [IpAddr],
    /// `--dns-search`, else the daemon's; empty for the host's. A single `.`
    /// stands for none.
    pub search: &'a [String],
    /// `--dns-opt`, else the daemon's; empty for the host's.
    pub options: &'a [String],
    /// Whether the container has a namespace of its own, where the host's
    /// loopback name servers can't be reached.
    pub own_namespace: bool,
    /// Whether the container can reach IPv6 name servers.
    pub ipv6: bool,
    /// Whether names are answered inside the container, at 127.0.0.11, from
    /// where the servers here are asked.
    pub embedded: bool,
}

/// A name server configuration as text and as what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// The file's content.
    pub text: String,
    /// The name servers in it.
    pub servers: Vec<IpAddr>,
}

/// Where names are answered inside of containers.
const EMBEDDED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What a container gets when nothing usable is left, as dockerd does.
const FALLBACK_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];
const FALLBACK_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888),
    Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844),
];

/// The lines of a `resolv.conf` (resolv.conf(5)).
#[derive(Debug, Default)]
struct Parsed {
    servers: Vec<IpAddr>,
    /// Servers that are no plain addresses: `fe80::1%eth0` among them, which
    /// means nothing in another namespace.
    invalid: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    other: Vec<String>,
}

fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some(key) = fields.next().filter(|k| !k.starts_with(['#', ';'])) else { continue };
        let values: Vec<String> = fields.map(str::to_owned).collect();
        match (key, values.first()) {
            ("nameserver" | "domain" | "search" | "options", None) => {}
            ("nameserver", Some(server)) => match server.parse() {
                Ok(address) => parsed.servers.push(address),
                Err(_) => parsed.invalid.push(server.clone()),
            },
            // `domain` is the old word for `search`; the last one counts.
            ("domain" | "search", Some(_)) => parsed.search = values,
            ("options", Some(_)) => parsed.options.extend(values),
            _ => parsed.other.push(line.to_owned()),
        }
    }
    parsed
}

/// The container's `/etc/resolv.conf`.
#[must_use]
pub fn resolv_conf(input: &ResolvInput<'_>) -> ResolvConf {
    let mut conf = parse(input.host);
    let has_ndots =
        |options: &[String]| options.iter().any(|o| o == "ndots" || o.starts_with("ndots:"));
    let mut ndots = has_ndots(&conf.options).then_some("host");
    let mut overrides = Vec::new();
    if !input.servers.is_empty() {
        overrides.push("nameservers");
        conf.servers = input.servers.to_vec();
    }
    if !input.search.is_empty() {
        overrides.push("search");
        conf.search = input.search.iter().filter(|s| *s != ".").cloned().collect();
    }
    if !input.options.is_empty() {
        overrides.push("options");
        conf.options = input.options.to_vec();
        ndots = has_ndots(&conf.options).then_some("override");
    }
    let mut fallback = false;
    let mut asked = Vec::new();
    if input.embedded {
        asked = std::mem::replace(&mut conf.servers, vec![EMBEDDED.into()]);
        if ndots.is_none() {
            conf.options.push("ndots:0".to_owned());
            ndots = Some("internal");
        }
    } else if input.own_namespace && input.servers.is_empty() {
        conf.servers.retain(|s| !s.is_loopback() && (s.is_ipv4() || input.ipv6));
        fallback = conf.servers.is_empty();
    }
    if fallback {
        conf.servers.extend(FALLBACK_V4.map(IpAddr::V4));
        if input.ipv6 {
            conf.servers.extend(FALLBACK_V6.map(IpAddr::V6));
        }
    }
    let mut text = directives(&conf);
    let notes = Notes { fallback, asked, overrides, ndots };
    comments(&mut text, input, &conf, &notes);
    ResolvConf { text, servers: conf.servers }
}

/// What the comments say.
struct Notes {
    fallback: bool,
    /// The servers that are asked from 127.0.0.11.
    asked: Vec<IpAddr>,
    overrides: Vec<&'static str>,
    ndots: Option<&'static str>,
}

fn directives(conf: &Parsed) -> String {
    let mut text = String::from(
        "# Generated by Docker Engine.\n\
         # This file can be edited; Docker Engine will not make further changes once it\n\
         # has been modified.\n\n",
    );
    for server in &conf.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !conf.search.is_empty() {
        let _ = writeln!(text, "search {}", conf.search.join(" "));
    }
    if !conf.options.is_empty() {
        let _ = writeln!(text, "options {}", conf.options.join(" "));
    }
    for line in &conf.other {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn comments(text: &mut String, input: &ResolvInput<'_>, conf: &Parsed, notes: &Notes) {
    let how = match (input.embedded, input.own_namespace) {
        (true, _) => " (internal resolver)",
        (false, true) => " (legacy)",
        (false, false) => "",
    };
    let _ = writeln!(text, "\n# Based on host file: '{}'{how}", input.source);
    if notes.fallback {
        text.push_str("# Used default nameservers.\n");
    }
    if !notes.asked.is_empty() {
        let server = |s: &IpAddr| {
            if input.servers.is_empty() { format!("host({s})") } else { s.to_string() }
        };
        let servers: Vec<String> = notes.asked.iter().map(server).collect();
        let _ = writeln!(text, "# ExtServers: [{}]", servers.join(" "));
    }
    if !conf.invalid.is_empty() {
        let _ = writeln!(text, "# Invalid nameservers: [{}]", conf.invalid.join(" "));
    }
    let _ = writeln!(text, "# Overrides: [{}]", notes.overrides.join(" "));
    if let Some(from) = notes.ndots {
        let _ = writeln!(text, "# Option ndots from: {from}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(host: &str) -> ResolvInput<'_> {
        ResolvInput { source: "/etc/resolv.conf", host, own_namespace: true, ..Default::default() }
    }

    #[test]
    fn the_hosts_servers_are_taken_over() {
        let conf = resolv_conf(&input("# x\nnameserver 192.168.65.7\n"));
        assert_eq!(
            conf.text,
            "# Generated by Docker Engine.\n\
             # This file can be edited; Docker Engine will not make further changes once it\n\
             # has been modified.\n\n\
             nameserver 192.168.65.7\n\n\
             # Based on host file: '/etc/resolv.conf' (legacy)\n\
             # Overrides: []\n"
        );
        assert_eq!(conf.servers, ["192.168.65.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn loopback_servers_are_left_out_of_a_namespace() {
        let host = "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n\
                    search a b\nsearch c\noptions ndots:2 edns0\nsortlist 10.0.0.0\n";
        let conf = resolv_conf(&input(host));
        assert!(conf.text.contains("nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch c\n"));
        assert!(conf.text.contains("options ndots:2 edns0\nsortlist 10.0.0.0\n"));
        assert!(conf.text.contains("# Used default nameservers.\n"));
        assert!(conf.text.contains("# Invalid nameservers: [fe80::1%eth0]\n"));
        assert!(conf.text.ends_with("# Option ndots from: host\n"));
        let on_host = resolv_conf(&ResolvInput { own_namespace: false, ..input(host) });
        assert!(on_host.text.contains("nameserver 127.0.0.53\n"));
        assert!(on_host.text.contains("# Based on host file: '/etc/resolv.conf'\n"));
    }

    #[test]
    fn names_are_answered_inside_where_they_are_served() {
        let host = "nameserver 127.0.0.53\nsearch example.org\noptions edns0 trust-ad\n";
        let conf = resolv_conf(&ResolvInput { embedded: true, ..input(host) });
        assert_eq!(
            conf.text,
            "# Generated by Docker Engine.\n\
             # This file can be edited; Docker Engine will not make further changes once it\n\
             # has been modified.\n\n\
             nameserver 127.0.0.11\n\
             search example.org\n\
             options edns0 trust-ad ndots:0\n\n\
             # Based on host file: '/etc/resolv.conf' (internal resolver)\n\
             # ExtServers: [host(127.0.0.53)]\n\
             # Overrides: []\n\
             # Option ndots from: internal\n"
        );
        let (servers, options) = (["10.0.0.1".parse().unwrap()], ["ndots:3".to_owned()]);
        let conf = resolv_conf(&ResolvInput {
            embedded: true,
            servers: &servers,
            options: &options,
            ..input(host)
        });
        assert!(conf.text.contains("\noptions ndots:3\n"), "{}", conf.text);
        assert!(conf.text.contains("# ExtServers: [10.0.0.1]\n"), "{}", conf.text);
        assert!(conf.text.ends_with("# Option ndots from: override\n"), "{}", conf.text);
    }

    #[test]
    fn what_is_asked_for_replaces_the_hosts() {
        let servers = ["127.0.0.1".parse().unwrap()];
        let (search, options) = ([".".to_owned()], ["ndots:5".to_owned()]);
        let conf = resolv_conf(&ResolvInput {
            servers: &servers,
            search: &search,
            options: &options,
            ..input("nameserver 1.1.1.1\nsearch x\noptions rotate\n")
        });
        assert!(conf.text.contains("nameserver 127.0.0.1\noptions ndots:5\n"), "{}", conf.text);
        assert!(!conf.text.contains("\nsearch"));
        assert!(conf.text.contains("# Overrides: [nameservers search options]\n"));
        assert!(conf.text.ends_with("# Option ndots from: override\n"));
    }
}
