//! Which storage a new volume gets: by what it wishes and what the file system
//! of the data root can do.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::statvfs;
use sampan_sys::{fsattr, fscrypt};
use sampan_types::VolumeName;

use super::encryption::Layer;
use super::project::{self, Projects};
use super::{Storage, Wish, bytes_text, crypt, image};
use crate::VolumeError;

/// What the file system of the data root can do for volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Abilities {
    /// It has subvolumes.
    is_btrfs: bool,
    /// Project quotas are on.
    has_projects: bool,
    /// It encrypts directories, and shall do so.
    can_encrypt: bool,
}

/// What the running kernel can encrypt with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Layers {
    /// The data root's file system, or an ext4 in an image, encrypts directories.
    fscrypt: bool,
    /// dm-crypt.
    dm_crypt: bool,
}

/// What encrypts the new volume `name` below `root`, which has a key.
pub(super) fn layer(name: &VolumeName, root: &Path, wish: &Wish) -> Result<Layer, VolumeError> {
    let examine = || File::open(root).and_then(fscrypt::supported);
    let fscrypt = examine().map_err(VolumeError::io("examine", root))? || ext4_encrypts();
    // Looking for dm-crypt loads it: only where it is asked for, or nothing else is.
    let wants_dm = wish.layer.map_or(!fscrypt, |layer| layer == Layer::DmCrypt);
    let layers = Layers { fscrypt, dm_crypt: wants_dm && crypt::available() };
    choose_layer(wish.layer, layers).map_err(|reason| VolumeError::OptionValue {
        name: name.to_string(),
        option: format!("encrypted={}", wish.layer.map_or("true", Layer::shown)),
        reason: reason.to_owned(),
    })
}

/// What the wish is for, or else what leaves most to the file system.
fn choose_layer(wish: Option<Layer>, can: Layers) -> Result<Layer, &'static str> {
    match wish {
        None | Some(Layer::Fscrypt) if can.fscrypt => Ok(Layer::Fscrypt),
        None | Some(Layer::DmCrypt) if can.dm_crypt => Ok(Layer::DmCrypt),
        None => Err("this kernel can't encrypt: it needs CONFIG_FS_ENCRYPTION or CONFIG_DM_CRYPT"),
        Some(Layer::Fscrypt) => {
            Err("this kernel can't encrypt files: it needs CONFIG_FS_ENCRYPTION")
        }
        Some(Layer::DmCrypt) => {
            Err("this kernel can't encrypt block devices: it needs CONFIG_DM_CRYPT")
        }
    }
}

/// Whether the kernel's ext4 encrypts. One that is not loaded yet is taken to.
fn ext4_encrypts() -> bool {
    let ext4 = Path::new("/sys/fs/ext4/features");
    !ext4.exists() || ext4.join("encryption").exists()
}

/// What is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Directory,
    Project,
    Subvolume,
    Image,
}

/// What holds the content of the new volume `name` below `root`, and how many
/// bytes it may hold.
pub(super) fn storage(
    name: &VolumeName,
    root: &Path,
    wish: &Wish,
    layer: Option<Layer>,
    projects: &Projects,
) -> Result<(Storage, Option<u64>), VolumeError> {
    if let Some(mount) = &wish.mount {
        return Ok((Storage::Mount(mount.clone()), None));
    }
    let abilities = abilities(root, wish, layer).map_err(VolumeError::io("examine", root))?;
    let storage = match choose(abilities, wish.size.is_some(), wish.key.is_some()) {
        Chosen::Directory => Storage::default(),
        Chosen::Subvolume => Storage::Subvolume,
        Chosen::Project => Storage::Directory { project: Some(projects.claim(root)?) },
        Chosen::Image => return image(name, root, wish).map(|size| (Storage::Image, Some(size))),
    };
    Ok((storage, wish.size))
}

/// Most volumes wish nothing: then only one question is asked.
fn abilities(root: &Path, wish: &Wish, layer: Option<Layer>) -> io::Result<Abilities> {
    Ok(Abilities {
        is_btrfs: fsattr::magic(root)? == fsattr::BTRFS,
        has_projects: wish.size.is_some() && project::available(root)?,
        can_encrypt: layer == Some(Layer::Fscrypt) && fscrypt::supported(File::open(root)?)?,
    })
}

fn choose(can: Abilities, limited: bool, encrypted: bool) -> Chosen {
    match (limited, encrypted) {
        (false, true) if can.can_encrypt => Chosen::Directory,
        (true, true) if can.can_encrypt && can.has_projects => Chosen::Project,
        (_, true) => Chosen::Image,
        _ if can.is_btrfs => Chosen::Subvolume,
        (true, false) if can.has_projects => Chosen::Project,
        (true, false) => Chosen::Image,
        (false, false) => Chosen::Directory,
    }
}

/// The size of the image: what is wished, or all that is free.
fn image(name: &VolumeName, root: &Path, wish: &Wish) -> Result<u64, VolumeError> {
    if !image::can_format() {
        return Err(image::no_tool(name));
    }
    let Some(size) = wish.size else {
        let found = statvfs(root).map_err(|e| VolumeError::io("examine", root)(e.into()))?;
        return Ok(found.f_bavail.saturating_mul(found.f_frsize).max(image::SMALLEST));
    };
    if size < image::SMALLEST {
        return Err(VolumeError::OptionValue {
            name: name.to_string(),
            option: format!("size={size}"),
            reason: format!(
                "the volume will lie in an image file, which takes {} at least",
                bytes_text(image::SMALLEST)
            ),
        });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_encrypts_is_what_can_and_was_asked_for() {
        let none = Layers::default();
        let files = Layers { fscrypt: true, ..none };
        let both = Layers { fscrypt: true, dm_crypt: true };
        let block = Layers { dm_crypt: true, ..none };
        let [fscrypt, dm_crypt] = [Layer::Fscrypt, Layer::DmCrypt].map(Some);
        // no wish, fscrypt, dm-crypt
        let rows = [
            (none, [None, None, None]),
            (files, [fscrypt, fscrypt, None]),
            (both, [fscrypt, fscrypt, dm_crypt]),
            (block, [dm_crypt, None, dm_crypt]),
        ];
        for (can, chosen) in rows {
            let wishes = [None, fscrypt, dm_crypt];
            assert_eq!(wishes.map(|w| choose_layer(w, can).ok()), chosen, "{can:?}");
        }
    }

    #[test]
    fn the_file_system_does_what_it_can() {
        let plain = Abilities::default();
        let quota = Abilities { has_projects: true, ..plain };
        let both = Abilities { can_encrypt: true, ..quota };
        let btrfs = Abilities { is_btrfs: true, ..plain };
        // limited, encrypted: neither, limited, encrypted, both
        let rows = [
            (plain, [Chosen::Directory, Chosen::Image, Chosen::Image, Chosen::Image]),
            (quota, [Chosen::Directory, Chosen::Project, Chosen::Image, Chosen::Image]),
            (both, [Chosen::Directory, Chosen::Project, Chosen::Directory, Chosen::Project]),
            (btrfs, [Chosen::Subvolume, Chosen::Subvolume, Chosen::Image, Chosen::Image]),
            (
                Abilities { can_encrypt: true, ..plain },
                [Chosen::Directory, Chosen::Image, Chosen::Directory, Chosen::Image],
            ),
        ];
        for (can, chosen) in rows {
            let wishes = [(false, false), (true, false), (false, true), (true, true)];
            assert_eq!(wishes.map(|(l, e)| choose(can, l, e)), chosen, "{can:?}");
        }
    }
}
