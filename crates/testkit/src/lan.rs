//! A layer-2 segment in a network namespace of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::host::Host;
use crate::program::{self, Outcome, missing_programs};

/// A LAN: the subnet 198.18.0.0/24 (RFC 2544, for tests) on a bridge.
#[derive(Debug)]
pub struct Lan {
    holder: Holder,
    mtu: u32,
    next: AtomicU32,
}

impl Lan {
    /// The address of the client outside every host.
    pub const OUTSIDE_IP: &'static str = "198.18.0.254";

    /// A LAN, or `None` with a line that says why this machine can't have one.
    #[must_use]
    pub fn new_or_skip(test: &str) -> Option<Self> {
        let needed = [
            "setpriv", "unshare", "nsenter", "ip", "curl", "docker", "busybox", "mount", "sysctl",
            "tar",
        ];
        let missing = missing_programs(&needed);
        let reason = if !missing.is_empty() {
            format!("programs are missing: {}", missing.join(", "))
        } else if !is_root() {
            "needs root".to_owned()
        } else {
            return Some(Self::new(1500));
        };
        skip(test, &reason);
        None
    }

    /// A LAN whose links have the given MTU, in bytes.
    ///
    /// # Panics
    /// When the namespaces can't be made.
    #[must_use]
    pub fn new(mtu: u32) -> Self {
        let script = format!(
            "ip link set lo up && ip link add br0 type bridge && ip link set br0 mtu {mtu} up && \
             ip addr add {}/24 dev br0 && echo ready && exec sleep infinity",
            Self::OUTSIDE_IP
        );
        let mut command = Holder::command();
        command.args(["--net", "--kill-child", "--fork", "sh", "-ec", &script]);
        Self { holder: Holder::start(command, "LAN"), mtu, next: AtomicU32::new(1) }
    }

    /// A new host on this LAN.
    ///
    /// # Panics
    /// When the namespaces can't be made.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Host::new(name, number, self.mtu, self.holder.pid(), false)
    }

    /// A new host that has cgroups of version 2 alone. Controllers that the
    /// machine uses in version 1 are missing there.
    ///
    /// # Panics
    /// When the namespaces can't be made.
    #[must_use]
    pub fn host_with_cgroup2(&self, name: &str) -> Host {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Host::new(name, number, self.mtu, self.holder.pid(), true)
    }

    /// Runs a shell command as the client outside every host.
    pub fn outside(&self, script: &str) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.pid().to_string(), "-n", "--", "sh", "-c", script]);
        program::run(command, b"", Duration::from_secs(30))
    }
}

/// Says that a test can't run here, past the test harness's capture, so that
/// a skip is seen.
pub fn skip(test: &str, reason: &str) {
    let line = format!("skipped {test}: {reason}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t")))
}

/// A process whose namespaces something lives in. They go when it is dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    child: Child,
    inner: u32,
}

impl Holder {
    /// An `unshare` that ends with the test that starts it, however it ends.
    pub(crate) fn command() -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare"]);
        command
    }

    /// Starts `command` (an `unshare --fork` of a shell that prints `ready`)
    /// and finds the forked process, which is the one in the namespaces.
    pub(crate) fn start(mut command: Command, what: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start the {what}: {e}"));
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        if line.trim() != "ready" {
            let _ = child.kill();
            let mut errors = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut stderr, &mut errors);
            }
            panic!("the {what} did not come up: {errors}");
        }
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let inner = std::fs::read_to_string(&children)
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("the {what} has no process"));
        Self { child, inner }
    }

    /// The process to enter.
    pub(crate) fn pid(&self) -> u32 {
        self.inner
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
