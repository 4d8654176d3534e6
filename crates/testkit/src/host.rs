//! One test host and the daemon on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::events::EventStream;
use crate::lan::{Holder, Lan};
use crate::program::{self, Failure, Outcome};
use crate::rootfs::busybox_rootfs;

/// How long one command may take before it is killed.
const LIMIT: Duration = Duration::from_secs(120);

/// A host: namespaces of its own, a directory of its own, an uplink `eth0`.
#[derive(Debug)]
pub struct Host {
    /// Its address on the LAN.
    pub ip: String,
    dir: TempDir,
    holder: Holder,
    daemon: Option<Daemon>,
}

/// A daemon process on a host.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// The daemon's process id, as the machine sees it; `None` when it has
    /// ended. (The child here is an `nsenter` that waits for it.)
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = std::fs::read_to_string(children).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }
}

/// An answer of the daemon's API.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status code; 0 when there was no answer.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as JSON; `null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The message of an error answer.
    #[must_use]
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Host {
    pub(crate) fn new(name: &str, number: u32, mtu: u32, lan: u32, cgroup2: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("sampan-{name}-"))
            .tempdir()
            .unwrap_or_else(|e| panic!("directory of host {name}: {e}"));
        let ip = format!("198.18.0.{number}");
        let script = init_script(name, dir.path(), cgroup2);
        let mut command = Holder::command();
        command.args([
            "-n",
            "-m",
            "-p",
            "-u",
            "-i",
            "--fork",
            "--kill-child",
            "sh",
            "-ec",
            &script,
        ]);
        let holder = Holder::start(command, &format!("host {name}"));
        let host = Self { ip, dir, holder, daemon: None };
        let pid = host.holder.pid();
        let link = format!(
            "ip link add h{number} type veth peer name eth0 netns {pid} && \
             ip link set h{number} master br0 mtu {mtu} up"
        );
        let mut join = Command::new("nsenter");
        join.args(["-t", &lan.to_string(), "-n", "--", "sh", "-c", &link]);
        let joined = program::run(join, b"", LIMIT);
        assert_eq!(joined.code, 0, "join host {name} to the LAN: {}", joined.errors());
        host.sh(&format!(
            "ip link set eth0 mtu {mtu} up && ip addr add {}/24 dev eth0 && \
             ip route add default via {}",
            host.ip,
            Lan::OUTSIDE_IP
        ));
        host
    }

    /// The host's own directory; the daemon's state lives below it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's `--data-root`.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// The daemon's `--exec-root`.
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.dir().join("exec")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir().join("sampan.sock")
    }

    /// The process that holds the host's namespaces.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// A command that will run on this host with the daemon as `DOCKER_HOST`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.pid().to_string(), "-m", "-n", "-p", "-u", "-i", "--"]);
        command.arg(program);
        command.env("HOME", self.dir()).env("LC_ALL", "C");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command
    }

    /// Runs a shell script on this host.
    pub fn run(&self, script: &str) -> Outcome {
        self.run_with(script, b"")
    }

    /// Runs a shell script on this host with `input`.
    pub fn run_with(&self, script: &str, input: &[u8]) -> Outcome {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        program::run(command, input, LIMIT)
    }

    /// Runs a shell script that must succeed; returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let outcome = self.run(script);
        if outcome.code != 0 {
            let failure = Failure { command: script.to_owned(), outcome };
            panic!("{failure}\n{}", self.log_tail());
        }
        outcome.text()
    }

    /// Runs `docker ARGS` (shell syntax), which must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn docker(&self, args: &str) -> String {
        self.sh(&format!("docker {args}"))
    }

    /// Runs `docker ARGS`, which must fail; returns its exit code and errors.
    ///
    /// # Panics
    /// When it succeeds.
    #[track_caller]
    pub fn docker_fails(&self, args: &str) -> (i32, String) {
        let outcome = self.run(&format!("docker {args}"));
        assert_ne!(outcome.code, 0, "docker {args} should have failed: {}", outcome.text());
        (outcome.code, outcome.errors())
    }

    /// Asks the daemon's API; `body` is sent as JSON.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        self.api_raw(method, path, body.map(|b| b.to_string().into_bytes()).as_deref())
    }

    /// Asks the daemon's API with any body under the name of JSON.
    #[must_use]
    pub fn api_raw(&self, method: &str, path: &str, body: Option<&[u8]>) -> Response {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket"]);
        curl.arg(self.socket()).args(["-H", "Content-Type: application/json"]);
        if body.is_some() {
            curl.args(["--data-binary", "@-"]);
        }
        curl.arg(format!("http://d{path}"));
        let outcome = program::run(curl, body.unwrap_or_default(), LIMIT);
        let split = outcome.stdout.iter().rposition(|b| *b == b'\n').unwrap_or(0);
        let (body, code) = outcome.stdout.split_at(split);
        let status = String::from_utf8_lossy(code).trim().parse().unwrap_or(0);
        Response { status, body: body.to_vec() }
    }

    /// What `docker inspect` knows of `name`.
    ///
    /// # Panics
    /// When there is no such object.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.docker(&format!("inspect {name}"));
        let mut list: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("inspect {name}: {e}: {text}"));
        list[0].take()
    }

    /// Opens the stream of events, from now on.
    #[must_use]
    pub fn events(&self) -> EventStream {
        let mut curl = Command::new("curl");
        curl.args(["-sN", "--unix-socket"]).arg(self.socket());
        let now = self.run("date +%s.%N").text();
        curl.arg(format!("http://d/events?since={now}"));
        EventStream::open(curl)
    }

    /// Starts `program daemon ARGS` here and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_daemon(&mut self, program: &str, args: &[&str]) -> Duration {
        self.start_daemon_with(program, args, &[])
    }

    /// As [`Host::start_daemon`], with additional environment variables.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_daemon_with(
        &mut self,
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Duration {
        let began = Instant::now();
        self.spawn_daemon(program, args, env);
        while began.elapsed() < Duration::from_secs(60) {
            if self.api("GET", "/_ping", None).status == 200 {
                return began.elapsed();
            }
            if self.daemon_exit().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the daemon is not ready:\n{}", self.log_tail());
    }

    /// Starts the daemon without waiting for it.
    ///
    /// # Panics
    /// When the process can't be started.
    pub fn spawn_daemon(&mut self, program: &str, args: &[&str], env: &[(&str, &str)]) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join("daemon.log"))
            .unwrap_or_else(|e| panic!("daemon.log: {e}"));
        let errors = log.try_clone().unwrap_or_else(|e| panic!("daemon.log: {e}"));
        let mut command = self.command(program);
        command.arg("daemon").arg("-H").arg(format!("unix://{}", self.socket().display()));
        command.arg("--data-root").arg(self.data_root());
        command.arg("--exec-root").arg(self.exec_root());
        command.args(args).envs(env.iter().copied()).env_remove("DOCKER_HOST");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().unwrap_or_else(|e| panic!("start {program}: {e}"));
        self.daemon = Some(Daemon { child });
    }

    /// The daemon, while one was started here.
    #[must_use]
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    /// The daemon's exit code, when it has ended (128 plus the signal's number
    /// when it was killed).
    pub fn daemon_exit(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.daemon.as_mut()?.child.try_wait().ok()??;
        status.code().or_else(|| status.signal().map(|s| 128 + s))
    }

    /// Waits until the daemon has ended; returns its exit code.
    pub fn wait_daemon(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.daemon.as_mut()?.child.wait().ok()?;
        status.code().or_else(|| status.signal().map(|s| 128 + s))
    }

    /// Sends `signal` to the daemon and waits for its end; returns its exit code.
    pub fn stop_daemon(&mut self, signal: &str) -> Option<i32> {
        self.daemon.as_ref()?;
        // Just after its start, the child has not forked the daemon yet.
        while self.daemon_exit().is_none() {
            if let Some(pid) = self.daemon.as_ref()?.pid() {
                let args = [format!("-{signal}"), pid.to_string()];
                let _ = Command::new("kill").args(args).stderr(Stdio::null()).status();
                break;
            }
            std::thread::yield_now();
        }
        let code = self.wait_daemon();
        self.daemon = None;
        code
    }

    /// Makes the image `busybox:latest` from the machine's static busybox.
    ///
    /// # Panics
    /// When it can't be made.
    #[track_caller]
    pub fn import_busybox(&self) {
        let root = self.dir().join("rootfs");
        if !root.exists() {
            busybox_rootfs(&root).unwrap_or_else(|e| panic!("busybox rootfs: {e}"));
        }
        self.sh(&format!(
            "tar -C {} -c . | docker import -c 'CMD [\"sh\"]' - busybox:latest",
            root.display()
        ));
    }

    /// Removes the cgroup below which the daemon's containers were, in every
    /// hierarchy; one that is in use stays. The daemon named it by a hash of
    /// its exec-root (FNV-1a, 32 bits).
    fn remove_cgroups(&self) {
        let bytes = self.exec_root().into_os_string().into_encoded_bytes();
        let hash = bytes
            .iter()
            .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
        for hierarchy in hierarchies.map(|e| e.path()).chain([root.to_owned()]) {
            let _ = std::fs::remove_dir(hierarchy.join(format!("sampan-{hash:08x}")));
        }
    }

    /// The end of the daemon's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir().join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- daemon.log\n{}", self.log_tail());
        }
        if self.daemon.is_some() && self.daemon_exit().is_none() {
            let _ = self.run("docker ps -aq | xargs -r docker rm -f");
            self.stop_daemon("TERM");
        }
        // The containers' cgroups outlive the namespaces; their processes don't.
        // Everything else goes with the holder.
        self.remove_cgroups();
    }
}

fn init_script(name: &str, dir: &Path, cgroup2: bool) -> String {
    let dir = dir.display();
    let cgroups = if cgroup2 {
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned()
    } else {
        format!("mount --rbind {dir}/cg /sys/fs/cgroup")
    };
    // `ip netns exec` would remount /sys and hide the cgroup mounts, so they
    // are moved aside and brought back around the new sysfs. The shell stays
    // and waits: as the host's process 1 it reaps orphans.
    format!(
        "mount --make-rprivate /
mkdir -p {dir}/cg
mount --rbind /sys/fs/cgroup {dir}/cg
mount -t sysfs sysfs /sys
{cgroups}
umount -l {dir}/cg
mkdir -p /sys/fs/bpf && mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/etc
mount -t proc proc /proc
printf 'nameserver {outside}\\n' > /run/etc/resolv.conf
mount --bind /run/etc/resolv.conf /etc/resolv.conf
mount --make-rshared /
sysctl -qw net.ipv4.ip_forward=1
ip link set lo up
hostname {name}
echo ready
sleep infinity &
wait",
        outside = Lan::OUTSIDE_IP
    )
}
