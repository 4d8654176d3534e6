//! The status line of `docker ps`.
