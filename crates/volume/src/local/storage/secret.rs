//! Where the key of an encrypted volume comes from: `key-file=` or
//! `passphrase-command=`.
//!
//! Be aware:
//! - What is read is wiped from memory when it is dropped, and named nowhere:
//!   errors tell the file, or the command's first word, alone.
//! - The command is run without a shell, each time the volume is made or
//!   mounted, and has a minute to answer.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sampan_types::VolumeName;
use zeroize::Zeroizing;

use crate::VolumeError;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// No key is longer.
const LONGEST: usize = 64 << 10;

/// A secret that is wiped when it is dropped.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// Where the key comes from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file whose bytes are the secret.
    File(PathBuf),
    /// A command whose output, without the newline at its end, is the secret.
    Command(Vec<String>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Source {
    /// Reads a command as a shell would split it.
    pub(super) fn command(text: &str) -> Option<Self> {
        let words = shell_words::split(text).ok()?;
        (!words.is_empty()).then_some(Self::Command(words))
    }

    /// A file, by an absolute path.
    pub(super) fn file(text: &str) -> Option<Self> {
        let path = Path::new(text);
        path.is_absolute().then(|| Self::File(path.to_owned()))
    }

    /// Gets the secret.
    pub(super) fn read(&self, name: &VolumeName) -> Result<Secret, VolumeError> {
        let secret = match self {
            Self::File(path) => read_file(path),
            Self::Command(words) => run(words),
        };
        let given = secret.and_then(|s| {
            if s.is_empty() { Err(io::Error::other("it gives nothing")) } else { Ok(s) }
        });
        given.map_err(|source| VolumeError::Key {
            name: name.to_string(),
            from: self.shown(),
            source,
        })
    }

    fn shown(&self) -> String {
        match self {
            Self::File(path) => format!("the key file {}", path.display()),
            Self::Command(words) => format!("the passphrase command {:?}", words[0]),
        }
    }
}

fn read_file(path: &Path) -> io::Result<Secret> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no ordinary file"));
    }
    if found.mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others may read this key file: give it the mode 0600");
    }
    read_all(&mut file)
}

/// Reads all of it without leaving copies behind: the buffer never moves.
fn read_all(from: &mut dyn Read) -> io::Result<Secret> {
    let mut buffer = Zeroizing::new(vec![0u8; LONGEST + 1]);
    let mut length = 0;
    loop {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if length > LONGEST {
            return Err(io::Error::other("it gives more than 64 KiB"));
        }
    }
    Ok(Zeroizing::new(buffer[..length].to_vec()))
}

fn run(words: &[String]) -> io::Result<Secret> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let answer = answer(&mut child);
    if answer.is_err() {
        // It may have ended; then there is nothing to kill.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let mut secret = answer?;
    if !status.success() {
        return Err(io::Error::other(format!("it ended with {status}; run it by hand to see why")));
    }
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    Ok(secret)
}

/// What the command writes until it has closed its output and ended.
fn answer(child: &mut Child) -> io::Result<Secret> {
    let end = Instant::now() + PATIENCE;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let ended = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = pidfd_open(ended.ok_or(io::ErrorKind::InvalidData)?, PidfdFlags::empty())?;
    let secret = read_all(&mut Timed { output: output.into(), end })?;
    wait(&ended, end)?;
    Ok(secret)
}

/// A pipe that is read until a moment.
struct Timed {
    output: OwnedFd,
    end: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wait(&self.output, self.end)?;
        Ok(rustix::io::read(&self.output, buffer)?)
    }
}

/// Waits until `fd` has something to say.
fn wait(fd: &impl AsFd, end: Instant) -> io::Result<()> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                let text = format!("it gave no answer in {} seconds", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn name() -> VolumeName {
        "vol".parse().unwrap()
    }

    #[test]
    fn a_command_is_split_and_its_newline_taken_off() {
        let source = Source::command("printf 'a b\\n'").unwrap();
        assert_eq!(&**source.read(&name()).unwrap(), b"a b");
        let source = Source::command("echo \"$HOME\"").unwrap();
        assert_eq!(&**source.read(&name()).unwrap(), b"$HOME", "there is no shell");
        assert_eq!(Source::command(""), None);
        assert_eq!(Source::command("a 'b"), None);
    }

    #[test]
    fn failures_tell_no_secret() {
        let source = Source::command("sh -c 'echo hunter2; exit 3' --token=abc").unwrap();
        let text = source.read(&name()).unwrap_err().to_string();
        assert!(text.contains("\"sh\"") && text.contains("exit status: 3"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("abc"), "{text}");
        let text = Source::command("true").unwrap().read(&name()).unwrap_err().to_string();
        assert!(text.contains("gives nothing"), "{text}");
    }

    #[test]
    fn a_key_file_is_taken_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, b"\x00secret\n").unwrap();
        let source = Source::file(path.to_str().unwrap()).unwrap();
        assert_eq!(&**source.read(&name()).unwrap(), b"\x00secret\n");
        let text = Source::file("/nowhere/key").unwrap().read(&name()).unwrap_err().to_string();
        assert!(text.contains("the key file /nowhere/key"), "{text}");
        assert_eq!(Source::file("relative"), None);
    }
}
