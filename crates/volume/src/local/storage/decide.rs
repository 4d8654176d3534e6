//! Which storage a new volume gets: by what it wishes and what the file system
//! of the data root can do.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::statvfs;
use sampan_sys::{fsattr, fscrypt};
use sampan_types::VolumeName;

use super::project::{self, Projects};
use super::{Storage, Wish, bytes_text, image};
use crate::VolumeError;

/// What the file system of the data root can do for volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Abilities {
    /// It has subvolumes.
    is_btrfs: bool,
    /// Project quotas are on.
    has_projects: bool,
    /// It encrypts directories.
    can_encrypt: bool,
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
    projects: &Projects,
) -> Result<(Storage, Option<u64>), VolumeError> {
    if let Some(mount) = &wish.mount {
        return Ok((Storage::Mount(mount.clone()), None));
    }
    let abilities = abilities(root, wish).map_err(VolumeError::io("examine", root))?;
    let storage = match choose(abilities, wish.size.is_some(), wish.key.is_some()) {
        Chosen::Directory => Storage::default(),
        Chosen::Subvolume => Storage::Subvolume,
        Chosen::Project => Storage::Directory { project: Some(projects.claim(root)?) },
        Chosen::Image => return image(name, root, wish).map(|size| (Storage::Image, Some(size))),
    };
    Ok((storage, wish.size))
}

/// Most volumes wish nothing: then only one question is asked.
fn abilities(root: &Path, wish: &Wish) -> io::Result<Abilities> {
    Ok(Abilities {
        is_btrfs: fsattr::magic(root)? == fsattr::BTRFS,
        has_projects: wish.size.is_some() && project::available(root)?,
        can_encrypt: wish.key.is_some() && fscrypt::supported(File::open(root)?)?,
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
