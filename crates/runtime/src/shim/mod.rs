//! The shim: one small process per container.

use std::process::ExitCode;

/// Runs the shim; `args` are what follows `PROGRAM shim` on the command line.
#[must_use]
pub fn main(args: &[String]) -> ExitCode {
    let _ = args;
    todo!()
}
