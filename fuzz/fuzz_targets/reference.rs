//! Image references from users and manifests: parsing never panics, and what
//! is parsed prints to something that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sampan_image::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let printed = reference.to_string();
        assert_eq!(printed.parse::<Reference>().as_ref(), Ok(&reference), "{text:?}");
    }
});
