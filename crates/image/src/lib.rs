//! Images: references, registry client, content store, layers, snapshots.
#![forbid(unsafe_code)]
