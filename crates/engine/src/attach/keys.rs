//! The keys that detach a client: parsing them, and finding them in what the
//! client types. Pure.

/// `ctrl-p,ctrl-q`.
pub const DEFAULT: [u8; 2] = [16, 17];

/// A text that names no keys; Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid escape keys provided: Unknown character: '{0}'")]
pub struct KeysError(String);

/// Reads `ctrl-p,ctrl-q`, `a,ctrl-]`: single characters, and `ctrl-` with a
/// letter or one of `@[\]^_`, separated by commas. An empty text is none.
///
/// # Errors
/// When a part is neither.
pub fn parse(text: &str) -> Result<Vec<u8>, KeysError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|key| {
            let wrong = || KeysError(key.to_owned());
            if let [byte] = key.as_bytes() {
                return Ok(*byte);
            }
            match key.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
                Some(b"@") => Ok(0),
                Some([sign @ b'['..=b'_']) => Ok(sign - b'[' + 27),
                _ => Err(wrong()),
            }
        })
        .collect()
}

/// Finds the keys in a stream of bytes, also across its chunks. Bytes that
/// may be the beginning of the keys are held back until it is clear.
#[derive(Debug, Clone)]
pub struct Scanner {
    keys: Vec<u8>,
    /// How many of the keys have been seen in a row, and are held back.
    matched: usize,
}

/// What a chunk of input turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// What goes to the process.
    pub pass: Vec<u8>,
    /// Whether the keys were complete; nothing after them counts.
    pub detached: bool,
}

impl Scanner {
    /// A scanner for these keys; with none it passes everything.
    #[must_use]
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes the next chunk.
    pub fn scan(&mut self, chunk: &[u8]) -> Scanned {
        if self.keys.is_empty() {
            return Scanned { pass: chunk.to_vec(), detached: false };
        }
        let mut pass = Vec::with_capacity(chunk.len() + self.matched);
        for &byte in chunk {
            while self.matched > 0 && self.keys[self.matched] != byte {
                // Let go of as many held bytes as needed for the rest to be
                // a beginning of the keys again.
                let held = self.matched;
                let keep = (1..held).find(|&n| self.keys[n..held] == self.keys[..held - n]);
                let go = keep.unwrap_or(held);
                pass.extend_from_slice(&self.keys[..go]);
                self.matched = held - go;
            }
            if self.keys[self.matched] == byte {
                self.matched += 1;
            } else {
                pass.push(byte);
            }
            if self.matched == self.keys.len() {
                self.matched = 0;
                return Scanned { pass, detached: true };
            }
        }
        Scanned { pass, detached: false }
    }

    /// What is still held back when the input ends.
    pub fn finish(&mut self) -> Vec<u8> {
        let rest = self.keys[..self.matched].to_vec();
        self.matched = 0;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_read() {
        assert_eq!(parse("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(
            parse("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_"),
            Ok(vec![b'a', 0, 27, 28, 29, 30, 31])
        );
        assert_eq!(parse(""), Ok(vec![]));
        for bad in ["ctrl-A", "ctrl-", "ab", "ctrl-p,,", "ctrl-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    fn scan_all(keys: &[u8], chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut scanner = Scanner::new(keys.to_vec());
        let mut out = Vec::new();
        for chunk in chunks {
            let s = scanner.scan(chunk);
            out.extend(s.pass);
            if s.detached {
                return (out, true);
            }
        }
        out.extend(scanner.finish());
        (out, false)
    }

    #[test]
    fn keys_are_found_across_chunks() {
        let keys = [16, 17];
        assert_eq!(scan_all(&keys, &[b"ab\x10", b"\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(scan_all(&keys, &[b"\x10x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(scan_all(&keys, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(scan_all(&keys, &[b"\x10"]), (b"\x10".to_vec(), false));
        assert_eq!(scan_all(b"aab", &[b"aa", b"ab"]), (b"a".to_vec(), true));
        assert_eq!(scan_all(&[], &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    proptest! {
        /// Whatever the chunks, the result is that of a search in the whole.
        #[test]
        fn same_as_a_search(
            keys in prop::collection::vec(0u8..3, 1..4),
            input in prop::collection::vec(0u8..3, 0..40),
            cut in 0usize..40,
        ) {
            let cut = cut.min(input.len());
            let (got, detached) = scan_all(&keys, &[&input[..cut], &input[cut..]]);
            match input.windows(keys.len()).position(|w| w == keys) {
                Some(at) => {
                    prop_assert!(detached);
                    prop_assert_eq!(got, &input[..at]);
                }
                None => {
                    prop_assert!(!detached);
                    prop_assert_eq!(got, input);
                }
            }
        }
    }
}
