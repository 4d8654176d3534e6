//! What every test of the daemon begins with.
#![allow(dead_code)]

pub mod world;

use std::time::Duration;

use sampan_testkit::{Host, Lan};

/// The daemon under test, with its fault points compiled in.
pub const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan");

/// How long anything that should happen may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A host with a daemon and the image busybox; `None` (with a line that says
/// why) on a machine that can't have it.
pub fn host(test: &str) -> Option<(Lan, Host)> {
    host_with(test, &[])
}

/// As [`host`], with more arguments for the daemon.
pub fn host_with(test: &str, args: &[&str]) -> Option<(Lan, Host)> {
    let lan = Lan::new_or_skip(test)?;
    let mut host = lan.host("h1");
    host.start_daemon(SAMPAN, args);
    host.import_busybox();
    Some((lan, host))
}

/// Kills the daemon without warning and starts it again.
#[track_caller]
pub fn crash_and_restart(host: &mut Host) {
    host.stop_daemon("KILL");
    host.start_daemon(SAMPAN, &[]);
}

/// A shell loop that serves a page with the host's name on `port`.
pub fn web(port: u16) -> String {
    format!("sh -c 'mkdir -p /www; hostname > /www/index.html; exec httpd -f -p {port} -h /www'")
}

/// The value of a Go template in `docker inspect`.
#[track_caller]
pub fn field(host: &Host, name: &str, template: &str) -> String {
    host.docker(&format!("inspect -f '{template}' {name}"))
}

/// Asserts that `text` has each of `words`, without regard to case.
#[track_caller]
pub fn has(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "{word:?} is not in {text:?}");
    }
}
