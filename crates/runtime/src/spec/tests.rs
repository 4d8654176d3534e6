//! Whole specifications.

use std::path::PathBuf;

use oci_spec::runtime::Mount;
use sampan_types::ContainerId;
use sampan_types::docker::ExecConfig;

use super::testing::{config, facts, facts_v2};
use super::*;
use crate::user::ResolvedUser;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Case {
    id: ContainerId,
    config: sampan_types::docker::ContainerConfig,
    host: HostConfig,
    user: ResolvedUser,
    mounts: Vec<BindMount>,
    namespaces: Namespaces,
    init: Option<PathBuf>,
    devices: Devices,
    facts: HostFacts,
}

fn case() -> Case {
    Case {
        id: ID.parse().unwrap(),
        config: config(),
        host: HostConfig::default(),
        user: ResolvedUser { home: "/root".into(), ..ResolvedUser::default() },
        mounts: ["hosts", "hostname", "resolv.conf"]
            .map(|name| BindMount {
                source: format!("/data/containers/{name}").into(),
                target: format!("/etc/{name}").into(),
                read_only: ReadOnly::No,
                recursive: true,
                propagation: Propagation::RPrivate,
            })
            .into(),
        namespaces: Namespaces {
            net: Namespace::Path("/run/netns/x".into()),
            ..Namespaces::default()
        },
        init: None,
        devices: Devices::default(),
        facts: facts(),
    }
}

impl Case {
    fn build(&self) -> Result<Spec, SpecError> {
        build(&SpecInput {
            id: &self.id,
            config: &self.config,
            host: &self.host,
            rootfs: Path::new("/data/overlay/x/merged"),
            hostname: "0123456789ab",
            user: &self.user,
            mounts: &self.mounts,
            namespaces: &self.namespaces,
            cgroups_path: Path::new("/sampan/x"),
            init: self.init.as_deref(),
            devices: &self.devices,
            default_ulimits: &[],
            facts: &self.facts,
        })
    }
}

fn mount<'a>(spec: &'a Spec, target: &str) -> Option<&'a Mount> {
    spec.mounts().as_ref()?.iter().find(|m| m.destination() == Path::new(target))
}

fn options(spec: &Spec, target: &str) -> Vec<String> {
    mount(spec, target).and_then(|m| m.options().clone()).unwrap_or_default()
}

/// Compares with the file in `tests/golden`; `SAMPAN_BLESS=1` writes it anew.
fn golden(name: &str, spec: &Spec) {
    let mut value = serde_json::to_value(spec).unwrap();
    // Sets come out in no order.
    for set in ["bounding", "effective", "permitted"] {
        let list = value.pointer_mut(&format!("/process/capabilities/{set}"));
        if let Some(list) = list.and_then(serde_json::Value::as_array_mut) {
            list.sort_by_key(ToString::to_string);
        }
    }
    // The filter has tests of its own.
    if let Some(seccomp) = value.pointer_mut("/linux/seccomp") {
        *seccomp = serde_json::json!("present");
    }
    let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
    let path =
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden").join(name);
    if std::env::var_os("SAMPAN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{} differs; SAMPAN_BLESS=1 writes it anew", path.display());
}

#[test]
fn a_default_container_is_as_golden() {
    golden("default-hybrid.json", &case().build().unwrap());
    let mut v2 = case();
    v2.facts = facts_v2();
    golden("default-v2.json", &v2.build().unwrap());
}

#[test]
fn a_container_with_everything_is_as_golden() {
    let mut case = case();
    case.config.tty = Some(true);
    case.config.user = Some("1000:1000".into());
    case.config.env = Some(vec!["A=1".into()]);
    case.config.working_dir = Some("/srv/../app".into());
    case.config.domainname = Some("example.org".into());
    case.user = ResolvedUser { uid: 1000, gid: 1000, groups: vec![10, 20], home: "/home/u".into() };
    case.init = Some("/usr/bin/sampan".into());
    case.host = HostConfig {
        memory: Some(64 << 20),
        nano_cpus: Some(500_000_000),
        pids_limit: Some(50),
        readonly_rootfs: Some(true),
        shm_size: Some(1 << 20),
        cap_add: Some(vec!["NET_ADMIN".into()]),
        cap_drop: Some(vec!["MKNOD".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        tmpfs: Some([("/tmp".to_owned(), "size=1m,exec".to_owned())].into()),
        sysctls: Some([("net.core.somaxconn".to_owned(), "512".to_owned())].into()),
        device_cgroup_rules: Some(vec!["c 10:* rwm".into()]),
        oom_score_adj: Some(100),
        console_size: Some(vec![24, 80]),
        ulimits: Some(vec![sampan_types::docker::ResourcesUlimits {
            name: Some("nofile".into()),
            soft: Some(100),
            hard: Some(200),
        }]),
        ..HostConfig::default()
    };
    case.host.sysctls.as_mut().unwrap().insert("kernel.msgmax".into(), "9000".into());
    case.devices.nodes.push(DeviceNode {
        path: "/dev/fuse".into(),
        block: false,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".into(),
    });
    golden("everything.json", &case.build().unwrap());
}

#[test]
fn privileged_containers_see_all() {
    let mut case = case();
    case.host.privileged = Some(true);
    let spec = case.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert!(linux.masked_paths().is_none() && linux.readonly_paths().is_none());
    assert!(options(&spec, "/sys").contains(&"rw".to_owned()));
    assert!(options(&spec, "/sys/fs/cgroup/memory").contains(&"rw".to_owned()));
    let process = spec.process().as_ref().unwrap();
    let caps = process.capabilities().as_ref().unwrap();
    assert_eq!(caps.effective().as_ref().unwrap().len(), 41);
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    assert!(rules.len() == 1 && rules[0].allow());
}

#[test]
fn namespaces_of_the_host_are_not_made() {
    let mut case = case();
    case.namespaces = Namespaces {
        pid: Namespace::Host,
        ipc: Ipc::Host,
        uts: Namespace::Host,
        net: Namespace::Host,
        cgroup: Namespace::Host,
    };
    let spec = case.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.namespaces().as_ref().unwrap().len(), 1);
    assert_eq!(spec.hostname(), &None);
    assert!(linux.sysctl().is_none());
    let shm = mount(&spec, "/dev/shm").unwrap();
    assert_eq!(shm.source().as_deref(), Some(Path::new("/dev/shm")));
}

#[test]
fn joined_namespaces_have_paths() {
    let mut case = case();
    case.namespaces.pid = Namespace::Path("/proc/9/ns/pid".into());
    case.namespaces.ipc = Ipc::Join { namespace: "/proc/9/ns/ipc".into(), shm: "/run/shm9".into() };
    let spec = case.build().unwrap();
    let list = spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
    let path = |kind| {
        list.iter().find(|n| n.typ() == kind).and_then(|n| n.path().clone()).unwrap_or_default()
    };
    assert_eq!(path(LinuxNamespaceType::Pid), Path::new("/proc/9/ns/pid"));
    assert_eq!(path(LinuxNamespaceType::Ipc), Path::new("/proc/9/ns/ipc"));
    assert_eq!(path(LinuxNamespaceType::Network), Path::new("/run/netns/x"));
    assert_eq!(mount(&spec, "/dev/shm").unwrap().source().as_deref(), Some(Path::new("/run/shm9")));
    case.namespaces.ipc = Ipc::None;
    assert!(mount(&case.build().unwrap(), "/dev/shm").is_none());
}

#[test]
fn a_users_mount_takes_the_place_of_ours() {
    let bind = |target: &str| BindMount {
        source: "/host".into(),
        target: target.into(),
        read_only: ReadOnly::Recursive,
        recursive: true,
        propagation: Propagation::RSlave,
    };
    let mut case = case();
    case.mounts = vec![bind("/dev/shm/deep"), bind("/dev/shm"), bind("/sys/fs/cgroup")];
    let spec = case.build().unwrap();
    let mounts = spec.mounts().as_ref().unwrap();
    let at = |t: &str| mounts.iter().position(|m| m.destination() == Path::new(t)).unwrap();
    assert!(at("/dev/shm") < at("/dev/shm/deep"));
    assert!(mount(&spec, "/sys/fs/cgroup/memory").is_none());
    assert_eq!(options(&spec, "/dev/shm"), ["rbind", "rslave", "ro", "rro"]);
    assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("slave"));
    case.mounts = vec![bind("/dev")];
    let spec = case.build().unwrap();
    assert!(mount(&spec, "/dev/pts").is_none() && mount(&spec, "/dev/mqueue").is_none());
}

#[test]
fn empty_lists_of_hidden_paths_count() {
    let mut case = case();
    case.host.masked_paths = Some(Vec::new());
    case.host.readonly_paths = Some(vec!["/proc/x".into()]);
    let spec = case.build().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.masked_paths().is_none());
    assert_eq!(linux.readonly_paths(), &Some(vec!["/proc/x".to_owned()]));
}

#[test]
fn exec_takes_over_the_container_and_adds_its_own() {
    let mut container = config();
    container.working_dir = Some("/app".into());
    container.env = Some(vec!["A=1".into(), "B=2".into()]);
    let host = HostConfig {
        security_opt: Some(vec!["no-new-privileges".into()]),
        cap_drop: Some(vec!["ALL".into()]),
        ..HostConfig::default()
    };
    let user = ResolvedUser { uid: 5, home: "/h".into(), ..ResolvedUser::default() };
    let facts = facts();
    let mut exec = ExecConfig {
        cmd: Some(vec!["sh".into()]),
        env: Some(vec!["A=9".into()]),
        tty: Some(true),
        ..ExecConfig::default()
    };
    let run = |exec: &ExecConfig| {
        exec_process(&ExecInput {
            config: &container,
            host: &host,
            exec,
            user: &user,
            hostname: "h",
            default_ulimits: &[],
            facts: &facts,
        })
    };
    let process = run(&exec).unwrap();
    assert_eq!(process.cwd(), Path::new("/app"));
    let env = process.env().as_ref().unwrap();
    for value in ["A=9", "B=2", "TERM=xterm", "HOME=/h", "HOSTNAME=h"] {
        assert!(env.contains(&value.to_owned()), "{value}");
    }
    assert_eq!(process.no_new_privileges(), Some(true));
    let bounding = |p: &Process| {
        p.capabilities().as_ref().and_then(|c| c.bounding().clone()).unwrap_or_default().len()
    };
    assert_eq!(bounding(&process), 0);
    exec.privileged = Some(true);
    assert_eq!(bounding(&run(&exec).unwrap()), 41);
    exec.cmd = Some(Vec::new());
    assert_eq!(run(&exec).unwrap_err().to_string(), "No exec command specified");
}
