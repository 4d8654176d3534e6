//! Devices: looked up on the host, and what the device cgroup allows.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use sampan_types::docker::{DeviceMapping, HostConfig};

use super::{DeviceNode, Devices, SpecError};

/// Directories of `/dev` that a privileged container has for itself.
const OWN_DIRECTORIES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Nodes that every container has anyway, or that are its terminal's.
const OWN_NODES: [&str; 8] =
    ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"];

impl Devices {
    /// Looks up every device that `host` names; all of `/dev` when privileged.
    ///
    /// # Errors
    /// [`SpecError::Device`] when a path is absent or no device.
    pub fn collect(host: &HostConfig) -> Result<Self, SpecError> {
        let mut nodes = BTreeMap::new();
        if host.privileged.unwrap_or(false) {
            walk(Path::new("/dev"), Path::new("/dev"), "rwm", true, &mut nodes)
                .map_err(|e| SpecError::Device(format!("listing the devices of /dev: {e}")))?;
        }
        for mapping in host.devices.iter().flatten() {
            add_mapping(mapping, &mut nodes)?;
        }
        let mut block = BTreeMap::new();
        for path in limited(host) {
            let meta = fs::metadata(path)
                .map_err(|e| SpecError::Device(format!("stat {path}: {}", plain(&e))))?;
            if !meta.file_type().is_block_device() {
                return Err(SpecError::Device(format!("{path} is not a block device")));
            }
            block.insert(path.to_owned(), numbers(meta.rdev()));
        }
        Ok(Self { nodes: nodes.into_values().collect(), block })
    }
}

/// The devices that block limits name.
fn limited(host: &HostConfig) -> impl Iterator<Item = &str> {
    let throttles = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    let weights = host.blkio_weight_device.iter().flatten().map(|d| d.path.as_deref());
    throttles
        .into_iter()
        .flat_map(|list| list.iter().flatten().map(|d| d.path.as_deref()))
        .chain(weights)
        .map(Option::unwrap_or_default)
}

fn add_mapping(
    mapping: &DeviceMapping,
    nodes: &mut BTreeMap<PathBuf, DeviceNode>,
) -> Result<(), SpecError> {
    let on_host = mapping.path_on_host.as_deref().unwrap_or_default();
    let inside = mapping.path_in_container.as_deref().filter(|p| !p.is_empty()).unwrap_or(on_host);
    let access = access(mapping)?;
    let failed = |why: &str| {
        SpecError::Device(format!(
            "error gathering device information while adding custom device \"{on_host}\": {why}"
        ))
    };
    let inside = super::mounts::normal(inside);
    if !inside.starts_with("/dev") || inside == Path::new("/dev") {
        return Err(SpecError::Invalid(format!(
            "invalid device path in container: '{}', it must be below /dev",
            inside.display()
        )));
    }
    // A link such as /dev/cdrom gives the node that it leads to, its own name.
    let source = fs::canonicalize(on_host).map_err(|e| failed(plain(&e).as_str()))?;
    let before = nodes.len();
    walk(&source, &inside, access, false, nodes).map_err(|e| failed(plain(&e).as_str()))?;
    if nodes.len() == before && !nodes.contains_key(&inside) {
        return Err(failed("not a device node"));
    }
    Ok(())
}

/// The letters of a mapping: `rwm` when none are given.
pub(super) fn access(mapping: &DeviceMapping) -> Result<&str, SpecError> {
    match mapping.cgroup_permissions.as_deref() {
        None | Some("") => Ok("rwm"),
        Some(text) if is_access(text) => Ok(text),
        Some(text) => Err(SpecError::Invalid(format!("invalid device mode: {text}"))),
    }
}

fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| b"rwm".contains(&b))
}

/// Adds the node at `source`, or all below it, as `target`.
fn walk(
    source: &Path,
    target: &Path,
    access: &str,
    all: bool,
    nodes: &mut BTreeMap<PathBuf, DeviceNode>,
) -> io::Result<()> {
    let meta = fs::symlink_metadata(source)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            let name = entry.file_name();
            let own = name.to_str().is_some_and(|n| {
                all && source == Path::new("/dev")
                    && (OWN_DIRECTORIES.contains(&n) || OWN_NODES.contains(&n))
            });
            if own {
                continue;
            }
            match walk(&entry.path(), &target.join(&name), access, all, nodes) {
                // It was unplugged meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    } else if kind.is_block_device() || kind.is_char_device() {
        let (major, minor) = numbers(meta.rdev());
        let node = DeviceNode {
            path: target.to_owned(),
            block: kind.is_block_device(),
            major,
            minor,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            access: access.to_owned(),
        };
        nodes.insert(target.to_owned(), node);
    }
    Ok(())
}

fn numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

/// The kernel's words without the number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        _ => error.to_string(),
    }
}

/// The nodes as the OCI has them.
pub(super) fn nodes(devices: &Devices) -> Vec<LinuxDevice> {
    devices
        .nodes
        .iter()
        .map(|node| {
            let mut device = LinuxDevice::default();
            device
                .set_path(node.path.clone())
                .set_typ(if node.block { LinuxDeviceType::B } else { LinuxDeviceType::C })
                .set_major(i64::from(node.major))
                .set_minor(i64::from(node.minor))
                .set_file_mode(Some(node.mode))
                .set_uid(Some(node.uid))
                .set_gid(Some(node.gid));
            device
        })
        .collect()
}

/// What the device cgroup allows beside the runtimes' own list.
pub(super) fn rules(
    host: &HostConfig,
    devices: &Devices,
) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    if host.privileged.unwrap_or(false) {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]);
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, None, None, "rwm")];
    for node in &devices.nodes {
        let kind = if node.block { LinuxDeviceType::B } else { LinuxDeviceType::C };
        let (major, minor) = (i64::from(node.major), i64::from(node.minor));
        rules.push(rule(true, kind, Some(major), Some(minor), &node.access));
    }
    for text in host.device_cgroup_rules.iter().flatten() {
        rules.push(parse_rule(text)?);
    }
    Ok(rules)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// `c 10:200 rwm`, `a *:* r`.
pub(super) fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup, SpecError> {
    let wrong = || SpecError::Invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut fields = text.split(' ');
    let (kind, numbers, access) = match (fields.next(), fields.next(), fields.next(), fields.next())
    {
        (Some(kind), Some(numbers), Some(access), None) => (kind, numbers, access),
        _ => return Err(wrong()),
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(wrong()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    if !is_access(access) {
        return Err(wrong());
    }
    Ok(rule(true, kind, number(major)?, number(minor)?, access))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host: &str, inside: &str, access: &str) -> HostConfig {
        HostConfig {
            devices: Some(vec![DeviceMapping {
                path_on_host: Some(host.into()),
                path_in_container: Some(inside.into()),
                cgroup_permissions: Some(access.into()),
            }]),
            ..HostConfig::default()
        }
    }

    #[test]
    fn nodes_are_found_on_the_host() {
        let devices = Devices::collect(&mapping("/dev/null", "/dev/nothing", "r")).unwrap();
        let node = &devices.nodes[0];
        assert_eq!((node.major, node.minor, node.block), (1, 3, false));
        assert_eq!((node.path.as_path(), node.access.as_str()), (Path::new("/dev/nothing"), "r"));
        let host = HostConfig { privileged: Some(true), ..HostConfig::default() };
        let all = Devices::collect(&host).unwrap();
        assert!(all.nodes.iter().all(|n| !n.path.starts_with("/dev/pts")));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for (config, message) in [
            (
                mapping("/dev/nope", "/dev/x", ""),
                "error gathering device information while adding custom device \"/dev/nope\": no such file or directory",
            ),
            (
                mapping("/etc/passwd", "/dev/x", ""),
                "error gathering device information while adding custom device \"/etc/passwd\": not a device node",
            ),
            (mapping("/dev/null", "/dev/x", "rx"), "invalid device mode: rx"),
            (
                mapping("/dev/null", "/dev/../etc/x", ""),
                "invalid device path in container: '/etc/x', it must be below /dev",
            ),
        ] {
            assert_eq!(Devices::collect(&config).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn rules_are_parsed() {
        for text in ["c 10:200 rwm", "a *:* r", "b 8:* w"] {
            assert!(parse_rule(text).is_ok(), "{text}");
        }
        for text in
            ["", "c 10:200", "x 1:1 r", "c 1 r", "c a:1 r", "c 1:1 rx", "c 1:1 r r", "c :1 r"]
        {
            assert_eq!(
                parse_rule(text).unwrap_err().to_string(),
                format!("invalid device cgroup rule format: '{text}'")
            );
        }
    }
}
