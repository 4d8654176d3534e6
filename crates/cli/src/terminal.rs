//! The user's terminal: raw mode, its size, the keys that detach.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use anyhow::{Result, bail};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

/// Standard input in raw mode until this is dropped.
#[derive(Debug)]
pub struct Raw(Termios);

impl Raw {
    /// Switches standard input to raw mode; `None` when it is no terminal.
    pub fn stdin() -> Option<Self> {
        Self::with(termios::cfmakeraw)
    }

    /// Switches the echo of standard input off, for passwords.
    pub fn silent() -> Option<Self> {
        Self::with(|modes| modes.local_flags.remove(LocalFlags::ECHO))
    }

    fn with(change: impl FnOnce(&mut Termios)) -> Option<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut modes = before.clone();
        change(&mut modes);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &modes).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nobody is left to tell when the terminal is gone.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Refuses a terminal in the container without one here.
///
/// # Errors
/// When standard input is to be attached to a terminal and is none.
pub fn check(attach_stdin: bool, tty: bool) -> Result<()> {
    if attach_stdin && tty && !stdin_is_terminal() {
        bail!("the input device is not a TTY");
    }
    Ok(())
}

/// Rows and columns of the terminal; `None` when there is none.
pub fn size() -> Option<(u16, u16)> {
    let out = terminal_size::terminal_size_of(std::io::stdout());
    let (width, height) = out.or_else(|| terminal_size::terminal_size_of(std::io::stdin()))?;
    (height.0 > 0 && width.0 > 0).then_some((height.0, width.0))
}

/// The bytes of a key sequence such as `ctrl-p,ctrl-q` or `ctrl-@,x`.
///
/// # Errors
/// When a key isn't a character or `ctrl-` and a letter or one of `@[\]^_`.
pub fn keys(text: &str) -> Result<Vec<u8>> {
    let key = |word: &str| match word.strip_prefix("ctrl-") {
        Some(name) => match name.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
            [b'@'] => Ok(0),
            [sign @ b'['..=b'_'] => Ok(sign - b'[' + 27),
            _ => bail!("invalid detach keys ({text}): unknown key {word:?}"),
        },
        None => match word.as_bytes() {
            [byte] => Ok(*byte),
            _ => bail!("invalid detach keys ({text}): unknown key {word:?}"),
        },
    };
    text.split(',').map(key).collect()
}

/// Looks for the detach keys in what is typed.
#[derive(Debug)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed just now and are held back.
    matched: usize,
}

impl DetachKeys {
    /// Looks for these keys; an empty sequence is never found.
    #[must_use]
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What of `typed` goes on to the process, and whether the keys are complete.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(&byte));
            if self.matched == 0 {
                out.push(byte);
            } else if self.keys.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_sequences() {
        assert_eq!(keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(keys("a,ctrl-@,ctrl-[,ctrl-_").unwrap(), [b'a', 0, 27, 31]);
        assert!(keys("ctrl-").is_err() && keys("ab").is_err() && keys("").is_err());
    }

    #[test]
    fn detaching() {
        let mut keys = DetachKeys::new(vec![16, 17]);
        assert_eq!(keys.feed(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(&[b'x', 16]), (vec![b'x'], false));
        assert_eq!(keys.feed(b"y"), (vec![16, b'y'], false));
        assert_eq!(keys.feed(&[16, 16, 17]), (vec![16], true));
        assert_eq!(DetachKeys::new(vec![]).feed(b"a"), (b"a".to_vec(), false));
    }
}
