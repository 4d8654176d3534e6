//! Names and numbers of signals, as `docker kill` and `--stop-signal` take them.

use sampan_types::{ErrorKind, Kind};
use thiserror::Error;

/// The first real-time signal that programs may use (glibc keeps two).
pub const RTMIN: i32 = 34;
/// The last real-time signal.
pub const RTMAX: i32 = 64;

/// Why a text is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(String);

impl Kind for SignalError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", 16),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
];

/// Reads `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-2`.
///
/// # Errors
/// When there is no such signal.
pub fn parse(text: &str) -> Result<i32, SignalError> {
    let wrong = || SignalError(text.to_owned());
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|n| (1..=RTMAX).contains(n)).ok_or_else(wrong);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Ok(*number);
    }
    let offset = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse::<i32>().ok() } else { None }
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RTMIN),
        (_, Some("")) => Some(RTMAX),
        (Some(rest), _) => {
            rest.strip_prefix('+').and_then(offset).and_then(|n| RTMIN.checked_add(n))
        }
        (_, Some(rest)) => {
            rest.strip_prefix('-').and_then(offset).and_then(|n| RTMAX.checked_sub(n))
        }
        _ => None,
    };
    number.filter(|n| (RTMIN..=RTMAX).contains(n)).ok_or_else(wrong)
}

/// The name of a signal with its prefix: `SIGTERM`, `SIGRTMIN+3`.
#[must_use]
pub fn name(number: i32) -> Option<String> {
    if let Some((name, _)) = NAMES.iter().find(|(_, n)| *n == number) {
        return Some(format!("SIG{name}"));
    }
    match number {
        RTMIN => Some("SIGRTMIN".into()),
        35..=49 => Some(format!("SIGRTMIN+{}", number - RTMIN)),
        RTMAX => Some("SIGRTMAX".into()),
        50..=63 => Some(format!("SIGRTMAX-{}", RTMAX - number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("term", 15),
            ("15", 15),
            ("sigkill", 9),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-2", 62),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for number in 1..=RTMAX {
            if let Some(text) = name(number) {
                assert_eq!(parse(&text), Ok(number), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "NOPE",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX+1",
            "RTMIN+",
            "RTMIN+-1",
            "RTMIN+99999999999",
            "99999999999",
        ] {
            assert_eq!(parse(text), Err(SignalError(text.to_owned())), "{text}");
        }
    }
}
