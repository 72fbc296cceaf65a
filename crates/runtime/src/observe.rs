//! Seeing (and, in fault drills, changing) the output of every op.
//!
//! The forward pass hands each op's output to an [`Observer`] before anything reads it. Receipts
//! are built by one observer, fault drills by another; serving without either costs one call per
//! op that does nothing.

use crate::arith::Step;
use alloc::vec::Vec;
use lockstep_base::op::Place;

/// The output of one op for one token. The observer may change it: what it leaves behind is what
/// the following ops read.
#[derive(Debug)]
pub enum Values<'a> {
    /// 32-bit elements.
    I32(&'a mut [i32]),
    /// Elements that are proved to fit 16 bits.
    I16(&'a mut [i32]),
    /// int8 codes with their step.
    Codes8(&'a mut [i8], Step),
    /// i16 codes and one exponent a head.
    Codes16Heads(&'a mut [i16], &'a [u8]),
    /// int8 codes and one exponent a head.
    Codes8Heads(&'a mut [i8], &'a [u8]),
    /// A sampled token.
    Token(u32),
}

impl Values<'_> {
    /// The committed encoding (`lockstep_base::op::Output`), appended to `bytes`.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Values::I32(x) => append(bytes, x, |v| v.to_le_bytes()),
            Values::I16(x) => append(bytes, x, |v| (v as i16).to_le_bytes()),
            Values::Codes8(x, step) => {
                bytes.extend(x.iter().map(|v| *v as u8));
                bytes.extend_from_slice(&step.f.to_le_bytes());
                bytes.push(step.k);
            }
            Values::Codes16Heads(x, exponents) => {
                append(bytes, x, |v| v.to_le_bytes());
                bytes.extend_from_slice(exponents);
            }
            Values::Codes8Heads(x, exponents) => {
                bytes.extend(x.iter().map(|v| *v as u8));
                bytes.extend_from_slice(exponents);
            }
            Values::Token(token) => bytes.extend_from_slice(&token.to_le_bytes()),
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Values::I32(x) | Values::I16(x) => x.len(),
            Values::Codes8(x, _) | Values::Codes8Heads(x, _) => x.len(),
            Values::Codes16Heads(x, _) => x.len(),
            Values::Token(_) => 1,
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flips one bit of one element: what a fault drill does. `bit` is taken modulo the width of
    /// the committed element, so that the lie is one that the leaves show. A sampled token is left
    /// alone.
    pub fn flip(&mut self, element: usize, bit: u32) {
        match self {
            Values::I32(x) => x[element] ^= 1 << (bit % 32),
            Values::I16(x) => x[element] = i32::from(x[element] as i16 ^ 1 << (bit % 16)),
            Values::Codes8(x, _) | Values::Codes8Heads(x, _) => x[element] ^= 1 << (bit % 8),
            Values::Codes16Heads(x, _) => x[element] ^= 1 << (bit % 16),
            Values::Token(_) => {}
        }
    }
}

/// Appends the bytes of each element. Room is made once: a full trace encodes megabytes a token.
fn append<T: Copy, const N: usize>(bytes: &mut Vec<u8>, elements: &[T], encode: impl Fn(T) -> [u8; N]) {
    let start = bytes.len();
    bytes.resize(start + N * elements.len(), 0);
    for (slot, element) in bytes[start..].chunks_exact_mut(N).zip(elements) {
        slot.copy_from_slice(&encode(*element));
    }
}

/// Receives the output of every op, in execution order for each token. Tokens of a batch may
/// interleave.
pub trait Observer {
    /// The output of one op. `run` counts the repeated outputs of one place: the blocks of
    /// partial attention sums; 0 everywhere else.
    fn output(&mut self, place: Place, run: u32, values: Values<'_>);
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    #[inline(always)]
    fn output(&mut self, _: Place, _: u32, _: Values<'_>) {}
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn output(&mut self, place: Place, run: u32, mut values: Values<'_>) {
        self.0.output(place, run, values.reborrow());
        self.1.output(place, run, values);
    }
}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        (**self).output(place, run, values);
    }
}

impl Values<'_> {
    /// The same output, borrowed again: for one observer after another.
    pub fn reborrow(&mut self) -> Values<'_> {
        match self {
            Values::I32(x) => Values::I32(x),
            Values::I16(x) => Values::I16(x),
            Values::Codes8(x, step) => Values::Codes8(x, *step),
            Values::Codes16Heads(x, e) => Values::Codes16Heads(x, e),
            Values::Codes8Heads(x, e) => Values::Codes8Heads(x, e),
            Values::Token(token) => Values::Token(*token),
        }
    }
}
