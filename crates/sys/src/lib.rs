//! The kernel's interfaces: namespaces, netlink, nf_tables, mounts. The only crate with unsafe code.
