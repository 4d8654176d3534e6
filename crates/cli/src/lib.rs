//! The `sampan` command: a thin client of the Engine API.
//!
//! Be aware:
//! - Verbs, options, output and exit codes are docker's, since scripts and
//!   fingers know them.
//! - The runtime has one thread: nearly all time is spent waiting.
#![forbid(unsafe_code)]
// Printing is what a command does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod app;
mod args;
mod client;
mod config;
mod connect;
mod create;
mod failure;
mod json;
mod out;
mod progress;
mod query;
mod reference;
mod session;
mod stream;
mod table;
mod template;
mod terminal;
mod time;
mod units;
mod verb;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

pub use args::command;

/// Runs the command; `args` begin with the program's name.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let parsed = args::parser()
        .try_get_matches_from(&args)
        .and_then(|matches| args::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &args),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::conclude(Err(error.into())),
    };
    let result = runtime.block_on(cli.run());
    // A read of standard input may still be under way; nobody waits for it.
    runtime.shutdown_background();
    failure::conclude(result)
}

/// Prints help, or what is wrong with the words: 125 for an option, as docker
/// has it, and 1 for anything else.
fn usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // The command line for people has no `=true` at its switches.
            let pretty = command().try_get_matches_from(args).err();
            let help = pretty.filter(|e| e.kind() == error.kind());
            // Nothing can be done when the help can't be printed.
            let _ = help.as_ref().unwrap_or(error).print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        kind => {
            let _ = error.print();
            let is_option = matches!(error.get(ContextKind::InvalidArg),
                Some(ContextValue::String(arg)) if arg.starts_with('-'));
            let is_count = matches!(
                kind,
                ErrorKind::MissingRequiredArgument
                    | ErrorKind::TooFewValues
                    | ErrorKind::WrongNumberOfValues
                    | ErrorKind::InvalidSubcommand
                    | ErrorKind::MissingSubcommand
            );
            ExitCode::from(if is_option && !is_count { failure::REFUSED } else { failure::FAILED })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<args::Cli, clap::Error> {
        let matches = args::parser().try_get_matches_from(line.split(' '))?;
        args::Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
        args::parser().debug_assert();
    }

    #[test]
    fn words_after_the_image_are_the_containers() {
        for line in [
            "sampan run -it --rm busybox sh -c ls",
            "sampan run --rm=true -d=false busybox -v --rm -- x",
            "sampan run -h name -l a=b -e A=1 busybox",
            "sampan container run --sig-proxy=false busybox",
            "sampan exec -it c ls -la",
            "sampan -H unix:///x -D ps -aq --no-trunc=false",
            "sampan update --memory-swap -1 c",
            "sampan top c -o pid",
            "sampan kill -s 9 a b",
            "sampan commit -p=false c i:t",
            "sampan system df -v",
            "sampan network ls --filter driver=bridge -q",
        ] {
            if let Err(e) = parse(line) {
                panic!("{line}: {e}");
            }
        }
        for line in ["sampan run", "sampan exec c", "sampan ps --nosuch", "sampan nosuch"] {
            assert!(parse(line).is_err(), "{line}");
        }
        let words = format!("{:?}", parse("sampan run busybox -v --rm -- x").unwrap());
        assert!(words.contains(r#"words: ["busybox", "-v", "--rm", "--", "x"]"#), "{words}");
    }
}
