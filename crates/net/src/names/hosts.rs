//! `/etc/hosts` and `/etc/hostname`.

use std::net::IpAddr;

/// What goes into a container's `/etc/hosts`.
#[derive(Debug, Clone, Default)]
pub struct HostsInput<'a> {
    /// The container's host name.
    pub hostname: &'a str,
    /// Its domain name; empty when it has none.
    pub domainname: &'a str,
    /// The container's own addresses.
    pub addresses: &'a [IpAddr],
    /// `--add-host`: names and addresses, `host-gateway` already resolved.
    pub extra: &'a [(String, IpAddr)],
}

/// The text of `/etc/hosts`.
#[must_use]
pub fn hosts_file(input: &HostsInput<'_>) -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in input.extra {
        let _ = writeln!(out, "{address}\t{name}");
    }
    for address in input.addresses {
        if input.domainname.is_empty() {
            let _ = writeln!(out, "{address}\t{}", input.hostname);
        } else {
            let (host, domain) = (input.hostname, input.domainname);
            let _ = writeln!(out, "{address}\t{host}.{domain} {host}");
        }
    }
    out
}

/// The text of `/etc/hostname`.
#[must_use]
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_docker_writes() {
        let text = hosts_file(&HostsInput {
            hostname: "web",
            domainname: "",
            addresses: &["172.17.0.2".parse().unwrap()],
            extra: &[("db".to_owned(), "10.0.0.1".parse().unwrap())],
        });
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n10.0.0.1\tdb\n172.17.0.2\tweb\n"
        );
    }

    #[test]
    fn a_domain_makes_the_full_name_first() {
        let text = hosts_file(&HostsInput {
            hostname: "web",
            domainname: "example.org",
            addresses: &["172.17.0.2".parse().unwrap()],
            extra: &[],
        });
        assert!(text.ends_with("172.17.0.2\tweb.example.org web\n"), "{text}");
        assert_eq!(hostname_file("web"), "web\n");
    }
}
