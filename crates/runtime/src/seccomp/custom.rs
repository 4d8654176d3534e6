//! Profiles in Docker's JSON format: the OCI's, with conditions on
//! capabilities, architecture and kernel, and a map of architectures.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::Deserialize;

use super::{SeccompError, argument, go_arch, native_architectures};

/// A profile as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What conditions are checked against.
struct Context<'a> {
    caps: &'a [&'a str],
    kernel: (u32, u32),
}

/// A profile in Docker's JSON format for a process with the capabilities
/// `caps` on a kernel of version `kernel`.
///
/// # Errors
/// [`SeccompError`] when it is malformed.
pub fn custom_profile(
    json: &str,
    caps: &[&str],
    kernel: (u32, u32),
) -> Result<LinuxSeccomp, SeccompError> {
    let profile: Profile = serde_json::from_str(json)?;
    if profile.listener_path.is_some_and(|p| !p.is_empty()) {
        return Err(SeccompError::Invalid("'listenerPath' is not supported".into()));
    }
    let context = Context { caps, kernel };
    let mut rules = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        if context.applies(&rule)? {
            rules.push(rule.convert()?);
        }
    }
    let mut result = LinuxSeccomp::default();
    result
        .set_default_action(supported(profile.default_action)?)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(Some(architectures(profile.architectures, profile.arch_map)?))
        .set_flags(profile.flags.filter(|f| !f.is_empty()))
        .set_syscalls(Some(rules));
    Ok(result)
}

fn supported(action: LinuxSeccompAction) -> Result<LinuxSeccompAction, SeccompError> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(SeccompError::Invalid("SCMP_ACT_NOTIFY is not supported".into()));
    }
    Ok(action)
}

fn architectures(
    list: Option<Vec<Arch>>,
    map: Option<Vec<Architecture>>,
) -> Result<Vec<Arch>, SeccompError> {
    match (list.filter(|l| !l.is_empty()), map.filter(|m| !m.is_empty())) {
        (Some(_), Some(_)) => Err(SeccompError::Invalid(
            "'architectures' and 'archMap' were specified in the seccomp profile, \
             use either 'architectures' or 'archMap'"
                .into(),
        )),
        (Some(list), None) => Ok(list),
        (None, map) => {
            let native = native_architectures();
            let own = map.into_iter().flatten().find(|a| Some(&a.architecture) == native.first());
            Ok(own.map_or(native, |a| {
                let mut all = vec![a.architecture];
                all.extend(a.sub_architectures.into_iter().flatten());
                all
            }))
        }
    }
}

impl Context<'_> {
    fn applies(&self, rule: &Rule) -> Result<bool, SeccompError> {
        let none = Condition::default();
        let (includes, excludes) =
            (rule.includes.as_ref().unwrap_or(&none), rule.excludes.as_ref().unwrap_or(&none));
        let has = |cap: &String| self.caps.contains(&cap.as_str());
        let this = |arch: &String| arch == go_arch();
        let caps = includes.caps.iter().flatten().all(has);
        let arch = includes.arches.as_ref().is_none_or(|a| a.is_empty() || a.iter().any(this));
        let kernel = match &includes.min_kernel {
            Some(text) => self.kernel >= parse_kernel(text)?,
            None => true,
        };
        let too_new = match &excludes.min_kernel {
            Some(text) => self.kernel >= parse_kernel(text)?,
            None => false,
        };
        let excluded = excludes.caps.iter().flatten().any(has)
            || excludes.arches.iter().flatten().any(this)
            || too_new;
        Ok(caps && arch && kernel && !excluded)
    }
}

fn parse_kernel(text: &str) -> Result<(u32, u32), SeccompError> {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| SeccompError::Invalid(format!("invalid kernel version: {text:?}")))
}

impl Rule {
    fn convert(self) -> Result<LinuxSyscall, SeccompError> {
        let names = match (self.name, self.names) {
            (Some(_), Some(_)) => {
                return Err(SeccompError::Invalid(
                    "'name' and 'names' were specified in the seccomp profile, \
                     use either 'name' or 'names'"
                        .into(),
                ));
            }
            (Some(name), None) => vec![name],
            (None, names) => names.unwrap_or_default(),
        };
        if names.is_empty() {
            return Err(SeccompError::Invalid("a rule names no system call".into()));
        }
        let mut args = Vec::new();
        for arg in self.args.into_iter().flatten() {
            if arg.index > 5 {
                return Err(SeccompError::Invalid(format!(
                    "argument index {} of {}: system calls have six arguments, 0 to 5",
                    arg.index, names[0]
                )));
            }
            args.push(argument(arg.index as usize, arg.value, arg.value_two, arg.op));
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(supported(self.action)?)
            .set_errno_ret(self.errno_ret)
            .set_args(Some(args).filter(|a| !a.is_empty()));
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(json: &str, caps: &[&str], kernel: (u32, u32)) -> Vec<String> {
        let profile = custom_profile(json, caps, kernel).unwrap();
        profile.syscalls().iter().flatten().flat_map(|r| r.names().clone()).collect()
    }

    #[test]
    fn conditions_choose_the_rules() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
          "syscalls":[
            {"name":"read","action":"SCMP_ACT_ALLOW","args":[]},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["old"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"5.0"}},
            {"names":["new"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"5.0"}},
            {"names":["other"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["nothing"]}},
            {"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":5,"comment":"x",
             "args":[{"index":1,"value":7,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(rules(json, &[], (6, 1)), ["read", "new", "chmod"]);
        assert_eq!(rules(json, &["CAP_SYS_ADMIN"], (4, 9)), ["read", "mount", "old", "chmod"]);
    }

    #[test]
    fn malformed_profiles_are_refused() {
        for (json, message) in [
            ("", "Decoding seccomp profile failed"),
            ("{}", "missing field `defaultAction`"),
            (r#"{"defaultAction":"SCMP_ACT_NOPE"}"#, "SCMP_ACT_NOPE"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "NOTIFY is not supported"),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "use either 'architectures' or 'archMap'",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#,
                "names no system call",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "six arguments",
            ),
        ] {
            let error = custom_profile(json, &[], (6, 1)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(json in "[\\[\\]{}:,\"a-zA-Z0-9_]{0,80}") {
            let _ = custom_profile(&json, &[], (6, 1));
        }
    }
}
