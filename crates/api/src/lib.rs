//! The Docker Engine API: HTTP/1.1 over unix sockets and mutual TLS, one
//! file of routes per noun.
//!
//! A request takes this way: `server` accepts and speaks HTTP, `gate` strips
//! the version prefix and puts the common headers on every answer, `routes`
//! turns paths, queries and bodies into calls of the engine, `body` and
//! `lenient` read what Docker's clients send, `hijack` takes a connection
//! over for attach and exec.
//!
//! Be aware:
//! - When a client disconnects, hyper drops the future of its request and the
//!   body of its answer. Streams are cancelled by that; whatever changes the
//!   world runs in a task of its own (`routes::run`) and goes on to its end.
//! - Credentials arrive in the header `X-Registry-Auth`. Headers and queries
//!   are never logged.
#![forbid(unsafe_code)]

mod body;
#[cfg(test)]
mod captured;
mod create;
mod error;
mod frame;
mod gate;
mod hijack;
mod lenient;
mod metrics;
mod query;
mod routes;
mod server;
mod version;

pub use body::MAX_JSON_BODY;
pub use create::{CreateBodyError, parse_create_body};
pub use metrics::{MetricsError, serve_metrics};
pub use server::{Address, ListenError, Listeners, TcpSecurity, TlsFiles, bind, serve};
pub use version::{MAX_API_VERSION, MIN_API_VERSION};
