//! A directory as the archive that the kernel unpacks at boot: cpio in the
//! "new ASCII" format, uncompressed (`Documentation/driver-api/early-userspace`
//! in the kernel's sources).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const TRAILER: &str = "TRAILER!!!";
/// Mode of a directory that everybody may enter.
const DIRECTORY: u32 = 0o040_755;

/// Writes everything below `root` into `archive`: directories, files and
/// symbolic links, all of them root's.
pub(super) fn pack(root: &Path, archive: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(archive)?);
    let mut number = 1;
    directory(&mut out, root, "", &mut number)?;
    entry(&mut out, (TRAILER, 0, 0), b"")?;
    out.flush()
}

fn directory(out: &mut impl Write, dir: &Path, prefix: &str, number: &mut u32) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for found in entries {
        let name = found.file_name().into_string();
        let name = name.map_err(|n| io::Error::other(format!("{n:?} is no UTF-8")))?;
        let (path, name) = (found.path(), format!("{prefix}{name}"));
        let about = fs::symlink_metadata(&path)?;
        *number += 1;
        if about.is_dir() {
            entry(out, (&name, DIRECTORY | (about.mode() & 0o7777), *number), b"")?;
            directory(out, &path, &format!("{name}/"), number)?;
        } else if about.is_symlink() {
            let target = fs::read_link(&path)?.into_os_string().into_encoded_bytes();
            entry(out, (&name, about.mode(), *number), &target)?;
        } else {
            entry(out, (&name, about.mode(), *number), &fs::read(&path)?)?;
        }
    }
    Ok(())
}

/// One header, its name and content, each padded to four bytes.
fn entry(
    out: &mut impl Write,
    (name, mode, number): (&str, u32, u32),
    data: &[u8],
) -> io::Result<()> {
    let size = u32::try_from(data.len()).map_err(io::Error::other)?;
    // Number, mode, user, group, links, time, size, four of devices, name's
    // length with its zero, checksum (unused).
    let named = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
    let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, named, 0];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08x}"));
    }
    header.push_str(name);
    header.push('\0');
    out.write_all(header.as_bytes())?;
    out.write_all(&[0; 3][..padding(header.len())])?;
    out.write_all(data)?;
    out.write_all(&[0; 3][..padding(data.len())])
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_a_trailer() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/x"), b"hello").unwrap();
        std::os::unix::fs::symlink("x", root.join("bin/y")).unwrap();
        let archive = dir.path().join("archive");
        pack(&root, &archive).unwrap();
        let bytes = fs::read(&archive).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        assert!(text.contains("bin/x\0") && text.contains("hello") && text.contains(TRAILER));
    }
}
