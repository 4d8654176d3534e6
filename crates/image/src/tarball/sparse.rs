//! Files with holes: GNU tar's four ways of writing them.
//! Source: "Storing Sparse Files" in the GNU tar manual.

use std::io::Read;

use super::BLOCK;
use super::reader::{TarReader, field, lossy, malformed};
use crate::archive::ArchiveError;

/// Data at an offset in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// A file's map.
pub(super) struct Map {
    pub segments: Vec<Segment>,
    /// Bytes of the file, holes included.
    pub size: u64,
    pub name: Option<Vec<u8>>,
}

/// As many as anybody needs; a bound on memory.
const MOST: usize = 1 << 20;

impl Map {
    /// That segments follow each other, lie within the file, and are as long
    /// as the data.
    pub(super) fn check(&self, data: u64, most: u64, path: &[u8]) -> Result<(), ArchiveError> {
        let (mut end, mut total) = (0u64, 0u64);
        for segment in &self.segments {
            let next = segment.offset.checked_add(segment.length).filter(|n| *n <= self.size);
            match next {
                Some(next) if segment.offset >= end => end = next,
                _ => return Err(malformed(format!("the map of {} is wrong", lossy(path)))),
            }
            total += segment.length;
        }
        if total != data {
            return Err(malformed(format!("the map of {} is wrong", lossy(path))));
        }
        if self.size > most {
            return Err(ArchiveError::TooLarge(format!("{} has {} bytes", lossy(path), self.size)));
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), ArchiveError> {
        if self.segments.len() == MOST {
            return Err(ArchiveError::TooLarge("a sparse file's map is too long".into()));
        }
        self.segments.push(Segment { offset, length });
        Ok(())
    }
}

/// Type `S`: four segments in the header, more in blocks behind it.
pub(super) fn old_gnu(
    header: &[u8; BLOCK],
    mut block: impl FnMut() -> Result<[u8; BLOCK], ArchiveError>,
) -> Result<Map, ArchiveError> {
    let size = field(&header[483..495], "size")?;
    let mut map = Map { segments: Vec::new(), size, name: None };
    let mut more = header[482] != 0;
    segments(&header[386..482], &mut map)?;
    while more {
        let block = block()?;
        segments(&block[..504], &mut map)?;
        more = block[504] != 0;
    }
    Ok(map)
}

fn segments(fields: &[u8], map: &mut Map) -> Result<(), ArchiveError> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        map.push(field(&pair[..12], "offset")?, field(&pair[12..], "length")?)?;
    }
    Ok(())
}

/// What pax records declare: versions 0.0, 0.1 and 1.0.
#[derive(Default)]
pub(super) struct Declared {
    major: Option<u64>,
    size: Option<u64>,
    name: Option<Vec<u8>>,
    numbers: Vec<u64>,
    any: bool,
}

impl Declared {
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        self.any = true;
        let decimal = |text: &[u8]| -> Result<u64, ArchiveError> {
            std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| malformed("a sparse file's map is wrong".into()))
        };
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" | b"numbytes" => self.numbers.push(decimal(value)?),
            b"map" => {
                for number in value.split(|b| *b == b',') {
                    self.numbers.push(decimal(number)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The map, of which version 1.0 keeps the numbers before the data.
    pub(super) fn finish<R: Read>(
        self,
        reader: &mut TarReader<R>,
    ) -> Result<Option<Map>, ArchiveError> {
        if !self.any {
            return Ok(None);
        }
        let Some(size) = self.size else {
            return Err(malformed("a sparse file has no size".into()));
        };
        let numbers = if self.major == Some(1) { leading_numbers(reader)? } else { self.numbers };
        let mut map = Map { segments: Vec::new(), size, name: self.name };
        if numbers.len() % 2 != 0 {
            return Err(malformed("a sparse file's map is wrong".into()));
        }
        for pair in numbers.chunks_exact(2) {
            // An empty segment at the end only marks the size.
            if pair[1] > 0 {
                map.push(pair[0], pair[1])?;
            }
        }
        Ok(Some(map))
    }
}

/// Decimal numbers, one a line, the first of which counts the pairs; padded to
/// a whole block.
fn leading_numbers<R: Read>(reader: &mut TarReader<R>) -> Result<Vec<u64>, ArchiveError> {
    let wrong = || malformed("a sparse file's map is wrong".into());
    let (mut numbers, mut current, mut wanted) = (Vec::new(), None::<u64>, None::<usize>);
    loop {
        for byte in reader.data_block()? {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let value = current.unwrap_or(0).checked_mul(10);
                    current = Some(value.and_then(|v| v.checked_add(digit)).ok_or_else(wrong)?);
                }
                b'\n' => {
                    let number = current.take().ok_or_else(wrong)?;
                    match wanted {
                        None => {
                            let pairs = usize::try_from(number).ok().filter(|n| *n <= MOST);
                            wanted = Some(pairs.ok_or_else(wrong)? * 2);
                        }
                        Some(_) => numbers.push(number),
                    }
                }
                _ => return Err(wrong()),
            }
            if wanted == Some(numbers.len()) {
                return Ok(numbers);
            }
        }
    }
}
