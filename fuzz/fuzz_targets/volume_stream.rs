//! Streams of volumes from other hosts: their frames are read to the end or
//! refused. Without the packing, which would hide them from the fuzzer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = sampan_volume::transfer::check_frames(bytes);
});
