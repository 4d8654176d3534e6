//! The small init as a process. Called with `init` as its first argument,
//! this program is that init; otherwise it runs the tests.

// Helpers beside the tests may panic too.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::Pid;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "init") {
        return sampan_runtime::init::main(&args[2..]);
    }
    exit_codes_are_passed_on();
    signals_are_forwarded();
    orphans_are_reaped();
    println!("test result: ok. init");
    ExitCode::SUCCESS
}

fn init() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("init").stderr(Stdio::null());
    command
}

fn exit_codes_are_passed_on() {
    for (args, code) in [
        (&["--", "sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "exit 0"], 0),
        (&["--", "sh", "-c", "kill -TERM $$"], 128 + libc::SIGTERM),
        (&["--", "/no/such/program"], 127),
        (&["--", "/etc/passwd"], 126),
        (&["--"], 127),
    ] {
        let status = init().args(args).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

/// All but those that a process can't catch, real-time ones included.
fn signals_are_forwarded() {
    for (name, number) in [("TERM", libc::SIGTERM), ("USR1", libc::SIGUSR1), ("37", 37)] {
        let script =
            format!("trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.01; done");
        let mut child =
            init().args(["--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        sampan_sys::signal::send(pid, number).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "got", "{name}");
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(9), None), "{name}");
    }
}

fn orphans_are_reaped() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: process 1 of a namespace needs root");
        return;
    }
    let script = "for i in 1 2 3; do (true & ); done; sleep 0.3; \
                  grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(program)
        .args(["init", "--", "sh", "-c", script])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
}
