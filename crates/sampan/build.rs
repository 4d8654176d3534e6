//! Links the program at a fixed address.
//!
//! A position-independent static program relocates itself at each start: of
//! `sampan` that would be 0.9 MB of constants, written and so no longer shared,
//! in every shim. `-no-pie` comes after rustc's own `-static-pie` and wins.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rustc-link-arg-bins=-static");
}
