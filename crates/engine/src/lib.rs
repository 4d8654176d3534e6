//! Container lifecycle: composes runtime, image, volume and net.
#![forbid(unsafe_code)]
