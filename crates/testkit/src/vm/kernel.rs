//! The kernel that is emulated, and its modules.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// A kernel of Debian's package `linux-image-cloud-amd64`.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` says there.
    pub release: String,
    /// What qemu boots.
    pub image: PathBuf,
    /// Where its modules are.
    pub modules: PathBuf,
}

impl Kernel {
    /// The latest one that is installed, with its modules.
    #[must_use]
    pub fn find() -> Option<Self> {
        let entries = std::fs::read_dir("/boot").ok()?;
        let kernel = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let release = name.strip_prefix("vmlinuz-").filter(|r| r.ends_with("-cloud-amd64"))?;
            let modules = Path::new("/lib/modules").join(release);
            let there = modules.join("modules.dep").exists();
            there.then(|| Self { release: release.to_owned(), image: entry.path(), modules })
        };
        entries.flatten().filter_map(kernel).max_by_key(|k| numbers(&k.release))
    }

    /// The files of these modules and of all that they need, relative to
    /// [`Kernel::modules`]. What is built into the kernel has none.
    ///
    /// # Errors
    /// When the lists of modules can't be read, or a name is in none of them.
    pub fn files_of(&self, names: &[&str]) -> io::Result<Vec<PathBuf>> {
        let read = |name: &str| std::fs::read_to_string(self.modules.join(name));
        let (dependencies, built_in) = (read("modules.dep")?, read("modules.builtin")?);
        let mut files = BTreeSet::new();
        for name in names {
            let line = dependencies.lines().find(|l| is_module(l.split(':').next(), name));
            match line.and_then(|l| l.split_once(':')) {
                Some((file, needed)) => {
                    files.insert(PathBuf::from(file));
                    files.extend(needed.split_whitespace().map(PathBuf::from));
                }
                None if built_in.lines().any(|l| is_module(Some(l), name)) => {}
                None => return Err(io::Error::other(format!("no kernel module {name}"))),
            }
        }
        Ok(files.into_iter().collect())
    }
}

/// Whether `kernel/drivers/net/veth.ko` is `veth`.
fn is_module(file: Option<&str>, name: &str) -> bool {
    let base = file.and_then(|f| f.rsplit('/').next()).and_then(|f| f.split(".ko").next());
    base.is_some_and(|b| b.replace('-', "_") == name)
}

/// `6.1.0-56-cloud-amd64` as numbers that compare.
fn numbers(release: &str) -> Vec<u32> {
    release.split(['.', '-']).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_releases_are_recognised() {
        assert!(is_module(Some("kernel/drivers/net/veth.ko"), "veth"));
        assert!(is_module(Some("kernel/net/x/nf-tables.ko.xz"), "nf_tables"));
        assert!(!is_module(Some("kernel/drivers/net/veth.ko"), "vet"));
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
    }
}
