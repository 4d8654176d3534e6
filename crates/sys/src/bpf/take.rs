//! Taking over maps of a program that is in use, and reading maps.
//!
//! Be aware:
//! - A program is asked for by its number, which takes the privilege to
//!   administer the system. Its maps are known by name and shape: one of
//!   another make is not taken for ours.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::call::{
    Info, MapShape, NAME_LENGTH, OBJ_GET_INFO_BY_FD, address, call, kernel_name, number,
};
use crate::syscall::owned;

const PROG_GET_FD_BY_ID: libc::c_int = 13;
const MAP_GET_FD_BY_ID: libc::c_int = 14;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// More maps than any of our programs has.
const MAPS_MAX: usize = 16;

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind_id_tag: [u32; 4],
    lengths: [u32; 2],
    instructions_loaded: [u64; 3],
    created_by: u32,
    maps: u32,
    map_ids: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
}

/// For `…_GET_FD_BY_ID`: number, next number, flags.
#[repr(C)]
struct ById([u32; 3]);

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

fn by_id(command: libc::c_int, id: u32) -> io::Result<OwnedFd> {
    let attr = ById([id, 0, 0]);
    // SAFETY: nothing in it is a pointer.
    owned(unsafe { call(command, &attr) }?)
}

/// Asks for what the kernel knows of an object.
///
/// # Safety
/// Pointers in `info` have to be as the kernel wants them, until the return.
unsafe fn describe<T>(object: &OwnedFd, info: &mut T) -> io::Result<()> {
    let attr = Info {
        object: number(object.as_fd()),
        length: u32::try_from(size_of::<T>()).unwrap_or(0),
        into: address(std::ptr::from_mut(info).cast_const()),
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives
    // until the return; what it points to is the caller's promise.
    unsafe { call(OBJ_GET_INFO_BY_FD, &attr) }.map(drop)
}

/// The map of a program that has this name and shape, if there is one.
pub(super) fn map(program: u32, name: &str, shape: MapShape) -> io::Result<Option<OwnedFd>> {
    let program = by_id(PROG_GET_FD_BY_ID, program)?;
    let mut ids = [0_u32; MAPS_MAX];
    let mut info = ProgramInfo {
        maps: u32::try_from(ids.len()).unwrap_or(0),
        map_ids: address(ids.as_mut_ptr().cast_const()),
        ..ProgramInfo::default()
    };
    // SAFETY: the kernel writes at most `maps` numbers to `ids`.
    unsafe { describe(&program, &mut info) }?;
    let count = usize::try_from(info.maps).unwrap_or(0).min(MAPS_MAX);
    for id in ids.into_iter().take(count) {
        let map = by_id(MAP_GET_FD_BY_ID, id)?;
        let mut info = MapInfo::default();
        // SAFETY: there is no pointer in it.
        unsafe { describe(&map, &mut info) }?;
        let found = [info.kind, info.key, info.value, info.entries, info.flags];
        let wanted = [shape.kind, shape.key, shape.value, shape.entries, shape.flags];
        if info.name == kernel_name(name) && found == wanted {
            return Ok(Some(map));
        }
    }
    Ok(None)
}

/// Shows each entry of a hash map to `see`, a chunk at a time. What changes
/// meanwhile may be seen or not.
pub(super) fn each<const K: usize, const V: usize>(
    map: &OwnedFd,
    mut see: impl FnMut(&[u8; K], &[u8; V]),
) -> io::Result<()> {
    const CHUNK: usize = 4096;
    let mut keys = vec![[0_u8; K]; CHUNK];
    let mut values = vec![[0_u8; V]; CHUNK];
    // Where the kernel goes on: the number of a bucket.
    let mut place: Option<u32> = None;
    loop {
        let mut next = 0_u32;
        let mut attr = Batch {
            from: place.as_ref().map_or(0, |place| address(std::ptr::from_ref(place))),
            to: address(std::ptr::from_mut(&mut next).cast_const()),
            keys: address(keys.as_mut_ptr().cast_const()),
            values: address(values.as_mut_ptr().cast_const()),
            count: u32::try_from(CHUNK).unwrap_or(0),
            map: number(map.as_fd()),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values, of the
        // sizes that this module's callers make maps of, and `count` itself;
        // all of it lives until the return, and nobody else looks at it.
        let result = unsafe { call(MAP_LOOKUP_BATCH, &attr) };
        let ended = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e),
        };
        // Written by the kernel, behind the compiler's back.
        // SAFETY: a field of a value that lives.
        let count = unsafe { std::ptr::read_volatile(&raw mut attr.count) };
        let count = usize::try_from(count).unwrap_or(0).min(CHUNK);
        keys.iter().zip(&values).take(count).for_each(|(key, value)| see(key, value));
        if ended {
            return Ok(());
        }
        place = Some(next);
    }
}
