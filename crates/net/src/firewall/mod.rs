//! The firewall seam.
