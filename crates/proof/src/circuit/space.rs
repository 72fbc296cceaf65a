//! Rectangles of cells with any number of axes, and how vectors are read in them.
//!
//! A *space* is a list of axes, each filled to a power of two: a cell's index is the numbers along its axes, one behind the other, first
//! axis most significant, and a point has as many coordinates. A *view* reads a vector in a space: coordinate i of the vector is
//! some coordinate of the space, or constantly 0 or 1. So one token's number is read at every channel, a head's at every
//! pair of positions, the even channels beside the odd ones; and a view's extension at a point is the vector's extension at
//! some of its coordinates, because no coordinate is used twice.

use super::Source;
use alloc::vec::Vec;
use core::ops::Range;

/// The axes of a rectangle of cells, as logarithms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    logs: Vec<usize>,
}

impl Space {
    /// Axes of `2^logs[i]` cells.
    #[must_use]
    pub fn new(logs: &[usize]) -> Space {
        Space { logs: logs.to_vec() }
    }

    /// log2 of all cells: the coordinates of a point.
    #[must_use]
    pub fn log(&self) -> usize {
        self.logs.iter().sum()
    }

    /// All cells.
    #[must_use]
    pub fn cells(&self) -> usize {
        1 << self.log()
    }

    /// log2 of the cells along an axis.
    #[must_use]
    pub fn axis_log(&self, axis: usize) -> usize {
        self.logs[axis]
    }

    /// The coordinates of an axis.
    #[must_use]
    pub fn axis(&self, axis: usize) -> Range<usize> {
        let start = self.logs[..axis].iter().sum();
        start..start + self.logs[axis]
    }

    /// The coordinates of some axes, in the order in which they are named.
    #[must_use]
    pub fn axes(&self, axes: &[usize]) -> Vec<Bit> {
        axes.iter().flat_map(|axis| self.axis(*axis)).map(Bit::At).collect()
    }

    /// A vector over some of the axes.
    #[must_use]
    pub fn view(&self, source: Source, axes: &[usize]) -> View {
        View { source, bits: self.axes(axes) }
    }

    /// A vector over the whole space.
    #[must_use]
    pub fn whole(&self, source: Source) -> View {
        View { source, bits: (0..self.log()).map(Bit::At).collect() }
    }

    /// The space of some of the axes.
    #[must_use]
    pub fn project(&self, axes: &[usize]) -> Space {
        Space { logs: axes.iter().map(|axis| self.logs[*axis]).collect() }
    }
}

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
        let there = |bit: &Bit| match bit {
            Bit::At(at) => point[*at],
            Bit::Zero => E::ZERO,
            Bit::One => E::ONE,
        };
        self.bits.iter().map(there).collect()
    }

    /// The coordinates of the space that it depends on.
    pub fn used(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits.iter().filter_map(|bit| if let Bit::At(at) = bit { Some(*at) } else { None })
    }
}
