//! Networks: address management, drivers, firewall, published ports.
#![forbid(unsafe_code)]
