//! `sampan proxy`: the command line of the process.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::host::RESOLV_CONF;
use crate::paths;
use crate::protocol::{self, Request, Response};
use crate::server::{self, Options};

/// The helper's stack: it opens sockets and reads rules.
const HELPER_STACK: usize = 512 << 10;
/// How long a helper is kept that has nothing to do.
const HELPER_KEPT: Duration = Duration::from_secs(1);

const USAGE: &str = "usage: sampan proxy --exec-root DIR [--resolv-conf FILE] [--show]";

/// Runs the process with its arguments, without its name and `proxy`. Standard
/// input is the connection to the daemon that started it.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    match try_main(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("sampan proxy: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr)]
fn report(message: &str) {
    eprintln!("{message}");
}

fn try_main(args: &[OsString]) -> io::Result<()> {
    let mut options =
        Options { exec_root: PathBuf::new(), resolv_conf: PathBuf::from(RESOLV_CONF) };
    let (mut args, mut show) = (args.iter(), false);
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, USAGE);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--exec-root") => options.exec_root = args.next().ok_or_else(usage)?.into(),
            Some("--resolv-conf") => options.resolv_conf = args.next().ok_or_else(usage)?.into(),
            Some("--show") => show = true,
            _ => return Err(usage()),
        }
    }
    if options.exec_root.as_os_str().is_empty() {
        return Err(usage());
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_keep_alive(HELPER_KEPT)
        .thread_stack_size(HELPER_STACK)
        .build()?;
    if show {
        return runtime.block_on(print_status(&options));
    }
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    let daemon = daemon()?;
    // What happens to the daemon's session is no concern of this process.
    let _ = nix::unistd::setsid();
    LocalSet::new().block_on(&runtime, server::run(options, daemon))
}

/// The connection that standard input is; none when a person starts it.
fn daemon() -> io::Result<Option<OwnedFd>> {
    use std::os::unix::fs::FileTypeExt;
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let kind = fs::File::from(stdin.try_clone()?).metadata()?.file_type();
    if !kind.is_socket() {
        return Ok(None);
    }
    // The copy is used; nothing keeps the connection open beside it.
    let nothing = fs::File::open("/dev/null")?;
    nix::unistd::dup2(std::os::fd::AsRawFd::as_raw_fd(&nothing), 0)?;
    Ok(Some(stdin))
}

/// Prints how things are with the process of an exec-root.
#[allow(clippy::print_stdout)]
async fn print_status(options: &Options) -> io::Result<()> {
    let mut stream = paths::connect(&options.exec_root).await?;
    protocol::send(&mut stream, &Request::Status).await?;
    if let Some(Response::Status(status)) = protocol::receive(&mut stream).await? {
        println!("{}", serde_json::to_string_pretty(&status)?);
    }
    Ok(())
}
