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

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{Object, ParseError};
use thiserror::Error;

use super::Instruction;
use super::call::{self, MapShape};

/// The compiled object. What reads it wants it to begin at a word.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")));

/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;

/// Why there is no redirection, or an entry could not be changed.
#[derive(Debug, Error)]
pub enum RedirectError {
    /// The compiled object is none.
    #[error("read the redirecting program: {0}")]
    Object(#[from] ParseError),
    /// The object's references to its maps.
    #[error("link the redirecting program: {0}")]
    Relocation(#[from] EbpfRelocationError),
    /// The compiled object lacks something: program and crate do not belong
    /// together.
    #[error("find {0} in the redirecting program")]
    Missing(&'static str),
    /// The kernel refused: a right, its verifier, a helper that it has not.
    #[error("{operation} of the redirecting program: {source}")]
    Kernel {
        /// What was being done.
        operation: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

fn kernel(operation: &'static str) -> impl FnOnce(io::Error) -> RedirectError {
    move |source| RedirectError::Kernel { operation, source }
}

/// The loaded program.
#[derive(Debug)]
pub struct Redirect {
    program: OwnedFd,
    /// The program's number in the kernel.
    id: u32,
    /// From a link's number to its network's.
    networks: OwnedFd,
    /// From a `struct neighbour` to its link's number.
    neighbours: OwnedFd,
}

impl Redirect {
    /// The program's name, by which its filters are known on a link.
    pub const NAME: &'static str = "sampan_redirect";

    /// Loads the program with empty maps.
    ///
    /// # Errors
    /// [`RedirectError`]: without the privilege, or on a kernel before 5.11.
    pub fn load() -> Result<Self, RedirectError> {
        let mut object = Object::parse(&OBJECT.0)?;
        let networks = create(&object, "networks", 4)?;
        let neighbours = create(&object, "neighbours", size_of::<Neighbour>())?;
        let maps = [("networks", &networks), ("neighbours", &neighbours)];
        let known = object.maps.clone();
        let maps =
            maps.iter().filter_map(|(name, fd)| Some((*name, fd.as_raw_fd(), known.get(*name)?)));
        object.relocate_maps(maps, &HashSet::new())?;
        let program = object.programs.get(Self::NAME);
        let code = program.and_then(|p| object.functions.get(&p.function_key()));
        let code = code.ok_or(RedirectError::Missing("the code"))?.instructions.iter();
        let code: Vec<Instruction> = code
            .map(|i| Instruction {
                code: i.code,
                registers: i.dst_reg() | (i.src_reg() << 4),
                offset: i.off,
                constant: i.imm,
            })
            .collect();
        let program = call::load(CLASSIFIER, Self::NAME, &code).map_err(kernel("load the code"))?;
        let id = call::program_id(&program).map_err(kernel("ask for the number"))?;
        Ok(Self { program, id, networks, neighbours })
    }

    /// The program's number, as the kernel lists it with a filter.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The program's descriptor, for [`crate::netlink::set_classifier`].
    #[must_use]
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Frames that come in by link number `link` are of `network`.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_network(&self, link: u32, network: u32) -> Result<(), RedirectError> {
        call::set(&self.networks, link.to_ne_bytes(), network.to_ne_bytes())
            .map_err(kernel("set a network"))
    }

    /// Nothing that comes in by `link` is redirected any more. Absence is
    /// success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove_network(&self, link: u32) -> Result<(), RedirectError> {
        call::remove(&self.networks, link.to_ne_bytes()).map_err(kernel("remove a network"))
    }

    /// Frames on `network` for `mac` go to the other end of `link`.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_neighbour(
        &self,
        network: u32,
        mac: [u8; 6],
        link: u32,
    ) -> Result<(), RedirectError> {
        call::set(&self.neighbours, neighbour(network, mac), link.to_ne_bytes())
            .map_err(kernel("set a neighbour"))
    }

    /// Frames on `network` for `mac` go by the bridge. Absence is success.
    ///
    /// # Errors
    /// Other than absence.
    pub fn remove_neighbour(&self, network: u32, mac: [u8; 6]) -> Result<(), RedirectError> {
        call::remove(&self.neighbours, neighbour(network, mac))
            .map_err(kernel("remove a neighbour"))
    }
}

/// `struct neighbour`: network, hardware address, two zero bytes.
type Neighbour = [u8; 12];

/// Makes a map as the object describes it, which has to be with keys of this
/// size and values of four bytes.
fn create(object: &Object, name: &'static str, key: usize) -> Result<OwnedFd, RedirectError> {
    let map = object.maps.get(name).ok_or(RedirectError::Missing(name))?;
    if usize::try_from(map.key_size()) != Ok(key) || map.value_size() != 4 {
        return Err(RedirectError::Missing(name));
    }
    let shape = MapShape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags(),
    };
    call::create_map(name, shape).map_err(kernel("make a map"))
}

fn neighbour(network: u32, mac: [u8; 6]) -> Neighbour {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&network.to_ne_bytes());
    key[4..10].copy_from_slice(&mac);
    key
}
