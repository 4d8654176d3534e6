//! The Docker Engine API over unix sockets and mutual TLS.
#![forbid(unsafe_code)]
