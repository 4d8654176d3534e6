//! Seccomp profiles, compiled. A profile is compiled once per instance: the
//! program is kept in a file that is named after the profile's digest.
//!
//! Be aware:
//! - Compiling takes several milliseconds, loading a fraction of one.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};
use thiserror::Error;

use crate::protocol::Filter;

/// Why there is no filter.
#[derive(Debug, Error)]
pub(super) enum FilterError {
    #[error("error reading seccomp filter: {0}")]
    Read(io::Error),
    #[error("error writing seccomp filter: {0}")]
    Write(io::Error),
    #[error("seccomp: {0} is not supported")]
    Unsupported(&'static str),
    #[error("error compiling seccomp profile: {0}")]
    Compile(#[from] libseccomp::error::SeccompError),
}

/// The compiled program of `filter`: from its file, or compiled now and put
/// there.
pub(super) fn program(filter: &Filter) -> Result<Vec<u8>, FilterError> {
    match std::fs::read(&filter.file) {
        Ok(program) => return Ok(program),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(FilterError::Read(e)),
    }
    let Some(profile) = &filter.profile else {
        return Err(FilterError::Read(io::Error::from(io::ErrorKind::NotFound)));
    };
    let program = compile(profile)?;
    sampan_sys::file::write_replace(&filter.file, &program, 0o600).map_err(FilterError::Write)?;
    Ok(program)
}

fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, FilterError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default)?;
    for arch in profile.architectures().iter().flatten() {
        context.add_arch(architecture(*arch))?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            // libseccomp refuses rules that change nothing.
            continue;
        }
        let conditions: Vec<_> = rule.args().iter().flatten().map(condition).collect();
        for name in rule.names() {
            // Names that this version does not know can't be called either.
            if let Ok(call) = ScmpSyscall::from_name(name) {
                add(&mut context, action, call, &conditions, rule.args().as_deref())?;
            }
        }
    }
    export(&context).map_err(FilterError::Write)?
}

/// The program as libseccomp writes it to a file.
fn export(context: &ScmpFilterContext) -> io::Result<Result<Vec<u8>, FilterError>> {
    let mut file = File::from(memfd_create(c"seccomp", MemFdCreateFlag::MFD_CLOEXEC)?);
    if let Err(error) = context.export_bpf(&file) {
        return Ok(Err(error.into()));
    }
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(Ok(program))
}

/// Two conditions on one argument are two rules: libseccomp takes one
/// condition per argument.
fn add(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    conditions: &[ScmpArgCompare],
    args: Option<&[LinuxSeccompArg]>,
) -> Result<(), FilterError> {
    let mut seen = HashSet::new();
    let repeated = args.unwrap_or_default().iter().any(|arg| !seen.insert(arg.index()));
    if repeated {
        for one in conditions {
            context.add_rule_conditional(action, call, std::slice::from_ref(one))?;
        }
    } else if conditions.is_empty() {
        context.add_rule(action, call)?;
    } else {
        context.add_rule_conditional(action, call, conditions)?;
    }
    Ok(())
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let index = u32::try_from(arg.index()).unwrap_or(u32::MAX);
    match arg.op() {
        // The mask comes first, then the value to compare with.
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpArgCompare::new(
            index,
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
        LinuxSeccompOperator::ScmpCmpNe => {
            ScmpArgCompare::new(index, ScmpCompareOp::NotEqual, arg.value())
        }
        LinuxSeccompOperator::ScmpCmpLt => {
            ScmpArgCompare::new(index, ScmpCompareOp::Less, arg.value())
        }
        LinuxSeccompOperator::ScmpCmpLe => {
            ScmpArgCompare::new(index, ScmpCompareOp::LessOrEqual, arg.value())
        }
        LinuxSeccompOperator::ScmpCmpEq => {
            ScmpArgCompare::new(index, ScmpCompareOp::Equal, arg.value())
        }
        LinuxSeccompOperator::ScmpCmpGe => {
            ScmpArgCompare::new(index, ScmpCompareOp::GreaterEqual, arg.value())
        }
        LinuxSeccompOperator::ScmpCmpGt => {
            ScmpArgCompare::new(index, ScmpCompareOp::Greater, arg.value())
        }
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    let errno = errno.and_then(|e| i32::try_from(e).ok()).unwrap_or(libc::EPERM);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).unwrap_or(u16::MAX))
        }
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(FilterError::Unsupported("SCMP_ACT_NOTIFY"));
        }
    })
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_compiled_once() {
        let profile: LinuxSeccomp = serde_json::from_str(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],
               "syscalls":[{"names":["read","write","nosuchcall"],"action":"SCMP_ACT_ALLOW"},
                {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
                  {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut filter =
            Filter { file: dir.path().join("x.bpf"), flags: 0, profile: Some(profile) };
        let first = program(&filter).unwrap();
        assert!(!first.is_empty() && first.len().is_multiple_of(8));
        filter.profile = None;
        assert_eq!(program(&filter).unwrap(), first);
    }

    #[test]
    fn notify_is_refused() {
        let profile: LinuxSeccomp =
            serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap();
        assert!(compile(&profile).unwrap_err().to_string().contains("SCMP_ACT_NOTIFY"));
    }
}
