//! The wire between the daemon and a shim: frames on a stream socket.
//!
//! A frame is one byte of kind, four bytes of length (little-endian), and as
//! many bytes of payload. Requests, replies and exits are JSON; standard
//! streams are raw. The first connection is the socket pair that the shim was
//! started with: its first request is [`Op::Boot`]. Every other one comes
//! through `shim.sock`. A connection answers its requests in order. Once it
//! asked to [`Op::Attach`] it carries standard streams and nothing else;
//! every other one also gets [`Kind::Exit`] when the process has ended.
//!
//! Be aware:
//! - The two ends may be of different versions: a daemon that was updated
//!   talks to shims that its predecessor started. Fields are only added, with
//!   defaults, and [`VERSION`] is raised when that does not do.
//! - [`Setup`] is kept in a file. It holds no environment and no arguments:
//!   those may contain secrets.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxCapabilities, LinuxDeviceCgroup, LinuxSeccomp, PosixRlimit};
use sampan_types::{ContainerId, ExecId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::client::{ExitStatus, IoConfig, OciRuntime};
use crate::logs::LogSetup;

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// No payload is longer.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// The bytes before each payload.
pub const HEADER: usize = 5;

/// The name of a shim's socket in its directory.
pub const SOCKET: &str = "shim.sock";

/// The name of the file that records how a process ended.
pub const EXIT: &str = "exit.json";

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An [`Op`], from the daemon.
    Request = 1,
    /// A [`Reply`] to a request.
    Reply = 2,
    /// An [`ExitStatus`]; the last frame of a connection.
    Exit = 3,
    /// Bytes for the process's standard input.
    Stdin = 4,
    /// Nothing more comes for standard input.
    StdinEnd = 5,
    /// Bytes from standard output or the terminal.
    Stdout = 6,
    /// Bytes from standard error.
    Stderr = 7,
    /// The output has ended; the last frame of an attached connection.
    OutputEnd = 8,
}

impl Kind {
    /// The kind with that number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Exit,
            4 => Self::Stdin,
            5 => Self::StdinEnd,
            6 => Self::Stdout,
            7 => Self::Stderr,
            8 => Self::OutputEnd,
            _ => return None,
        })
    }
}

/// The header of a frame whose payload has `length` bytes.
#[must_use]
pub fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [kind as u8, length[0], length[1], length[2], length[3]]
}

/// A whole frame.
#[must_use]
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&header(kind, payload.len()));
    out.extend_from_slice(payload);
    out
}

/// A whole frame with `value` as JSON.
#[must_use]
pub fn json_frame<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    // These types have string keys only: they always can be written.
    frame(kind, &serde_json::to_vec(value).unwrap_or_default())
}

/// What the beginning of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Less than a frame.
    Incomplete,
    /// A frame; it takes `used` bytes.
    Frame {
        /// What it carries.
        kind: Kind,
        /// The payload.
        payload: &'a [u8],
        /// Bytes of the buffer that it takes.
        used: usize,
    },
    /// Not this protocol.
    Invalid,
}

/// Reads the frame at the beginning of `buffer`.
#[must_use]
pub fn parse(buffer: &[u8]) -> Parsed<'_> {
    let Some((head, rest)) = buffer.split_at_checked(HEADER) else {
        return Parsed::Incomplete;
    };
    let Some(kind) = Kind::from_byte(head[0]) else {
        return Parsed::Invalid;
    };
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_PAYLOAD {
        return Parsed::Invalid;
    }
    match rest.get(..length) {
        Some(payload) => Parsed::Frame { kind, payload, used: HEADER + length },
        None => Parsed::Incomplete,
    }
}

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Become the shim of this container or exec.
    Boot(Box<Setup>),
    /// Nothing but the answer.
    Info,
    /// Run the user's program.
    Start,
    /// Send a signal to the process.
    Signal(i32),
    /// Give the terminal a new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// Make this connection an attached one.
    Attach {
        /// It sends standard input.
        stdin: bool,
        /// It gets standard output.
        stdout: bool,
        /// It gets standard error.
        stderr: bool,
    },
    /// Kill the process and end.
    Shutdown,
}

/// The answer to a request.
pub type Reply = Result<Info, Failure>;

/// The state of the process and its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// [`VERSION`] of the shim.
    pub version: u32,
    /// The process's id on the host.
    pub pid: Option<u32>,
    /// The shim's own process id.
    pub shim: u32,
    /// Which start of the container this is.
    pub generation: u64,
    /// When the user's program was started.
    pub started: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which kind of failure.
    pub reason: Reason,
    /// What to tell the user.
    pub message: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The program can't be run: 126 or 127.
    Command(i32),
    /// The process could not be made for another reason.
    Create,
    /// The process is not there.
    NotRunning,
    /// The request makes no sense now.
    Refused,
}

/// All that a shim has to know. Kept as `shim.json` in its directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// The container.
    pub id: ContainerId,
    /// The exec, when this is the shim of one.
    pub exec: Option<ExecId>,
    /// The shim's own directory: `shim.sock` and `config.json` or
    /// `process.json` are in it.
    pub dir: PathBuf,
    /// The directory of the container, which holds libcontainer's state.
    pub container_dir: PathBuf,
    /// Where to record how it ended.
    pub exit_file: PathBuf,
    /// Which start of the container this is.
    pub generation: u64,
    /// The standard streams.
    pub io: IoConfig,
    /// Where the output is logged.
    pub log: LogSetup,
    /// Who makes the process.
    pub runtime: OciRuntime,
    /// The container's cgroup.
    pub cgroup: PathBuf,
    /// The devices that the container may use, for hosts where libcontainer
    /// does not see to it (see `shim/devices.rs`).
    #[serde(default)]
    pub devices: Vec<LinuxDeviceCgroup>,
    /// The directory of the host that it has as `/dev` (see `client/dev.rs`).
    #[serde(default)]
    pub dev: Option<Dev>,
    /// The binds that share mounts with the host's (see `client/sharing.rs`).
    #[serde(default)]
    pub shared: Vec<Shared>,
    /// What the process may do.
    pub confinement: Confinement,
    /// The container's resource limits, which its execs take over.
    pub rlimits: Option<Vec<PosixRlimit>>,
    /// How willingly the kernel kills it for want of memory; that of the
    /// container for an exec.
    pub oom_score_adj: i32,
}

/// What is mounted over a container's `/dev` when the container is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dev {
    /// On the host.
    pub source: PathBuf,
    /// Whether mounts below the source are there as well.
    pub recursive: bool,
    /// Whether nobody writes through it, and through those below.
    pub read_only: Option<Below>,
}

/// Whether something holds for mounts below as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Below {
    /// Not for these.
    No,
    /// For all of them.
    Yes,
}

/// A bind in which mounts appear that are made on the host, and the reverse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether mounts below the source are there as well.
    pub recursive: bool,
    /// From the host into the container only.
    pub slave: bool,
}

/// What is taken from a process just before its program runs. libcontainer
/// is not told of these: see `shim/executor.rs`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Confinement {
    /// Capabilities that are left; `None` takes nothing away.
    pub capabilities: Option<LinuxCapabilities>,
    /// Whether set-uid programs gain nothing.
    pub no_new_privileges: bool,
    /// The working directory in the container.
    pub cwd: PathBuf,
    /// The system calls that are left.
    pub seccomp: Option<Filter>,
}

/// A seccomp filter: compiled once per profile, then read from a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filter {
    /// The file with the compiled program.
    pub file: PathBuf,
    /// Flags of seccomp(2).
    pub flags: u32,
    /// What to compile when there is no such file yet.
    pub profile: Option<LinuxSeccomp>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(payload in proptest::collection::vec(any::<u8>(), 0..2000), cut in 0usize..2005) {
            let bytes = frame(Kind::Stdout, &payload);
            let got = parse(&bytes);
            prop_assert_eq!(got, Parsed::Frame { kind: Kind::Stdout, payload: &payload, used: bytes.len() });
            if cut < bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Parsed::Incomplete);
            }
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&noise);
        }
    }

    #[test]
    fn huge_and_unknown_frames_are_invalid() {
        assert_eq!(parse(&[1, 255, 255, 255, 255]), Parsed::Invalid);
        assert_eq!(parse(&[0, 0, 0, 0, 0]), Parsed::Invalid);
        assert_eq!(parse(&[99, 0, 0, 0, 0]), Parsed::Invalid);
    }
}
