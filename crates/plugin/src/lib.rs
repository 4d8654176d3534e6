//! Plugins of Docker's protocol: programs of others on a unix socket that drive
//! networks, addresses and volumes.
#![forbid(unsafe_code)]
