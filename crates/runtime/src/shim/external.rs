//! External OCI runtimes: crun, runc and whatever takes their command line.
//!
//! Be aware:
//! - The shim is the subreaper of everything below it, so the process that
//!   the runtime leaves behind becomes the shim's child.
//! - The runtime's own standard output and error are the container's; its
//!   complaints come through a log file.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::executor::classify;
use super::streams::Inner;
use crate::protocol::{Failure, Reason, Setup};

/// The runtime's state, in the container's directory.
const STATE: &str = "oci";

/// Makes the container (or the process of an exec) and gives its process id.
pub(super) fn make(program: &Path, setup: &Setup, streams: Inner) -> Result<i32, Failure> {
    let pid_file = setup.dir.join("pid");
    let mut command = base(program, setup);
    if setup.exec.is_some() {
        command.arg("exec").arg("--process").arg(setup.dir.join("process.json")).arg("--detach");
    } else {
        command.arg("create").arg("--bundle").arg(&setup.dir);
    }
    command.arg("--pid-file").arg(&pid_file);
    if let Some(console) = &streams.console {
        command.arg("--console-socket").arg(console);
    }
    command.arg(setup.id.as_str());
    command.stdin(stdio(streams.stdin)).stdout(stdio(streams.stdout)).stderr(stdio(streams.stderr));
    let status = command.status().map_err(|e| cannot_run(program, &e))?;
    if !status.success() {
        return Err(complaint(setup, status));
    }
    let text = fs::read_to_string(&pid_file).unwrap_or_default();
    text.trim().parse().map_err(|_| Failure {
        reason: Reason::Create,
        message: format!("{} wrote no process id to {}", program.display(), pid_file.display()),
    })
}

/// Lets the container run the user's program.
pub(super) fn start(program: &Path, setup: &Setup) -> Result<(), Failure> {
    let mut command = base(program, setup);
    command.arg("start").arg(setup.id.as_str());
    quiet(&mut command);
    let status = command.status().map_err(|e| cannot_run(program, &e))?;
    if status.success() { Ok(()) } else { Err(complaint(setup, status)) }
}

/// Removes what the runtime keeps of the container.
pub(super) fn delete(program: &Path, setup: &Setup) -> Result<(), Failure> {
    let mut command = base(program, setup);
    command.args(["delete", "--force"]).arg(setup.id.as_str());
    quiet(&mut command);
    let status = command.status().map_err(|e| cannot_run(program, &e))?;
    if status.success() { Ok(()) } else { Err(complaint(setup, status)) }
}

fn base(program: &Path, setup: &Setup) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(setup.container_dir.join(STATE));
    command.arg("--log").arg(setup.dir.join("runtime.log")).args(["--log-format", "json"]);
    command
}

fn quiet(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}

fn stdio(fd: Option<OwnedFd>) -> Stdio {
    fd.map_or_else(Stdio::null, Stdio::from)
}

fn cannot_run(program: &Path, error: &std::io::Error) -> Failure {
    Failure {
        reason: Reason::Create,
        message: format!("running the OCI runtime {}: {error}", program.display()),
    }
}

/// The last error in the runtime's log.
fn complaint(setup: &Setup, status: ExitStatus) -> Failure {
    let log = fs::read_to_string(setup.dir.join("runtime.log")).unwrap_or_default();
    let message = last_error(&log).unwrap_or_else(|| format!("the OCI runtime failed: {status}"));
    Failure { reason: classify(&message), message }
}

fn last_error(log: &str) -> Option<String> {
    let messages = log.lines().rev().filter_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry.get("level")?.as_str()?;
        let text = entry.get("msg")?.as_str()?.trim().to_owned();
        Some((level.to_owned(), text))
    });
    messages.into_iter().find(|(level, _)| level == "error" || level == "fatal").map(|(_, m)| m)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\nnoise\n{\"level\":\"error\",\"msg\":\"second \"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error(""), None);
    }
}
