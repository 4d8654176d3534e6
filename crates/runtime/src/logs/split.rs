//! Output as it comes from pipes and terminals, cut into log records.
//!
//! Be aware:
//! - A line longer than [`MAX_LINE`] becomes several records, all but the last
//!   marked as partial: one container can't make the shim grow.
//! - An error of the sink does not stop the cutting; the first one is returned
//!   after all lines have been offered.

use std::io;

use sampan_types::Timestamp;

use super::{LogSink, Record, StdStream};

/// A line longer than this is logged in pieces, as Docker does.
pub const MAX_LINE: usize = 16 * 1024;

/// Cuts one stream's output into lines. Keeps at most [`MAX_LINE`] bytes.
#[derive(Debug)]
pub struct LineSplitter {
    stream: StdStream,
    /// The beginning of a line whose end has not come.
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
    /// The sink's first error; the other lines were logged.
    pub fn feed(&mut self, bytes: &[u8], now: Timestamp, sink: &mut dyn LogSink) -> io::Result<()> {
        let mut result = Ok(());
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            let used = match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    let written = self.emit(&bytes[..end], false, now, sink);
                    result = result.and(written);
                    end + 1
                }
                None if bytes.len() > room => {
                    let written = self.emit(&bytes[..room], true, now, sink);
                    result = result.and(written);
                    room
                }
                None => {
                    self.rest.extend_from_slice(bytes);
                    bytes.len()
                }
            };
            bytes = &bytes[used..];
        }
        result
    }

    /// The stream has ended: logs what is left without a newline.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(&mut self, now: Timestamp, sink: &mut dyn LogSink) -> io::Result<()> {
        if self.rest.is_empty() { Ok(()) } else { self.emit(b"", true, now, sink) }
    }

    fn emit(
        &mut self,
        tail: &[u8],
        partial: bool,
        now: Timestamp,
        sink: &mut dyn LogSink,
    ) -> io::Result<()> {
        let mut record = Record { stream: self.stream, time: now, line: tail, partial };
        if self.rest.is_empty() {
            return sink.write(&record);
        }
        self.rest.extend_from_slice(tail);
        record.line = &self.rest;
        let written = sink.write(&record);
        self.rest.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Seen(Vec<(Vec<u8>, bool)>);

    impl LogSink for Seen {
        fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
            self.0.push((record.line.to_vec(), record.partial));
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn dropped(&self) -> u64 {
            0
        }
    }

    fn cut(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut seen = Seen::default();
        let mut splitter = LineSplitter::new(StdStream::Stdout);
        for chunk in chunks {
            splitter.feed(chunk, Timestamp::NEVER, &mut seen).unwrap();
        }
        splitter.finish(Timestamp::NEVER, &mut seen).unwrap();
        seen.0
    }

    #[test]
    fn lines_are_joined_across_chunks() {
        let lines = cut(&[b"a\nb", b"c\n\n", b"d"]);
        let expected: Vec<(Vec<u8>, bool)> = vec![
            (b"a".into(), false),
            (b"bc".into(), false),
            (b"".into(), false),
            (b"d".into(), true),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let mut long = vec![b'x'; MAX_LINE * 2 + 5];
        long.push(b'\n');
        let sizes: Vec<(usize, bool)> = cut(&[&long]).iter().map(|(l, p)| (l.len(), *p)).collect();
        assert_eq!(sizes, [(MAX_LINE, true), (MAX_LINE, true), (5, false)]);
        let mut exact = vec![b'x'; MAX_LINE];
        exact.push(b'\n');
        assert_eq!(cut(&[&exact]).len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn nothing_is_lost_or_added(
            chunks in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40_000), 0..4)
        ) {
            let all: Vec<u8> = chunks.concat();
            let refs: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let mut joined = Vec::new();
            for (line, partial) in cut(&refs) {
                prop_assert!(line.len() <= MAX_LINE);
                joined.extend_from_slice(&line);
                if !partial { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, all);
        }
    }
}
