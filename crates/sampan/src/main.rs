//! The sampan binary: command line, daemon and shim in one.
#![forbid(unsafe_code)]

fn main() {}
