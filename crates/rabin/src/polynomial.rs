//! Polynomials over `F_2`: bit *n* is the coefficient of x^n.

/// A polynomial over `F_2`.
pub trait Polynom {
    /// The highest power whose coefficient is not 0; -1 when all are.
    fn degree(&self) -> i32;

    /// The remainder by `divisor`, which is not 0.
    #[must_use]
    fn modulo(&self, divisor: &Self) -> Self;
}

/// One of a degree of at most 63.
pub type Polynom64 = u64;

impl Polynom for Polynom64 {
    fn degree(&self) -> i32 {
        // At most 64: it fits.
        63 - i32::try_from(self.leading_zeros()).unwrap_or(64)
    }

    fn modulo(&self, divisor: &Self) -> Self {
        let (mut rest, degree) = (*self, divisor.degree());
        while rest.degree() >= degree {
            rest ^= divisor << (rest.degree() - degree);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degrees_and_remainders() {
        assert_eq!([0u64, 1, 2, 3, u64::MAX].map(|p| p.degree()), [-1, 0, 1, 1, 63]);
        // x^3 + x = (x^2 + 1) x; x^4 = (x^3 + x + 1) x + x^2 + x.
        assert_eq!(0b1010.modulo(&0b101), 0);
        assert_eq!(0b1_0000.modulo(&0b1011), 0b110);
        assert_eq!(5.modulo(&8), 5);
    }
}
