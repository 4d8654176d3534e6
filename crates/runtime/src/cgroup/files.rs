//! Small files of the kernel, read and written.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::CgroupError;

pub(super) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { operation, path: path.to_owned(), source }
}

/// The text of a file; `None` when it, or its cgroup, does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(io_error("reading", path, e)),
    }
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|e| io_error("writing", path, e))
}

/// `ENODEV` is what an open file of a removed cgroup answers.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// A file that holds one number; `max` and what is absent are `None`.
pub(super) fn number(path: &Path) -> Result<Option<u64>, CgroupError> {
    Ok(read(path)?.and_then(|text| text.trim().parse().ok()))
}

/// A file of `key value` lines.
pub(super) fn keyed(path: &Path) -> Result<BTreeMap<String, u64>, CgroupError> {
    Ok(read(path)?.map(|text| parse_keyed(&text)).unwrap_or_default())
}

pub(super) fn parse_keyed(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}
