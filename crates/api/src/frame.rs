//! The framing of multiplexed output: eight bytes before each piece, the
//! stream's number (1 stdout, 2 stderr), three zeros, the length as a
//! big-endian `u32` (Docker Engine API, `ContainerAttach`, "Stream format").

use bytes::{BufMut, Bytes, BytesMut};

use crate::version::ApiVersion;

/// Which of a process's outputs a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
}

/// How output is put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As it is: terminals.
    Raw,
    /// Each piece behind its eight bytes.
    Multiplexed,
}

impl Framing {
    pub(crate) fn of(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Multiplexed }
    }

    /// The content type: clients before 1.42 know only one.
    pub(crate) fn content_type(self, version: ApiVersion) -> &'static str {
        match self {
            Self::Multiplexed if version >= ApiVersion::one(42) => {
                "application/vnd.docker.multiplexed-stream"
            }
            _ => "application/vnd.docker.raw-stream",
        }
    }

    /// Appends one piece to `buffer`. Pieces over 4 GiB do not occur.
    pub(crate) fn put(self, buffer: &mut BytesMut, channel: Channel, piece: &Bytes) {
        if self == Self::Multiplexed {
            let number = match channel {
                Channel::Stdout => 1,
                Channel::Stderr => 2,
            };
            buffer.reserve(8 + piece.len());
            buffer.put_u32(number << 24);
            buffer.put_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        }
        buffer.put_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_framed_as_docker_does() {
        let mut out = BytesMut::new();
        Framing::Multiplexed.put(&mut out, Channel::Stderr, &Bytes::from_static(b"err\n"));
        assert_eq!(&out[..], b"\x02\0\0\0\0\0\0\x04err\n");
        out.clear();
        Framing::Raw.put(&mut out, Channel::Stdout, &Bytes::from_static(b"x"));
        assert_eq!(&out[..], b"x");
    }

    #[test]
    fn old_clients_know_one_content_type() {
        let raw = "application/vnd.docker.raw-stream";
        assert_eq!(Framing::Multiplexed.content_type(ApiVersion::one(41)), raw);
        assert_eq!(Framing::Raw.content_type(ApiVersion::one(50)), raw);
        assert_ne!(Framing::Multiplexed.content_type(ApiVersion::one(42)), raw);
    }
}
