//! The API's typed mounts (`--mount`).

use std::path::Path;

use sampan_runtime::spec;
use sampan_types::docker::{Mount, MountBindOptionsPropagationEnum as Propagation, MountType};

use super::bind::bind_at;
use super::{MountError, Parsed, target_path, volume, volume_name};
use crate::record::{MountKind, MountRecord};

/// Reads one typed mount. Whether the source of a bind exists is the
/// caller's question.
pub(super) fn parse(mount: &Mount, driver: &str) -> Result<Parsed, MountError> {
    match mount.typ {
        Some(MountType::BIND) => bind(mount),
        Some(MountType::VOLUME) => volume_mount(mount, driver),
        Some(MountType::TMPFS) => tmpfs(mount),
        Some(other) => Err(MountError::Unsupported(format!(
            "mount type {other} is not supported: use bind, volume or tmpfs"
        ))),
        None => Err(MountError::Config { kind: "", reason: "mount type unknown".to_owned() }),
    }
}

fn refuse(kind: &'static str) -> impl Fn(&str) -> MountError {
    move |reason| MountError::Config { kind, reason: reason.to_owned() }
}

fn source(mount: &Mount) -> &str {
    mount.source.as_deref().unwrap_or_default()
}

fn bind(mount: &Mount) -> Result<Parsed, MountError> {
    let wrong = refuse("bind");
    let at = target_path(mount.target.as_deref().unwrap_or_default())
        .map_err(|reason| wrong(&reason))?;
    if source(mount).is_empty() {
        return Err(wrong("field Source must not be empty"));
    }
    if mount.volume_options.is_some() {
        return Err(wrong("field VolumeOptions must not be specified"));
    }
    if mount.tmpfs_options.is_some() {
        return Err(wrong("field TmpfsOptions must not be specified"));
    }
    if !source(mount).starts_with('/') {
        let text = source(mount);
        return Err(wrong(&format!("invalid mount path: '{text}' mount path must be absolute")));
    }
    let rw = !mount.read_only.unwrap_or(false);
    let mut parsed = bind_at(&spec::normal(source(mount)), at, rw);
    if let Some(options) = &mount.bind_options {
        match options.propagation {
            None | Some(Propagation::EMPTY) => {}
            Some(p) => parsed.mount.propagation = p.to_string(),
        }
        parsed.mount.create_source = options.create_mountpoint.unwrap_or(false);
        parsed.mount.non_recursive = options.non_recursive.unwrap_or(false);
        parsed.mount.read_only_non_recursive = options.read_only_non_recursive.unwrap_or(false);
        parsed.mount.read_only_force_recursive = options.read_only_force_recursive.unwrap_or(false);
        if rw && (parsed.mount.read_only_non_recursive || parsed.mount.read_only_force_recursive) {
            return Err(wrong("mount is not read-only: read-only options need ReadOnly"));
        }
        if parsed.mount.read_only_force_recursive && parsed.mount.propagation != "rprivate" {
            return Err(wrong("ReadOnlyForceRecursive requires propagation rprivate"));
        }
    }
    Ok(parsed)
}

fn volume_mount(mount: &Mount, driver: &str) -> Result<Parsed, MountError> {
    let wrong = refuse("volume");
    let at = target_path(mount.target.as_deref().unwrap_or_default())
        .map_err(|reason| wrong(&reason))?;
    if mount.bind_options.is_some() {
        return Err(wrong("field BindOptions must not be specified"));
    }
    if mount.tmpfs_options.is_some() {
        return Err(wrong("field TmpfsOptions must not be specified"));
    }
    let options = mount.volume_options.clone().unwrap_or_default();
    let rw = !mount.read_only.unwrap_or(false);
    let named = !source(mount).is_empty();
    if !named && !rw {
        return Err(wrong("must not set ReadOnly mode when using anonymous volumes"));
    }
    let name = named.then(|| volume_name(source(mount))).transpose()?;
    let given = options.driver_config.unwrap_or_default();
    let driver = given.name.filter(|n| !n.is_empty()).unwrap_or_else(|| driver.to_owned());
    let mut parsed = volume(name, &driver, at, rw, !options.no_copy.unwrap_or(false));
    if let Some(wish) = &mut parsed.volume {
        wish.options = given.options.unwrap_or_default().into_iter().collect();
        wish.labels.extend(options.labels.unwrap_or_default());
    }
    // inspect shows "z" for typed volumes too.
    parsed.mount.mode = "z".to_owned();
    if let Some(subpath) = options.subpath.filter(|s| !s.is_empty()) {
        if !named {
            return Err(wrong("must not set Subpath when using anonymous volumes"));
        }
        let relative = Path::new(&subpath);
        if relative.is_absolute() || relative.components().any(|c| c.as_os_str() == "..") {
            return Err(wrong("subpath must be a relative path within the volume"));
        }
        parsed.mount.subpath = Some(relative.to_owned());
        if let Some(wish) = &mut parsed.volume {
            wish.copy = false;
        }
    }
    Ok(parsed)
}

fn tmpfs(mount: &Mount) -> Result<Parsed, MountError> {
    let wrong = refuse("tmpfs");
    let at = target_path(mount.target.as_deref().unwrap_or_default())
        .map_err(|reason| wrong(&reason))?;
    if mount.bind_options.is_some() {
        return Err(wrong("field BindOptions must not be specified"));
    }
    if mount.volume_options.is_some() {
        return Err(wrong("field VolumeOptions must not be specified"));
    }
    if !source(mount).is_empty() {
        return Err(wrong("field Source must not be specified"));
    }
    Ok(Parsed {
        mount: MountRecord {
            kind: MountKind::Tmpfs,
            volume: None,
            driver: None,
            anonymous: false,
            source: Default::default(),
            subpath: None,
            destination: at,
            rw: !mount.read_only.unwrap_or(false),
            mode: String::new(),
            propagation: String::new(),
            non_recursive: false,
            read_only_non_recursive: false,
            read_only_force_recursive: false,
            tmpfs_options: String::new(),
            create_source: false,
        },
        volume: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::docker::{MountBindOptions, MountVolumeOptions};

    fn mount(typ: MountType, source: &str, target: &str) -> Mount {
        Mount {
            typ: Some(typ),
            source: Some(source.to_owned()),
            target: Some(target.to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn kinds_are_read() {
        let mut m = mount(MountType::BIND, "/srv", "/x");
        m.bind_options = Some(MountBindOptions {
            propagation: Some(Propagation::RSHARED),
            ..Default::default()
        });
        let p = parse(&m, "").unwrap().mount;
        assert_eq!((p.propagation.as_str(), p.create_source), ("rshared", false));
        let mut m = mount(MountType::VOLUME, "web", "/x");
        m.volume_options = Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some([("a".to_owned(), "b".to_owned())].into()),
            ..Default::default()
        });
        let wish = parse(&m, "").unwrap().volume.unwrap();
        assert!(!wish.copy && wish.labels["a"] == "b");
        assert_eq!(
            parse(&mount(MountType::TMPFS, "", "/t"), "").unwrap().mount.kind,
            MountKind::Tmpfs
        );
    }

    #[test]
    fn refusals_say_why() {
        let text = |m: &Mount| parse(m, "").unwrap_err().to_string();
        assert_eq!(
            text(&mount(MountType::BIND, "", "/x")),
            "invalid mount config for type \"bind\": field Source must not be empty"
        );
        assert_eq!(
            text(&mount(MountType::TMPFS, "a", "/x")),
            "invalid mount config for type \"tmpfs\": field Source must not be specified"
        );
        assert!(text(&mount(MountType::NPIPE, "a", "/x")).contains("not supported"));
        let mut m = mount(MountType::VOLUME, "", "/x");
        m.read_only = Some(true);
        assert!(text(&m).contains("anonymous volumes"));
    }
}
