//! Makes the container, or the process of an exec, in a process of its own.
//!
//! The maker is forked from the shim and calls libcontainer, or runs an
//! external OCI runtime. The new process becomes the shim's child, not the
//! maker's; the maker's memory goes away with it.
//!
//! Be aware:
//! - The maker has copies of everything that the shim has open. It closes
//!   them first, so that nobody waits for an end of file that never comes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Pid, pipe2};
use sampan_sys::process::{Forked, close_all_but, exit_now, fork};

use super::console::set_nonblocking;
use super::executor::{Last, classify};
use super::late::Mounts;
use super::streams::Inner;
use super::{devices, external, filter};
use crate::cgroup::{Cgroup, CgroupError, CgroupHost, CgroupVersion};
use crate::client::OciRuntime;
use crate::protocol::{Failure, Reason, Setup};

/// The directory of libcontainer's state, in the container's directory.
pub(super) const STATE: &str = "oci";

/// A process being made.
#[derive(Debug)]
pub(super) struct Making {
    /// Gives the new process's id, or why there is none.
    report: File,
    /// Ends when the user's program runs; a [`Failure`] comes first if it
    /// can't. External runtimes do not use it.
    pub(super) program: OwnedFd,
}

/// Starts making what `setup` describes.
///
/// # Errors
/// Those of pipe(2) and fork(2).
pub(super) fn make(setup: &Setup, streams: Inner) -> io::Result<Making> {
    let (report, report_in) = pipe2(OFlag::O_CLOEXEC)?;
    let (program, program_in) = pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&program)?;
    if fork()? == Forked::Child {
        let mut keep: Vec<RawFd> = streams.descriptors();
        keep.extend([report_in.as_raw_fd(), program_in.as_raw_fd()]);
        let mut report = File::from(report_in);
        let result = in_maker(setup, streams, File::from(program_in), &keep);
        let mut line = serde_json::to_vec(&result).unwrap_or_default();
        line.push(b'\n');
        let _ = report.write_all(&line);
        exit_now(0);
    }
    Ok(Making { report: File::from(report), program })
}

impl Making {
    /// Waits until the process is there (or, for an exec, until its program
    /// runs), and gives its id.
    pub(super) fn wait(&mut self) -> Result<Pid, Failure> {
        // The new process has the other end too: there is no end of file yet.
        let mut line = String::new();
        let result: Result<i32, Failure> = match BufReader::new(&self.report).read_line(&mut line) {
            Ok(_) => serde_json::from_str(&line).unwrap_or_else(|_| {
                Err(create_failure("the process that makes the container died".into()))
            }),
            Err(e) => Err(create_failure(e.to_string())),
        };
        // The process itself knows better why it failed, and in which words.
        result.map(Pid::from_raw).map_err(|failure| own_words(&self.program).unwrap_or(failure))
    }
}

/// What the new process wrote about its failure, if anything.
pub(super) fn own_words(program: &OwnedFd) -> Option<Failure> {
    let mut text = [0u8; 4096];
    let length = nix::unistd::read(program.as_raw_fd(), &mut text).ok()?;
    serde_json::from_slice(&text[..length]).ok()
}

fn create_failure(message: String) -> Failure {
    Failure { reason: Reason::Create, message }
}

fn in_maker(setup: &Setup, streams: Inner, program: File, keep: &[RawFd]) -> Result<i32, Failure> {
    let text = |what: &str, e: &dyn std::fmt::Display| create_failure(format!("{what}: {e}"));
    close_all_but(keep).map_err(|e| text("closing descriptors", &e))?;
    // The shim takes its signals from a descriptor.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    std::fs::write("/proc/self/oom_score_adj", setup.oom_score_adj.to_string())
        .map_err(|e| text("setting oom_score_adj", &e))?;
    join_cgroup(setup)?;
    match &setup.runtime {
        OciRuntime::Builtin => builtin(setup, streams, program),
        OciRuntime::External(path) => external::make(path, setup, streams),
    }
}

/// libcontainer leaves the v2 hierarchy of hybrid hosts out. What this
/// process joins, its children are in. On pure v2 hosts it leaves the devices
/// out.
fn join_cgroup(setup: &Setup) -> Result<(), Failure> {
    let failed = |e: CgroupError| create_failure(e.to_string());
    let host = CgroupHost::detect().map_err(failed)?;
    let v2 = host.unified.clone().filter(|_| host.version == CgroupVersion::V2);
    let cgroup = Cgroup::new(host.into(), &setup.cgroup);
    if setup.exec.is_none() {
        cgroup.create().map_err(failed)?;
        if let Some(mount) = v2.filter(|_| setup.runtime == OciRuntime::Builtin) {
            let dir = mount.join(setup.cgroup.strip_prefix("/").unwrap_or(&setup.cgroup));
            devices::restrict(&dir, &setup.devices)
                .map_err(|e| create_failure(format!("restricting devices: {e}")))?;
        }
    }
    cgroup.join_unified().map_err(failed)
}

fn builtin(setup: &Setup, streams: Inner, program: File) -> Result<i32, Failure> {
    let filter = setup.confinement.seccomp.as_ref().map(filter::program).transpose();
    let filter = filter.map_err(|e| create_failure(e.to_string()))?;
    let mounts = Mounts::find(setup.dev.as_ref(), &setup.shared).map_err(create_failure)?;
    let last = Last::new(setup.confinement.clone(), filter, mounts, setup.io.console_size, program);
    build(setup, streams, last).map_err(|error| {
        let message = chain(&error);
        Failure { reason: classify(&message), message }
    })
}

type BuildError = libcontainer::error::LibcontainerError;

fn build(setup: &Setup, streams: Inner, last: Last) -> Result<i32, BuildError> {
    let state = setup.container_dir.join(STATE);
    let mut builder = ContainerBuilder::new(setup.id.to_string(), SyscallType::default())
        .with_root_path(state)?
        .with_executor(last)
        .with_console_socket(streams.console);
    if let Some(fd) = streams.stdin {
        builder = builder.with_stdin(fd);
    }
    if let Some(fd) = streams.stdout {
        builder = builder.with_stdout(fd);
    }
    if let Some(fd) = streams.stderr {
        builder = builder.with_stderr(fd);
    }
    if setup.exec.is_some() {
        let process = setup.dir.join("process.json");
        let tenant = builder.as_tenant().with_process(Some(process));
        return Ok(tenant.with_detach(true).as_sibling(true).build()?.as_raw());
    }
    let container = builder
        .as_init(&setup.dir)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    container.pid().map(Pid::as_raw).ok_or(BuildError::Other("no process was made".into()))
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
