//! `--security-opt`.

use oci_spec::runtime::LinuxSeccomp;

use super::{HostFacts, SpecError};
use crate::seccomp;

/// What the security options say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Security {
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// An AppArmor profile, by name.
    pub apparmor: Option<String>,
    /// `systempaths=unconfined`: nothing of `/proc` and `/sys` is hidden.
    pub bare_paths: bool,
    /// `writable-cgroups=true`.
    pub writable_cgroups: bool,
}

/// Which system calls are filtered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seccomp {
    /// Nothing was said.
    Default,
    /// `seccomp=builtin`.
    Builtin,
    /// `seccomp=unconfined`.
    Unconfined,
    /// `seccomp={…}`.
    Profile(String),
}

impl Security {
    pub fn parse(options: Option<&[String]>, facts: &HostFacts) -> Result<Self, SpecError> {
        let mut security = Self {
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            apparmor: None,
            bare_paths: false,
            writable_cgroups: false,
        };
        for option in options.unwrap_or_default() {
            security.apply(option, facts)?;
        }
        Ok(security)
    }

    fn apply(&mut self, option: &str, facts: &HostFacts) -> Result<(), SpecError> {
        let invalid = || SpecError::Invalid(format!("invalid --security-opt: {option:?}"));
        if option == "no-new-privileges" {
            self.no_new_privileges = true;
            return Ok(());
        }
        // `=` or, in the old form, `:`; what comes first counts, since values
        // (a profile's JSON) may hold both.
        let Some((key, value)) = option.split_once(['=', ':']) else { return Err(invalid()) };
        match (key, value) {
            ("no-new-privileges", _) => {
                self.no_new_privileges = parse_bool(value).ok_or_else(invalid)?;
            }
            ("writable-cgroups", _) => {
                self.writable_cgroups = parse_bool(value).ok_or_else(invalid)?;
            }
            ("seccomp", "unconfined") => self.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => self.seccomp = Seccomp::Builtin,
            ("seccomp", profile) => self.seccomp = Seccomp::Profile(profile.to_owned()),
            ("systempaths", "unconfined") => self.bare_paths = true,
            ("label", "disable") if !facts.selinux => {}
            ("label", _) => {
                return Err(SpecError::Unsupported(format!(
                    "--security-opt {option}: SELinux labels are not supported"
                )));
            }
            ("apparmor", "unconfined") => self.apparmor = None,
            ("apparmor", profile) if facts.apparmor => self.apparmor = Some(profile.to_owned()),
            ("apparmor", _) => {
                return Err(SpecError::Unsupported(format!(
                    "--security-opt {option}: AppArmor is not enabled on this host"
                )));
            }
            _ => return Err(invalid()),
        }
        Ok(())
    }

    /// The filter for a process with the capabilities `caps`.
    pub fn filter(
        &self,
        privileged: bool,
        caps: &[&str],
        facts: &HostFacts,
    ) -> Result<Option<LinuxSeccomp>, SpecError> {
        match &self.seccomp {
            Seccomp::Unconfined => Ok(None),
            Seccomp::Default if privileged || !facts.seccomp => Ok(None),
            Seccomp::Profile(_) | Seccomp::Builtin if !facts.seccomp => {
                Err(SpecError::Unsupported(
                    "seccomp is not enabled in your kernel, cannot run a custom seccomp profile"
                        .into(),
                ))
            }
            Seccomp::Default | Seccomp::Builtin => {
                Ok(Some(seccomp::default_profile(caps, facts.kernel)))
            }
            Seccomp::Profile(json) => seccomp::custom_profile(json, caps, facts.kernel)
                .map(Some)
                .map_err(|e| SpecError::Invalid(e.to_string())),
        }
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::facts;
    use super::*;

    fn parse(options: &[&str]) -> Result<Security, SpecError> {
        let options: Vec<String> = options.iter().map(|s| (*s).to_owned()).collect();
        Security::parse(Some(&options), &facts())
    }

    #[test]
    fn every_form_is_understood() {
        for option in ["no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"] {
            assert!(parse(&[option]).unwrap().no_new_privileges, "{option}");
        }
        assert!(!parse(&["no-new-privileges=false"]).unwrap().no_new_privileges);
        assert_eq!(parse(&["seccomp=unconfined"]).unwrap().seccomp, Seccomp::Unconfined);
        assert_eq!(parse(&["seccomp:unconfined"]).unwrap().seccomp, Seccomp::Unconfined);
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","x":"a=b"}"#;
        for sign in ["=", ":"] {
            assert_eq!(
                parse(&[&format!("seccomp{sign}{json}")]).unwrap().seccomp,
                Seccomp::Profile(json.into())
            );
        }
        assert!(parse(&["systempaths=unconfined"]).unwrap().bare_paths);
        assert!(parse(&["label=disable", "apparmor=unconfined"]).is_ok());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (option, message) in [
            ("label=type:x", "--security-opt label=type:x: SELinux labels are not supported"),
            ("apparmor=x", "--security-opt apparmor=x: AppArmor is not enabled on this host"),
            ("nope", "invalid --security-opt: \"nope\""),
            ("nope=1", "invalid --security-opt: \"nope=1\""),
            ("no-new-privileges=maybe", "invalid --security-opt: \"no-new-privileges=maybe\""),
        ] {
            assert_eq!(parse(&[option]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn privileged_containers_are_not_filtered_unless_asked() {
        let facts = facts();
        let filter = |options: &[&str], privileged| {
            parse(options).unwrap().filter(privileged, &[], &facts).map(|f| f.is_some())
        };
        assert_eq!(filter(&[], false), Ok(true));
        assert_eq!(filter(&[], true), Ok(false));
        assert_eq!(filter(&["seccomp=builtin"], true), Ok(true));
        assert!(filter(&["seccomp=/no/file"], false).is_err());
    }
}
