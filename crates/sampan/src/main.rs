//! One binary for everything: the `sampan` command, `sampan daemon`,
//! `sampan shim` beside every container, `sampan proxy` on every host, and,
//! under the name `dockerd`, a daemon that takes dockerd's flags.
//!
//! Be aware:
//! - The shim must stay single-threaded and small, so it is told apart before
//!   anything else is set up.

mod daemon;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    if called == "dockerd" {
        return daemon::main(args);
    }
    if called == "docker-init" {
        return sampan_runtime::init::main(&args[1..]);
    }
    match args.get(1).and_then(|a| a.to_str()) {
        Some("shim") => {
            let args: Vec<String> =
                args[2..].iter().map(|a| a.to_string_lossy().into_owned()).collect();
            sampan_runtime::shim::main(&args)
        }
        Some("proxy") => sampan_proxy::main(&args[2..]),
        Some("init") => sampan_runtime::init::main(&args[2..]),
        Some("daemon") => {
            args.remove(1);
            daemon::main(args)
        }
        _ => sampan_cli::main(args),
    }
}
