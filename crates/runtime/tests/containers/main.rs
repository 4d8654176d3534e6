//! Real containers through real shims. Needs root, cgroups and
//! `busybox-static`; skipped visibly otherwise.
//!
//! This program is three things: the runner of the tests, the shim that they
//! start (`containers shim …`), and a daemon that can be killed
//! (`containers daemon DIR ID COMMAND`).

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

mod daemon;
mod exec;
mod failures;
mod lab;
mod security;
mod streams;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Makes a table of tests out of async functions.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)),
            || Box::pin($module::$name()) as Pin<Box<dyn Future<Output = ()> + Send>>)),*]
    };
}

const TESTS: &[Test] = tests![
    streams::output_and_exit_code,
    streams::input_once,
    streams::input_stays_open,
    streams::terminal,
    streams::slow_client_loses_nothing,
    streams::client_leaves_in_the_middle,
    streams::output_held_by_another_process,
    streams::half_close_keeps_the_output,
    streams::long_paths,
    daemon::container_outlives_its_daemon,
    daemon::exit_without_a_daemon,
    daemon::exec_outlives_its_daemon,
    daemon::killed_shim,
    daemon::created_container_can_be_deleted,
    daemon::memory_of_a_shim,
    daemon::many_at_once,
    exec::exit_code_and_output,
    exec::terminal,
    exec::input,
    exec::failures,
    exec::inherits_limits,
    exec::signal,
    failures::program_not_found,
    failures::program_not_executable,
    failures::missing_root,
    failures::out_of_memory,
    failures::signals,
    failures::wrong_format,
    failures::runc,
    failures::crun,
    failures::no_such_runtime,
    security::seccomp_everywhere,
    security::default_profile,
    security::capabilities,
    security::clean_signals_and_descriptors,
    security::user_owns_its_streams,
    security::unified_cgroup,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("shim") => return sampan_runtime::shim::main(&args[1..]),
        Some("daemon") => return runtime().block_on(daemon::be_a_daemon(&args[1..])),
        Some("bench") => return runtime().block_on(daemon::bench()),
        Some("--list") => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if let Some(reason) = lab::cannot_run() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = TESTS.iter().filter(|(name, _)| {
        filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
    });
    runtime().block_on(run(chosen.collect()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn run(tests: Vec<&'static Test>) -> ExitCode {
    let mut failed = 0;
    for (name, test) in tests {
        let begin = Instant::now();
        let result = tokio::time::timeout(Duration::from_secs(120), tokio::spawn(test())).await;
        let outcome = match result {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "FAILED",
            Err(_) => "FAILED: not done after 120 s",
        };
        failed += usize::from(outcome != "ok");
        println!("test {name} ... {outcome} ({} ms)", begin.elapsed().as_millis());
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
