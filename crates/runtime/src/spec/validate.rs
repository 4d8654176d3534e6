//! Everything that can be refused before a container is made.

use sampan_types::docker::{ContainerConfig, HostConfig, HostConfigCgroupnsModeEnum};

use super::security::Security;
use super::{HostFacts, SpecError, Warning, caps, devices, mounts, process, resources, sysctl};
use crate::cgroup::CgroupVersion;
use crate::signal;

/// What the kernel takes as a host name.
const MAX_HOSTNAME: usize = 64;

fn invalid<T>(message: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError::Invalid(message.into()))
}

/// Fills in the defaults that `inspect` shows: `/dev/shm`, swap, namespace
/// modes, CPU shares within the kernel's range.
pub fn adapt(host: &mut HostConfig, facts: &HostFacts) {
    if host.shm_size.unwrap_or(0) == 0 {
        host.shm_size = Some(mounts::DEFAULT_SHM);
    }
    if let Some(memory) = host.memory.filter(|m| *m > 0)
        && host.memory_swap.unwrap_or(0) == 0
    {
        host.memory_swap = Some(memory.saturating_mul(2));
    }
    if let Some(shares) = host.cpu_shares.filter(|s| *s != 0) {
        host.cpu_shares = Some(shares.clamp(2, 262_144));
    }
    if host.ipc_mode.as_deref().unwrap_or_default().is_empty() {
        host.ipc_mode = Some("private".into());
    }
    if matches!(host.cgroupns_mode, None | Some(HostConfigCgroupnsModeEnum::EMPTY)) {
        let private = facts.cgroup.version == CgroupVersion::V2;
        host.cgroupns_mode = Some(if private {
            HostConfigCgroupnsModeEnum::PRIVATE
        } else {
            HostConfigCgroupnsModeEnum::HOST
        });
    }
}

/// Checks what the user asked for against what the host can do.
///
/// # Errors
/// [`SpecError`] with Docker's message for the first thing that is wrong.
pub fn validate(
    host: &HostConfig,
    config: &ContainerConfig,
    facts: &HostFacts,
) -> Result<Vec<Warning>, SpecError> {
    check_config(config)?;
    check_modes(host)?;
    check_unsupported(host)?;
    let privileged = host.privileged.unwrap_or(false);
    let security = Security::parse(host.security_opt.as_deref(), facts)?;
    let caps = caps::effective(host, privileged, facts)?;
    security.filter(privileged, &caps, facts)?;
    process::rlimits(host, &[])?;
    process::oom_score(host)?;
    sysctl::validate(host)?;
    mounts::tmpfs(host)?;
    for rule in host.device_cgroup_rules.iter().flatten() {
        devices::parse_rule(rule)?;
    }
    for mapping in host.devices.iter().flatten() {
        devices::access(mapping)?;
    }
    if host.shm_size.unwrap_or(0) < 0 {
        return invalid("SHM size can not be less than 0");
    }
    let mut warnings = resources::validate(host, facts)?;
    let published = host.port_bindings.as_ref().is_some_and(|p| !p.is_empty());
    if host.network_mode.as_deref() == Some("host") && published {
        warnings.push("Published ports are discarded when using host network mode".into());
    }
    Ok(warnings)
}

fn check_config(config: &ContainerConfig) -> Result<(), SpecError> {
    process::command(config)?;
    process::check_env(config.env.as_deref().unwrap_or_default())?;
    process::working_dir(config.working_dir.as_deref())?;
    if let Some(text) = config.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        signal::parse(text).map_err(|e| SpecError::Invalid(e.to_string()))?;
    }
    for name in [&config.hostname, &config.domainname].into_iter().flatten() {
        if name.len() > MAX_HOSTNAME || name.contains(['\0', '\n', '/']) {
            return invalid(format!("invalid hostname format: {name}"));
        }
    }
    Ok(())
}

fn check_modes(host: &HostConfig) -> Result<(), SpecError> {
    let text = |mode: &Option<String>| mode.clone().unwrap_or_default();
    let joins = |mode: &str| mode.strip_prefix("container:").is_some_and(|c| !c.is_empty());
    let pid = text(&host.pid_mode);
    if !matches!(pid.as_str(), "" | "private" | "host") && !joins(&pid) {
        return invalid(format!("invalid PID mode: {pid}"));
    }
    let ipc = text(&host.ipc_mode);
    if !matches!(ipc.as_str(), "" | "none" | "private" | "shareable" | "host") && !joins(&ipc) {
        return invalid(format!("invalid IPC mode: {ipc}"));
    }
    let uts = text(&host.uts_mode);
    if !matches!(uts.as_str(), "" | "private" | "host") {
        return invalid(format!("invalid UTS mode: {uts}"));
    }
    let userns = text(&host.userns_mode);
    if !matches!(userns.as_str(), "" | "host") {
        return invalid(format!("invalid user namespace mode: {userns}"));
    }
    Ok(())
}

fn check_unsupported(host: &HostConfig) -> Result<(), SpecError> {
    if let Some(request) = host.device_requests.iter().flatten().next() {
        return Err(SpecError::Unsupported(format!(
            "could not select device driver \"{}\" with capabilities: {:?}",
            request.driver.as_deref().unwrap_or_default(),
            request.capabilities.clone().unwrap_or_default()
        )));
    }
    if host.storage_opt.as_ref().is_some_and(|o| !o.is_empty()) {
        return Err(SpecError::Unsupported(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
                .into(),
        ));
    }
    if let Some(isolation) = host.isolation.as_ref().map(ToString::to_string)
        && !matches!(isolation.as_str(), "" | "default")
    {
        return invalid(format!(
            "invalid isolation (\"{isolation}\"): linux only supports 'default'"
        ));
    }
    if host.cgroup.as_ref().is_some_and(|c| !c.is_empty()) {
        return Err(SpecError::Unsupported("the option Cgroup is not supported".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config, facts};
    use super::*;

    fn refused(change: impl FnOnce(&mut HostConfig)) -> String {
        let mut host = HostConfig::default();
        change(&mut host);
        validate(&host, &config(), &facts()).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_container_is_accepted_without_remarks() {
        let mut host = HostConfig::default();
        assert_eq!(validate(&host, &config(), &facts()), Ok(vec![]));
        adapt(&mut host, &facts());
        assert_eq!(validate(&host, &config(), &facts()), Ok(vec![]));
        assert_eq!(host.shm_size, Some(64 << 20));
        assert_eq!(host.cgroupns_mode, Some(HostConfigCgroupnsModeEnum::HOST));
    }

    #[test]
    fn wrong_modes_are_refused() {
        assert_eq!(refused(|h| h.pid_mode = Some("x".into())), "invalid PID mode: x");
        assert_eq!(
            refused(|h| h.pid_mode = Some("container:".into())),
            "invalid PID mode: container:"
        );
        assert_eq!(refused(|h| h.ipc_mode = Some("x".into())), "invalid IPC mode: x");
        assert_eq!(refused(|h| h.uts_mode = Some("x".into())), "invalid UTS mode: x");
        assert_eq!(
            refused(|h| h.userns_mode = Some("keep-id".into())),
            "invalid user namespace mode: keep-id"
        );
        assert_eq!(
            refused(|h| h.oom_score_adj = Some(1001)),
            "Invalid value 1001, range for oom score adj is [-1000, 1000]"
        );
        assert!(
            refused(|h| h.storage_opt = Some([("size".into(), "1G".into())].into()))
                .starts_with("--storage-opt")
        );
        assert!(
            refused(|h| h.security_opt = Some(vec!["seccomp={".into()]))
                .contains("Decoding seccomp profile failed")
        );
    }

    #[test]
    fn wrong_configurations_are_refused() {
        let refused = |change: fn(&mut ContainerConfig)| {
            let mut config = config();
            change(&mut config);
            validate(&HostConfig::default(), &config, &facts()).unwrap_err().to_string()
        };
        assert_eq!(refused(|c| c.cmd = None), "no command specified");
        assert_eq!(refused(|c| c.stop_signal = Some("NOPE".into())), "invalid signal: NOPE");
        assert_eq!(
            refused(|c| c.working_dir = Some("x".into())),
            "the working directory 'x' is invalid, it needs to be an absolute path"
        );
        assert_eq!(
            refused(|c| c.env = Some(vec!["=x".into()])),
            "invalid environment variable: =x"
        );
    }
}
