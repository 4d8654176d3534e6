//! The `sampan` command: a thin client of the Engine API.
#![forbid(unsafe_code)]

mod create;
mod table;
mod template;
mod units;
