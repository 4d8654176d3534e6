//! Output as it comes from pipes and terminals, cut into log records.

use std::io;

use sampan_types::Timestamp;

use super::{LogSink, StdStream};

/// A line longer than this is logged in pieces, as Docker does.
pub const MAX_LINE: usize = 16 * 1024;

/// Cuts one stream's output into lines. Keeps at most [`MAX_LINE`] bytes.
#[derive(Debug)]
pub struct LineSplitter {
    stream: StdStream,
    rest: Vec<u8>,
}

impl LineSplitter {
    /// For one of the two streams.
    #[must_use]
    pub fn new(stream: StdStream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Logs every line that `bytes` completes, at time `now`.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn feed(&mut self, bytes: &[u8], now: Timestamp, sink: &mut dyn LogSink) -> io::Result<()> {
        let _ = (self.stream, &self.rest, bytes, now, sink);
        todo!()
    }

    /// The stream has ended: logs what is left without a newline.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(&mut self, now: Timestamp, sink: &mut dyn LogSink) -> io::Result<()> {
        let _ = (now, sink);
        todo!()
    }
}
