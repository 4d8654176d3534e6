//! File systems of the test's own, each in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{missing_programs, skip};

/// A file system that lies in a file and is mounted until it is dropped.
#[derive(Debug)]
pub struct Disk {
    /// Holds the file and the place where it is mounted.
    dir: PathBuf,
}

impl Disk {
    /// Makes a file system of `size` bytes with `mkfs.<fs_type>` and these
    /// arguments, and mounts it with these options below `parent`. `None`,
    /// visibly, when this machine can't.
    ///
    /// # Panics
    /// When it could, and it fails.
    #[must_use]
    pub fn new_or_skip(
        test: &str,
        parent: &Path,
        fs_type: &str,
        size: u64,
        arguments: &[&str],
        options: &str,
    ) -> Option<Self> {
        let mkfs = format!("mkfs.{fs_type}");
        let missing = missing_programs(&[mkfs.as_str(), "mount", "umount"]);
        if !missing.is_empty() {
            skip(test, &format!("needs {}", missing.join(", ")));
            return None;
        }
        let dir = parent.join(format!("disk-{fs_type}"));
        fs::create_dir_all(dir.join("mounted")).expect("make the disk's directory");
        let file = dir.join("file");
        fs::File::create(&file).and_then(|f| f.set_len(size)).expect("make the disk's file");
        run(Command::new(mkfs).arg("-q").args(arguments).arg(&file));
        let disk = Self { dir };
        let options = format!("loop,{options}");
        let mut mount = Command::new("mount");
        mount.args(["-t", fs_type, "-o", options.trim_end_matches(',')]);
        let output = mount.arg(&file).arg(disk.path()).output().expect("run mount");
        if !output.status.success() {
            skip(test, &format!("{fs_type}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join("mounted")
    }

    /// Mounts it again with other options: `ro`, `rw`.
    ///
    /// # Panics
    /// When that fails.
    pub fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", &format!("remount,{options}")]).arg(self.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // With what the test left mounted in it.
        let _ = Command::new("umount").arg("-R").arg(self.path()).output();
        let _ = Command::new("umount").args(["-l"]).arg(self.path()).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("run a program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
