//! The process of a container, and of an `exec` in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    BoxBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User,
};
use sampan_types::docker::{ContainerConfig, HostConfig, ResourcesUlimits};

use super::security::Security;
use super::{ExecInput, SpecError, SpecInput, caps};
use crate::user::ResolvedUser;

/// Where programs are looked for when the image says nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where `--init` finds its program in the container.
pub(super) const INIT_PATH: &str = "/sbin/docker-init";
/// What the OCI runtimes set when nobody asks for another.
const UMASK: u32 = 0o022;

/// The container's own process.
pub(super) fn build(input: &SpecInput<'_>, caps: &[&str]) -> Result<Process, SpecError> {
    let config = input.config;
    let mut args = Vec::new();
    if input.init.is_some() {
        args.extend([INIT_PATH.to_owned(), "--".to_owned()]);
    }
    args.extend(command(config)?);
    let tty = config.tty.unwrap_or(false);
    let env = environment(config, input.hostname, tty, &[], input.user);
    let mut process = common(input.user, tty, input.host.console_size.as_deref());
    process
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(working_dir(config.working_dir.as_deref())?)
        .set_capabilities(Some(caps::sets(caps, input.user.uid)))
        .set_oom_score_adj(Some(oom_score(input.host)?));
    restrict(&mut process, input.host, input.default_ulimits, input.facts)?;
    Ok(process)
}

/// The process of an `exec`.
pub(super) fn build_exec(input: &ExecInput<'_>) -> Result<Process, SpecError> {
    let exec = input.exec;
    let args = exec.cmd.clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::Invalid("No exec command specified".into()));
    }
    let tty = exec.tty.unwrap_or(false);
    let extra = exec.env.as_deref().unwrap_or_default();
    check_env(extra)?;
    let env = environment(input.config, input.hostname, tty, extra, input.user);
    let privileged = exec.privileged.unwrap_or(false) || input.host.privileged.unwrap_or(false);
    let caps = caps::effective(input.host, privileged, input.facts)?;
    let dir = exec.working_dir.as_deref().filter(|d| !d.is_empty());
    let mut process = common(input.user, tty, exec.console_size.as_deref());
    process
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(working_dir(dir.or(input.config.working_dir.as_deref()))?)
        .set_capabilities(Some(caps::sets(&caps, input.user.uid)));
    restrict(&mut process, input.host, input.default_ulimits, input.facts)?;
    Ok(process)
}

/// User, terminal, and no default of the OCI library's.
fn common(user: &ResolvedUser, tty: bool, console: Option<&[usize]>) -> Process {
    let mut id = User::default();
    id.set_uid(user.uid)
        .set_gid(user.gid)
        .set_umask(Some(UMASK))
        .set_additional_gids(Some(user.groups.clone()).filter(|g| !g.is_empty()));
    let size = match console {
        Some([height, width]) if tty && *height > 0 && *width > 0 => Some(
            BoxBuilder::default()
                .height(*height as u64)
                .width(*width as u64)
                .build()
                .expect("every field is set"),
        ),
        _ => None,
    };
    let mut process = Process::default();
    process
        .set_user(id)
        .set_terminal(Some(tty))
        .set_console_size(size)
        .set_rlimits(None)
        .set_no_new_privileges(None)
        .set_apparmor_profile(None)
        .set_oom_score_adj(None);
    process
}

fn restrict(
    process: &mut Process,
    host: &HostConfig,
    defaults: &[ResourcesUlimits],
    facts: &super::HostFacts,
) -> Result<(), SpecError> {
    let security = Security::parse(host.security_opt.as_deref(), facts)?;
    // `Some(false)` would make libcontainer load the seccomp filter too late.
    process
        .set_no_new_privileges(security.no_new_privileges.then_some(true))
        .set_apparmor_profile(security.apparmor)
        .set_rlimits(rlimits(host, defaults)?);
    Ok(())
}

/// Entrypoint and command.
pub(super) fn command(config: &ContainerConfig) -> Result<Vec<String>, SpecError> {
    let entrypoint = config.entrypoint.as_deref().unwrap_or_default();
    // One empty string takes the image's entrypoint away.
    let entrypoint = if entrypoint == [""] { &[] } else { entrypoint };
    let args: Vec<String> = entrypoint.iter().chain(config.cmd.iter().flatten()).cloned().collect();
    if args.is_empty() {
        return Err(SpecError::Invalid("no command specified".into()));
    }
    Ok(args)
}

/// Docker's order: defaults, the container's, the exec's; a later value of a
/// name takes the place of an earlier one, and a name alone removes it.
fn environment(
    config: &ContainerConfig,
    hostname: &str,
    tty: bool,
    extra: &[String],
    user: &ResolvedUser,
) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    let own = config.env.as_deref().unwrap_or_default();
    for value in own.iter().chain(extra) {
        let name = value.split_once('=').map_or(value.as_str(), |(name, _)| name);
        let same = |e: &String| e.split_once('=').is_some_and(|(n, _)| n == name);
        match env.iter().position(same) {
            Some(i) if value.contains('=') => env[i].clone_from(value),
            Some(i) => {
                env.remove(i);
            }
            None if value.contains('=') => env.push(value.clone()),
            None => {}
        }
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home.display()));
    }
    env
}

pub(super) fn check_env(env: &[String]) -> Result<(), SpecError> {
    match env.iter().find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0')) {
        Some(wrong) => Err(SpecError::Invalid(format!("invalid environment variable: {wrong}"))),
        None => Ok(()),
    }
}

pub(super) fn working_dir(dir: Option<&str>) -> Result<PathBuf, SpecError> {
    match dir {
        None | Some("") => Ok(PathBuf::from("/")),
        Some(dir) if dir.starts_with('/') => Ok(super::mounts::normal(dir)),
        Some(dir) => Err(SpecError::Invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        ))),
    }
}

pub(super) fn oom_score(host: &HostConfig) -> Result<i32, SpecError> {
    let value = host.oom_score_adj.unwrap_or(0);
    i32::try_from(value).ok().filter(|v| (-1000..=1000).contains(v)).ok_or_else(|| {
        SpecError::Invalid(format!(
            "Invalid value {value}, range for oom score adj is [-1000, 1000]"
        ))
    })
}

const LIMITS: [(&str, PosixRlimitType); 15] = [
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

/// Checks limits that are to be every container's default.
///
/// # Errors
/// [`SpecError::Invalid`] for an unknown name or a soft limit above the hard one.
pub fn check_ulimits(limits: &[ResourcesUlimits]) -> Result<(), SpecError> {
    rlimits(&HostConfig::default(), limits).map(|_| ())
}

/// The container's limits over the daemon's defaults.
pub(super) fn rlimits(
    host: &HostConfig,
    defaults: &[ResourcesUlimits],
) -> Result<Option<Vec<PosixRlimit>>, SpecError> {
    let mut limits = BTreeMap::new();
    for ulimit in defaults.iter().chain(host.ulimits.iter().flatten()) {
        let name = ulimit.name.as_deref().unwrap_or_default().to_ascii_lowercase();
        let Some((name, typ)) = LIMITS.iter().find(|(n, _)| *n == name) else {
            return Err(SpecError::Invalid(format!("invalid ulimit type: {name}")));
        };
        let (soft, hard) = (ulimit.soft.unwrap_or(0), ulimit.hard.unwrap_or(0));
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(SpecError::Invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            )));
        }
        // -1 is "unlimited", which the kernel writes as the largest number.
        let number = |v: i64| if v < 0 { u64::MAX } else { v.unsigned_abs() };
        let limit = PosixRlimitBuilder::default()
            .typ(*typ)
            .soft(number(soft))
            .hard(number(hard))
            .build()
            .expect("every field is set");
        limits.insert(*name, limit);
    }
    Ok(Some(limits.into_values().collect::<Vec<_>>()).filter(|l| !l.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn environment_is_merged_in_dockers_order() {
        let config = ContainerConfig {
            env: strings(&["A=1", "PATH=/x", "A=2", "HOSTNAME"]),
            ..ContainerConfig::default()
        };
        let user = ResolvedUser { home: "/home/u".into(), ..ResolvedUser::default() };
        let extra = strings(&["B=3", "TERM=dumb"]).unwrap();
        let env = environment(&config, "h", true, &extra, &user);
        assert_eq!(env, ["PATH=/x", "TERM=dumb", "A=2", "B=3", "HOME=/home/u"]);
    }

    #[test]
    fn commands_are_joined() {
        let config = |entrypoint: &[&str], cmd: &[&str]| ContainerConfig {
            entrypoint: strings(entrypoint),
            cmd: strings(cmd),
            ..ContainerConfig::default()
        };
        assert_eq!(command(&config(&["/e", "x"], &["y"])).unwrap(), ["/e", "x", "y"]);
        assert_eq!(command(&config(&[""], &["y"])).unwrap(), ["y"]);
        assert_eq!(command(&config(&[""], &[])).unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn ulimits_override_the_defaults() {
        let ulimit = |name: &str, soft, hard| ResourcesUlimits {
            name: Some(name.into()),
            soft: Some(soft),
            hard: Some(hard),
        };
        let host = |list: Vec<ResourcesUlimits>| HostConfig {
            ulimits: Some(list),
            ..HostConfig::default()
        };
        let limits = rlimits(
            &host(vec![ulimit("nofile", 10, 20), ulimit("core", -1, -1)]),
            &[ulimit("nofile", 1, 2)],
        )
        .unwrap()
        .unwrap();
        assert_eq!(limits.len(), 2);
        assert_eq!((limits[0].soft(), limits[1].soft()), (u64::MAX, 10));
        assert_eq!(rlimits(&HostConfig::default(), &[]), Ok(None));
        for (limit, message) in [
            (ulimit("files", 1, 1), "invalid ulimit type: files"),
            (
                ulimit("nofile", 2, 1),
                "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
            ),
        ] {
            assert_eq!(rlimits(&host(vec![limit]), &[]).unwrap_err().to_string(), message);
        }
    }
}
