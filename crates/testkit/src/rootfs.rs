//! Root file systems for test images, made from what the machine has.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Fills `root` with a busybox system: every applet linked, root, nobody and
/// a `web` user, `/tmp` as it should be.
///
/// # Errors
/// When the static busybox is missing or the directory can't be written.
pub fn busybox_rootfs(root: &Path) -> io::Result<()> {
    for dir in ["bin", "etc", "tmp", "var/www", "root", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(Path::new)
        .find(|p| p.exists())
        .ok_or_else(|| io::Error::other("no busybox: install busybox-static"))?;
    std::fs::copy(busybox, root.join("bin/busybox"))?;
    let list = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/var/www:/bin/sh\n\
         nobody:x:65534:65534::/:/bin/false\n",
    )?;
    std::fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:1000:\nstaff:x:50:web\nnogroup:x:65534:\n",
    )
}

/// Copies a program and the shared libraries that it needs into `root`.
///
/// # Errors
/// When the program isn't installed or copying fails.
pub fn add_program(root: &Path, program: &str) -> io::Result<()> {
    let find = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    let path = String::from_utf8_lossy(&find.stdout).trim().to_owned();
    if path.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed")));
    }
    let libraries = Command::new("ldd").arg(&path).output()?;
    let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
    let files = text.split_whitespace().filter(|w| w.starts_with('/')).chain([path.as_str()]);
    for file in files {
        let target = root.join(file.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if target.is_symlink() {
            // An applet of the same name; its target stays as it is.
            std::fs::remove_file(&target)?;
        }
        std::fs::copy(file, target)?;
    }
    Ok(())
}
