//! The largest JSON body of the API, from whoever can reach the socket.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = sampan_api::parse_create_body(bytes);
});
