//! Ports of services by their names, for `_http._tcp.NAME`.

/// The names that containers are asked for (IANA's registry has them all),
/// in their order.
const PORTS: &[(&str, u16)] = &[
    ("amqp", 5672),
    ("amqps", 5671),
    ("consul", 8500),
    ("domain", 53),
    ("etcd-client", 2379),
    ("etcd-server", 2380),
    ("ftp", 21),
    ("grpc", 50051),
    ("http", 80),
    ("http-alt", 8080),
    ("https", 443),
    ("imap", 143),
    ("imaps", 993),
    ("kafka", 9092),
    ("kerberos", 88),
    ("ldap", 389),
    ("ldaps", 636),
    ("memcache", 11211),
    ("mongodb", 27017),
    ("mqtt", 1883),
    ("ms-sql-s", 1433),
    ("mysql", 3306),
    ("nats", 4222),
    ("ntp", 123),
    ("postgresql", 5432),
    ("prometheus", 9090),
    ("redis", 6379),
    ("sip", 5060),
    ("sips", 5061),
    ("smtp", 25),
    ("ssh", 22),
    ("submission", 587),
    ("syslog", 514),
    ("xmpp-client", 5222),
    ("xmpp-server", 5269),
];

/// The port of a service: its number, or a name that is known.
#[must_use]
pub fn port(service: &[u8]) -> Option<u16> {
    let name = std::str::from_utf8(service).ok()?;
    if let Ok(number) = name.parse() {
        return Some(number).filter(|n| *n > 0);
    }
    let at = PORTS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(PORTS[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_ports() {
        assert!(PORTS.is_sorted());
        assert_eq!((port(b"http"), port(b"9000"), port(b"nothing")), (Some(80), Some(9000), None));
        assert_eq!((port(b"0"), port(b"70000"), port(b"\xff")), (None, None, None));
    }
}
