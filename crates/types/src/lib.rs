//! Typed ids, names, errors and the Docker API's data types. No I/O.
#![forbid(unsafe_code)]
