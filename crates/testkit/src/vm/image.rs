//! The root file system of an emulated machine.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::archive;
use super::kernel::Kernel;
use crate::rootfs::{add_program, busybox_rootfs};

/// A root file system while it is put together: a busybox system to which
/// programs, kernel modules and files are added.
#[derive(Debug)]
pub struct Image {
    dir: TempDir,
}

impl Image {
    /// A busybox system.
    ///
    /// # Errors
    /// When there is no static busybox, or no place.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("sampan-vm-").tempdir()?;
        let image = Self { dir };
        busybox_rootfs(&image.root())?;
        Ok(image)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Adds an installed program with its shared libraries, where the machine
    /// at hand has them.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn add_program(&self, name: &str) -> io::Result<()> {
        add_program(&self.root(), name)
    }

    /// Adds a program without what only debuggers need, as `/bin/<name>`.
    ///
    /// # Errors
    /// When it can't be read, or binutils are missing.
    pub fn add_stripped(&self, program: &Path, name: &str) -> io::Result<()> {
        let to = self.root().join("bin").join(name);
        let status = Command::new("strip").arg("-o").arg(&to).arg(program).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("strip {}: {status}", program.display())));
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
    }

    /// Adds a file, executable for all, at `path` below the root.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add_file(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let to = self.root().join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&to, content)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
    }

    /// Adds kernel modules with all that they need, and the lists by which
    /// the kernel finds them itself.
    ///
    /// # Errors
    /// When one is not there.
    pub fn add_modules(&self, kernel: &Kernel, names: &[&str]) -> io::Result<()> {
        let to = self.root().join("lib/modules").join(&kernel.release);
        let lists = ["modules.dep", "modules.alias", "modules.builtin", "modules.softdep"];
        let files = kernel.files_of(names)?.into_iter().chain(lists.map(PathBuf::from));
        for file in files {
            let target = to.join(&file);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(kernel.modules.join(&file), target)?;
        }
        Ok(())
    }

    /// The archive that a machine boots with. It goes with this value.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn pack(&self) -> io::Result<PathBuf> {
        let archive = self.dir.path().join("initramfs");
        archive::pack(&self.root(), &archive)?;
        Ok(archive)
    }
}
