//! What a request may not say, in dockerd's words. Pure; what depends on the
//! machine (limits, devices, seccomp) is the runtime's to check.

use std::net::IpAddr;

use sampan_types::docker::{ContainerConfig, HealthConfig, HostConfig, HostConfigIsolationEnum};

use crate::restart::Policy;

/// What was refused and why. All of them are the request's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

type Checked = Result<(), Refusal>;

fn refuse(text: impl Into<String>) -> Checked {
    Err(Refusal(text.into()))
}

/// Docker's shortest time for health checks: one millisecond.
const SHORTEST: i64 = 1_000_000;

/// Checks a container's configuration, merged with the image's.
///
/// # Errors
/// The first thing that is wrong.
pub fn config(config: &ContainerConfig) -> Checked {
    if let Some(dir) =
        config.working_dir.as_deref().filter(|d| !d.is_empty() && !d.starts_with('/'))
    {
        return refuse(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        ));
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') || variable.contains('\0') {
            return refuse(format!("invalid environment variable: {variable}"));
        }
    }
    if let Some(signal) = config.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        sampan_runtime::signal::parse(signal).map_err(|e| Refusal(e.to_string()))?;
    }
    for (what, name) in [("hostname", &config.hostname), ("domainname", &config.domainname)] {
        let name = name.as_deref().unwrap_or_default();
        if name.len() > 64 || name.contains(['\0', '\n', '/', ' ']) {
            return refuse(format!(
                "invalid {what} {name:?}: at most 64 bytes without blanks and slashes expected"
            ));
        }
    }
    health(config.healthcheck.as_ref())
}

fn health(check: Option<&HealthConfig>) -> Checked {
    let Some(check) = check else { return Ok(()) };
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    for (name, value) in times {
        if value.is_some_and(|v| v != 0 && v < SHORTEST) {
            return refuse(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if check.retries.is_some_and(|r| r < 0) {
        return refuse("Retries in Healthcheck cannot be negative");
    }
    match check.test.iter().flatten().map(String::as_str).next() {
        None | Some("" | "NONE") => Ok(()),
        Some("CMD" | "CMD-SHELL") if check.test.iter().flatten().count() > 1 => Ok(()),
        Some(kind @ ("CMD" | "CMD-SHELL")) => {
            refuse(format!("Healthcheck test {kind} needs a command"))
        }
        Some(other) => refuse(format!(
            "Unknown healthcheck type '{other}' (expected 'CMD', 'CMD-SHELL' or 'NONE')"
        )),
    }
}

/// Checks options that exclude each other or that this engine does not have.
///
/// # Errors
/// The first thing that is wrong.
pub fn host(config: &ContainerConfig, host: &HostConfig) -> Checked {
    network(config, host)?;
    let policy = match &host.restart_policy {
        Some(p) => Policy::parse(p).map_err(|e| Refusal(e.to_string()))?,
        None => Policy::No,
    };
    if host.auto_remove.unwrap_or(false) && policy != Policy::No {
        return refuse("can't create 'AutoRemove' container with restart policy");
    }
    for entry in host.extra_hosts.iter().flatten() {
        extra_host(entry)?;
    }
    if let Some(server) = host.dns.iter().flatten().find(|s| s.parse::<IpAddr>().is_err()) {
        return refuse(format!("invalid DNS server address: {server}"));
    }
    unsupported(host)?;
    if host.annotations.iter().flatten().any(|(k, _)| k.is_empty()) {
        return refuse(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        );
    }
    Ok(())
}

/// Options that only other platforms or storage drivers have.
fn unsupported(host: &HostConfig) -> Checked {
    let positive = |n: Option<i64>| n.is_some_and(|n| n > 0);
    let isolation = host.isolation.is_some_and(|i| {
        !matches!(i, HostConfigIsolationEnum::EMPTY | HostConfigIsolationEnum::DEFAULT)
    });
    if isolation {
        return refuse("invalid isolation: only the default one exists on Linux");
    }
    if host.storage_opt.as_ref().is_some_and(|o| !o.is_empty()) {
        return refuse(
            "--storage-opt is not supported: a container's size is not limited on this file system",
        );
    }
    let windows = [
        ("CpuCount", positive(host.cpu_count)),
        ("CpuPercent", positive(host.cpu_percent)),
        ("IOMaximumIOps", positive(host.io_maximum_iops)),
        ("IOMaximumBandwidth", positive(host.io_maximum_bandwidth)),
        ("Cgroup", host.cgroup.as_deref().is_some_and(|c| !c.is_empty())),
    ];
    match windows.iter().find(|(_, set)| *set) {
        Some((name, _)) => refuse(format!("invalid option: {name} is not supported on Linux")),
        None => Ok(()),
    }
}

/// Whether a network mode borrows another container's namespace; its name.
#[must_use]
pub fn container_mode(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:")
}

fn network(config: &ContainerConfig, host: &HostConfig) -> Checked {
    let mode = host.network_mode.as_deref().unwrap_or_default();
    let has_hostname = config.hostname.as_deref().is_some_and(|h| !h.is_empty());
    let uts_host = host.uts_mode.as_deref() == Some("host");
    if uts_host && has_hostname {
        return refuse("conflicting options: hostname and the UTS mode");
    }
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let links = |kind: &str| {
        refuse(format!(
            "conflicting options: {kind} type networking can't be used with links. This would \
             result in undefined behavior"
        ))
    };
    if some(&host.links) && matches!(mode, "host" | "none") {
        return links(mode);
    }
    if some(&host.links) && container_mode(mode).is_some() {
        return links("container");
    }
    if mode == "container" || container_mode(mode) == Some("") {
        return refuse("Invalid network mode: invalid container format container:<name|id>");
    }
    if container_mode(mode).is_none() {
        return Ok(());
    }
    let publishes = host.port_bindings.as_ref().is_some_and(|p| !p.is_empty())
        || host.publish_all_ports.unwrap_or(false);
    let conflicts = [
        (has_hostname, "hostname and the network mode"),
        (some(&host.dns), "dns and the network mode"),
        (some(&host.extra_hosts), "custom host-to-IP mapping and the network mode"),
        (publishes, "port publishing and the container type network mode"),
        (some(&config.exposed_ports), "port exposing and the container type network mode"),
    ];
    match conflicts.iter().find(|(wrong, _)| *wrong) {
        Some((_, what)) => refuse(format!("conflicting options: {what}")),
        None => Ok(()),
    }
}

/// `name:address`, `name=address`; the address may be `host-gateway`.
///
/// # Errors
/// `bad format for add-host`, `invalid IP address in add-host`.
pub fn extra_host(entry: &str) -> Result<(&str, Option<IpAddr>), Refusal> {
    let split = entry.split_once('=').or_else(|| entry.split_once(':'));
    let Some((name, address)) = split.filter(|(name, _)| !name.is_empty()) else {
        return Err(Refusal(format!("bad format for add-host: \"{entry}\"")));
    };
    if address == "host-gateway" {
        return Ok((name, None));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    match bare.parse() {
        Ok(ip) => Ok((name, Some(ip))),
        Err(_) => Err(Refusal(format!("invalid IP address in add-host: \"{address}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::docker::{RestartPolicy, RestartPolicyNameEnum};

    fn says(host_config: HostConfig, text: &str) {
        let config = ContainerConfig::default();
        assert_eq!(host(&config, &host_config), refuse(text));
    }

    #[test]
    fn conflicting_options() {
        let container =
            || HostConfig { network_mode: Some("container:x".to_owned()), ..Default::default() };
        says(
            HostConfig { port_bindings: Some([("80/tcp".into(), None)].into()), ..container() },
            "conflicting options: port publishing and the container type network mode",
        );
        says(
            HostConfig { extra_hosts: Some(vec!["a:1.2.3.4".into()]), ..container() },
            "conflicting options: custom host-to-IP mapping and the network mode",
        );
        says(
            HostConfig { network_mode: Some("container:".into()), ..Default::default() },
            "Invalid network mode: invalid container format container:<name|id>",
        );
        says(
            HostConfig {
                auto_remove: Some(true),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::ALWAYS),
                    maximum_retry_count: None,
                }),
                ..Default::default()
            },
            "can't create 'AutoRemove' container with restart policy",
        );
        assert_eq!(host(&ContainerConfig::default(), &container()), Ok(()));
    }

    #[test]
    fn a_hostname_needs_an_own_namespace() {
        let c = ContainerConfig { hostname: Some("h".into()), ..Default::default() };
        let h = HostConfig { uts_mode: Some("host".into()), ..Default::default() };
        assert_eq!(host(&c, &h), refuse("conflicting options: hostname and the UTS mode"));
        let h = HostConfig { network_mode: Some("container:x".into()), ..Default::default() };
        assert_eq!(host(&c, &h), refuse("conflicting options: hostname and the network mode"));
    }

    #[test]
    fn configurations() {
        let dir = ContainerConfig { working_dir: Some("a".into()), ..Default::default() };
        assert!(config(&dir).unwrap_err().0.contains("absolute path"));
        let env = ContainerConfig { env: Some(vec!["=x".into()]), ..Default::default() };
        assert_eq!(config(&env), refuse("invalid environment variable: =x"));
        let check = |c: HealthConfig| {
            config(&ContainerConfig { healthcheck: Some(c), ..Default::default() })
        };
        assert_eq!(
            check(HealthConfig { interval: Some(5), ..Default::default() }),
            refuse("Interval in Healthcheck cannot be less than 1ms")
        );
        assert_eq!(
            check(HealthConfig { retries: Some(-1), ..Default::default() }),
            refuse("Retries in Healthcheck cannot be negative")
        );
        assert!(
            check(HealthConfig { test: Some(vec!["X".into()]), ..Default::default() }).is_err()
        );
        assert!(
            check(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }).is_ok()
        );
    }

    #[test]
    fn extra_hosts() {
        assert_eq!(extra_host("a:1.2.3.4"), Ok(("a", Some("1.2.3.4".parse().unwrap()))));
        assert_eq!(extra_host("a=[::1]"), Ok(("a", Some("::1".parse().unwrap()))));
        assert_eq!(extra_host("a:::1"), Ok(("a", Some("::1".parse().unwrap()))));
        assert_eq!(extra_host("gw:host-gateway"), Ok(("gw", None)));
        assert!(
            extra_host("a").is_err()
                && extra_host("a:x").is_err()
                && extra_host(":1.1.1.1").is_err()
        );
    }
}
