//! Volumes: the driver seam and the local driver.
#![forbid(unsafe_code)]
