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
            if is_other && is_alive(pid) {
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

/// Whether a process has this id and has not ended: one that nobody has waited
/// for yet is no longer alive.
fn is_alive(pid: &str) -> bool {
    if pid.is_empty() {
        return false;
    }
    std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        // The state follows the name, which may itself have a parenthesis.
        .is_ok_and(|stat| {
            let state =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            !matches!(state, Some('Z' | 'X'))
        })
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
        // It has ended, and nobody has waited for it.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().to_string();
        while is_alive(&pid) {
            std::thread::yield_now();
        }
        std::fs::write(&path, &pid).unwrap();
        drop(Pidfile::write(&path).unwrap());
        child.wait().unwrap();
    }
}
