//! A compiled object of `bpf/` on its way into the kernel: its maps are made,
//! or taken over, and its programs loaded.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{Object, ParseError};
use thiserror::Error;

use super::Instruction;
use super::call::{self, MapShape};
use super::take;

/// Bytes of an object. What reads it wants it to begin at a word.
#[repr(align(8))]
pub(super) struct Aligned<T: ?Sized>(pub T);

/// Why there is no program, or its maps could not be changed.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The compiled object is none.
    #[error("read the {program} program: {source}")]
    Object {
        /// The file of `bpf/`.
        program: &'static str,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The object's references to its maps.
    #[error("link the {program} program: {source}")]
    Relocation {
        /// The file of `bpf/`.
        program: &'static str,
        /// What is wrong with them.
        source: EbpfRelocationError,
    },
    /// The compiled object lacks something: program and crate do not belong
    /// together.
    #[error("find {what} in the {program} program")]
    Missing {
        /// The file of `bpf/`.
        program: &'static str,
        /// What it should have.
        what: &'static str,
    },
    /// The kernel refused: a right, its verifier, a helper that it has not.
    #[error("{operation} of the {program} program: {source}")]
    Kernel {
        /// The file of `bpf/`.
        program: &'static str,
        /// What was being done.
        operation: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// An object that was read.
pub(super) struct Loader {
    program: &'static str,
    object: Object,
}

impl Loader {
    /// Reads the object of `bpf/PROGRAM.bpf.c`.
    pub fn read(program: &'static str, bytes: &[u8]) -> Result<Self, ProgramError> {
        let object = Object::parse(bytes);
        Ok(Self {
            program,
            object: object.map_err(|source| ProgramError::Object { program, source })?,
        })
    }

    /// For what the kernel refuses.
    pub fn refused(
        &self,
        operation: &'static str,
    ) -> impl FnOnce(io::Error) -> ProgramError + use<> {
        let program = self.program;
        move |source| ProgramError::Kernel { program, operation, source }
    }

    /// Makes a map as the object describes it, which has to be with keys and
    /// values of these sizes.
    pub fn map<const K: usize, const V: usize>(
        &self,
        name: &'static str,
    ) -> Result<OwnedFd, ProgramError> {
        let missing = ProgramError::Missing { program: self.program, what: name };
        let Some(map) = self.object.maps.get(name) else { return Err(missing) };
        if usize::try_from(map.key_size()) != Ok(K) || usize::try_from(map.value_size()) != Ok(V) {
            return Err(missing);
        }
        call::create_map(name, shape_of(map)).map_err(self.refused("make a map"))
    }

    /// As [`Loader::map`], but takes over the map of this name and shape that
    /// the program with the number `earlier` has.
    pub fn map_of<const K: usize, const V: usize>(
        &self,
        name: &'static str,
        earlier: Option<u32>,
    ) -> Result<OwnedFd, ProgramError> {
        let shape = self.object.maps.get(name).map(shape_of);
        let found = earlier.zip(shape).map(|(program, shape)| take::map(program, name, shape));
        match found {
            Some(Ok(Some(map))) => Ok(map),
            // A program that is gone has none, one of another make others.
            Some(Ok(None) | Err(_)) | None => self.map::<K, V>(name),
        }
    }

    /// Lets the code refer to these maps, which are all of the object's.
    pub fn refer(&mut self, maps: &[(&'static str, &OwnedFd)]) -> Result<(), ProgramError> {
        let known = self.object.maps.clone();
        let maps =
            maps.iter().filter_map(|(name, fd)| Some((*name, fd.as_raw_fd(), known.get(*name)?)));
        let related = self.object.relocate_maps(maps, &HashSet::new());
        related.map_err(|source| ProgramError::Relocation { program: self.program, source })
    }

    /// Loads the code of one function for a hook of a kind.
    pub fn load(
        &self,
        kind: u32,
        attach_type: u32,
        function: &'static str,
    ) -> Result<OwnedFd, ProgramError> {
        let program = self.object.programs.get(function);
        let code = program.and_then(|p| self.object.functions.get(&p.function_key()));
        let missing = ProgramError::Missing { program: self.program, what: function };
        let code: Vec<Instruction> = code
            .ok_or(missing)?
            .instructions
            .iter()
            .map(|i| Instruction {
                code: i.code,
                registers: i.dst_reg() | (i.src_reg() << 4),
                offset: i.off,
                constant: i.imm,
            })
            .collect();
        let license = &self.object.license;
        call::load_for(kind, attach_type, function, &code, license)
            .map_err(self.refused("load the code"))
    }
}

fn shape_of(map: &aya_obj::Map) -> MapShape {
    MapShape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags(),
    }
}
