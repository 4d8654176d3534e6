//! Capabilities: which ones a container's processes may have.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use sampan_types::docker::HostConfig;

use super::{HostFacts, SpecError};

/// All of them, in the kernel's order: the position is the number.
pub(super) const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Docker's default.
const DEFAULT: [&str; 14] = [
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

/// What `--cap-add` and `--cap-drop` leave, in the kernel's order. Those that
/// the kernel or the daemon's own bounding set lacks are left out of "all".
pub(super) fn effective(
    host: &HostConfig,
    privileged: bool,
    facts: &HostFacts,
) -> Result<Vec<&'static str>, SpecError> {
    let add = parse("CapAdd", host.cap_add.as_deref())?;
    let drop = parse("CapDrop", host.cap_drop.as_deref())?;
    let possible = |cap: &&str| {
        let number = ALL.iter().position(|c| c == cap).unwrap_or(63);
        facts.capabilities & (1 << number) != 0
    };
    let chosen: Vec<&'static str> = ALL
        .into_iter()
        .filter(|cap| match (&add, &drop) {
            _ if privileged => possible(cap),
            (Caps::All, Caps::All) => false,
            (Caps::All, Caps::Some(drop)) => possible(cap) && !drop.contains(cap),
            (Caps::Some(add), Caps::All) => add.contains(cap),
            (Caps::Some(add), Caps::Some(drop)) => {
                add.contains(cap) || (DEFAULT.contains(cap) && !drop.contains(cap))
            }
        })
        .collect();
    if let Some(missing) = chosen.iter().find(|c| !DEFAULT.contains(c) && !possible(c)) {
        return Err(SpecError::Unsupported(format!(
            "capability {missing} can't be given: this kernel or the daemon itself has none"
        )));
    }
    Ok(chosen.into_iter().filter(possible).collect())
}

enum Caps {
    All,
    Some(Vec<&'static str>),
}

fn parse(option: &str, list: Option<&[String]>) -> Result<Caps, SpecError> {
    let mut caps = Vec::new();
    let mut all = false;
    for text in list.unwrap_or_default() {
        let upper = text.trim().to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            all = true;
            continue;
        }
        let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let known = ALL.into_iter().find(|c| **c == name);
        caps.push(known.ok_or_else(|| {
            SpecError::Invalid(format!("invalid {option}: unknown capability: \"{name}\""))
        })?);
    }
    Ok(if all { Caps::All } else { Caps::Some(caps) })
}

/// The sets of a process. Only root starts with them in effect; another user's
/// program may gain them by its file's, as after any execve(2).
pub(super) fn sets(caps: &[&str], uid: u32) -> LinuxCapabilities {
    let all: HashSet<Capability> = caps
        .iter()
        .filter_map(|c| c.strip_prefix("CAP_").and_then(|name| name.parse().ok()))
        .collect();
    let active = if uid == 0 { all.clone() } else { HashSet::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(all))
        .set_effective(Some(active.clone()))
        .set_permitted(Some(active))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    sets
}

#[cfg(test)]
mod tests {
    use super::super::testing::facts;
    use super::*;
    use proptest::prelude::*;

    fn caps(add: &[&str], drop: &[&str]) -> Result<Vec<&'static str>, SpecError> {
        let list = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect());
        let host = HostConfig { cap_add: list(add), cap_drop: list(drop), ..HostConfig::default() };
        effective(&host, false, &facts())
    }

    #[test]
    fn every_name_is_one_that_the_runtime_knows() {
        assert_eq!(sets(&ALL, 0).bounding().as_ref().unwrap().len(), ALL.len());
        assert_eq!(sets(&ALL, 1000).effective().as_ref().unwrap().len(), 0);
    }

    #[test]
    fn adding_and_dropping() {
        assert_eq!(caps(&[], &[]).unwrap().len(), 14);
        assert!(caps(&["net_admin"], &[]).unwrap().contains(&"CAP_NET_ADMIN"));
        assert!(!caps(&[], &["CAP_CHOWN"]).unwrap().contains(&"CAP_CHOWN"));
        assert_eq!(caps(&["SYS_TIME"], &["ALL"]).unwrap(), ["CAP_SYS_TIME"]);
        assert_eq!(caps(&["ALL"], &["MKNOD"]).unwrap().len(), ALL.len() - 1);
        assert_eq!(caps(&[], &["all"]).unwrap().len(), 0);
        assert_eq!(caps(&["CHOWN"], &["CHOWN"]).unwrap().len(), 14);
    }

    #[test]
    fn unknown_names_are_refused() {
        let message = caps(&["NOPE"], &[]).unwrap_err().to_string();
        assert_eq!(message, "invalid CapAdd: unknown capability: \"CAP_NOPE\"");
        assert!(caps(&[], &["CAP_CAP_CHOWN"]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_dropped_and_not_added_is_gone(drop in prop::sample::subsequence(&ALL[..], 0..41)) {
            let left = caps(&[], &drop).unwrap();
            prop_assert!(left.iter().all(|c| !drop.contains(c) && DEFAULT.contains(c)));
        }
    }
}
