//! Binds that share mounts with the host's.
//!
//! libcontainer gives all of a container's mounts one propagation: with one
//! shared bind, others would share too, and what it mounts in the container
//! while it makes it would appear on the host. So it makes all of them private,
//! and those that are to share are given the host's peers afterwards.
//!
//! Be aware:
//! - The host's mounts are looked for before there is a container, and held by
//!   descriptors that its process inherits and execve closes.
//! - What else is mounted in a shared bind for the container stays its own.

use std::path::PathBuf;

use sampan_sys::sharing::Origin;

use crate::protocol::Shared;

/// A mount of the container with what it is made of on the host.
pub(super) struct Join {
    origin: Origin,
    /// In the container.
    target: PathBuf,
    slave: bool,
}

/// Looks on the host for what is to be shared with.
pub(super) fn find(shared: &[Shared]) -> Result<Vec<Join>, String> {
    let find = |bind: &Shared| {
        let origin = Origin::of(&bind.source, bind.recursive)
            .map_err(|e| format!("looking for the mounts of {}: {e}", bind.source.display()))?;
        Ok(Join { origin, target: bind.target.clone(), slave: bind.slave })
    };
    shared.iter().map(find).collect()
}

/// Lets the container's mounts share, in its namespace.
pub(super) fn join(joins: &[Join]) -> Result<(), String> {
    joins.iter().try_for_each(|join| {
        let joined = join.origin.join(&join.target, join.slave);
        joined.map_err(|e| format!("sharing the mount {}: {e}", join.target.display()))
    })
}
