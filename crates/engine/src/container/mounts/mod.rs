//! What is mounted into a container: reading `-v`, `--mount`, `--tmpfs`,
//! `--volumes-from` and the image's volumes into one list. Pure; the texts of
//! refusals are dockerd's.
//!
//! Be aware:
//! - The order is dockerd's: volumes of other containers first, then `-v`,
//!   then `--mount`, then the volumes of the image for what is still free.
//! - A volume that has no name yet gets one here, so that the record can name
//!   it before it exists.

mod bind;
mod typed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sampan_runtime::spec;
use sampan_types::docker::{ContainerConfig, HostConfig};
use sampan_types::{ContainerId, ImageId, VolumeName};

use crate::record::{ContainerRecord, MountKind, MountRecord};

/// Why a mount is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// `-v` has the wrong form.
    #[error("invalid volume specification: '{0}'")]
    Spec(String),
    /// `-v` has the right form but a wrong part.
    #[error("invalid volume specification: '{spec}': {reason}")]
    SpecBecause {
        /// As given.
        spec: String,
        /// Why.
        reason: String,
    },
    /// The options of `-v` or `--volumes-from` are wrong.
    #[error("invalid mode: {0}")]
    Mode(String),
    /// A mount of the API's typed form is wrong.
    #[error("invalid mount config for type \"{kind}\": {reason}")]
    Config {
        /// `bind`, `volume`, `tmpfs` or `image`.
        kind: &'static str,
        /// Why.
        reason: String,
    },
    /// Two mounts at one place.
    #[error("Duplicate mount point: {0}")]
    Duplicate(String),
    /// A volume's name has wrong characters.
    #[error(
        "create {0}: \"{0}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    VolumeName(String),
    /// `--volumes-from` names no container, or a mount no image.
    #[error("{0}")]
    From(String),
    /// This engine does not do that.
    #[error("{0}")]
    Unsupported(String),
}

/// A volume that has to exist before the container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeWish {
    /// Its name; chosen here when the user gave none.
    pub name: VolumeName,
    /// The driver; empty for the default one.
    pub driver: String,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the image's content is copied into it when it is empty.
    pub copy: bool,
    /// Where it is mounted.
    pub destination: PathBuf,
}

/// Everything that is to be mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The mounts, sources of volumes still empty.
    pub mounts: Vec<MountRecord>,
    /// The volumes behind them.
    pub volumes: Vec<VolumeWish>,
}

/// One mount with the volume behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) mount: MountRecord,
    pub(super) volume: Option<VolumeWish>,
}

/// Reads all of a container's mounts. `find` gives the record of a container
/// that `--volumes-from` names, `images` an image.
///
/// # Errors
/// [`MountError`] for the first thing that is wrong.
pub fn plan(
    config: &ContainerConfig,
    host: &HostConfig,
    find: &dyn Fn(&str) -> Result<std::sync::Arc<ContainerRecord>, String>,
    images: &dyn Fn(&str) -> Result<ImageId, String>,
) -> Result<Plan, MountError> {
    let driver = host.volume_driver.as_deref().unwrap_or_default();
    let mut places: BTreeMap<PathBuf, Parsed> = BTreeMap::new();
    let mut order: Vec<PathBuf> = Vec::new();
    let mut own: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let mut place = |parsed: Parsed, is_own: bool| -> Result<(), MountError> {
        let at = parsed.mount.destination.clone();
        if is_own && own.insert(at.clone(), ()).is_some() {
            return Err(MountError::Duplicate(at.display().to_string()));
        }
        if !places.contains_key(&at) {
            order.push(at.clone());
        }
        places.insert(at, parsed);
        Ok(())
    };
    for from in host.volumes_from.iter().flatten() {
        for parsed in inherited(from, find)? {
            place(parsed, false)?;
        }
    }
    for spec in host.binds.iter().flatten() {
        place(bind::parse(spec, driver)?, true)?;
    }
    for mount in host.mounts.iter().flatten() {
        place(typed::parse(mount, driver, images)?, true)?;
    }
    for target in host.tmpfs.iter().flatten().map(|(target, _)| target) {
        let at =
            target_path(target).map_err(|reason| MountError::Config { kind: "tmpfs", reason })?;
        if own.insert(at.clone(), ()).is_some() {
            return Err(MountError::Duplicate(at.display().to_string()));
        }
        places.remove(&at);
    }
    for target in config.volumes.iter().flatten() {
        let spec = |reason| MountError::SpecBecause { spec: target.clone(), reason };
        let at = target_path(target).map_err(spec)?;
        if !own.contains_key(&at) && !places.contains_key(&at) {
            order.push(at.clone());
            places.insert(at.clone(), volume(None, driver, at, true, true));
        }
    }
    let mut plan = Plan::default();
    for at in order {
        if let Some(parsed) = places.remove(&at) {
            plan.mounts.push(parsed.mount);
            plan.volumes.extend(parsed.volume);
        }
    }
    Ok(plan)
}

/// The mounts of another container: `name[:mode]`.
fn inherited(
    spec: &str,
    find: &dyn Fn(&str) -> Result<std::sync::Arc<ContainerRecord>, String>,
) -> Result<Vec<Parsed>, MountError> {
    let (name, mode) = spec.split_once(':').unwrap_or((spec, ""));
    if name.is_empty() {
        return Err(MountError::Spec(spec.to_owned()));
    }
    let mode = bind::Mode::parse(mode)?;
    if mode.nocopy || mode.propagation.is_some() || mode.owner.is_some() {
        return Err(MountError::Mode(spec.to_owned()));
    }
    let record = find(name).map_err(MountError::From)?;
    let parsed = record.mounts.iter().filter(|m| m.kind != MountKind::Tmpfs).map(|m| {
        let mut mount = m.clone();
        mount.rw = m.rw && mode.rw;
        mount.anonymous = false;
        // The volumes exist; nothing is copied into them any more.
        Parsed { mount, volume: None }
    });
    Ok(parsed.collect())
}

/// A volume at a place; without a name, an anonymous one.
pub(super) fn volume(
    name: Option<VolumeName>,
    driver: &str,
    at: PathBuf,
    rw: bool,
    copy: bool,
) -> Parsed {
    let anonymous = name.is_none();
    let name = name.unwrap_or_else(random_volume);
    let mut labels = BTreeMap::new();
    if anonymous {
        labels.insert(sampan_volume::ANONYMOUS_LABEL.to_owned(), String::new());
    }
    let mut mount = MountRecord::new(MountKind::Volume, at.clone(), rw);
    mount.volume = Some(name.clone());
    mount.driver = Some(if driver.is_empty() { "local" } else { driver }.to_owned());
    mount.anonymous = anonymous;
    Parsed {
        mount,
        volume: Some(VolumeWish {
            name,
            driver: driver.to_owned(),
            options: BTreeMap::new(),
            labels,
            copy,
            destination: at,
        }),
    }
}

fn random_volume() -> VolumeName {
    loop {
        if let Ok(name) = ContainerId::random().as_str().parse() {
            return name;
        }
    }
}

/// A volume's name as users write it.
pub(super) fn volume_name(text: &str) -> Result<VolumeName, MountError> {
    text.parse().map_err(|_| MountError::VolumeName(text.to_owned()))
}

/// A place in the container: absolute, not the root, without dots.
pub(super) fn target_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("field Target must not be empty".to_owned());
    }
    if !text.starts_with('/') {
        return Err(format!("invalid mount path: '{text}' mount path must be absolute"));
    }
    let path = spec::normal(text);
    if path == Path::new("/") {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::docker::Mount;

    fn nobody(name: &str) -> Result<std::sync::Arc<ContainerRecord>, String> {
        Err(format!("No such container: {name}"))
    }

    fn none(name: &str) -> Result<ImageId, String> {
        Err(format!("No such image: {name}"))
    }

    fn host(binds: &[&str]) -> HostConfig {
        let binds = binds.iter().map(|b| (*b).to_owned()).collect();
        HostConfig { binds: Some(binds), ..Default::default() }
    }

    #[test]
    fn everything_in_dockers_order() {
        let config = ContainerConfig {
            volumes: Some(vec!["/data".into(), "/cache".into(), "/tmp/x".into()]),
            ..Default::default()
        };
        let mut h = host(&["/srv:/data:ro", "web:/www"]);
        h.tmpfs = Some([("/tmp/x".to_owned(), String::new())].into());
        let plan = plan(&config, &h, &nobody, &none).unwrap();
        let seen: Vec<_> =
            plan.mounts.iter().map(|m| (m.kind, m.destination.to_str().unwrap(), m.rw)).collect();
        assert_eq!(
            seen,
            [
                (MountKind::Bind, "/data", false),
                (MountKind::Volume, "/www", true),
                (MountKind::Volume, "/cache", true)
            ]
        );
        assert_eq!(plan.volumes.len(), 2);
        assert_eq!(plan.volumes[0].name.as_str(), "web");
        assert!(plan.mounts[2].anonymous);
    }

    #[test]
    fn two_mounts_at_one_place_are_refused() {
        let e = plan(&ContainerConfig::default(), &host(&["a1:/x", "b1:/x/."]), &nobody, &none);
        assert_eq!(e.unwrap_err().to_string(), "Duplicate mount point: /x");
    }

    #[test]
    fn volumes_of_another_container() {
        let mut other = crate::container::tests::record(&"ab".repeat(32), "other");
        other.mounts.push(volume(None, "", "/data".into(), true, true).mount);
        let other = std::sync::Arc::new(other);
        let find = |name: &str| if name == "other" { Ok(other.clone()) } else { nobody(name) };
        let mut h = host(&["/srv:/data"]);
        h.volumes_from = Some(vec!["other:ro".into()]);
        let p = plan(&ContainerConfig::default(), &h, &find, &none).unwrap();
        assert_eq!((p.mounts.len(), p.mounts[0].kind), (1, MountKind::Bind));
        h.binds = None;
        let p = plan(&ContainerConfig::default(), &h, &find, &none).unwrap();
        assert!(!p.mounts[0].rw && !p.mounts[0].anonymous && p.volumes.is_empty());
        h.volumes_from = Some(vec!["gone".into()]);
        let e = plan(&ContainerConfig::default(), &h, &find, &none).unwrap_err();
        assert_eq!(e.to_string(), "No such container: gone");
    }

    #[test]
    fn a_typed_and_a_short_mount_at_one_place_are_refused() {
        let mut h = host(&["a1:/x"]);
        h.mounts = Some(vec![Mount {
            typ: Some(sampan_types::docker::MountType::TMPFS),
            target: Some("/x".into()),
            ..Default::default()
        }]);
        assert!(matches!(
            plan(&ContainerConfig::default(), &h, &nobody, &none),
            Err(MountError::Duplicate(_))
        ));
    }
}
