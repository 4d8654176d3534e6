//! The file with the daemon's process id.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A written file, removed when dropped.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    /// Writes this process's id to `path`. A file of a process that is gone is
    /// replaced; one of a living process is refused.
    pub fn write(path: &Path) -> Result<Self> {
        if let Ok(text) = std::fs::read_to_string(path) {
            let pid = text.trim();
            let is_other = pid != std::process::id().to_string();
            if !pid.is_empty() && is_other && Path::new("/proc").join(pid).exists() {
                bail!(
                    "pidfile {}: process {pid} is running; if it is no daemon, remove the file",
                    path.display()
                );
            }
        }
        let text = format!("{}\n", std::process::id());
        sampan_sys::file::write_replace(path, text.as_bytes(), 0o644)
            .with_context(|| format!("pidfile {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let _ = sampan_sys::file::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "999999999\n").unwrap();
        drop(Pidfile::write(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "1\n").unwrap();
        assert!(Pidfile::write(&path).is_err());
    }
}
