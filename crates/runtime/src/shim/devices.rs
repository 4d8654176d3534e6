//! Which devices a container may use, on hosts with cgroup v2 only. There
//! the kernel asks an eBPF program; libcontainer as built here attaches none.
//! (On other hosts it writes the rules to the v1 `devices` hierarchy.)
//!
//! Be aware:
//! - As with v1, the last rule that matches decides. What none matches is
//!   refused.
//! - Without rules nothing is attached: everything is allowed, as with v1.

use std::fs::File;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use sampan_sys::bpf::{Instruction, attach_device_filter};

/// Access kinds as the kernel numbers them.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// One rule; `None` is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn matches_everything(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, ALL)
    }
}

/// What every container may do, whatever its rules: make device files, and
/// use null, zero, full, tty, random, urandom, console, ptmx and its
/// terminals.
fn always() -> impl Iterator<Item = Rule> {
    let node =
        |kind| Rule { allow: true, kind: Some(kind), major: None, minor: None, access: MKNOD };
    let character = |major, minor| Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: Some(major),
        minor,
        access: ALL,
    };
    [node(CHARACTER), node(BLOCK), character(136, None)].into_iter().chain(
        [(1, 3), (1, 5), (1, 7), (5, 0), (1, 8), (1, 9), (5, 1), (5, 2)]
            .map(|(major, minor)| character(major, Some(minor))),
    )
}

fn rule(device: &LinuxDeviceCgroup) -> Rule {
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).and_then(|n| i32::try_from(n).ok());
    let access = device.access().as_deref().map_or(ALL, |text| {
        text.chars().fold(0, |all, c| {
            all | match c {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => 0,
            }
        })
    });
    Rule {
        allow: device.allow(),
        kind: match device.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            _ => None,
        },
        major: number(device.major()),
        minor: number(device.minor()),
        access,
    }
}

/// Restricts the cgroup in the directory `cgroup` to what `devices` allow.
///
/// # Errors
/// Those of bpf(2).
pub(super) fn restrict(cgroup: &Path, devices: &[LinuxDeviceCgroup]) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let rules: Vec<Rule> = devices.iter().map(rule).chain(always()).collect();
    attach_device_filter(File::open(cgroup)?, &program(&rules))
}

// Registers: the result, a scratch one that first holds the context, and what
// is asked for.
const RESULT: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn constant(code: u8, to: u8, value: i32) -> Instruction {
    Instruction { code, registers: to, offset: 0, constant: value }
}

fn register(code: u8, to: u8, from: u8) -> Instruction {
    Instruction { code, registers: to | from << 4, ..Instruction::default() }
}

/// Loads 32 bits of the context (`struct bpf_cgroup_dev_ctx`).
fn load(to: u8, offset: i16) -> Instruction {
    Instruction { code: 0x61, registers: to | SCRATCH << 4, offset, constant: 0 }
}

fn set(to: u8, value: i32) -> Instruction {
    constant(0xb4, to, value)
}

fn copy(to: u8, from: u8) -> Instruction {
    register(0xbc, to, from)
}

fn and(to: u8, value: i32) -> Instruction {
    constant(0x54, to, value)
}

fn shift_right(to: u8, value: i32) -> Instruction {
    constant(0x74, to, value)
}

/// Leaves the rule unless `a` is `value`.
fn unless_is(a: u8, value: i32) -> Instruction {
    constant(0x56, a, value)
}

/// Leaves the rule if `a` is `value`.
fn if_is(a: u8, value: i32) -> Instruction {
    constant(0x16, a, value)
}

/// Leaves the rule unless the registers are equal.
fn unless_equal(a: u8, b: u8) -> Instruction {
    register(0x5e, a, b)
}

const EXIT: Instruction = Instruction { code: 0x95, registers: 0, offset: 0, constant: 0 };

/// The program for `rules`: the last one first, for it decides.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut out = vec![
        load(KIND, 0),
        copy(ACCESS, KIND),
        and(KIND, 0xffff),
        shift_right(ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        out.extend(block(rule));
        if rule.matches_everything() {
            // The verifier refuses what can't be reached.
            return out;
        }
    }
    out.extend([set(RESULT, 0), EXIT]);
    out
}

/// One rule: its conditions, each of which leads out of it, and its verdict.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut conditions = Vec::new();
    conditions.extend(rule.kind.map(|kind| unless_is(KIND, kind)));
    if rule.access != ALL {
        conditions.extend([copy(SCRATCH, ACCESS), and(SCRATCH, rule.access)]);
        // All that is asked for must be allowed; one refused part refuses it.
        conditions.push(if rule.allow { unless_equal(SCRATCH, ACCESS) } else { if_is(SCRATCH, 0) });
    }
    conditions.extend(rule.major.map(|major| unless_is(MAJOR, major)));
    conditions.extend(rule.minor.map(|minor| unless_is(MINOR, minor)));
    let verdict = [set(RESULT, i32::from(rule.allow)), EXIT];
    let total = conditions.len() + verdict.len();
    for (index, instruction) in conditions.iter_mut().enumerate() {
        // Jumps have the class 6 (32 bits wide); all lead to the next rule.
        if instruction.code & 7 == 6 {
            instruction.offset = i16::try_from(total - index - 1).unwrap_or(i16::MAX);
        }
    }
    conditions.extend(verdict);
    conditions
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs a program as the kernel would.
    fn verdict(
        program: &[Instruction],
        (kind, access, major, minor): (i32, i32, i32, i32),
    ) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut r = [0i32; 6];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            let mut jump = false;
            match i.code {
                0x61 => r[to] = context[usize::try_from(i.offset).unwrap() / 4],
                0xb4 => r[to] = i.constant,
                0xbc => r[to] = r[from],
                0x54 => r[to] &= i.constant,
                0x74 => r[to] >>= i.constant,
                0x56 => jump = r[to] != i.constant,
                0x16 => jump = r[to] == i.constant,
                0x5e => jump = r[to] != r[from],
                0x95 => return r[0] != 0,
                other => panic!("{other:#x}"),
            }
            at += 1 + if jump { usize::try_from(i.offset).unwrap() } else { 0 };
        }
    }

    /// What the rules say, without a program.
    fn model(rules: &[Rule], (kind, access, major, minor): (i32, i32, i32, i32)) -> bool {
        let matches = |r: &&Rule| {
            r.kind.is_none_or(|k| k == kind)
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
                && if r.allow { access & r.access == access } else { access & r.access != 0 }
        };
        rules.iter().rev().find(matches).is_some_and(|r| r.allow)
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn rules() -> impl Strategy<Value = Vec<Rule>> {
            let one = (
                any::<bool>(),
                proptest::option::of(1..3),
                proptest::option::of(0..4),
                proptest::option::of(0..4),
                1..8,
            )
                .prop_map(|(allow, kind, major, minor, access)| Rule {
                    allow,
                    kind,
                    major,
                    minor,
                    access,
                });
            proptest::collection::vec(one, 0..8)
        }

        proptest! {
            #[test]
            fn the_program_does_what_the_rules_say(
                rules in rules(),
                asked in (1..3, 1..8, 0..4, 0..4),
            ) {
                prop_assert_eq!(verdict(&program(&rules), asked), model(&rules, asked));
            }
        }
    }

    fn docker_rules(more: &str) -> Vec<LinuxDeviceCgroup> {
        let text = format!(r#"[{{"allow":false,"access":"rwm"}}{more}]"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_container_may_use_its_own_devices_only() {
        let all: Vec<Rule> =
            docker_rules(r#",{"allow":true,"type":"b","major":8,"minor":1,"access":"r"}"#)
                .iter()
                .map(rule)
                .chain(always())
                .collect();
        let program = program(&all);
        assert!(verdict(&program, (CHARACTER, READ | WRITE, 1, 3)));
        assert!(verdict(&program, (CHARACTER, READ, 136, 77)));
        assert!(verdict(&program, (BLOCK, MKNOD, 8, 0)));
        assert!(verdict(&program, (BLOCK, READ, 8, 1)));
        assert!(!verdict(&program, (BLOCK, READ | WRITE, 8, 1)));
        assert!(!verdict(&program, (BLOCK, READ, 8, 0)));
        assert!(!verdict(&program, (CHARACTER, READ, 1, 1)));
    }

    #[test]
    #[allow(clippy::print_stdout)]
    fn the_kernel_takes_it() {
        let mounts = sampan_sys::mount::list().unwrap();
        let v2 = mounts.iter().find(|m| m.fs_type == "cgroup2");
        let Some(v2) = v2.filter(|_| nix::unistd::geteuid().is_root()) else {
            println!("skipped: needs root and a cgroup2 mount");
            return;
        };
        let dir = v2.target.join(format!("sampan-device-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        restrict(&dir, &docker_rules("")).unwrap();
        let script = "echo 0 > \"$0/cgroup.procs\" && head -c 1 /dev/zero >/dev/null && echo zero; \
                      head -c 1 /dev/kmsg 2>&1";
        let output = Command::new("sh").args(["-c", script]).arg(&dir).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        std::fs::remove_dir(&dir).unwrap();
        assert!(text.starts_with("zero\n"), "{text}");
        assert!(text.contains("Operation not permitted"), "{text}");
    }
}
