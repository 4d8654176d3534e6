//! `--sysctl`: only what belongs to one of the container's own namespaces.

use std::collections::HashMap;

use sampan_types::docker::{ContainerConfig, HostConfig};

use super::SpecError;

/// Those of the IPC namespace.
const IPC: [&str; 9] = [
    "kernel.auto_msgmni",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks every name against the namespaces that the container has.
pub(super) fn validate(host: &HostConfig) -> Result<(), SpecError> {
    let is_host = |mode: &Option<String>| mode.as_deref() == Some("host");
    for name in host.sysctls.iter().flatten().map(|(name, _)| name) {
        let dotted = name.replace('/', ".");
        let refuse = |why: &str| Err(SpecError::Invalid(format!("sysctl '{name}' {why}")));
        let valid = dotted.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-*".contains(&b))
            && !dotted.split('.').any(str::is_empty);
        if !valid {
            return refuse("is not a valid name");
        }
        if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            if is_host(&host.ipc_mode) {
                return refuse("not allowed in host ipc namespace");
            }
        } else if dotted.starts_with("net.") {
            if is_host(&host.network_mode) {
                return refuse("not allowed in host network namespace");
            }
        } else if dotted == "kernel.domainname" {
            if is_host(&host.uts_mode) {
                return refuse("not allowed in host uts namespace");
            }
        } else {
            return refuse("is not in a separate kernel namespace");
        }
    }
    Ok(())
}

/// What is set: Docker's defaults, the domain name, the user's.
pub(super) fn build(
    host: &HostConfig,
    config: &ContainerConfig,
    own_net: bool,
    own_uts: bool,
) -> HashMap<String, String> {
    let mut sysctls = HashMap::new();
    let joined = host.network_mode.as_deref().is_some_and(|m| m.starts_with("container:"));
    if own_net && !joined {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        sysctls.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
    }
    if let Some(domain) = config.domainname.as_ref().filter(|d| own_uts && !d.is_empty()) {
        sysctls.insert("kernel.domainname".into(), domain.clone());
    }
    for (name, value) in host.sysctls.iter().flatten() {
        sysctls.insert(name.replace('/', "."), value.clone());
    }
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostConfig {
        HostConfig {
            sysctls: Some([(name.to_owned(), "1".to_owned())].into()),
            ..HostConfig::default()
        }
    }

    #[test]
    fn only_namespaced_ones_are_allowed() {
        for name in
            ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "net/core/somaxconn"]
        {
            assert_eq!(validate(&host(name)), Ok(()), "{name}");
        }
        for name in ["kernel.panic", "vm.swappiness", "net..x", "net.../../x", ""] {
            assert!(validate(&host(name)).is_err(), "{name}");
        }
        let mut shared = host("net.ipv4.ip_forward");
        shared.network_mode = Some("host".into());
        assert_eq!(
            validate(&shared).unwrap_err().to_string(),
            "sysctl 'net.ipv4.ip_forward' not allowed in host network namespace"
        );
        let mut shared = host("kernel.shmmax");
        shared.ipc_mode = Some("host".into());
        assert_eq!(
            validate(&shared).unwrap_err().to_string(),
            "sysctl 'kernel.shmmax' not allowed in host ipc namespace"
        );
    }
}
