//! The `sampan` command: a thin client of the Engine API.
#![forbid(unsafe_code)]

mod connect;
mod create;
mod table;
mod template;
mod units;
