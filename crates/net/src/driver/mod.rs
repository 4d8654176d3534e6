//! The driver seam.
