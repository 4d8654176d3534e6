//! A place for containers: directories, a root file system, a cgroup.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use oci_spec::runtime::{Process, Spec};
use sampan_runtime::cgroup::Cgroup;
use sampan_runtime::{
    AttachOptions, CreateRequest, ExecRequest, ExitStatus, IoConfig, LogSetup, OciRuntime,
    OutputStream, Runtime, RuntimeConfig, Shim, StdStream,
};
use sampan_types::{ContainerId, ExecId};
use serde_json::json;
use tempfile::TempDir;

const APPLETS: &[&str] = &[
    "sh", "unshare", "cat", "echo", "sleep", "true", "false", "dd", "tr", "yes", "head", "grep",
    "stty", "tty", "id", "mkdir", "tail", "kill", "ls", "seq", "wc", "env", "pwd", "nproc",
    "chmod",
];

/// Why these tests can't run here.
pub fn cannot_run() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new("/bin/busybox").exists() {
        return Some("needs busybox-static");
    }
    if sampan_runtime::cgroup::CgroupHost::detect().is_err() {
        return Some("needs cgroups");
    }
    None
}

pub struct Lab {
    pub dir: TempDir,
    pub runtime: Runtime,
    pub config: RuntimeConfig,
}

impl Lab {
    pub fn new() -> Self {
        Self::below(tempfile::tempdir().unwrap(), "")
    }

    pub fn below(dir: TempDir, sub: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/sampan-test-{}-{number}", std::process::id());
        let config = config(&dir.path().join(sub), parent);
        make_rootfs(&dir.path().join("rootfs"));
        let runtime = Runtime::new(config.clone()).unwrap();
        Self { dir, runtime, config }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// A request to run a shell command.
    pub fn shell(&self, command: &str) -> CreateRequest {
        self.request(&["/bin/sh", "-c", command])
    }

    pub fn request(&self, args: &[&str]) -> CreateRequest {
        let id = ContainerId::random();
        request(&self.config, &self.rootfs(), id, args)
    }

    pub fn log_of(&self, id: &ContainerId) -> String {
        std::fs::read_to_string(log_file(&self.config, id)).unwrap_or_default()
    }

    pub fn exec_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.exec_root.join("containers").join(id.as_str())
    }

    /// Creates, attaches, starts and waits: exit status, output, errors.
    pub async fn run(&self, request: CreateRequest) -> (ExitStatus, String, String) {
        let shim = self.runtime.create(request).await.unwrap();
        let attached = shim.attach(BOTH).await.unwrap();
        shim.start().await.unwrap();
        let (out, err) = collect(attached.output).await;
        let status = shim.wait().await;
        self.runtime.cleanup(shim.id()).await.unwrap();
        (status, out, err)
    }

    /// A container that runs until it is killed.
    pub async fn idle(&self) -> Shim {
        let shim = self.runtime.create(self.request(&["/bin/sleep", "1000"])).await.unwrap();
        shim.start().await.unwrap();
        shim
    }

    pub async fn end(&self, shim: &Shim) {
        shim.delete().await.unwrap();
        self.runtime.cleanup(shim.id()).await.unwrap();
        self.nothing_left(shim.id());
    }

    /// Neither files nor cgroups of the container are left.
    pub fn nothing_left(&self, id: &ContainerId) {
        assert!(!self.exec_dir(id).exists(), "the directory is left");
        let cgroup = self.runtime.cgroup(id, None);
        for dir in cgroup_dirs(cgroup.path()) {
            assert!(!dir.exists(), "{} is left", dir.display());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What a failed test has left.
        let parent = Path::new(&self.config.cgroup_parent);
        let cgroup = Cgroup::new(Arc::clone(self.runtime.cgroup_host()), parent);
        let _ = cgroup.kill_all().and_then(|()| cgroup.remove());
        for dir in cgroup_dirs(Path::new(&self.config.cgroup_parent)) {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// The directories of a cgroup in all hierarchies.
pub fn cgroup_dirs(path: &Path) -> Vec<PathBuf> {
    let relative = path.strip_prefix("/").unwrap();
    let mounts = sampan_sys::mount::list().unwrap();
    let groups = mounts.into_iter().filter(|m| m.fs_type.starts_with("cgroup"));
    groups.map(|m| m.target.join(relative)).collect()
}

pub fn config(dir: &Path, cgroup_parent: String) -> RuntimeConfig {
    RuntimeConfig {
        program: std::env::current_exe().unwrap(),
        data_root: dir.join("data"),
        exec_root: dir.join("exec"),
        cgroup_parent,
        runtimes: BTreeMap::new(),
    }
}

pub fn log_file(config: &RuntimeConfig, id: &ContainerId) -> PathBuf {
    config.data_root.join("containers").join(id.as_str()).join(format!("{id}-json.log"))
}

pub fn request(
    config: &RuntimeConfig,
    rootfs: &Path,
    id: ContainerId,
    args: &[&str],
) -> CreateRequest {
    let path = log_file(config, &id);
    CreateRequest {
        generation: 1,
        spec: spec(rootfs, &format!("{}/{id}", config.cgroup_parent), args),
        io: IoConfig::default(),
        log: LogSetup::JsonFile {
            path,
            max_size: 0,
            max_file: 1,
            compress: false,
            attrs: BTreeMap::new(),
        },
        runtime: OciRuntime::Builtin,
        id,
    }
}

/// Both output streams.
pub const BOTH: AttachOptions = AttachOptions { stdin: false, stdout: true, stderr: true };
/// All streams.
pub const ALL: AttachOptions = AttachOptions { stdin: true, stdout: true, stderr: true };

pub async fn collect(mut output: OutputStream) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((stream, bytes)) = output.next().await {
        match stream {
            StdStream::Stdout => out.extend_from_slice(&bytes),
            StdStream::Stderr => err.extend_from_slice(&bytes),
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

/// Reads until the output contains `text`.
pub async fn until(output: &mut OutputStream, text: &str) -> String {
    let mut got = Vec::<u8>::new();
    while !String::from_utf8_lossy(&got).contains(text) {
        let (_, bytes) = output.next().await.unwrap_or_else(|| {
            panic!("{text:?} did not come, but {:?}", String::from_utf8_lossy(&got))
        });
        got.extend_from_slice(&bytes);
    }
    String::from_utf8_lossy(&got).into_owned()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub const CAPS: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub fn process(args: &[&str]) -> Process {
    serde_json::from_value(json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
        "cwd": "/",
        "noNewPrivileges": false,
        "capabilities": { "bounding": CAPS, "effective": CAPS, "permitted": CAPS },
    }))
    .unwrap()
}

pub fn exec_request(args: &[&str]) -> ExecRequest {
    ExecRequest { id: ExecId::random(), process: process(args), io: IoConfig::default() }
}

fn spec(rootfs: &Path, cgroup: &str, args: &[&str]) -> Spec {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    serde_json::from_value(json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs, "readonly": false },
        "hostname": "test",
        "process": process(args),
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                { "type": "mount" }, { "type": "network" }, { "type": "uts" },
                { "type": "pid" }, { "type": "ipc" },
            ],
            "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
        },
    }))
    .unwrap()
}

fn make_rootfs(root: &Path) {
    for dir in ["bin", "proc", "dev", "sys", "tmp", "etc", "root"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/plain"), "no program\n").unwrap();
    std::fs::write(root.join("bin/garbage"), "\u{1}\u{2}garbage").unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(root.join("bin/garbage"), executable).unwrap();
}
