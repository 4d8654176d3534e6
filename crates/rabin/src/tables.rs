//! What a byte adds to a fingerprint when it leaves the window, and how one
//! is reduced after eight more bits.

use std::sync::{Arc, Mutex, PoisonError};

use crate::polynomial::{Polynom, Polynom64};

/// The tables of one divisor and one size of the window.
#[derive(Debug)]
pub struct Tables {
    size: usize,
    divisor: Polynom64,
    /// By how much the highest byte of a remainder is shifted down.
    shift: i32,
    /// The part of the oldest byte.
    leaving: [Polynom64; 256],
    /// What clears the bits above the divisor's degree, and adds their
    /// remainder.
    reducing: [Polynom64; 256],
}

/// Those that were used last: a process backs up into few repositories at a
/// time.
static KNOWN: Mutex<Vec<Arc<Tables>>> = Mutex::new(Vec::new());
const KNOWN_MAX: usize = 8;

impl Tables {
    /// The tables, made now if nobody did.
    pub fn shared(size: usize, divisor: Polynom64) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().find(|t| t.size == size && t.divisor == divisor) {
            return Arc::clone(found);
        }
        let made = Arc::new(Self::new(size, divisor));
        if known.len() >= KNOWN_MAX {
            known.remove(0);
        }
        known.push(Arc::clone(&made));
        made
    }

    fn new(size: usize, divisor: Polynom64) -> Self {
        let degree = divisor.degree();
        let reducing = std::array::from_fn(|byte| {
            let above = (byte as Polynom64) << degree;
            above.modulo(&divisor) | above
        });
        let leaving = [0; 256];
        let mut tables = Self { size, divisor, shift: degree - 8, leaving, reducing };
        // As often moved up as bytes come after it.
        tables.leaving = std::array::from_fn(|byte| {
            let first = (byte as Polynom64).modulo(&divisor);
            (1..size).fold(first, |rest, _| tables.append(rest, 0))
        });
        tables
    }

    /// The remainder with one more byte.
    #[inline]
    pub fn append(&self, rest: Polynom64, byte: u8) -> Polynom64 {
        let above = (rest >> self.shift) as usize & 255;
        (rest << 8 | Polynom64::from(byte)) ^ self.reducing[above]
    }

    /// The remainder without the window's oldest byte.
    #[inline]
    pub fn without(&self, rest: Polynom64, oldest: u8) -> Polynom64 {
        rest ^ self.leaving[usize::from(oldest)]
    }
}
