//! The API's typed mounts (`--mount`).

use std::path::{Path, PathBuf};

use sampan_runtime::spec;
use sampan_types::ImageId;
use sampan_types::docker::{Mount, MountBindOptionsPropagationEnum as Propagation, MountType};

use super::bind::bind_at;
use super::{MountError, Parsed, target_path, volume, volume_name};
use crate::record::{MountKind, MountRecord, MountedImage};

/// Reads one typed mount; `images` finds an image by its name. Whether the
/// source of a bind exists is the caller's question.
pub(super) fn parse(
    mount: &Mount,
    driver: &str,
    images: &dyn Fn(&str) -> Result<ImageId, String>,
) -> Result<Parsed, MountError> {
    match mount.typ {
        Some(MountType::BIND) => bind(mount),
        Some(MountType::VOLUME) => volume_mount(mount, driver),
        Some(MountType::TMPFS) => tmpfs(mount),
        Some(MountType::IMAGE) => image(mount, images),
        Some(other) => Err(MountError::Unsupported(format!(
            "mount type {other} is not supported: use bind, volume, tmpfs or image"
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
        parsed.mount.subpath = relative(&subpath, "volume").map_err(|e| wrong(&e))?;
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
    let rw = !mount.read_only.unwrap_or(false);
    Ok(Parsed { mount: MountRecord::new(MountKind::Tmpfs, at, rw), volume: None })
}

/// An image's files, which are read-only whatever is asked for.
fn image(
    mount: &Mount,
    images: &dyn Fn(&str) -> Result<ImageId, String>,
) -> Result<Parsed, MountError> {
    let wrong = refuse("image");
    let at = target_path(mount.target.as_deref().unwrap_or_default())
        .map_err(|reason| wrong(&reason))?;
    if source(mount).is_empty() {
        return Err(wrong("field Source must not be empty"));
    }
    if mount.bind_options.is_some() {
        return Err(wrong("field BindOptions must not be specified"));
    }
    if mount.volume_options.is_some() {
        return Err(wrong("field VolumeOptions must not be specified"));
    }
    if mount.tmpfs_options.is_some() {
        return Err(wrong("field TmpfsOptions must not be specified"));
    }
    let id = images(source(mount)).map_err(MountError::From)?;
    let mut record = MountRecord::new(MountKind::Image, at, false);
    record.image = Some(MountedImage { id, name: source(mount).to_owned() });
    let subpath = mount.image_options.as_ref().and_then(|o| o.subpath.as_deref());
    record.subpath =
        subpath.map(|text| relative(text, "image")).transpose().map_err(|e| wrong(&e))?.flatten();
    Ok(Parsed { mount: record, volume: None })
}

/// A subpath within what is mounted: `None` when it is empty.
fn relative(text: &str, within: &str) -> Result<Option<PathBuf>, String> {
    let path = Path::new(text);
    if path.is_absolute() || path.components().any(|c| c.as_os_str() == "..") {
        return Err(format!("subpath must be a relative path within the {within}"));
    }
    Ok((!text.is_empty()).then(|| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::docker::{MountBindOptions, MountImageOptions, MountVolumeOptions};

    fn mount(typ: MountType, source: &str, target: &str) -> Mount {
        Mount {
            typ: Some(typ),
            source: Some(source.to_owned()),
            target: Some(target.to_owned()),
            ..Default::default()
        }
    }

    /// There is one image, `web`.
    fn read(mount: &Mount) -> Result<Parsed, MountError> {
        parse(mount, "", &|name| match name {
            "web" => Ok(format!("sha256:{}", "ab".repeat(32)).parse().unwrap()),
            _ => Err(format!("No such image: {name}")),
        })
    }

    #[test]
    fn kinds_are_read() {
        let mut m = mount(MountType::BIND, "/srv", "/x");
        m.bind_options = Some(MountBindOptions {
            propagation: Some(Propagation::RSHARED),
            ..Default::default()
        });
        let p = read(&m).unwrap().mount;
        assert_eq!((p.propagation.as_str(), p.create_source), ("rshared", false));
        let mut m = mount(MountType::VOLUME, "web", "/x");
        m.volume_options = Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some([("a".to_owned(), "b".to_owned())].into()),
            ..Default::default()
        });
        let wish = read(&m).unwrap().volume.unwrap();
        assert!(!wish.copy && wish.labels["a"] == "b");
        assert_eq!(read(&mount(MountType::TMPFS, "", "/t")).unwrap().mount.kind, MountKind::Tmpfs);
        let mut m = mount(MountType::IMAGE, "web", "/x");
        m.image_options = Some(MountImageOptions { subpath: Some("etc".to_owned()) });
        let p = read(&m).unwrap().mount;
        assert_eq!((p.kind, p.rw, p.subpath), (MountKind::Image, false, Some("etc".into())));
        assert_eq!(p.image.unwrap().name, "web");
    }

    #[test]
    fn refusals_say_why() {
        let text = |m: &Mount| read(m).unwrap_err().to_string();
        assert_eq!(
            text(&mount(MountType::BIND, "", "/x")),
            "invalid mount config for type \"bind\": field Source must not be empty"
        );
        assert_eq!(
            text(&mount(MountType::TMPFS, "a", "/x")),
            "invalid mount config for type \"tmpfs\": field Source must not be specified"
        );
        assert!(text(&mount(MountType::NPIPE, "a", "/x")).contains("not supported"));
        assert_eq!(text(&mount(MountType::IMAGE, "gone", "/x")), "No such image: gone");
        let mut m = mount(MountType::IMAGE, "web", "/x");
        m.image_options = Some(MountImageOptions { subpath: Some("../up".to_owned()) });
        assert_eq!(
            text(&m),
            "invalid mount config for type \"image\": subpath must be a relative path within the image"
        );
        let mut m = mount(MountType::VOLUME, "", "/x");
        m.read_only = Some(true);
        assert!(text(&m).contains("anonymous volumes"));
    }
}
