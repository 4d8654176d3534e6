//! Turns requests into what a shim is told and the files that it reads. Pure,
//! but for the looks whether a seccomp filter was compiled before, and at the
//! mounts that binds share with.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    BoxBuilder as ConsoleSizeBuilder, LinuxSeccomp, LinuxSeccompFilterFlag, PosixRlimit, Process,
    Spec,
};
use sampan_types::ContainerId;
use sha2::{Digest, Sha256};

use super::types::{CreateRequest, ExecRequest, ExitStatus, IoConfig, OciRuntime, RuntimeConfig};
use super::{dev, sharing};
use crate::error::RuntimeError;
use crate::logs::LogSetup;
use crate::protocol::{Confinement, EXIT, Filter, Setup};

/// The file with a shim's [`Setup`], in its directory.
pub(super) const SETUP: &str = "shim.json";

impl RuntimeConfig {
    /// Where a container's shim has its files.
    pub(super) fn dir(&self, id: &ContainerId) -> PathBuf {
        self.exec_root.join("containers").join(id.as_str())
    }

    pub(super) fn exec_dir(&self, id: &ContainerId, exec: &sampan_types::ExecId) -> PathBuf {
        self.dir(id).join("exec").join(exec.as_str())
    }

    /// Where a container's end is recorded.
    pub(super) fn exit_file(&self, id: &ContainerId) -> PathBuf {
        self.data_root.join("containers").join(id.as_str()).join(EXIT)
    }

    pub(super) fn exec_exit_file(&self, id: &ContainerId, exec: &sampan_types::ExecId) -> PathBuf {
        self.exec_dir(id, exec).join(EXIT)
    }

    pub(super) fn filters(&self) -> PathBuf {
        self.exec_root.join("seccomp")
    }
}

/// What the shim of a new container is told, and its `config.json`.
pub(super) fn container(
    config: &RuntimeConfig,
    request: CreateRequest,
) -> Result<(Setup, Spec), RuntimeError> {
    let CreateRequest { id, generation, mut spec, io, log, runtime } = request;
    let dir = config.dir(&id);
    let dev = match runtime {
        OciRuntime::Builtin => dev::take(&mut spec)?,
        OciRuntime::External(_) => None,
    };
    let shared = sharing::take(&mut spec, &runtime)?;
    let linux = spec.linux().as_ref();
    let cgroup = linux
        .and_then(|l| l.cgroups_path().clone())
        .unwrap_or_else(|| Path::new(&config.cgroup_parent).join(id.as_str()));
    let devices = linux
        .and_then(|l| l.resources().as_ref())
        .and_then(|r| r.devices().clone())
        .unwrap_or_default();
    let mut process = spec.process().clone().unwrap_or_default();
    set_terminal(&mut process, io);
    let rlimits = process.rlimits().clone();
    let oom_score_adj = process.oom_score_adj().unwrap_or(0);
    let mut confinement = Confinement::default();
    if runtime == OciRuntime::Builtin {
        confinement = confine(&mut process);
        let profile = spec.linux_mut().as_mut().and_then(|linux| {
            let profile = linux.seccomp().clone();
            linux.set_seccomp(None);
            profile
        });
        confinement.seccomp = profile.map(|p| filter(config, p)).transpose()?;
    }
    spec.set_process(Some(process));
    let setup = Setup {
        exec: None,
        container_dir: dir.clone(),
        exit_file: config.exit_file(&id),
        dir,
        id,
        generation,
        io,
        log,
        runtime,
        cgroup,
        devices,
        dev,
        shared,
        confinement,
        rlimits,
        oom_score_adj,
    };
    Ok((setup, spec))
}

/// What the shim of an exec is told, and its `process.json`. `base` is what
/// the container's shim was told.
pub(super) fn exec(config: &RuntimeConfig, base: Setup, request: ExecRequest) -> (Setup, Process) {
    let ExecRequest { id: exec, mut process, mut io } = request;
    set_terminal(&mut process, io);
    // An exec has one client in its life.
    io.stdin_once = true;
    inherit(&mut process, base.rlimits.as_ref(), base.oom_score_adj);
    let mut confinement = Confinement::default();
    if base.runtime == OciRuntime::Builtin {
        confinement = confine(&mut process);
        confinement.seccomp = base.confinement.seccomp;
    }
    let setup = Setup {
        dir: config.exec_dir(&base.id, &exec),
        exit_file: config.exec_exit_file(&base.id, &exec),
        exec: Some(exec),
        io,
        log: LogSetup::None,
        dev: None,
        shared: Vec::new(),
        confinement,
        oom_score_adj: process.oom_score_adj().unwrap_or(base.oom_score_adj),
        ..base
    };
    (setup, process)
}

fn set_terminal(process: &mut Process, io: IoConfig) {
    process.set_terminal(Some(io.tty));
    let size = io.console_size.and_then(|(rows, columns)| {
        ConsoleSizeBuilder::default().height(rows).width(columns).build().ok()
    });
    process.set_console_size(size);
}

/// What an exec does not say it takes over from the container.
fn inherit(process: &mut Process, rlimits: Option<&Vec<PosixRlimit>>, oom_score_adj: i32) {
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(rlimits.cloned());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(Some(oom_score_adj));
    }
}

/// Takes out of `process` what the shim does itself (see `shim/executor.rs`).
fn confine(process: &mut Process) -> Confinement {
    let confinement = Confinement {
        capabilities: process.capabilities().clone(),
        no_new_privileges: process.no_new_privileges() == Some(true),
        cwd: process.cwd().clone(),
        seccomp: None,
    };
    process.set_capabilities(None);
    process.set_cwd(PathBuf::from("/"));
    // Without a home in the environment, libcontainer looks for one with the
    // C library, which would load the container's own name service modules.
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|e| e.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        env.retain(|e| !e.starts_with("HOME="));
        env.push("HOME=/".to_owned());
    }
    process.set_env(Some(env));
    confinement
}

/// Where the compiled filter for `profile` is or will be.
fn filter(config: &RuntimeConfig, profile: LinuxSeccomp) -> Result<Filter, RuntimeError> {
    if profile.listener_path().is_some() {
        return Err(RuntimeError::Unsupported("seccomp listeners are not supported".into()));
    }
    let json = serde_json::to_vec(&profile)
        .map_err(|e| RuntimeError::io("writing", "the seccomp profile", e.into()))?;
    let digest: String = Sha256::digest(&json).iter().map(|b| format!("{b:02x}")).collect();
    let file = config.filters().join(format!("{digest}.bpf"));
    let flags = flags(&profile);
    let known = file.exists();
    Ok(Filter { file, flags, profile: (!known).then_some(profile) })
}

/// Flags of seccomp(2). As runc, a profile that names none gets SPEC_ALLOW.
fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else {
        return 4;
    };
    flags
        .iter()
        .map(|flag| match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            // One thread needs no synchronisation; without a listener there
            // is nothing to wait for.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        })
        .fold(0, |all, flag| all | flag)
}

/// The record in `file`, if there is one.
pub(super) fn read_exit(file: &Path) -> Result<Option<ExitStatus>, RuntimeError> {
    match std::fs::read(file) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|e| RuntimeError::io("reading", file.display(), e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RuntimeError::io("reading", file.display(), e)),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::ProcessBuilder;

    use super::*;

    #[test]
    fn what_the_shim_does_itself_is_taken_out() {
        let mut process = ProcessBuilder::default()
            .cwd("/srv")
            .env(vec!["HOME=".to_owned(), "A=1".to_owned()])
            .no_new_privileges(true)
            .build()
            .unwrap();
        let confinement = confine(&mut process);
        assert_eq!(confinement.cwd, Path::new("/srv"));
        assert!(confinement.no_new_privileges && confinement.capabilities.is_some());
        assert_eq!(process.cwd(), Path::new("/"));
        assert!(process.capabilities().is_none());
        assert_eq!(process.env().as_deref().unwrap(), ["A=1", "HOME=/"]);
    }

    #[test]
    fn profiles_without_flags_allow_speculation() {
        let profile: LinuxSeccomp =
            serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert_eq!(flags(&profile), 4);
        let profile: LinuxSeccomp = serde_json::from_str(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#,
        )
        .unwrap();
        assert_eq!(flags(&profile), 2);
    }
}
