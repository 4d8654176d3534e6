//! Overlayfs with any number of layers.
//!
//! Be aware:
//! - mount(2) takes one page of options, which a deep image exceeds. The new
//!   mount calls (fsopen(2) and its family, `lowerdir+` since Linux 6.5) take a
//!   layer at a time, each path up to 255 bytes.
//! - Where those don't do, mount(2) gets paths relative to a directory; the
//!   working directory is changed in a thread that shares it with nobody.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::syscall::owned;
use crate::tree;

/// An overlay mount.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// The directory that `short` is relative to.
    pub base: &'a Path,
    /// The layers, topmost first: absolute paths.
    pub lower: &'a [PathBuf],
    /// The same layers by short paths without `:` and `,`, relative to `base`.
    pub short: &'a [PathBuf],
    /// Where writes go, and overlayfs' working directory on the same file
    /// system. Without it the mount can't be written to.
    pub writable: Option<(&'a Path, &'a Path)>,
    /// Where to mount.
    pub target: &'a Path,
}

/// Differences stay plain files and directories, readable without overlayfs.
const PLAIN: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

const FSCONFIG_SET_STRING: libc::c_int = 1;
const FSCONFIG_CMD_CREATE: libc::c_int = 6;
const FSOPEN_CLOEXEC: libc::c_int = 1;
const FSMOUNT_CLOEXEC: libc::c_int = 1;
/// strndup_user(…, 256) in fs/fsopen.c.
const LONGEST_VALUE: usize = 255;

impl Overlay<'_> {
    /// Mounts it.
    ///
    /// # Errors
    /// Those of the mount calls, with what the kernel says about the cause.
    pub fn mount(&self) -> io::Result<()> {
        let upper = self.writable.iter().flat_map(|(upper, work)| [*upper, *work]);
        let short_enough = |p: &Path| p.as_os_str().len() <= LONGEST_VALUE;
        if self.lower.iter().map(PathBuf::as_path).chain(upper).all(short_enough) {
            match self.mount_by_layers() {
                Err(e) if is_unknown(&e) => {}
                done => return done,
            }
        }
        self.mount_by_options()
    }

    fn mount_by_layers(&self) -> io::Result<()> {
        let context = fsopen("overlay")?;
        let set = |key: &str, value: &Path| -> io::Result<()> {
            configure(&context, FSCONFIG_SET_STRING, Some((key, value)))
                .map_err(|e| explain(&context, e))
        };
        for layer in self.lower {
            set("lowerdir+", layer)?;
        }
        if let Some((upper, work)) = self.writable {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        for (key, value) in PLAIN {
            set(key, Path::new(value))?;
        }
        set("source", Path::new("overlay"))?;
        configure(&context, FSCONFIG_CMD_CREATE, None).map_err(|e| explain(&context, e))?;
        attach(&context, self.target)
    }

    fn mount_by_options(&self) -> io::Result<()> {
        let mut options = OptionText::new("lowerdir=");
        for (i, layer) in self.short.iter().enumerate() {
            options.raw(if i == 0 { "" } else { ":" });
            options.path(layer);
        }
        if let Some((upper, work)) = self.writable {
            options.raw(",upperdir=");
            options.path(upper);
            options.raw(",workdir=");
            options.path(work);
        }
        for (key, value) in PLAIN {
            options.raw(&format!(",{key}={value}"));
        }
        let options = options.0;
        // A thread of its own, because the working directory belongs to the
        // whole process otherwise.
        std::thread::scope(|scope| {
            let mounted = scope.spawn(|| -> io::Result<()> {
                nix::sched::unshare(CloneFlags::CLONE_FS)?;
                std::env::set_current_dir(self.base)?;
                nix::mount::mount(
                    Some("overlay"),
                    self.target,
                    Some("overlay"),
                    MsFlags::empty(),
                    Some(options.as_slice()),
                )?;
                Ok(())
            });
            mounted.join().unwrap_or_else(|_| Err(io::Error::other("the mount thread died")))
        })
    }
}

/// The text of mount options, escaped as overlayfs reads it.
struct OptionText(Vec<u8>);

impl OptionText {
    fn new(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn path(&mut self, path: &Path) {
        for byte in path.as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                self.0.push(b'\\');
            }
            self.0.push(*byte);
        }
    }
}

/// Whether the kernel doesn't know these calls, or `lowerdir+`.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL))
}

/// A file system of its own, mounted nowhere: it goes with the descriptor.
pub(crate) fn detached(fs_type: &str) -> io::Result<OwnedFd> {
    let context = fsopen(fs_type)?;
    configure(&context, FSCONFIG_CMD_CREATE, None).map_err(|e| explain(&context, e))?;
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    owned(fd).map_err(|e| explain(&context, e))
}

fn fsopen(fs_type: &str) -> io::Result<OwnedFd> {
    let name = CString::new(fs_type)?;
    // SAFETY: the name ends in NUL.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
    owned(fd)
}

fn configure(
    context: &OwnedFd,
    command: libc::c_int,
    pair: Option<(&str, &Path)>,
) -> io::Result<()> {
    let pair = match pair {
        Some((key, value)) => {
            Some((CString::new(key)?, CString::new(value.as_os_str().as_bytes())?))
        }
        None => None,
    };
    let (key, value) = pair
        .as_ref()
        .map_or((std::ptr::null(), std::ptr::null()), |(k, v)| (k.as_ptr(), v.as_ptr()));
    // SAFETY: both pointers are null or lead to strings that end in NUL and
    // live until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attach(context: &OwnedFd, target: &Path) -> io::Result<()> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    let mount = owned(fd).map_err(|e| explain(context, e))?;
    tree::attach(mount.as_fd(), target)
}

/// Adds what the kernel logged in the context about the failure.
fn explain(context: &OwnedFd, error: io::Error) -> io::Error {
    let Ok(copy) = context.try_clone() else { return error };
    let (mut log, mut said, mut buffer) = (File::from(copy), Vec::new(), [0u8; 1024]);
    while let Ok(n) = log.read(&mut buffer) {
        if n == 0 || said.len() >= 8 {
            break;
        }
        said.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
    }
    if said.is_empty() || is_unknown(&error) && said.iter().any(|s| s.contains("nknown parameter"))
    {
        return error;
    }
    io::Error::new(error.kind(), format!("{error}: {}", said.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Layers `n` … 0 below `base`, each with a file of its own and one that
    /// the topmost decides.
    fn layers(base: &Path, n: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let short: Vec<PathBuf> = (0..n).rev().map(|i| PathBuf::from(format!("{i}"))).collect();
        for name in &short {
            let dir = base.join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(format!("f{}", name.display())), "").unwrap();
            fs::write(dir.join("top"), name.to_string_lossy().as_bytes()).unwrap();
        }
        (short.iter().map(|s| base.join(s)).collect(), short)
    }

    #[test]
    fn joins_more_layers_than_a_page_holds() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: overlay mounts need root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        let (lower, short) = layers(base, 130);
        let [upper, work, target] = ["upper", "work", "target"].map(|n| base.join(n));
        for made in [&upper, &work, &target] {
            fs::create_dir(made).unwrap();
        }
        let overlay = Overlay {
            base,
            lower: &lower,
            short: &short,
            writable: Some((&upper, &work)),
            target: &target,
        };
        for by_layers in [true, false] {
            let mounted =
                if by_layers { overlay.mount_by_layers() } else { overlay.mount_by_options() };
            if let Err(e) = mounted {
                eprintln!("skipped: no overlay mount here: {e}");
                return;
            }
            assert_eq!(fs::read_to_string(target.join("top")).unwrap(), "129");
            assert!(target.join("f0").exists());
            fs::write(target.join("new"), "x").unwrap();
            assert!(upper.join("new").exists());
            crate::mount::unmount(&target).unwrap();
        }
    }
}
