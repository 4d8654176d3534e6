//! Test hosts in network namespaces, event waits and fault points.
#![forbid(unsafe_code)]
