//! A file that is appended to and rotated: `x`, `x.1`, `x.2` …, the rotated
//! ones compressed (`x.1.gz`) when asked.
//!
//! Be aware:
//! - Compression is spread over the writes that follow a rotation, a slice of
//!   the old file for each: no thread, no process, and no long pause. What a
//!   container's end leaves uncompressed stays readable as it is.
//! - A crash can leave `x.1` beside a half-written `x.1.gz.tmp`: the next
//!   opening begins that compression anew.
//! - Records are whole in one file: rotation happens between two of them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sampan_sys::file::remove_file;

/// Bytes collected before they are handed to the kernel.
const BUFFER: usize = 32 * 1024;
/// Bytes of the rotated file compressed for each byte written, so that the
/// work is done well before the next rotation.
const COMPRESSION_PACE: u64 = 8;
/// The least that is compressed at a time.
const COMPRESSION_SLICE: u64 = 16 * 1024;

/// When to rotate, and what to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rotation {
    /// Bytes after which the file is rotated; zero for never.
    pub max_size: u64,
    /// Files kept, the current one included.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
}

/// The name of the `n`-th rotated file; the current one is number zero.
pub(super) fn rotated(path: &Path, n: u32, compressed: bool) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    if n > 0 {
        name.push(format!(".{n}"));
    }
    if compressed {
        name.push(".gz");
    }
    PathBuf::from(name)
}

/// The file that is appended to.
pub(super) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    /// Written at the beginning of each file.
    header: Vec<u8>,
    file: File,
    /// Bytes in the file, without those in `buffer`.
    size: u64,
    buffer: Vec<u8>,
    compression: Option<Compressor>,
    dropped: u64,
    buffered_records: u64,
}

impl RotatingFile {
    /// Opens or makes the file. `header` begins each new one.
    pub fn open(path: &Path, rotation: Rotation, header: Vec<u8>) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        let mut this = Self {
            path: path.to_owned(),
            rotation,
            header,
            file,
            size,
            buffer: Vec::new(),
            compression: None,
            dropped: 0,
            buffered_records: 0,
        };
        if size == 0 {
            this.buffer.extend_from_slice(&this.header);
        } else {
            this.end_torn_record()?;
        }
        if rotation.compress {
            this.compression = Compressor::start(path)?;
        }
        Ok(this)
    }

    /// Appends one record, which `fill` writes into the buffer.
    pub fn write(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let before = self.buffer.len();
        fill(&mut self.buffer);
        self.buffered_records += 1;
        let record = self.buffer.len() - before;
        let after = self.size + self.buffer.len() as u64;
        let max = self.rotation.max_size;
        // As Docker: a file is rotated by the record that would pass the limit.
        if max > 0 && after > max && self.size + before as u64 > self.header.len() as u64 {
            let tail = self.buffer.split_off(before);
            self.buffered_records -= 1;
            let flushed = self.flush();
            self.rotate()?;
            self.buffer.extend_from_slice(&tail);
            self.buffered_records += 1;
            flushed?;
        } else if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        self.compress_slice(record as u64);
        Ok(())
    }

    /// Hands the buffer to the kernel. On failure its records are counted as
    /// lost and a torn one is cut off.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.buffer);
        match &written {
            Ok(()) => self.size += self.buffer.len() as u64,
            Err(_) => {
                self.dropped += self.buffered_records;
                let _ = self.file.set_len(self.size);
            }
        }
        self.buffer.clear();
        self.buffered_records = 0;
        written
    }

    /// Records that could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A crash in the middle of a write leaves a record without its end. Text
    /// formats end with a newline, so the next record gets a line of its own.
    fn end_torn_record(&mut self) -> io::Result<()> {
        if !self.header.is_empty() {
            return Ok(());
        }
        let mut last = [0u8];
        let mut reader = File::open(&self.path)?;
        io::Seek::seek(&mut reader, io::SeekFrom::End(-1))?;
        reader.read_exact(&mut last)?;
        if last[0] != b'\n' {
            self.buffer.push(b'\n');
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if let Some(mut running) = self.compression.take() {
            // Only when records are larger than the pace foresees.
            let _ = running.finish();
        }
        if self.rotation.max_file < 2 {
            self.file.set_len(0)?;
        } else {
            shift(&self.path, self.rotation.max_file)?;
            self.file = append(&self.path)?;
            if self.rotation.compress {
                self.compression = Compressor::start(&self.path).unwrap_or(None);
            }
        }
        self.size = 0;
        self.buffer.extend_from_slice(&self.header);
        Ok(())
    }

    fn compress_slice(&mut self, written: u64) {
        let Some(running) = &mut self.compression else { return };
        // An unreadable or full disk: the file stays as it is.
        if !running.step((written * COMPRESSION_PACE).max(COMPRESSION_SLICE)).unwrap_or(false) {
            self.compression = None;
        }
    }
}

impl Drop for RotatingFile {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Moves `x.1` to `x.2` and so on, then `x` to `x.1`; the last one goes.
fn shift(path: &Path, max_file: u32) -> io::Result<()> {
    let last = max_file - 1;
    for compressed in [false, true] {
        remove_file(&rotated(path, last, compressed))?;
    }
    for n in (1..last).rev() {
        for compressed in [false, true] {
            rename(&rotated(path, n, compressed), &rotated(path, n + 1, compressed))?;
        }
    }
    rename(path, &rotated(path, 1, false))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The compression of `x.1`, under way.
struct Compressor {
    source: PathBuf,
    temporary: PathBuf,
    target: PathBuf,
    input: File,
    output: GzEncoder<File>,
}

impl Compressor {
    /// Begins when there is an uncompressed `x.1`.
    fn start(path: &Path) -> io::Result<Option<Self>> {
        let source = rotated(path, 1, false);
        let target = rotated(path, 1, true);
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let input = match File::open(&source) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                remove_file(&temporary)?;
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)?;
        let output = GzEncoder::new(file, Compression::fast());
        Ok(Some(Self { source, temporary, target, input, output }))
    }

    /// Compresses about `budget` bytes; false when all is done.
    fn step(&mut self, budget: u64) -> io::Result<bool> {
        let copied = io::copy(&mut (&self.input).take(budget), &mut self.output)?;
        if copied > 0 {
            return Ok(true);
        }
        self.output.try_finish()?;
        fs::rename(&self.temporary, &self.target)?;
        remove_file(&self.source)?;
        Ok(false)
    }

    fn finish(&mut self) -> io::Result<()> {
        while self.step(1 << 20)? {}
        Ok(())
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        let _ = remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn fill(file: &mut RotatingFile, records: usize) {
        for n in 0..records {
            file.write(|b| b.extend_from_slice(format!("record {n:03}\n").as_bytes())).unwrap();
        }
        file.flush().unwrap();
    }

    #[test]
    fn keeps_the_newest_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { max_size: 33, max_file: 3, compress: false };
        let mut file = RotatingFile::open(&path, rotation, Vec::new()).unwrap();
        fill(&mut file, 12);
        assert_eq!(names(dir.path()), ["log", "log.1", "log.2"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "record 009\nrecord 010\nrecord 011\n");
        assert!(fs::read_to_string(rotated(&path, 2, false)).unwrap().starts_with("record 003"));
    }

    #[test]
    fn one_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { max_size: 33, max_file: 1, compress: false };
        let mut file = RotatingFile::open(&path, rotation, Vec::new()).unwrap();
        fill(&mut file, 4);
        assert_eq!(names(dir.path()), ["log"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "record 003\n");
    }

    #[test]
    fn rotated_files_are_compressed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { max_size: 1100, max_file: 4, compress: true };
        let mut file = RotatingFile::open(&path, rotation, Vec::new()).unwrap();
        fill(&mut file, 350);
        assert_eq!(names(dir.path()), ["log", "log.1.gz", "log.2.gz", "log.3.gz"]);
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(rotated(&path, 1, true)).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text.lines().next(), Some("record 200"));
    }

    #[test]
    fn a_torn_end_does_not_swallow_the_next_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "whole\ntor").unwrap();
        let rotation = Rotation { max_size: 0, max_file: 1, compress: false };
        let mut file = RotatingFile::open(&path, rotation, Vec::new()).unwrap();
        fill(&mut file, 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\ntor\nrecord 000\n");
    }
}
