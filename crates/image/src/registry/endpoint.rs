//! Where a registry is reached: mirrors first, HTTPS before plain HTTP.

use reqwest::Url;

use super::config::Mirror;
use super::error::RegistryError;

/// The host that serves what is called docker.io.
const HUB: &str = "registry-1.docker.io";

/// One address of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `scheme://host[:port]/`.
    pub(super) base: Url,
    /// Whether it is a mirror, which gets no credentials and whose failures
    /// are nobody's business.
    pub(super) mirror: bool,
}

/// The addresses of `domain` in the order to try them. Pure.
pub(super) fn endpoints(
    domain: &str,
    insecure: bool,
    mirrors: &[Mirror],
) -> Result<Vec<Endpoint>, RegistryError> {
    let hub = matches!(domain, "docker.io" | "index.docker.io" | HUB);
    let mut found = Vec::new();
    if hub {
        found.extend(mirrors.iter().map(|m| Endpoint { base: m.url().clone(), mirror: true }));
    }
    let host = if hub { HUB } else { domain };
    let schemes: &[&str] = if insecure { &["https", "http"] } else { &["https"] };
    for scheme in schemes {
        let base = Url::parse(&format!("{scheme}://{host}/")).map_err(|e| {
            RegistryError::Invalid { what: "registry", value: domain.into(), reason: e.to_string() }
        })?;
        found.push(Endpoint { base, mirror: false });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(domain: &str, insecure: bool) -> Vec<String> {
        let mirrors = [Mirror::parse("http://mirror:5000").unwrap()];
        endpoints(domain, insecure, &mirrors).unwrap().iter().map(|e| e.base.to_string()).collect()
    }

    #[test]
    fn mirrors_serve_docker_io_only() {
        assert_eq!(
            addresses("docker.io", false),
            ["http://mirror:5000/", "https://registry-1.docker.io/"]
        );
        assert_eq!(addresses("quay.io", false), ["https://quay.io/"]);
        assert_eq!(
            addresses("localhost:5000", true),
            ["https://localhost:5000/", "http://localhost:5000/"]
        );
    }
}
