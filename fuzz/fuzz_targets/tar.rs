//! Archives of layers, of `docker cp` and of `docker import`: read to the end
//! or refused within small limits, compressed or not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampan_image::{Limits, archive};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { bytes: 16 << 20, entries: 10_000, ..Limits::default() };
    let _ = archive::check(std::io::Cursor::new(bytes.to_vec()), limits);
});
