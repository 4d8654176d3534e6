//! The last steps of a process before its program runs: late mounts, working
//! directory, look-up of the program, capabilities, seccomp filter, execve.
//!
//! libcontainer would do these itself; they are done here because
//! - it gives processes of `exec` no seccomp filter,
//! - it compiles the profile anew for each container,
//! - it leaves SIGPIPE ignored, as Rust programs have it,
//! - its error texts are not Docker's.
//!
//! So the specification that it reads has no capabilities, no profile and the
//! working directory `/`; see [`Confinement`].
//!
//! Be aware:
//! - All of this runs in the container's namespaces, as the container's user,
//!   with all capabilities until [`Last::confine`].
//! - An error goes to the shim through a pipe that execve closes: end of file
//!   on it means that the program runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, major};
use nix::unistd::{Uid, chdir, execve, fchown, getcwd};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, Spec};

use super::late::Mounts;
use super::lookup;
use crate::protocol::{Confinement, Failure, Reason};

/// A flag of seccomp(2): no mitigation of speculative store bypass is forced
/// on the process.
const SPEC_ALLOW: u32 = 4;

/// The last steps of one process.
#[derive(Clone)]
pub(super) struct Last {
    inner: Rc<Inner>,
}

struct Inner {
    confinement: Confinement,
    /// The compiled seccomp program.
    filter: Option<Vec<u8>>,
    /// What is to be done to its mounts.
    mounts: Mounts,
    /// Rows and columns of its terminal, if it has one.
    size: Option<(u16, u16)>,
    /// The pipe for an error; closed by execve.
    errors: std::fs::File,
    /// The program's path and environment, once they are known.
    ready: RefCell<Ready>,
}

#[derive(Default)]
struct Ready {
    program: PathBuf,
    environment: Vec<CString>,
}

impl Last {
    pub(super) fn new(
        confinement: Confinement,
        filter: Option<Vec<u8>>,
        mounts: Mounts,
        size: Option<(u16, u16)>,
        errors: std::fs::File,
    ) -> Self {
        let inner = Inner { confinement, filter, mounts, size, errors, ready: RefCell::default() };
        Self { inner: Rc::new(inner) }
    }

    /// Tells the shim why the program can't be run.
    fn fail(&self, reason: Reason, message: &str) {
        use std::io::Write;
        let failure = Failure { reason, message: message.to_owned() };
        if let Ok(json) = serde_json::to_vec(&failure) {
            // The shim reports an end without a message as well.
            let _ = (&self.inner.errors).write_all(&json);
        }
    }

    fn prepare(&self, process: &Process) -> Result<(), Failure> {
        let completed = self.inner.mounts.complete();
        completed.map_err(|message| Failure { reason: Reason::Create, message })?;
        own_streams(process.user().uid());
        if let Some((rows, columns)) = self.inner.size {
            // Before the program can ask. Without a terminal there is none.
            let _ = sampan_sys::process::set_window_size(io::stdin(), rows, columns);
        }
        enter(&self.inner.confinement.cwd)?;
        let args = process.args().as_deref().unwrap_or_default();
        let path = process.env().iter().flatten().rev().find_map(|e| e.strip_prefix("PATH="));
        let program = self.with_final_capabilities(|| {
            lookup::find(args.first().map_or("", String::as_str), path)
                .map_err(|e| Failure { reason: Reason::Command(e.code), message: e.message })
        })?;
        self.inner.ready.borrow_mut().program = program;
        Ok(())
    }

    /// The program is looked for with the capabilities that it will have, so
    /// that what is found can be executed.
    fn with_final_capabilities<T>(
        &self,
        action: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(wanted) = &self.inner.confinement.capabilities else {
            return action();
        };
        let failed = |e: CapsError| Failure {
            reason: Reason::Create,
            message: format!("error setting capabilities: {e}"),
        };
        let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
        let effective: CapsHashSet =
            set(wanted.effective().as_ref()).intersection(&permitted).copied().collect();
        caps::set(None, CapSet::Effective, &effective).map_err(failed)?;
        let result = action();
        caps::set(None, CapSet::Effective, &permitted).map_err(failed)?;
        result
    }

    /// Takes away what the program must not have. Without no-new-privileges a
    /// filter can be loaded only with `CAP_SYS_ADMIN`, so it comes before the
    /// capabilities go; with it, it comes last.
    fn confine(&self) -> Result<(), String> {
        let confinement = &self.inner.confinement;
        let late = confinement.no_new_privileges;
        let failed = |e: CapsError| format!("error setting capabilities: {e}");
        if let Some(wanted) = &confinement.capabilities {
            drop_bounding(wanted).map_err(failed)?;
        }
        sampan_sys::process::reset_signals();
        if !late {
            self.load_filter()?;
        }
        if let Some(wanted) = &confinement.capabilities {
            drop_rest(wanted).map_err(failed)?;
        }
        if late { self.load_filter() } else { Ok(()) }
    }

    fn load_filter(&self) -> Result<(), String> {
        let Some(program) = &self.inner.filter else {
            return Ok(());
        };
        let flags = self.inner.confinement.seccomp.as_ref().map_or(0, |f| f.flags);
        let loaded = match sampan_sys::process::load_seccomp(program, flags) {
            // Kernels before 4.17 do not know the flag.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && flags & SPEC_ALLOW != 0 => {
                sampan_sys::process::load_seccomp(program, flags & !SPEC_ALLOW)
            }
            other => other,
        };
        loaded.map_err(|e| format!("error loading seccomp filter into kernel: {e}"))
    }
}

impl Executor for Last {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let invalid = |text: String| ExecutorValidationError::ArgValidationError(text);
        let process = spec.process().as_ref().ok_or_else(|| invalid("no process".into()))?;
        self.prepare(process).map_err(|failure| {
            self.fail(failure.reason, &failure.message);
            invalid(failure.message)
        })
    }

    /// libcontainer would change this process's own environment; execve takes
    /// one, in the order of the specification.
    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        let mut pairs: Vec<_> =
            envs.into_iter().filter_map(|(k, v)| CString::new(format!("{k}={v}")).ok()).collect();
        pairs.sort();
        self.inner.ready.borrow_mut().environment = pairs;
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args: Vec<CString> = process
            .args()
            .iter()
            .flatten()
            .filter_map(|a| CString::new(a.as_bytes()).ok())
            .collect();
        let mut ready = self.inner.ready.borrow_mut();
        order(&mut ready.environment, process.env().as_deref().unwrap_or_default());
        let program = CString::new(ready.program.as_os_str().as_bytes())
            .map_err(|_| ExecutorError::InvalidArg)?;
        if let Err(message) = self.confine() {
            self.fail(Reason::Create, &message);
            return Err(ExecutorError::Execution(message.into()));
        }
        let Err(errno) = execve(&program, &args, &ready.environment);
        // As with runc, the container's own log says it, and the code is 255.
        eprint_line(&format!("exec {}: {}", ready.program.display(), lookup::text(errno)));
        sampan_sys::process::exit_now(255);
    }
}

/// Writes to the container's standard error.
fn eprint_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{text}");
}

/// Brings `environment` into the order in which `spec` names the variables;
/// those that it does not name come last.
fn order(environment: &mut [CString], spec: &[String]) {
    let names: HashMap<&[u8], usize> =
        spec.iter().enumerate().map(|(i, e)| (name(e.as_bytes()), i)).collect();
    environment.sort_by_key(|e| names.get(name(e.as_bytes())).copied().unwrap_or(usize::MAX));
}

fn name(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default()
}

/// Lets the container's user open `/dev/stdout` and the like again.
fn own_streams(uid: u32) {
    /// The major device number of pseudo-terminals.
    const PTS: u64 = 136;
    for fd in 0..3 {
        let Ok(stat) = fstat(fd) else { continue };
        let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
        let terminal = kind == SFlag::S_IFCHR && (PTS..PTS + 8).contains(&major(stat.st_rdev));
        if (kind == SFlag::S_IFIFO || terminal) && stat.st_uid != uid {
            // A user namespace without that user: the stream still works.
            let _ = fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
}

/// Enters the working directory, which must be inside of the root: a magic
/// link of `/proc` may lead out of it (CVE-2024-21626).
fn enter(cwd: &Path) -> Result<(), Failure> {
    let failed = |errno: Errno| Failure {
        reason: classify(&lookup::text(errno)),
        message: format!(
            "chdir to cwd ({:?}) set in config.json failed: {}",
            cwd.to_string_lossy(),
            lookup::text(errno)
        ),
    };
    if !cwd.as_os_str().is_empty() {
        chdir(cwd).map_err(failed)?;
    }
    match getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(Errno::ENOENT) => Err(Failure {
            reason: Reason::Create,
            message: "current working directory is outside of container mount namespace root \
                      -- possible container breakout detected"
                .into(),
        }),
        Err(errno) => Err(failed(errno)),
    }
}

/// What Docker makes of the text of a failed start.
pub(super) fn classify(text: &str) -> Reason {
    let text = text.to_lowercase();
    let has = |part: &str| text.contains(part);
    if has("executable file not found") || has("no such file or directory") {
        Reason::Command(127)
    } else if has("permission denied") || has("is a directory") {
        Reason::Command(126)
    } else if has("not a directory") {
        Reason::Command(127)
    } else {
        Reason::Create
    }
}

fn set(capabilities: Option<&Capabilities>) -> CapsHashSet {
    capabilities.into_iter().flatten().map(|c| c.to_cap()).collect()
}

fn drop_bounding(wanted: &LinuxCapabilities) -> Result<(), CapsError> {
    let keep = set(wanted.bounding().as_ref());
    for capability in caps::runtime::thread_all_supported() {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// Inheritable ones first, as long as everything is permitted; effective ones
/// before permitted ones, which they may not exceed.
fn drop_rest(wanted: &LinuxCapabilities) -> Result<(), CapsError> {
    let permitted_now = caps::read(None, CapSet::Permitted)?;
    let within = |c: Option<&Capabilities>| -> CapsHashSet {
        set(c)
            .intersection(&permitted_now)
            .copied()
            .collect::<std::collections::HashSet<Capability>>()
    };
    let ambient = set(wanted.ambient().as_ref());
    caps::set(None, CapSet::Inheritable, &within(wanted.inheritable().as_ref()))?;
    caps::set(None, CapSet::Effective, &within(wanted.effective().as_ref()))?;
    caps::set(None, CapSet::Permitted, &within(wanted.permitted().as_ref()))?;
    caps::clear(None, CapSet::Ambient)?;
    for capability in ambient {
        caps::raise(None, CapSet::Ambient, capability)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_keeps_its_order() {
        let spec: Vec<String> =
            ["Z=1", "A=2", "PATH=/bin"].iter().map(ToString::to_string).collect();
        let mut env: Vec<CString> = ["A=2", "HOME=/", "PATH=/bin", "Z=1"]
            .iter()
            .map(|e| CString::new(*e).unwrap())
            .collect();
        order(&mut env, &spec);
        let text: Vec<_> = env.iter().map(|e| e.to_str().unwrap()).collect();
        assert_eq!(text, ["Z=1", "A=2", "PATH=/bin", "HOME=/"]);
    }

    #[test]
    fn failures_are_classified_as_docker_does() {
        assert_eq!(
            classify("exec: \"x\": executable file not found in $PATH"),
            Reason::Command(127)
        );
        assert_eq!(classify("open: Permission denied (os error 13)"), Reason::Command(126));
        assert_eq!(classify("mount: Not a directory"), Reason::Command(127));
        assert_eq!(classify("something else"), Reason::Create);
    }
}
