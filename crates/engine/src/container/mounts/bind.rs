//! `-v [source:]destination[:options]`.

use std::path::{Path, PathBuf};

use sampan_runtime::spec;

use super::{MountError, Parsed, target_path, volume, volume_name};
use crate::record::{MountKind, MountRecord, OwnerMap};

/// The options behind the last colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) rw: bool,
    pub(super) nocopy: bool,
    pub(super) propagation: Option<String>,
    pub(super) owner: Option<OwnerMap>,
}

impl Mode {
    /// Reads `ro,z,nocopy,rslave,idmap=1000`: each kind of option at most once.
    pub(super) fn parse(text: &str) -> Result<Self, MountError> {
        let wrong = || MountError::Mode(text.to_owned());
        let mut mode = Self { rw: true, nocopy: false, propagation: None, owner: None };
        let (mut access, mut label, mut consistency) = (false, false, false);
        for option in text.split(',').filter(|_| !text.is_empty()) {
            let once = |seen: &mut bool| {
                if std::mem::replace(seen, true) { Err(wrong()) } else { Ok(()) }
            };
            match option {
                "rw" | "ro" => {
                    once(&mut access)?;
                    mode.rw = option == "rw";
                }
                // Labels are for SELinux, which has nothing to do without it.
                "z" | "Z" => once(&mut label)?,
                "nocopy" => {
                    let mut seen = mode.nocopy;
                    once(&mut seen)?;
                    mode.nocopy = true;
                }
                "consistent" | "cached" | "delegated" | "default" => once(&mut consistency)?,
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                    if mode.propagation.replace(option.to_owned()).is_some() {
                        return Err(wrong());
                    }
                }
                _ => {
                    let map =
                        option.strip_prefix("idmap=").and_then(owner_map).ok_or_else(wrong)?;
                    if mode.owner.replace(map).is_some() {
                        return Err(wrong());
                    }
                }
            }
        }
        Ok(mode)
    }
}

/// Reads `USER[.GROUP][-USER[.GROUP]]`: whose the files are at the source, and
/// in the container; root's there when nothing is said. A group that is not
/// named has its user's number.
fn owner_map(text: &str) -> Option<OwnerMap> {
    let owner = |text: &str| {
        let (user, group) = text.split_once('.').unwrap_or((text, text));
        let number = |n: &str| n.parse().ok().filter(|n| *n < u32::MAX);
        Some((number(user)?, number(group)?))
    };
    let (stored, shown) = text.split_once('-').unwrap_or((text, "0"));
    Some(OwnerMap { stored: owner(stored)?, shown: owner(shown)? })
}

/// Reads one `-v`.
pub(super) fn parse(spec: &str, driver: &str) -> Result<Parsed, MountError> {
    let because = |reason: String| MountError::SpecBecause { spec: spec.to_owned(), reason };
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] if !target.is_empty() => (None, target, ""),
        [source, target] if !source.is_empty() && Mode::parse(target).is_err() => {
            (Some(source), target, "")
        }
        [source, target, options] if !source.is_empty() => (Some(source), target, options),
        _ => return Err(MountError::Spec(spec.to_owned())),
    };
    let mode = Mode::parse(options)?;
    let is_bind = source.is_some_and(|s| s.starts_with('/'));
    let kind = if is_bind { "bind" } else { "volume" };
    let at = target_path(target)
        .map_err(|reason| because(MountError::Config { kind, reason }.to_string()))?;
    match source {
        Some(source) if is_bind => {
            if mode.nocopy {
                return Err(MountError::Mode(options.to_owned()));
            }
            let mut parsed = bind_at(&spec::normal(source), at, mode.rw);
            parsed.mount.mode = options.to_owned();
            parsed.mount.owner = mode.owner;
            parsed.mount.create_source = true;
            if let Some(propagation) = mode.propagation {
                parsed.mount.propagation = propagation;
            }
            Ok(parsed)
        }
        source => {
            if mode.propagation.is_some() {
                let reason = "field BindOptions must not be specified".to_owned();
                return Err(because(MountError::Config { kind, reason }.to_string()));
            }
            let name = source.map(volume_name).transpose()?;
            let mut parsed = volume(name, driver, at, mode.rw, !mode.nocopy);
            parsed.mount.owner = mode.owner;
            // inspect shows "z" for every volume that was given with -v.
            parsed.mount.mode =
                if options.is_empty() && source.is_some() { "z" } else { options }.to_owned();
            Ok(parsed)
        }
    }
}

/// A bind of a host's path.
pub(super) fn bind_at(source: &Path, at: PathBuf, rw: bool) -> Parsed {
    let mut mount = MountRecord::new(MountKind::Bind, at, rw);
    mount.source = source.to_owned();
    mount.propagation = "rprivate".to_owned();
    Parsed { mount, volume: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(spec: &str) -> String {
        parse(spec, "").unwrap_err().to_string()
    }

    #[test]
    fn binds_volumes_and_anonymous_ones() {
        let m = parse("/srv//a/../b:/data/:ro,rslave", "").unwrap().mount;
        assert_eq!((m.kind, m.source.to_str(), m.rw), (MountKind::Bind, Some("/srv/b"), false));
        assert_eq!((m.destination.to_str(), m.propagation.as_str()), (Some("/data"), "rslave"));
        assert!(m.create_source);
        let p = parse("web:/www:nocopy", "").unwrap();
        assert_eq!(p.mount.volume.unwrap().as_str(), "web");
        assert!(!p.volume.unwrap().copy);
        let p = parse("/data", "").unwrap();
        assert!(p.mount.anonymous && p.mount.volume.unwrap().as_str().len() == 64);
    }

    #[test]
    fn owners_are_read() {
        let owner = |spec: &str| parse(spec, "").unwrap().mount.owner.map(|o| (o.stored, o.shown));
        assert_eq!(owner("/a:/b:idmap=1000"), Some(((1000, 1000), (0, 0))));
        assert_eq!(owner("web:/b:ro,idmap=0-999.33"), Some(((0, 0), (999, 33))));
        assert_eq!(owner("/a:/b:idmap=5.6-7"), Some(((5, 6), (7, 7))));
        assert_eq!(owner("/a:/b:ro"), None);
        for wrong in ["idmap=", "idmap=x", "idmap=1-", "idmap=1,idmap=2", "idmap=4294967295"] {
            assert_eq!(message(&format!("/a:/b:{wrong}")), format!("invalid mode: {wrong}"));
        }
    }

    #[test]
    fn wrong_ones_are_refused_with_dockers_words() {
        assert_eq!(message(""), "invalid volume specification: ''");
        assert_eq!(message(":/x"), "invalid volume specification: ':/x'");
        assert_eq!(message("/a:ro"), "invalid volume specification: '/a:ro'");
        assert_eq!(message("/a:/b:ro:x"), "invalid volume specification: '/a:/b:ro:x'");
        assert_eq!(message("/a:/b:bad"), "invalid mode: bad");
        assert_eq!(message("/a:/b:ro,rw"), "invalid mode: ro,rw");
        assert_eq!(
            message("web:data"),
            "invalid volume specification: 'web:data': invalid mount config for type \"volume\": \
             invalid mount path: 'data' mount path must be absolute"
        );
        assert_eq!(
            message("/srv:/"),
            "invalid volume specification: '/srv:/': invalid mount config for type \"bind\": \
             invalid specification: destination can't be '/'"
        );
        assert!(
            message("./rel:/x").contains("includes invalid characters for a local volume name")
        );
        assert!(message("web:/x:rslave").contains("BindOptions"));
    }

    proptest! {
        #[test]
        fn never_panics_and_targets_are_absolute(spec in "[a-z./:,]{0,24}") {
            if let Ok(parsed) = parse(&spec, "") {
                prop_assert!(parsed.mount.destination.is_absolute());
                prop_assert!(parsed.mount.destination != Path::new("/"));
            }
        }
    }
}
