//! Rectangles of cells with any number of axes, and how vectors are read in them.
//!
//! A *space* is a list of axes, each filled to a power of two, and is known by its coordinates: a cell's index is the numbers along its axes, one behind the other, first
//! axis most significant, and a point has as many coordinates. A *view* reads a vector in a space: coordinate i of the vector is
//! some coordinate of the space, or constantly 0 or 1. So one token's number is read at every channel, a head's at every
//! pair of positions, the even channels beside the odd ones; and a view's extension at a point is the vector's extension at
//! some of its coordinates, because no coordinate is used twice.

use super::Source;
use alloc::vec::Vec;

/// One coordinate of a vector, as a space has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bit {
    /// A coordinate of the space.
    At(usize),
    /// Always 0: the vector's first half along this coordinate.
    Zero,
    /// Always 1.
    One,
}

/// A vector, read in a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The vector.
    pub source: Source,
    /// Its coordinates, most significant first; no coordinate of the space twice.
    pub bits: Vec<Bit>,
}

impl View {
    /// The same vector read in another space, whose coordinates `bits` are those of this one.
    #[must_use]
    pub fn within(&self, bits: &[Bit]) -> View {
        let there = |bit: &Bit| match bit {
            Bit::At(at) => bits[*at],
            constant => *constant,
        };
        View { source: self.source, bits: self.bits.iter().map(there).collect() }
    }

    /// Where a point of the space lies in the vector.
    #[must_use]
    pub fn point<E: p3_field::PrimeCharacteristicRing + Copy>(&self, point: &[E]) -> Vec<E> {
        self.coordinates(point, [E::ZERO, E::ONE])
    }

    /// The same of anything that coordinates may be called: `constants` are 0 and 1.
    #[must_use]
    pub fn coordinates<T: Copy>(&self, point: &[T], constants: [T; 2]) -> Vec<T> {
        let there = |bit: &Bit| match bit {
            Bit::At(at) => point[*at],
            Bit::Zero => constants[0],
            Bit::One => constants[1],
        };
        self.bits.iter().map(there).collect()
    }

    /// The coordinates of the space that it depends on.
    pub fn used(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits.iter().filter_map(|bit| if let Bit::At(at) = bit { Some(*at) } else { None })
    }
}
