//! Committed vectors as they are kept: elements of the field, or codes of 8 bits, of which a model's weights consist, in a quarter of the memory.

use crate::field::{ProofField, residue};
use crate::lanes::{Base, LANES, raw_of_code};
use alloc::vec::Vec;
use core::ops::Range;
use p3_field::PrimeField32;

/// The cells of a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cells<B> {
    /// Elements.
    Elements(Vec<B>),
    /// Small integers.
    Codes(Vec<i8>),
}

/// Some of them, one behind the other.
#[derive(Clone, Copy, Debug)]
pub enum CellsRef<'a, B> {
    /// Elements.
    Elements(&'a [B]),
    /// Small integers.
    Codes(&'a [i8]),
}

impl<B> From<Vec<B>> for Cells<B> {
    fn from(elements: Vec<B>) -> Cells<B> {
        Cells::Elements(elements)
    }
}

impl<'a, B> From<&'a [B]> for CellsRef<'a, B> {
    fn from(elements: &'a [B]) -> CellsRef<'a, B> {
        CellsRef::Elements(elements)
    }
}

impl<B: Copy> Cells<B> {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> CellsRef<'_, B> {
        match self {
            Cells::Elements(elements) => CellsRef::Elements(elements),
            Cells::Codes(codes) => CellsRef::Codes(codes),
        }
    }
}

impl<'a, B: Copy> CellsRef<'a, B> {
    /// How many.
    #[must_use]
    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            CellsRef::Elements(elements) => elements.len(),
            CellsRef::Codes(codes) => codes.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those at the places `range` that there are.
    #[must_use]
    #[inline(always)]
    pub fn part(&self, range: Range<usize>) -> CellsRef<'a, B> {
        let (first, end) = (range.start.min(self.len()), range.end.min(self.len()));
        match self {
            CellsRef::Elements(elements) => CellsRef::Elements(&elements[first..end]),
            CellsRef::Codes(codes) => CellsRef::Codes(&codes[first..end]),
        }
    }

    /// One behind the other, `size` at a time; the last may be fewer.
    pub fn chunks(self, size: usize) -> impl Iterator<Item = CellsRef<'a, B>> + Clone {
        (0..self.len().div_ceil(size)).map(move |at| self.part(at * size..(at + 1) * size))
    }

    /// Up to sixteen of them from `first` on, in lanes; zeros behind them.
    #[inline(always)]
    pub(crate) fn group<E: ProofField<Base = B>>(&self, first: usize) -> Base {
        let mut out = Base::ZERO;
        match self {
            CellsRef::Elements(elements) => {
                let end = elements.len().min(first + LANES);
                let values = elements.get(first..end).unwrap_or(&[]);
                if values.len() == LANES {
                    for lane in 0..LANES {
                        out.0[lane] = E::raw(values[lane]);
                    }
                } else {
                    for (lane, x) in values.iter().enumerate() {
                        out.0[lane] = E::raw(*x);
                    }
                }
            }
            CellsRef::Codes(codes) => {
                let end = codes.len().min(first + LANES);
                let values = codes.get(first..end).unwrap_or(&[]);
                let mut sixteen = [0i8; LANES];
                sixteen[..values.len()].copy_from_slice(values);
                for lane in 0..LANES {
                    out.0[lane] = raw_of_code(sixteen[lane]);
                }
            }
        }
        out
    }
}

impl<B: PrimeField32> CellsRef<'_, B> {
    /// Cell `at` as an element.
    #[must_use]
    pub fn element(&self, at: usize) -> B {
        match self {
            CellsRef::Elements(elements) => elements[at],
            CellsRef::Codes(codes) => residue(codes[at].into()),
        }
    }
}
