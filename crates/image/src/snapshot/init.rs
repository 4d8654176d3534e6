//! Init layers: the mount points that a container needs and its image lacks,
//! so that they don't count as the container's changes. One for each stack of
//! layers, shared by all containers.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use sampan_sys::{inroot, xattr};

use crate::content::writing;
use crate::remove::remove_deep;
use crate::tarball::{Below, Layers, is_content_xattr};
use crate::{ConfigFile, Digest, ImageError};

/// What Docker makes (moby `daemon/initlayer`), parents first.
const POINTS: [(&str, Point); 11] = [
    (".dockerenv", Point::File),
    ("dev", Point::Directory),
    ("dev/console", Point::File),
    ("dev/pts", Point::Directory),
    ("dev/shm", Point::Directory),
    ("etc", Point::Directory),
    ("etc/hostname", Point::File),
    ("etc/hosts", Point::File),
    ("etc/resolv.conf", Point::File),
    ("proc", Point::Directory),
    ("sys", Point::Directory),
];

/// Where programs look for the mounts.
const MTAB: (&str, &str) = ("etc/mtab", "/proc/mounts");

#[derive(Clone, Copy)]
enum Point {
    File,
    Directory,
}

/// The init layers below `<data-root>/image/init`.
#[derive(Debug)]
pub(crate) struct InitLayers {
    root: PathBuf,
    links: PathBuf,
}

impl InitLayers {
    /// Opens them; removes unfinished ones.
    pub(crate) fn open(image: &Path) -> Result<Self, ImageError> {
        let root = image.join("init");
        fs::create_dir_all(&root).map_err(ImageError::io("make", &root))?;
        for entry in fs::read_dir(&root).map_err(ImageError::io("list", &root))?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                remove_deep(&entry.path()).map_err(ImageError::io("remove", &entry.path()))?;
            }
        }
        Ok(Self { root, links: image.join("l") })
    }

    /// What an image's init layer is addressed by: its topmost chain id.
    pub(crate) fn key_of(config: &ConfigFile) -> Digest {
        config.chain_ids().pop().unwrap_or_else(|| Digest::of(b""))
    }

    pub(crate) fn key(&self, config: &ConfigFile) -> Digest {
        Self::key_of(config)
    }

    pub(crate) fn path(&self, key: &Digest) -> PathBuf {
        self.root.join(key.hex()).join("diff")
    }

    /// The same by a short path relative to `<data-root>/image`.
    pub(super) fn short(&self, key: &Digest) -> PathBuf {
        Path::new("l").join(link_name(key))
    }

    pub(crate) fn list(&self) -> Result<Vec<Digest>, ImageError> {
        let list = fs::read_dir(&self.root).map_err(ImageError::io("list", &self.root))?;
        Ok(list
            .flatten()
            .filter_map(|e| format!("sha256:{}", e.file_name().to_str()?).parse().ok())
            .collect())
    }

    pub(crate) fn take_away(&self, key: &Digest) -> Result<PathBuf, ImageError> {
        let link = self.links.join(link_name(key));
        sampan_sys::file::remove_file(&link).map_err(ImageError::io("remove", &link))?;
        let (home, trash) = (self.root.join(key.hex()), self.hidden());
        fs::rename(&home, &trash).map_err(ImageError::io("remove", &home))?;
        Ok(trash)
    }

    fn hidden(&self) -> PathBuf {
        self.root.join(format!(".tmp-{}", crate::unique()))
    }

    /// Makes the init layer for the layers `lower` (topmost first), unless it
    /// is there. `like` gives the root's attributes.
    pub(super) fn ensure(
        &self,
        key: &Digest,
        lower: &[PathBuf],
        like: Option<&Path>,
    ) -> Result<(), ImageError> {
        let home = self.root.join(key.hex());
        if home.exists() {
            return Ok(());
        }
        let unfinished = self.hidden();
        let made = fill(&unfinished.join("diff"), lower, like).and_then(|()| {
            let link = self.links.join(link_name(key));
            sampan_sys::file::remove_file(&link)?;
            match symlink(Path::new("../init").join(key.hex()).join("diff"), &link) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
            fs::rename(&unfinished, &home)
        });
        match made {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = remove_deep(&unfinished);
                // Another thread may have made it meanwhile.
                if home.exists() { Ok(()) } else { Err(writing(&home)(error)) }
            }
        }
    }
}

fn link_name(key: &Digest) -> String {
    format!("i{}", key.short())
}

fn fill(diff: &Path, lower: &[PathBuf], like: Option<&Path>) -> io::Result<()> {
    fs::create_dir_all(diff)?;
    fs::set_permissions(diff, fs::Permissions::from_mode(0o755))?;
    let layers = Layers::open(lower)?;
    // Directories that were copied, with the layer that they are from: their
    // times come last.
    let mut copied: Vec<(PathBuf, OwnedFd)> = Vec::new();
    for (path, point) in POINTS {
        if let Some(place) = place(diff, &layers, Path::new(path), &mut copied)? {
            match point {
                Point::Directory => match fs::create_dir(&place) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made?,
                },
                Point::File => {
                    fs::File::create_new(&place)?;
                }
            }
            let mode = if matches!(point, Point::Directory) { 0o755 } else { 0o644 };
            fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
        }
    }
    if let Some(place) = place(diff, &layers, Path::new(MTAB.0), &mut copied)? {
        symlink(MTAB.1, place)?;
    }
    for (path, from) in copied.iter().rev() {
        copy_attributes(&inroot::fd_path(from).join("."), path)?;
    }
    like.map_or(Ok(()), |like| copy_attributes(like, diff))
}

/// Where in `diff` the mount point has to be made; `None` when the layers have
/// something there. The directories above it are made as the layers have them.
fn place(
    diff: &Path,
    layers: &Layers,
    path: &Path,
    copied: &mut Vec<(PathBuf, OwnedFd)>,
) -> io::Result<Option<PathBuf>> {
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|c| if let Component::Normal(name) = c { Some(name) } else { None })
        .collect();
    let Some((last, parents)) = names.split_last() else { return Ok(None) };
    let mut here: Option<Layers> = None;
    let mut missing = false;
    let mut wanted = Vec::new();
    for name in parents {
        if missing {
            wanted.push((*name, None));
            continue;
        }
        match here.as_ref().unwrap_or(layers).child(name)? {
            Below::Nothing => {
                missing = true;
                wanted.push((*name, None));
            }
            Below::Directory(below, _) => {
                wanted.push((*name, below.topmost()?));
                here = Some(below);
            }
            // Perhaps a link: whatever it is, the image wants it so.
            Below::Other => return Ok(None),
        }
    }
    if !missing && !matches!(here.as_ref().unwrap_or(layers).child(last)?, Below::Nothing) {
        return Ok(None);
    }
    let mut place = diff.to_owned();
    for (name, from) in wanted {
        place.push(name);
        if place.exists() {
            continue;
        }
        fs::create_dir(&place)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        copied.extend(from.map(|fd| (place.clone(), fd)));
    }
    Ok(Some(place.join(last)))
}

/// Gives the directory `to` owner, mode, attributes and times of `from`.
pub(super) fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    for name in xattr::list(from)? {
        if is_content_xattr(name.as_encoded_bytes())
            && let Some(value) = xattr::get(from, &name)?
        {
            xattr::set(to, &name, &value)?;
        }
    }
    let time = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
    utimensat(None, to, &time, &time, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}
