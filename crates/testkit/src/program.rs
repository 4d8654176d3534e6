//! Running programs and saying all about it when they fail.

use std::fmt;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; 128 plus the signal's number when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard output as text without the last newline.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text without the last newline.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
}

/// A program that should have succeeded.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was run.
    pub command: String,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n-> {}\n{}\n{}",
            self.command,
            self.outcome.code,
            self.outcome.text(),
            self.outcome.errors()
        )
    }
}

/// Those of `names` that are not on the search path.
#[must_use]
pub fn missing_programs(names: &[&str]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &&&str| !std::env::split_paths(&path).any(|d| d.join(name).is_file());
    names.iter().filter(found).map(|n| (*n).to_owned()).collect()
}

/// Runs a command to its end with `input`; kills it after `limit`.
pub(crate) fn run(mut command: Command, input: &[u8], limit: Duration) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            return Outcome { code: 127, stdout: Vec::new(), stderr: e.to_string().into_bytes() };
        }
    };
    let mut stdin = child.stdin.take();
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        // A program that does not read its input is its own business.
        let _ = stdin.as_mut().map(|s| s.write_all(&input));
    });
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let began = Instant::now();
    let (tell, told) = std::sync::mpsc::channel();
    let pid = child.id();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        let _ = tell.send(());
        status
    });
    let timed_out = told.recv_timeout(limit).is_err();
    if timed_out {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    let status = waiter.join().ok().and_then(Result::ok);
    let _ = writer.join();
    let mut stderr = stderr.join().unwrap_or_default();
    if timed_out {
        stderr.extend(format!("\nkilled after {:?}", began.elapsed()).into_bytes());
    }
    let code = status
        .and_then(|s| s.code().or_else(|| s.signal().map(|signal| 128 + signal)))
        .unwrap_or(255);
    Outcome { code, stdout: stdout.join().unwrap_or_default(), stderr }
}

fn drain(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}
