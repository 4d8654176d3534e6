//! What every test of the daemon begins with.
#![allow(dead_code)]

pub mod keeper;
pub mod world;

use std::fmt::Write as _;
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

/// A script that makes an authority, a server's and a client's certificate of
/// it, and a stranger's of another, in `dir`; the server is at `address`.
pub fn certificates(dir: &str, address: &str) -> String {
    let mut script = format!("cd {dir} && exec 2>openssl.log\n");
    for ca in ["ca", "other"] {
        let _ = writeln!(
            script,
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
        );
    }
    for (name, ca, extension) in [
        ("server", "ca", &*format!("subjectAltName=IP:{address}")),
        ("client", "ca", "extendedKeyUsage=clientAuth"),
        ("stranger", "other", "extendedKeyUsage=clientAuth"),
    ] {
        let _ = writeln!(
            script,
            "openssl req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr
echo {extension} > {name}.ext
openssl x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
        );
    }
    script
}
