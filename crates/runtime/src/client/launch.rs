//! Starts a shim and tells it what to do.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;

use bytes::BytesMut;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::process::Command;

use super::link::first;
use super::prepare::SETUP;
use super::types::RuntimeConfig;
use crate::error::RuntimeError;
use crate::protocol::{Info, Op, Setup};

/// The shim's own log, for what nobody can be told.
const LOG: &str = "shim.log";

/// Writes the files of a shim and starts it. Blocks for as long as that takes.
pub(super) fn launch<T: Serialize>(
    config: &RuntimeConfig,
    setup: &Setup,
    (name, content): (&str, &T),
) -> Result<UnixStream, RuntimeError> {
    let dir = &setup.dir;
    make_dir(dir)?;
    if setup.confinement.seccomp.is_some() {
        make_dir(&config.filters())?;
    }
    write_json(&dir.join(name), content)?;
    if setup.exec.is_none() {
        make_dir(setup.exit_file.parent().unwrap_or(dir))?;
        write_json(&dir.join(SETUP), &remembered(setup))?;
    }
    let (ours, theirs) =
        std::os::unix::net::UnixStream::pair().map_err(|e| failed("socket pair", e))?;
    spawn(config, setup, theirs.into()).map_err(|e| failed(config.program.display(), e))?;
    ours.set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(ours))
        .map_err(|e| failed("socket pair", e))
}

fn failed(object: impl ToString, error: io::Error) -> RuntimeError {
    RuntimeError::io("starting a shim:", object, error)
}

/// What an exec needs to know later; the profile is compiled by then.
fn remembered(setup: &Setup) -> Setup {
    let mut setup = setup.clone();
    if let Some(filter) = &mut setup.confinement.seccomp {
        filter.profile = None;
    }
    setup
}

fn make_dir(dir: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| RuntimeError::io("making the directory", dir.display(), e))
}

/// Below exec-root nothing needs to survive a crash of the machine, and
/// nobody reads before the shim does.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RuntimeError> {
    let write = || {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut out = io::BufWriter::new(file);
        serde_json::to_writer(&mut out, value)?;
        io::Write::flush(&mut out)
    };
    write().map_err(|e| RuntimeError::io("writing", path.display(), e))
}

fn spawn(config: &RuntimeConfig, setup: &Setup, socket: OwnedFd) -> io::Result<()> {
    let log = open_log(&setup.dir)?;
    let mut command = Command::new(&config.program);
    command.arg("shim").arg("--exec-root").arg(&config.exec_root);
    command.arg("--data-root").arg(&config.data_root).arg("--id").arg(setup.id.as_str());
    if let Some(exec) = &setup.exec {
        command.arg("--exec").arg(exec.as_str());
    }
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::from(log));
    let mut child = command.spawn()?;
    // Whoever lives when it ends takes its status: this daemon, or init.
    tokio::spawn(async move { child.wait().await });
    Ok(())
}

fn open_log(dir: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(LOG))
}

/// Tells a new shim what to do and waits until it has done it.
pub(super) async fn boot(
    stream: &mut UnixStream,
    setup: Setup,
    received: &mut BytesMut,
) -> Result<Info, RuntimeError> {
    let what = what(&setup);
    let log = setup.dir.join(LOG);
    let answer = first(stream, &Op::Boot(Box::new(setup)), received).await;
    match answer.map_err(|e| RuntimeError::io("talking to the shim of", &what, e))? {
        Some(Ok(info)) => Ok(info),
        Some(Err(failure)) => Err(super::link::error("creating", &what, failure)),
        None => {
            let said = tokio::fs::read_to_string(&log).await.unwrap_or_default();
            let said = said.trim();
            let cause = if said.is_empty() { "no reason is known" } else { said };
            Err(RuntimeError::Create {
                message: format!("creating {what}: its shim died: {cause}"),
            })
        }
    }
}

/// How messages call the process of a shim.
pub(super) fn what(setup: &Setup) -> String {
    match &setup.exec {
        Some(exec) => format!("exec {}", exec.short()),
        None => format!("container {}", setup.id.short()),
    }
}
