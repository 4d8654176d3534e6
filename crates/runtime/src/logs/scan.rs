//! One log file, read forwards from anywhere and searched from its end.
//!
//! Be aware:
//! - The end may be torn (a crash) or half-written (the writer is at it): what
//!   is no whole record yet stays in the buffer, and the next call looks again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sampan_types::Timestamp;

use super::json::{self, Decoded};
use super::local::{self, MAX_RECORD};
use super::{LogEntry, StdStream};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// A line longer than this is none of ours: it is skipped.
const MAX_LINE: usize = 4 << 20;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Local,
}

/// Which records are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub stdout: bool,
    pub stderr: bool,
}

impl Wanted {
    /// Whether all records after this one are too late.
    pub fn is_past(&self, time: Timestamp) -> bool {
        self.until.is_some_and(|until| time > until)
    }

    fn is_before(&self, time: Timestamp) -> bool {
        self.since.is_some_and(|since| time < since)
    }

    pub fn matches(&self, stream: StdStream, time: Timestamp) -> bool {
        let stream = match stream {
            StdStream::Stdout => self.stdout,
            StdStream::Stderr => self.stderr,
        };
        stream && !self.is_before(time) && !self.is_past(time)
    }
}

/// A log file, open.
pub(super) struct LogFile {
    input: Input,
    format: Format,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are used up.
    used: usize,
    /// Where in the file the buffer ends (plain files).
    offset: u64,
    attrs: Arc<BTreeMap<String, String>>,
    /// The rest of a line that is too long is being skipped.
    skipping: bool,
    /// Nothing more can be read from it.
    damaged: bool,
}

enum Input {
    Plain(File),
    Compressed(Box<MultiGzDecoder<File>>),
}

impl LogFile {
    pub fn new(file: File, compressed: bool, format: Format) -> Self {
        let input = if compressed {
            Input::Compressed(Box::new(MultiGzDecoder::new(file)))
        } else {
            Input::Plain(file)
        };
        Self {
            input,
            format,
            buffer: Vec::new(),
            used: 0,
            offset: 0,
            attrs: Arc::default(),
            skipping: false,
            damaged: false,
        }
    }

    /// The file, if its bytes are the records.
    pub fn plain(&self) -> Option<&File> {
        match &self.input {
            Input::Plain(file) => Some(file),
            Input::Compressed(_) => None,
        }
    }

    /// When it was written last.
    pub fn modified(&self) -> Option<Timestamp> {
        let file = match &self.input {
            Input::Plain(file) => file,
            Input::Compressed(decoder) => decoder.get_ref(),
        };
        file.metadata().and_then(|m| m.modified()).ok().map(Timestamp::from)
    }

    /// Begins anew when the file was emptied meanwhile.
    pub fn restart_if_emptied(&mut self) -> io::Result<()> {
        let Some(file) = self.plain() else { return Ok(()) };
        if file.metadata()?.len() < self.offset {
            self.restart_at(0);
        }
        Ok(())
    }

    fn restart_at(&mut self, offset: u64) {
        self.buffer.clear();
        self.used = 0;
        self.offset = offset;
        self.skipping = false;
        self.damaged = false;
    }

    /// The next record; `None` at the end of what is written by now.
    pub fn next(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            if self.damaged {
                return Ok(None);
            }
            if let Some(entry) = self.parse() {
                return Ok(Some(entry));
            }
            if !self.damaged && !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let read = match &mut self.input {
            Input::Plain(file) => file.read_at(&mut self.buffer[old..], self.offset),
            Input::Compressed(decoder) => decoder.read(&mut self.buffer[old..]),
        };
        let count = match read {
            Ok(count) => count,
            // The end of a compressed file is missing: what came before counts.
            Err(e) if matches!(self.input, Input::Compressed(_)) => {
                tracing::warn!(error = %e, "a compressed log file is damaged");
                self.damaged = true;
                0
            }
            Err(e) => {
                self.buffer.truncate(old);
                return Err(e);
            }
        };
        self.buffer.truncate(old + count);
        self.offset += count as u64;
        Ok(count > 0)
    }

    fn parse(&mut self) -> Option<LogEntry> {
        match self.format {
            Format::Json => self.parse_json(),
            Format::Local => self.parse_local(),
        }
    }

    fn parse_json(&mut self) -> Option<LogEntry> {
        loop {
            let rest = &self.buffer[self.used..];
            let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                if rest.len() > MAX_LINE {
                    self.used = self.buffer.len();
                    self.skipping = true;
                }
                return None;
            };
            let decoded = json::decode(&rest[..end]);
            self.used += end + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if let Some(decoded) = decoded {
                return Some(self.entry(decoded));
            }
        }
    }

    fn parse_local(&mut self) -> Option<LogEntry> {
        if self.used == 0 && self.offset == self.buffer.len() as u64 {
            let Some((attrs, size)) = local::decode_header(&self.buffer) else {
                // Not all of it is here, or it is no log of ours.
                self.damaged = self.buffer.len() >= local::MAGIC.len()
                    && !self.buffer.starts_with(local::MAGIC);
                return None;
            };
            self.attrs = Arc::new(attrs);
            self.used = size;
        }
        match local::decode(&self.buffer[self.used..]) {
            Ok(Some((decoded, size))) => {
                self.used += size;
                Some(self.entry(decoded))
            }
            Ok(None) => None,
            Err(local::Damaged) => {
                self.damaged = true;
                None
            }
        }
    }

    fn entry(&mut self, decoded: Decoded) -> LogEntry {
        if let Some(attrs) = decoded.attrs
            && *self.attrs != attrs
        {
            self.attrs = Arc::new(attrs);
        }
        LogEntry {
            stream: decoded.stream,
            time: decoded.time,
            line: Bytes::from(decoded.line),
            attrs: Arc::clone(&self.attrs),
        }
    }

    /// Places the file so that `want` records that are wanted follow, or all
    /// when it has fewer; gives their number.
    pub fn seek_tail(&mut self, want: usize, wanted: &Wanted) -> io::Result<Tail> {
        if let Some(file) = self.plain() {
            let size = file.metadata()?.len();
            let found = match self.format {
                Format::Json => tail_json(file, size, want, wanted)?,
                Format::Local => tail_local(file, size, want, wanted)?,
            };
            if let Some((offset, found, complete)) = found {
                self.load_header()?;
                self.restart_at(offset);
                return Ok(Tail { found, skip: 0, complete });
            }
        }
        // From the beginning: count, then come back.
        let mut count = 0;
        while let Some(entry) = self.next()? {
            count += usize::from(wanted.matches(entry.stream, entry.time));
        }
        match &mut self.input {
            Input::Plain(_) => {}
            Input::Compressed(decoder) => {
                let mut file = decoder.get_ref().try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                **decoder = MultiGzDecoder::new(file);
            }
        }
        self.restart_at(0);
        Ok(Tail {
            found: count.min(want),
            skip: count.saturating_sub(want),
            complete: count >= want,
        })
    }

    /// The attributes of a local file are at its beginning only.
    fn load_header(&mut self) -> io::Result<()> {
        if self.format == Format::Local && self.offset == 0 {
            self.fill()?;
            if let Some((attrs, _)) = local::decode_header(&self.buffer) {
                self.attrs = Arc::new(attrs);
            }
        }
        Ok(())
    }
}

/// What [`LogFile::seek_tail`] found.
pub(super) struct Tail {
    /// Wanted records from here to the end, at most as many as asked for.
    pub found: usize,
    /// Wanted records to pass over first.
    pub skip: usize,
    /// No older file needs to be looked at.
    pub complete: bool,
}

type Found = Option<(u64, usize, bool)>;

/// Goes through a file from its end, a chunk at a time. `cut` takes records
/// from the end of the bytes given: the size that is left, and whether to stop.
fn backwards(
    file: &File,
    size: u64,
    mut cut: impl FnMut(&[u8], u64, bool) -> Cut,
) -> io::Result<Option<()>> {
    let mut start = size;
    let mut carry: Vec<u8> = Vec::new();
    loop {
        let step = start.min(CHUNK as u64);
        start -= step;
        let mut bytes = vec![0; usize::try_from(step).unwrap_or(CHUNK)];
        file.read_exact_at(&mut bytes, start)?;
        bytes.extend_from_slice(&carry);
        match cut(&bytes, start, start == 0) {
            Cut::Done => return Ok(Some(())),
            Cut::Confused => return Ok(None),
            Cut::Left(left) => {
                if start == 0 {
                    return Ok(Some(()));
                }
                bytes.truncate(left);
                if bytes.len() > MAX_LINE {
                    return Ok(None);
                }
                carry = bytes;
            }
        }
    }
}

enum Cut {
    Done,
    Left(usize),
    Confused,
}

fn tail_json(file: &File, size: u64, want: usize, wanted: &Wanted) -> io::Result<Found> {
    let (mut position, mut found, mut complete) = (size, 0, want == 0);
    let mut first = true;
    let done = backwards(file, size, |bytes, start, at_beginning| {
        let mut end = bytes.len();
        if std::mem::take(&mut first) {
            // Behind the last newline is nothing, or a record not yet whole.
            match bytes.iter().rposition(|b| *b == b'\n') {
                Some(newline) => end = newline + 1,
                None => return if at_beginning { Cut::Left(0) } else { Cut::Confused },
            }
            position = start + end as u64;
            if complete {
                return Cut::Done;
            }
        }
        while end > 0 {
            // `end` is just behind a newline.
            let line_start = match bytes[..end - 1].iter().rposition(|b| *b == b'\n') {
                Some(newline) => newline + 1,
                None if at_beginning => 0,
                None => break,
            };
            if let Some(record) = json::decode(&bytes[line_start..end - 1]) {
                if wanted.is_before(record.time) {
                    complete = true;
                    return Cut::Done;
                }
                if wanted.matches(record.stream, record.time) {
                    found += 1;
                    position = start + line_start as u64;
                }
            }
            end = line_start;
            if found == want {
                complete = true;
                return Cut::Done;
            }
        }
        Cut::Left(end)
    })?;
    Ok(done.map(|()| (position, found, complete)))
}

fn tail_local(file: &File, size: u64, want: usize, wanted: &Wanted) -> io::Result<Found> {
    let mut head = vec![0; usize::try_from(size.min(CHUNK as u64)).unwrap_or(CHUNK)];
    file.read_exact_at(&mut head, 0)?;
    let Some((_, header)) = local::decode_header(&head) else { return Ok(None) };
    let header = header as u64;
    let (mut position, mut found, mut complete) = (size, 0, want == 0);
    if complete {
        // Whether the end is whole is only known by looking at the last record.
        let length = (size - header).min(MAX_RECORD as u64 + 8);
        let mut last = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut last, size - length)?;
        let whole = last.is_empty() || last_record(&last).is_some();
        return Ok(whole.then_some((size, 0, true)));
    }
    let done = backwards(file, size, |bytes, start, at_beginning| {
        let first = usize::try_from(header.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut end = bytes.len();
        while end > first {
            let Some((record, length)) = last_record(&bytes[first..end]) else {
                // Its beginning is in the chunk before, or the end is torn.
                let more = !at_beginning && end - first < MAX_RECORD + 8;
                return if more { Cut::Left(end) } else { Cut::Confused };
            };
            if wanted.is_before(record.time) {
                complete = true;
                return Cut::Done;
            }
            end -= length;
            if wanted.matches(record.stream, record.time) {
                found += 1;
                position = start + end as u64;
                if found == want {
                    complete = true;
                    return Cut::Done;
                }
            }
        }
        if at_beginning { Cut::Done } else { Cut::Left(end) }
    })?;
    Ok(done.map(|()| (position, found, complete)))
}

/// The record that ends with these bytes, and its size.
fn last_record(bytes: &[u8]) -> Option<(Decoded, usize)> {
    let size = local::size_of_last(bytes)?;
    let start = bytes.len().checked_sub(size)?;
    match local::decode(&bytes[start..]) {
        Ok(Some((decoded, used))) if used == size => Some((decoded, size)),
        _ => None,
    }
}
