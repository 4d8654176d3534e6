//! Rabin fingerprints, by which backups are cut into chunks: the interface of
//! the crate `rustic_cdc` 0.3 as far as `rustic_core` uses it.
//!
//! It stands in that crate's place (`[patch]` in the workspace) because that
//! one makes its tables anew for every file, 0.3 ms each: six times what all
//! the rest of a small file's backup takes. Here they are made once.
//!
//! Be aware: what is computed decides where chunks end. Another result would
//! still be a right backup, but find nothing of what older ones and restic
//! stored already.
//!
//! Source: M. O. Rabin, Fingerprinting by Random Polynomials (1981).
#![forbid(unsafe_code)]

mod polynomial;
mod tables;

use std::sync::Arc;

pub use polynomial::{Polynom, Polynom64};
use tables::Tables;

/// A fingerprint of the bytes in a window that moves over a stream.
pub trait RollingHash64 {
    /// Empties the window, then takes up to all but one of the bytes that it
    /// has room for; says how many there were.
    fn reset_and_prefill_window<I>(&mut self, bytes: &mut I) -> usize
    where
        I: Iterator<Item = u8>;

    /// Takes one more byte into the window; the oldest one leaves it.
    fn slide(&mut self, byte: u8);
}

/// The remainder of the window, read as a polynomial over `F_2`, by another
/// one.
#[derive(Debug, Clone)]
pub struct Rabin64 {
    /// The fingerprint.
    pub hash: Polynom64,
    tables: Arc<Tables>,
    window: Box<[u8]>,
    /// Where the oldest byte is.
    oldest: usize,
}

impl Rabin64 {
    /// One with a window of 2^`window_bits` bytes that divides by `divisor`,
    /// of a degree of 8 to 55.
    #[must_use]
    pub fn new_with_polynom(window_bits: u32, divisor: &Polynom64) -> Self {
        let size = 1 << window_bits;
        let tables = Tables::shared(size, *divisor);
        Self { hash: 0, tables, window: vec![0; size].into(), oldest: 0 }
    }
}

impl RollingHash64 for Rabin64 {
    fn reset_and_prefill_window<I>(&mut self, bytes: &mut I) -> usize
    where
        I: Iterator<Item = u8>,
    {
        (self.hash, self.oldest) = (0, 0);
        self.window.fill(0);
        let room = self.window.len() - 1;
        bytes.take(room).map(|byte| self.slide(byte)).count()
    }

    #[inline]
    fn slide(&mut self, byte: u8) {
        let mask = self.window.len() - 1;
        let leaves = std::mem::replace(&mut self.window[self.oldest & mask], byte);
        self.oldest = (self.oldest + 1) & mask;
        self.hash = self.tables.append(self.tables.without(self.hash, leaves), byte);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A divisor of degree 53, as repositories have them.
    const DIVISOR: Polynom64 = 0x003D_A335_8B4D_C173;

    /// Bit by bit, as it is defined.
    fn remainder(window: &[u8], divisor: Polynom64) -> Polynom64 {
        window
            .iter()
            .fold(0, |hash: Polynom64, byte| (hash << 8 | Polynom64::from(*byte)).modulo(&divisor))
    }

    proptest! {
        #[test]
        fn it_is_the_remainder_of_the_window(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            low in any::<u64>(),
            again in any::<bool>(),
        ) {
            let divisor = 1 << 53 | low >> 11 | 1;
            let mut rabin = Rabin64::new_with_polynom(6, &divisor);
            if again {
                bytes.iter().rev().for_each(|b| rabin.slide(*b));
            }
            let mut rest = bytes.iter().copied();
            let taken = rabin.reset_and_prefill_window(&mut rest);
            prop_assert_eq!(taken, bytes.len().min(63));
            for end in taken..=bytes.len() {
                prop_assert_eq!(rabin.hash, remainder(&bytes[end.saturating_sub(64)..end], divisor));
                rest.next().into_iter().for_each(|b| rabin.slide(b));
            }
        }
    }

    #[test]
    fn tables_are_made_once_for_each_divisor() {
        let made = |divisor| Rabin64::new_with_polynom(6, &divisor).tables;
        let first = made(DIVISOR);
        assert!(Arc::ptr_eq(&first, &made(DIVISOR)));
        assert!(!Arc::ptr_eq(&first, &made(DIVISOR ^ 2)));
    }
}
