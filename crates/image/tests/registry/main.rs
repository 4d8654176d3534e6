//! The registry client against a server that misbehaves on demand, and
//! against Debian's `docker-registry`. Nothing leaves loopback.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failing test is what they are for")]

mod auth;
mod debian;
mod fake;
mod hostile;
mod images;
mod pull;
mod push;
