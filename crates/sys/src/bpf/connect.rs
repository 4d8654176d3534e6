//! The program that leads connections of the host's own programs by IPv6 to
//! published ports (`bpf/connect.bpf.c`), its maps and its hooks.
//!
//! Be aware:
//! - It is hung at the root of the control groups, and its hooks have names in
//!   a small bpf file system of the instance's own: there it survives the
//!   process, and with the mount namespace it goes. The next process puts its
//!   own program in the place of each in one step ([`Connect::attach`]).
//! - What sockets were told of their peers is kept beside the hooks, and taken
//!   over as well.

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};

use super::call;
use super::object::{Aligned, Loader, ProgramError};
use crate::mount;

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/connect.bpf.o")));

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const SOCK_ADDR: u32 = 18;
/// `BPF_FS_MAGIC`.
const BPF_FS: u32 = 0xcafe_4a11;

/// The hooks: file, function, attach type (`enum bpf_attach_type`). Names are
/// shown before any socket has one, and until none has.
const HOOKS: [(&str, &str, u32); 4] = [
    ("getpeername6", "sampan_getpeer", 30),
    ("recvmsg6", "sampan_recvmsg", 20),
    ("sendmsg6", "sampan_sendmsg", 15),
    ("connect6", "sampan_connect", 11),
];

/// `struct peer`, `struct endpoint`: the file of the map bears the sizes, so
/// that a map of another make is not taken for it.
const PEER: usize = 32;
const ENDPOINT: usize = 20;
const NAMES: &str = "names-32-20";

/// Where a program of the host connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// TCP (6) or UDP (17).
    pub protocol: u8,
    /// An address of the host; the unspecified one for all of them.
    pub address: Ipv6Addr,
    /// The port.
    pub port: u16,
}

impl Place {
    /// `struct place`.
    fn bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.address.octets());
        bytes[16..18].copy_from_slice(&self.port.to_be_bytes());
        bytes[18..].copy_from_slice(&u16::from(self.protocol).to_ne_bytes());
        bytes
    }
}

/// The loaded program.
#[derive(Debug)]
pub struct Connect {
    /// One for each of [`HOOKS`].
    programs: Vec<OwnedFd>,
    endpoints: OwnedFd,
    own: OwnedFd,
    names: OwnedFd,
}

impl Connect {
    /// Loads the program for sockets of the namespace with this cookie
    /// ([`crate::netns::cookie`]). `dir` is that of [`Connect::attach`].
    ///
    /// # Errors
    /// [`ProgramError`]: without the privilege, or on a kernel before 5.14.
    pub fn load(home: u64, dir: &Path) -> Result<Self, ProgramError> {
        let mut loader = Loader::read("connecting", &OBJECT.0)?;
        let settings = loader.map::<4, 8>("home")?;
        call::set(&settings, 0_u32.to_ne_bytes(), home.to_ne_bytes())
            .map_err(loader.refused("set the namespace"))?;
        let endpoints = loader.map::<20, ENDPOINT>("endpoints")?;
        let own = loader.map::<16, 4>("own")?;
        let names = match call::pinned(&dir.join(NAMES)) {
            Ok(names) => names,
            Err(_) => loader.map::<PEER, ENDPOINT>("names")?,
        };
        loader.refer(&[
            ("home", &settings),
            ("endpoints", &endpoints),
            ("own", &own),
            ("names", &names),
        ])?;
        let load = |(_, function, attach_type)| loader.load(SOCK_ADDR, attach_type, function);
        let programs = HOOKS.into_iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { programs, endpoints, own, names })
    }

    /// What goes to `place` is led to an address, of a container or in the
    /// form `::ffff:a.b.c.d`, and a port. With port 0, it is left alone.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set(&self, place: Place, address: Ipv6Addr, port: u16) -> io::Result<()> {
        let mut endpoint = [0; ENDPOINT];
        endpoint[..16].copy_from_slice(&address.octets());
        endpoint[16..18].copy_from_slice(&port.to_be_bytes());
        call::set(&self.endpoints, place.bytes(), endpoint)
    }

    /// What goes to `place` goes there. Absence is success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove(&self, place: Place) -> io::Result<()> {
        call::remove(&self.endpoints, place.bytes())
    }

    /// `address` is the host's.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_own(&self, address: Ipv6Addr) -> io::Result<()> {
        call::set(&self.own, address.octets(), 1_u32.to_ne_bytes())
    }

    /// `address` is not the host's any more. Absence is success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove_own(&self, address: Ipv6Addr) -> io::Result<()> {
        call::remove(&self.own, address.octets())
    }

    /// Hangs the program up for the whole machine, with the hooks' names in
    /// `dir`, where a bpf file system is mounted unless there is one. Where an
    /// earlier process did the same, its program is replaced.
    ///
    /// # Errors
    /// Those of mount(2) and bpf(2): `EPERM` when somebody has the hooks for
    /// himself.
    pub fn attach(&self, dir: &Path) -> io::Result<()> {
        if !is_mounted(dir) {
            fs::create_dir_all(dir)?;
            mount::mount_fs("bpf", "bpf", dir, "mode=0700")?;
        }
        let names = dir.join(NAMES);
        if !names.exists() {
            call::pin(&self.names, &names)?;
        }
        let root = mount::detached(c"cgroup2")?;
        for ((file, _, attach_type), program) in HOOKS.into_iter().zip(&self.programs) {
            hang(&dir.join(file), program, root.as_fd(), attach_type)?;
        }
        Ok(())
    }
}

fn hang(path: &Path, program: &OwnedFd, root: BorrowedFd<'_>, attach_type: u32) -> io::Result<()> {
    if let Ok(link) = call::pinned(path) {
        if call::update_link(&link, program).is_ok() {
            return Ok(());
        }
        // Somebody took it off, and left the name.
        fs::remove_file(path)?;
    }
    call::pin(&call::link(program, root, attach_type)?, path)
}

/// Takes off what [`Connect::attach`] hung up with names in `dir`, by
/// whichever process, and the file system with them. Absence is success.
///
/// # Errors
/// Those of bpf(2) and umount(2), after everything was tried.
pub fn detach_connect(dir: &Path) -> io::Result<()> {
    if !is_mounted(dir) {
        return absent_ok(fs::remove_dir(dir));
    }
    let mut result = Ok(());
    for (file, ..) in HOOKS.into_iter().rev() {
        let path = dir.join(file);
        if let Ok(link) = call::pinned(&path) {
            result = result.and(call::detach_link(&link));
        }
        result = result.and(absent_ok(fs::remove_file(&path)));
    }
    // Those of another make as well. What else is there, the kernel put there.
    let is_names =
        |path: &Path| path.file_name().is_some_and(|f| f.as_encoded_bytes().starts_with(b"names-"));
    let found: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).collect();
    for path in found.into_iter().filter(|path| is_names(path)) {
        result = result.and(absent_ok(fs::remove_file(path)));
    }
    result.and(mount::unmount(dir)).and(absent_ok(fs::remove_dir(dir)))
}

/// Whether hooks have names in `dir`: by an earlier process, or this one.
#[must_use]
pub fn is_connect_attached(dir: &Path) -> bool {
    HOOKS.into_iter().any(|(file, ..)| dir.join(file).exists())
}

fn is_mounted(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|s| s.filesystem_type() == FsType(libc::c_long::from(BPF_FS)))
}

fn absent_ok(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
