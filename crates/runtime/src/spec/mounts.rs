//! The mounts of a container, in the order in which they are made.
//!
//! Be aware:
//! - libcontainer mounts v1 cgroup hierarchies writable whatever is asked for.
//!   So on v1 and hybrid hosts each one's directory of the container is bound
//!   instead, over an unpopulated view of `/sys/fs/cgroup`; the directories
//!   must exist ([`crate::cgroup::Cgroup::create`]).
//! - libcontainer leaves the propagation of each bind as that of the whole
//!   tree. So it is told that all is private, and the shim makes binds share
//!   (`client/sharing.rs`). Other runtimes are told all of it.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use sampan_types::docker::{HostConfig, MountType};

use super::process::INIT_PATH;
use super::{BindMount, Ipc, Propagation, ReadOnly, SpecError, SpecInput};
use crate::cgroup::CgroupVersion;

/// Size of `/dev/shm` when none is asked for.
pub(super) const DEFAULT_SHM: i64 = 64 << 20;

/// All mounts.
pub(super) fn build(
    input: &SpecInput<'_>,
    privileged: bool,
    writable_cgroups: bool,
) -> Result<Vec<Mount>, SpecError> {
    let mut own: Vec<Mount> = input.mounts.iter().map(bind).collect();
    own.extend(tmpfs(input.host)?);
    if let Some(init) = input.init {
        own.push(bind(&BindMount {
            source: init.to_owned(),
            target: PathBuf::from(INIT_PATH),
            read_only: ReadOnly::Top,
            recursive: false,
            propagation: Propagation::RPrivate,
        }));
    }
    let mut all = defaults(input, privileged, writable_cgroups);
    // Who mounts something at a place of ours gets it; with all of /dev, what
    // would be below it too.
    let own_dev = own.iter().any(|m| m.destination() == Path::new("/dev"));
    let own_sys_cgroup = own.iter().any(|m| m.destination() == Path::new("/sys/fs/cgroup"));
    all.retain(|m| {
        let at = m.destination();
        let replaced = own.iter().any(|o| o.destination() == at);
        let below_own = (own_dev && at.starts_with("/dev"))
            || (own_sys_cgroup && at.starts_with("/sys/fs/cgroup"));
        !replaced && !below_own
    });
    if input.host.readonly_rootfs.unwrap_or(false) {
        all.iter_mut().for_each(make_read_only);
    }
    // What is mounted below another mount comes after it.
    own.sort_by_key(|m| m.destination().components().count());
    all.extend(own);
    Ok(all)
}

/// The propagation of the whole tree: the widest that any bind asks for.
pub(super) fn root_propagation(mounts: &[BindMount]) -> &'static str {
    match mounts.iter().map(|m| m.propagation).max().unwrap_or_default() {
        Propagation::RPrivate | Propagation::Private => "private",
        Propagation::RSlave | Propagation::Slave => "slave",
        Propagation::RShared | Propagation::Shared => "shared",
    }
}

/// A mount, in the specification's words.
pub(crate) fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn defaults(input: &SpecInput<'_>, privileged: bool, writable_cgroups: bool) -> Vec<Mount> {
    let read_only_root = input.host.readonly_rootfs.unwrap_or(false);
    let sys_mode = if privileged && !read_only_root { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_mode]),
    ];
    mounts.extend(cgroups(input, privileged || writable_cgroups));
    mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    mounts.extend(shm(input));
    mounts
}

fn cgroups(input: &SpecInput<'_>, writable: bool) -> Vec<Mount> {
    let mode = if writable { "rw" } else { "ro" };
    let facts = &input.facts.cgroup;
    if facts.version == CgroupVersion::V2 {
        let options = ["nosuid", "noexec", "nodev", mode];
        return vec![mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)];
    }
    let own = input.cgroups_path.strip_prefix("/").unwrap_or(input.cgroups_path);
    let bound = |source: &Path, target: &str, mode: &str| {
        let options = ["bind", "nosuid", "noexec", "nodev", "rprivate", mode];
        mount(target, "bind", &source.to_string_lossy(), &options)
    };
    // The host's directory without what is mounted in it: the mount points.
    let mut mounts = vec![bound(&facts.root, "/sys/fs/cgroup", "ro")];
    for (name, hierarchy) in &facts.hierarchies {
        mounts.push(bound(&hierarchy.join(own), &format!("/sys/fs/cgroup/{name}"), mode));
    }
    mounts
}

fn shm(input: &SpecInput<'_>) -> Option<Mount> {
    let options = ["rbind", "nosuid", "noexec", "nodev", "rprivate", "rw"];
    let bound = |source: &Path| mount("/dev/shm", "bind", &source.to_string_lossy(), &options);
    match &input.namespaces.ipc {
        Ipc::None => None,
        Ipc::Host => Some(bound(Path::new("/dev/shm"))),
        Ipc::Shareable { shm } | Ipc::Join { shm, .. } => Some(bound(shm)),
        Ipc::Private => {
            let size = input.host.shm_size.filter(|s| *s > 0).unwrap_or(DEFAULT_SHM);
            let size = format!("size={size}");
            let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
            Some(mount("/dev/shm", "tmpfs", "shm", &options))
        }
    }
}

/// With a read-only root, what has no reason to be written is read-only too.
fn make_read_only(mount: &mut Mount) {
    let writable = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];
    if writable.iter().any(|w| mount.destination() == Path::new(w)) {
        return;
    }
    if let Some(options) = mount.options_mut() {
        options.retain(|o| o != "rw");
        if !options.iter().any(|o| o == "ro") {
            options.push("ro".to_owned());
        }
    }
}

fn bind(bind: &BindMount) -> Mount {
    let propagation = match bind.propagation {
        Propagation::RPrivate => "rprivate",
        Propagation::Private => "private",
        Propagation::RSlave => "rslave",
        Propagation::Slave => "slave",
        Propagation::RShared => "rshared",
        Propagation::Shared => "shared",
    };
    let mut options = vec![if bind.recursive { "rbind" } else { "bind" }, propagation];
    match bind.read_only {
        ReadOnly::No => {}
        ReadOnly::Top => options.push("ro"),
        ReadOnly::Recursive => options.extend(["ro", "rro"]),
    }
    let mut result = mount("/", "bind", "/", &options);
    result.set_destination(bind.target.clone()).set_source(Some(bind.source.clone()));
    result
}

/// `HostConfig.Tmpfs`, and `HostConfig.Mounts` of type `tmpfs`.
pub(super) fn tmpfs(host: &HostConfig) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = Vec::new();
    for (target, text) in host.tmpfs.iter().flatten() {
        let options: Vec<String> =
            text.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
        mounts.push(one_tmpfs(target, &options)?);
    }
    for entry in host.mounts.iter().flatten().filter(|m| m.typ == Some(MountType::TMPFS)) {
        let mut options = Vec::new();
        if entry.read_only.unwrap_or(false) {
            options.push("ro".to_owned());
        }
        let tmpfs = entry.tmpfs_options.clone().unwrap_or_default();
        if let Some(size) = tmpfs.size_bytes.filter(|s| *s != 0) {
            options.push(format!("size={size}"));
        }
        if let Some(mode) = tmpfs.mode.filter(|m| *m != 0) {
            options.push(format!("mode={mode:o}"));
        }
        options.extend(tmpfs.options.into_iter().flatten().map(|pair| pair.join("=")));
        mounts.push(one_tmpfs(entry.target.as_deref().unwrap_or_default(), &options)?);
    }
    mounts.sort_by(|a, b| a.destination().cmp(b.destination()));
    Ok(mounts)
}

/// Flags that exclude each other stand side by side.
const FLAGS: [(&str, &str); 9] = [
    ("ro", "rw"),
    ("noexec", "exec"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("sync", "async"),
    ("noatime", "atime"),
    ("nodiratime", "diratime"),
    ("relatime", "norelatime"),
    ("strictatime", "nostrictatime"),
];
const VALUES: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];
const PROPAGATIONS: [&str; 7] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "defaults"];

fn one_tmpfs(target: &str, options: &[String]) -> Result<Mount, SpecError> {
    if !target.starts_with('/') {
        return Err(SpecError::Invalid(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    let target = normal(target);
    if target == Path::new("/") {
        return Err(SpecError::Invalid("invalid specification: destination can't be '/'".into()));
    }
    let mut merged: Vec<String> =
        ["nosuid", "nodev", "noexec"].iter().map(|o| (*o).to_owned()).collect();
    for option in options {
        let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
        let flag = FLAGS.iter().find(|(a, b)| !option.contains('=') && (*a == name || *b == name));
        if let Some((a, b)) = flag {
            merged.retain(|o| o != a && o != b);
        } else if VALUES.contains(&name) && option.contains('=') {
            merged.retain(|o| o.split_once('=').is_none_or(|(n, _)| n != name));
        } else if PROPAGATIONS.contains(&option.as_str()) {
            continue;
        } else {
            return Err(SpecError::Invalid(format!("invalid tmpfs option [\"{option}\"]")));
        }
        merged.push(option.clone());
    }
    let options: Vec<&str> = merged.iter().map(String::as_str).collect();
    Ok(mount(&target.to_string_lossy(), "tmpfs", "tmpfs", &options))
}

/// An absolute path without `.`, `..` and repeated slashes, by its text alone;
/// never above the root.
#[must_use]
pub fn normal(path: impl AsRef<Path>) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.as_ref().components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(text: &[&str]) -> Result<String, SpecError> {
        let list: Vec<String> = text.iter().map(|s| (*s).to_owned()).collect();
        one_tmpfs("/t", &list).map(|m| m.options().as_ref().unwrap().join(","))
    }

    #[test]
    fn later_tmpfs_options_win() {
        assert_eq!(options(&[]).unwrap(), "nosuid,nodev,noexec");
        assert_eq!(options(&["exec", "size=1m", "rw"]).unwrap(), "nosuid,nodev,exec,size=1m,rw");
        assert_eq!(options(&["size=1m", "size=2m"]).unwrap(), "nosuid,nodev,noexec,size=2m");
        for wrong in ["bogus", "size", "exec=1", "context=x"] {
            assert_eq!(
                options(&[wrong]).unwrap_err().to_string(),
                format!("invalid tmpfs option [\"{wrong}\"]")
            );
        }
        assert!(one_tmpfs("relative", &[]).is_err());
        assert!(one_tmpfs("/a/..", &[]).is_err());
    }

    #[test]
    fn the_widest_propagation_decides() {
        let with = |propagation| BindMount {
            source: "/a".into(),
            target: "/b".into(),
            read_only: ReadOnly::No,
            recursive: true,
            propagation,
        };
        assert_eq!(root_propagation(&[]), "private");
        assert_eq!(root_propagation(&[with(Propagation::RPrivate)]), "private");
        assert_eq!(
            root_propagation(&[with(Propagation::RShared), with(Propagation::RSlave)]),
            "shared"
        );
        assert_eq!(root_propagation(&[with(Propagation::Slave)]), "slave");
    }

    proptest! {
        #[test]
        fn normal_paths_stay_normal(text in "/?([a-z.]{0,3}/){0,6}[a-z.]{0,3}") {
            let once = normal(&text);
            prop_assert!(once.starts_with("/"));
            prop_assert!(once.components().skip(1).all(|c| matches!(c, Component::Normal(_))));
            prop_assert_eq!(&normal(&once), &once);
        }
    }
}
