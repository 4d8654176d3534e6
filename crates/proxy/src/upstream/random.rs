//! Numbers for questions, which nobody can guess: from the kernel's generator,
//! many at a time.

use std::cell::RefCell;
use std::io;

thread_local! {
    static POOL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How many bytes are fetched at a time.
const FETCHED: usize = 512;

/// A number.
///
/// # Errors
/// When the kernel gives none.
pub(super) fn id() -> io::Result<u16> {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < 2 {
            pool.resize(FETCHED, 0);
            if let Err(e) = getrandom::fill(pool) {
                pool.clear();
                return Err(io::Error::other(e.to_string()));
            }
        }
        // Each byte is used once.
        match (pool.pop(), pool.pop()) {
            (Some(high), Some(low)) => Ok(u16::from_be_bytes([high, low])),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    })
}
