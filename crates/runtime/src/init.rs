//! The small init of `--init`: process 1 of a container that forwards signals
//! to the one command it started and reaps every orphan.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs `args` (the command and its arguments) as the only child, until it
/// ends. Its exit code becomes this process's: 128 + signal when it was
/// killed, 127 when it was not found, 126 when it could not be executed.
pub fn main(args: &[OsString]) -> ExitCode {
    let _ = args;
    todo!()
}
