//! The kernel's interfaces that the engine speaks directly: files that
//! survive a crash, mounts, namespaces, netlink, nf_tables.
//!
//! Be aware:
//! - This is the only crate in which `unsafe` is allowed, each use with its
//!   reason.
//! - Functions block for as long as the kernel takes; callers on the async
//!   runtime decide which of them need a blocking thread.

pub mod allocator;
pub mod arp;
mod blockdev;
pub mod bpf;
pub mod btrfs;
pub mod conntrack;
pub mod datagram;
pub mod devmapper;
pub mod fault;
pub mod file;
pub mod fsattr;
pub mod fscrypt;
pub mod fsid;
pub mod idmap;
pub mod inroot;
mod ioctl;
pub mod iptables;
pub mod loopdev;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod overlay;
pub mod port;
pub mod process;
pub mod quota;
pub mod sharing;
pub mod signal;
pub mod sockets;
mod syscall;
pub mod sysctl;
pub mod tree;
pub mod watch;
pub mod xattr;
