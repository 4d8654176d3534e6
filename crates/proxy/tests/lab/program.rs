//! The process for the tests of this crate; the product has it as
//! `sampan proxy`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(2).collect();
    sampan_proxy::main(&args)
}
