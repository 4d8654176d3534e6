//! Docker's `json-file` format: one JSON object a line.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use sampan_types::Timestamp;

use super::rotate::{RotatingFile, Rotation};
use super::{LogSink, Record, StdStream};

/// Writes `{"log":"…","stream":"…","attrs":{…},"time":"…"}` lines.
pub(super) struct JsonSink {
    file: RotatingFile,
    /// `,"attrs":{…}`, or nothing.
    attrs: Vec<u8>,
}

impl JsonSink {
    pub fn open(
        path: &Path,
        rotation: Rotation,
        attrs: &BTreeMap<String, String>,
    ) -> io::Result<Self> {
        let mut text = Vec::new();
        if !attrs.is_empty() {
            text.extend_from_slice(b",\"attrs\":");
            serde_json::to_writer(&mut text, attrs)?;
        }
        Ok(Self { file: RotatingFile::open(path, rotation, Vec::new())?, attrs: text })
    }
}

impl LogSink for JsonSink {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let attrs = &self.attrs;
        self.file.write(|out| encode(out, record, attrs))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn dropped(&self) -> u64 {
        self.file.dropped()
    }
}

fn encode(out: &mut Vec<u8>, record: &Record<'_>, attrs: &[u8]) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, record.line);
    if !record.partial {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(record.stream.as_str().as_bytes());
    out.push(b'"');
    out.extend_from_slice(attrs);
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(record.time.to_string().as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// As Docker's writer: `<`, `>` and `&` and the two line separators as `\u`,
/// bytes that are no UTF-8 as the replacement character.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        escape_str(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            for _ in chunk.invalid() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
    }
}

fn escape_str(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    for (i, b) in bytes.iter().enumerate() {
        let plain = matches!(b, 0x20..=0x7e if !b"\"\\<>&".contains(b)) || *b == 0x7f || *b >= 0x80;
        let separator = *b == 0xe2 && matches!(bytes.get(i + 1..i + 3), Some([0x80, 0xa8 | 0xa9]));
        if plain && !separator {
            continue;
        }
        if i < start {
            continue;
        }
        out.extend_from_slice(&bytes[start..i]);
        start = i + 1;
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => {
                out.extend_from_slice(if bytes[i + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                start = i + 3;
            }
            _ => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[start..]);
}

/// What one line of the file says; the text borrows nothing.
#[derive(Debug, serde::Deserialize)]
struct Line {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
    time: String,
}

/// A line read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub stream: StdStream,
    pub time: Timestamp,
    pub line: Vec<u8>,
    pub attrs: Option<BTreeMap<String, String>>,
}

/// Reads one line; `None` when it is torn or foreign.
pub(super) fn decode(line: &[u8]) -> Option<Decoded> {
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(Decoded {
        stream: if line.stream == "stderr" { StdStream::Stderr } else { StdStream::Stdout },
        time: Timestamp::parse(&line.time).ok()?,
        line: line.log.into_bytes(),
        attrs: line.attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &[u8], partial: bool, attrs: &[u8]) -> String {
        let mut out = Vec::new();
        let time = Timestamp::from_nanos(1_700_000_000_120_000_000);
        let record = Record { stream: StdStream::Stderr, time, line: text, partial };
        encode(&mut out, &record, attrs);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_format_is_dockers() {
        assert_eq!(
            line(b"a \"b\" <c>\t\x01\x1b[0m\r", false, b""),
            concat!(
                r#"{"log":"a \"b\" \u003cc\u003e\t\u0001\u001b[0m\r\n","#,
                r#""stream":"stderr","time":"2023-11-14T22:13:20.12Z"}"#,
                "\n"
            )
        );
        assert_eq!(
            line(b"x", true, b",\"attrs\":{\"k\":\"v\"}"),
            "{\"log\":\"x\",\"stream\":\"stderr\",\"attrs\":{\"k\":\"v\"},\"time\":\"2023-11-14T22:13:20.12Z\"}\n"
        );
        assert!(line("\u{2028}ä\u{2029}".as_bytes(), true, b"").contains(r#""\u2028ä\u2029""#));
        assert!(line(b"\xff\xfea", true, b"").contains(r#""\ufffd\ufffda""#));
    }

    #[test]
    fn torn_lines_are_no_lines() {
        let whole = line(b"abc", false, b"");
        assert!(decode(whole.as_bytes()).is_some());
        for end in 0..whole.len() - 2 {
            assert_eq!(decode(&whole.as_bytes()[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(text in any::<String>()) {
            let text = text.replace('\n', "");
            let back = decode(line(text.as_bytes(), false, b"").as_bytes()).unwrap();
            prop_assert_eq!(back.line, format!("{text}\n").into_bytes());
        }
    }
}
