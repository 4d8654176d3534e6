//! What goes wrong, as the user reads it and as the exit code says it.
//!
//! Be aware:
//! - Most functions here return `anyhow::Result`; the two types below are
//!   looked for in the chain when the command ends.

use std::process::ExitCode;

use thiserror::Error;

/// The code of docker's command for everything that fails.
pub const FAILED: u8 = 1;
/// The code of `run` and `create` when the daemon refuses, and of unknown options.
pub const REFUSED: u8 = 125;

/// An answer of the daemon that isn't a success.
#[derive(Debug, Error)]
#[error("Error response from daemon: {message}")]
pub struct DaemonError {
    /// The HTTP status.
    pub status: u16,
    /// The daemon's words.
    pub message: String,
}

/// Ends the command with a code. The text is printed unless it is empty.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// What is said first.
    pub text: String,
}

/// Ends the command with a code and without a word.
pub fn exit(code: i64) -> anyhow::Error {
    // A container's code is a byte; anything else can't be told to a shell.
    let code = u8::try_from(code).unwrap_or(u8::MAX);
    Exit { code, text: String::new() }.into()
}

/// Ends the command with a code, after saying why.
pub fn exit_with(code: u8, text: impl Into<String>) -> anyhow::Error {
    Exit { code, text: text.into() }.into()
}

/// The status of the daemon's answer, if the failure is one.
pub fn status(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<DaemonError>().map(|e| e.status)
}

/// Whether the daemon said that there is no such thing.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    status(error) == Some(404)
}

/// The whole chain in one line, without what a cause repeats.
pub fn text(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let cause = without_number(&cause.to_string());
        if out.is_empty() {
            out = cause;
        } else if !out.contains(&cause) {
            out = format!("{out}: {cause}");
        }
    }
    out
}

/// The system's errors without their number: ` (os error 2)`.
fn without_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((front, number)) if number.trim_end_matches(')').parse::<i32>().is_ok() => {
            front.to_owned()
        }
        _ => text.to_owned(),
    }
}

/// Turns the end of a command into its exit code, and says what went wrong.
pub fn conclude(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(exit) = error.downcast_ref::<Exit>() {
        if !exit.text.is_empty() {
            eprintln!("{}", exit.text);
        }
        return ExitCode::from(exit.code);
    }
    let is_broken_pipe = |c: &(dyn std::error::Error + 'static)| {
        c.downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_broken_pipe) && error.downcast_ref::<DaemonError>().is_none() {
        // As the signal SIGPIPE would have ended it.
        return ExitCode::from(141);
    }
    eprintln!("{}", text(&error));
    ExitCode::from(FAILED)
}

/// Collects what went wrong with some of several objects: each is said at
/// once, and the whole fails in the end.
#[derive(Debug, Default)]
pub struct Failures(usize);

impl Failures {
    /// Says what went wrong.
    pub fn add(&mut self, error: &anyhow::Error) {
        self.0 += 1;
        eprintln!("{}", text(error));
    }

    /// Fails when anything was added.
    ///
    /// # Errors
    /// When anything was added.
    pub fn end(self) -> anyhow::Result<()> {
        if self.0 == 0 { Ok(()) } else { Err(exit(i64::from(FAILED))) }
    }
}
