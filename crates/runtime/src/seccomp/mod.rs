//! Seccomp profiles: Docker's default as a table, custom ones from JSON.
//!
//! Be aware:
//! - The default profile names what is refused: such calls fail with EPERM as
//!   under Docker, and calls newer than the table with ENOSYS, so that the C
//!   library falls back to an older one instead of giving up.
//! - Rules without arguments are merged into one per answer: compiling costs
//!   by the rule.

mod custom;
mod table;

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};
use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

pub use custom::custom_profile;

/// Why a profile is refused.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// Not the JSON of a profile.
    #[error("Decoding seccomp profile failed: {0}")]
    Json(#[from] serde_json::Error),
    /// A value in it is wrong.
    #[error("seccomp profile: {0}")]
    Invalid(String),
}

impl Kind for SeccompError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// Docker's default profile for a process with the capabilities `caps`
/// (`CAP_…`) on a kernel of version `kernel`.
#[must_use]
pub fn default_profile(caps: &[&str], kernel: (u32, u32)) -> LinuxSeccomp {
    let mut allowed: BTreeSet<&str> = table::ALWAYS.split(' ').collect();
    let mut refused: BTreeSet<&str> = table::NEVER.split(' ').collect();
    if kernel >= table::PTRACE_KERNEL {
        allowed.extend(table::PTRACE.split(' '));
    }
    for (arches, names) in table::BY_ARCH {
        let set = if arches.contains(&go_arch()) { &mut allowed } else { &mut refused };
        set.extend(names.split(' '));
    }
    for group in table::BY_CAP {
        let set = if caps.contains(&group.cap) { &mut allowed } else { &mut refused };
        set.extend(group.names.split(' '));
    }
    let admin = allowed.contains("clone");
    refused.remove("clone");
    refused.remove("clone3");
    refused.retain(|name| !allowed.contains(name));

    let allow = LinuxSeccompAction::ScmpActAllow;
    let mut rules = vec![plain(&allowed, allow), plain(&refused, LinuxSeccompAction::ScmpActErrno)];
    if !admin {
        clone_rules(&mut rules);
    }
    rules.push(conditional("socket", true, LinuxSeccompOperator::ScmpCmpNe, table::AF_VSOCK, None));
    rules.push(conditional(
        "socket",
        false,
        LinuxSeccompOperator::ScmpCmpEq,
        table::AF_VSOCK,
        None,
    ));
    for value in table::PERSONALITIES {
        let equal = LinuxSeccompOperator::ScmpCmpEq;
        rules.push(conditional("personality", true, equal, *value, None));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::ENOSYS.unsigned_abs()))
        .set_architectures(Some(native_architectures()))
        .set_syscalls(Some(rules));
    profile
}

/// `clone` without namespaces. `clone3` keeps its flags in memory, where no
/// filter can look: it does not exist, and the C library uses `clone`.
fn clone_rules(rules: &mut Vec<LinuxSyscall>) {
    let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
    let all = table::CLONE_NAMESPACES.iter().sum();
    rules.push(conditional("clone", true, masked, all, Some(0)));
    for flag in table::CLONE_NAMESPACES {
        rules.push(conditional("clone", false, masked, flag, Some(flag)));
    }
}

fn plain(names: &BTreeSet<&str>, action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|n| (*n).to_owned()).collect()).set_action(action);
    if action == LinuxSeccompAction::ScmpActErrno {
        rule.set_errno_ret(Some(libc::EPERM.unsigned_abs()));
    }
    rule
}

fn conditional(
    name: &'static str,
    allow: bool,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> LinuxSyscall {
    let action =
        if allow { LinuxSeccompAction::ScmpActAllow } else { LinuxSeccompAction::ScmpActErrno };
    let arg = argument(0, value, value_two.unwrap_or(0), op);
    let mut rule = plain(&BTreeSet::from([name]), action);
    rule.set_args(Some(vec![arg]));
    rule
}

fn argument(index: usize, value: u64, value_two: u64, op: LinuxSeccompOperator) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .value_two(value_two)
        .op(op)
        .build()
        .expect("every field is set")
}

/// The machine's architecture as Go, and so Docker's profiles, name it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The machine's own architecture and those whose programs it also runs.
fn native_architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "s390x" => vec![Arch::ScmpArchS390x, Arch::ScmpArchS390],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        "powerpc64" => vec![Arch::ScmpArchPpc64le],
        _ => vec![Arch::ScmpArchNative],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(profile: &LinuxSeccomp, name: &str) -> Vec<LinuxSeccompAction> {
        let rules = profile.syscalls().as_ref().unwrap();
        rules
            .iter()
            .filter(|r| r.names().iter().any(|n| n == name))
            .map(LinuxSyscall::action)
            .collect()
    }

    #[test]
    fn capabilities_open_their_calls() {
        use LinuxSeccompAction::{ScmpActAllow as Allow, ScmpActErrno as Errno};
        let plain = default_profile(&["CAP_CHOWN"], (6, 1));
        let admin = default_profile(&["CAP_SYS_ADMIN"], (6, 1));
        assert_eq!(answer(&plain, "read"), [Allow]);
        assert_eq!(answer(&plain, "mount"), [Errno]);
        assert_eq!(answer(&admin, "mount"), [Allow]);
        assert_eq!(answer(&admin, "clone"), [Allow]);
        assert_eq!(answer(&plain, "clone").len(), 8);
        assert_eq!(answer(&plain, "clone3"), []);
        assert_eq!(answer(&plain, "ptrace"), [Allow]);
        assert_eq!(answer(&default_profile(&[], (4, 7)), "ptrace"), [Errno]);
        assert_eq!(answer(&plain, "bpf"), [Errno]);
        assert_eq!(answer(&default_profile(&["CAP_BPF"], (6, 1)), "bpf"), [Allow]);
        assert_eq!(answer(&plain, "keyctl"), [Errno]);
        assert_eq!(answer(&plain, "socket"), [Allow, Errno]);
    }

    #[test]
    fn a_name_without_arguments_has_one_answer() {
        for caps in [&[][..], &["CAP_SYS_ADMIN", "CAP_SYSLOG"]] {
            let profile = default_profile(caps, (6, 1));
            let mut seen = BTreeSet::new();
            for rule in profile.syscalls().iter().flatten().filter(|r| r.args().is_none()) {
                for name in rule.names() {
                    assert!(seen.insert(name), "{name}");
                    assert!(
                        name.bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                    );
                }
            }
            assert!(seen.len() > 350);
        }
    }
}
