//! The program that leads frames between containers of one bridge network
//! past the bridge (`bpf/redirect.bpf.c`), and its maps.
//!
//! Be aware:
//! - Program and maps live as long as this value or any link with the program
//!   on it: when the process dies, what it set up goes on. Another process
//!   loads its own and takes the place on each link
//!   ([`crate::netlink::set_classifier`]).
//! - A neighbour's entry names a link by number. It has to go before the link
//!   does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use thiserror::Error;

/// Why there is no redirection, or an entry could not be changed.
#[derive(Debug, Error)]
pub enum RedirectError {
    /// The object or its maps.
    #[error("load the maps of the redirecting program: {0}")]
    Object(#[from] EbpfError),
    /// The kernel's verifier, or a kernel that has not what it needs.
    #[error("load the redirecting program: {0}")]
    Program(#[from] ProgramError),
    /// An entry of a map.
    #[error("change a map of the redirecting program: {0}")]
    Map(#[from] MapError),
    /// The compiled object lacks something: program and crate do not belong
    /// together.
    #[error("the redirecting program has no {0}")]
    Missing(&'static str),
    /// The kernel's answer about the program.
    #[error("ask for the redirecting program: {0}")]
    Io(#[from] io::Error),
}

/// `struct neighbour`: network, hardware address, two zero bytes.
type Neighbour = [u8; 12];

/// The loaded program.
#[derive(Debug)]
pub struct Redirect {
    /// Owns the program.
    ebpf: Ebpf,
    /// The program's number in the kernel.
    id: u32,
    networks: HashMap<MapData, u32, u32>,
    neighbours: HashMap<MapData, Neighbour, u32>,
}

impl Redirect {
    /// The program's name, by which its filters are known on a link.
    pub const NAME: &'static str = "sampan_redirect";

    /// Loads the program with empty maps.
    ///
    /// # Errors
    /// [`RedirectError`]: without the privilege, or on a kernel before 5.10.
    pub fn load() -> Result<Self, RedirectError> {
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));
        let mut ebpf = EbpfLoader::new().load(object)?;
        let networks = HashMap::try_from(take(&mut ebpf, "networks")?)?;
        let neighbours = HashMap::try_from(take(&mut ebpf, "neighbours")?)?;
        let program = ebpf.program_mut(Self::NAME).ok_or(RedirectError::Missing("program"))?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        let id = program.info()?.id();
        Ok(Self { ebpf, id, networks, neighbours })
    }

    /// The program's number, as the kernel lists it with a filter.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The program's descriptor, for [`crate::netlink::set_classifier`].
    ///
    /// # Errors
    /// Not after a successful [`Redirect::load`].
    pub fn program(&self) -> Result<BorrowedFd<'_>, RedirectError> {
        let program = self.ebpf.program(Self::NAME).ok_or(RedirectError::Missing("program"))?;
        Ok(program.fd()?.as_fd())
    }

    /// Frames that come in by link number `link` are of `network`.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_network(&mut self, link: u32, network: u32) -> Result<(), RedirectError> {
        Ok(self.networks.insert(link, network, 0)?)
    }

    /// Nothing that comes in by `link` is redirected any more. Absence is
    /// success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove_network(&mut self, link: u32) -> Result<(), RedirectError> {
        absent_ok(self.networks.remove(&link))
    }

    /// Frames on `network` for `mac` go to the other end of `link`.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_neighbour(
        &mut self,
        network: u32,
        mac: [u8; 6],
        link: u32,
    ) -> Result<(), RedirectError> {
        Ok(self.neighbours.insert(neighbour(network, mac), link, 0)?)
    }

    /// Frames on `network` for `mac` go by the bridge. Absence is success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove_neighbour(&mut self, network: u32, mac: [u8; 6]) -> Result<(), RedirectError> {
        absent_ok(self.neighbours.remove(&neighbour(network, mac)))
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, RedirectError> {
    ebpf.take_map(name).ok_or(RedirectError::Missing(name))
}

fn neighbour(network: u32, mac: [u8; 6]) -> Neighbour {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&network.to_ne_bytes());
    key[4..10].copy_from_slice(&mac);
    key
}

fn absent_ok(result: Result<(), MapError>) -> Result<(), RedirectError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}
