//! Seeing (and, in fault drills, changing) the output of every op.
//!
//! The forward pass hands the outputs of an op, one a token, to an [`Observer`] before anything
//! reads them. Receipts are built by one observer, fault drills by another. An observer says which
//! ops it wants, and nothing is gathered for those that nobody wants: serving without an observer
//! costs nothing. Outputs come many at a time, so that an observer can work on them with all threads.

use crate::arith::Step;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::op::{Op, Place};

/// The output of one op for one token. The observer may change it: what it leaves behind is what
/// the following ops read.
#[derive(Debug)]
pub enum Values<'a> {
    /// 32-bit elements.
    I32(&'a mut [i32]),
    /// Elements that are proved to fit 16 bits.
    I16(&'a mut [i32]),
    /// 32-bit elements of several owners, one after another: of a token's heads, say.
    I32Parts(Vec<&'a mut [i32]>),
    /// Elements in 0..32,768 of several owners, committed as 16 bits.
    U16Parts(Vec<&'a mut [u16]>),
    /// int8 codes with their step.
    Codes8(&'a mut [i8], Step),
    /// i16 codes and one exponent a head.
    Codes16Heads(&'a mut [i16], &'a [u8]),
    /// int8 codes and the byte of one step a head.
    Codes8Heads(&'a mut [i8], &'a [u8]),
    /// A sampled token.
    Token(u32),
}

impl Values<'_> {
    /// The committed encoding (`lockstep_base::op::Output`), appended to `bytes`.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        self.encode_part(0..self.encoded_len(), bytes);
    }

    /// Bytes of the committed encoding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let tail = match self {
            Values::Codes8(..) => 3,
            Values::Codes16Heads(_, exponents) | Values::Codes8Heads(_, exponents) => exponents.len(),
            _ => 0,
        };
        self.len() * self.element_bytes() + tail
    }

    /// The bytes `part` of the committed encoding, appended to `bytes`. A part begins and ends with
    /// whole elements or inside the tail.
    pub fn encode_part(&self, part: Range<usize>, bytes: &mut Vec<u8>) {
        let size = self.element_bytes();
        let body = self.len() * size;
        let elements = part.start.min(body) / size..part.end.min(body) / size;
        let rest = part.start.saturating_sub(body)..part.end.saturating_sub(body);
        match self {
            Values::I32(x) => append(bytes, &x[elements], |v| v.to_le_bytes()),
            Values::I16(x) => append(bytes, &x[elements], |v| (v as i16).to_le_bytes()),
            Values::I32Parts(x) => each_part(x, elements, |x| append(bytes, x, |v| v.to_le_bytes())),
            Values::U16Parts(x) => each_part(x, elements, |x| append(bytes, x, |v| v.to_le_bytes())),
            Values::Codes8(x, step) => {
                append(bytes, &x[elements], |v| [v as u8]);
                let [low, high] = step.f.to_le_bytes();
                bytes.extend_from_slice(&[low, high, step.k][rest]);
            }
            Values::Codes16Heads(x, exponents) => {
                append(bytes, &x[elements], |v| v.to_le_bytes());
                bytes.extend_from_slice(&exponents[rest]);
            }
            Values::Codes8Heads(x, exponents) => {
                append(bytes, &x[elements], |v| [v as u8]);
                bytes.extend_from_slice(&exponents[rest]);
            }
            Values::Token(token) => bytes.extend_from_slice(&token.to_le_bytes()),
        }
    }

    fn element_bytes(&self) -> usize {
        match self {
            Values::I32(_) | Values::I32Parts(_) | Values::Token(_) => 4,
            Values::I16(_) | Values::U16Parts(_) | Values::Codes16Heads(..) => 2,
            Values::Codes8(..) | Values::Codes8Heads(..) => 1,
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Values::I32(x) | Values::I16(x) => x.len(),
            Values::I32Parts(x) => x.iter().map(|x| x.len()).sum(),
            Values::U16Parts(x) => x.iter().map(|x| x.len()).sum(),
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
            Values::I32Parts(x) => nth(x, element, |x| *x ^= 1 << (bit % 32)),
            Values::U16Parts(x) => nth(x, element, |x| *x ^= 1 << (bit % 16)),
            Values::Codes8(x, _) | Values::Codes8Heads(x, _) => x[element] ^= 1 << (bit % 8),
            Values::Codes16Heads(x, _) => x[element] ^= 1 << (bit % 16),
            Values::Token(_) => {}
        }
    }

    /// The same output, borrowed again: for one observer after another.
    pub fn reborrow(&mut self) -> Values<'_> {
        match self {
            Values::I32(x) => Values::I32(x),
            Values::I16(x) => Values::I16(x),
            Values::I32Parts(x) => Values::I32Parts(x.iter_mut().map(|x| &mut **x).collect()),
            Values::U16Parts(x) => Values::U16Parts(x.iter_mut().map(|x| &mut **x).collect()),
            Values::Codes8(x, step) => Values::Codes8(x, *step),
            Values::Codes16Heads(x, e) => Values::Codes16Heads(x, e),
            Values::Codes8Heads(x, e) => Values::Codes8Heads(x, e),
            Values::Token(token) => Values::Token(*token),
        }
    }
}

/// Elements that are encoded at a time.
const ENCODED_AT_ONCE: usize = 128;

/// Appends the bytes of each element. A full trace encodes megabytes a token: room is made once, and not filled before.
fn append<T: Copy, const N: usize>(bytes: &mut Vec<u8>, elements: &[T], encode: impl Fn(T) -> [u8; N]) {
    bytes.reserve(N * elements.len());
    let mut encoded = [[0; N]; ENCODED_AT_ONCE];
    for elements in elements.chunks(ENCODED_AT_ONCE) {
        encoded.iter_mut().zip(elements).for_each(|(slot, element)| *slot = encode(*element));
        bytes.extend_from_slice(encoded[..elements.len()].as_flattened());
    }
}

/// Calls `f` with what `range` of the concatenated `parts` has in each part.
fn each_part<T>(parts: &[&mut [T]], range: Range<usize>, mut f: impl FnMut(&[T])) {
    let mut start = 0;
    for part in parts {
        let inside = |at: usize| at.clamp(start, start + part.len()) - start;
        f(&part[inside(range.start)..inside(range.end)]);
        start += part.len();
    }
}

/// Calls `f` with element `index` of the concatenated `parts`.
fn nth<T>(parts: &mut [&mut [T]], index: usize, f: impl FnOnce(&mut T)) {
    f(parts.iter_mut().flat_map(|part| part.iter_mut()).nth(index).expect("an element of the output"));
}

/// The output of one op for one token, and which it is.
#[derive(Debug)]
pub struct Output<'a> {
    /// Token, layer, op.
    pub place: Place,
    /// Counts the repeated outputs of one place: the blocks of partial attention sums, the
    /// experts of a token; 0 everywhere else.
    pub run: u32,
    /// The output.
    pub values: Values<'a>,
}

/// Receives the outputs of ops: those of one token in execution order, tokens interleaved.
pub trait Observer {
    /// The output of one op for one token, see [`Output`].
    fn output(&mut self, place: Place, run: u32, values: Values<'_>);

    /// Outputs of one op for some tokens.
    fn outputs(&mut self, outputs: &mut [Output<'_>]) {
        for output in outputs {
            self.output(output.place, output.run, output.values.reborrow());
        }
    }

    /// Whether it wants the outputs of `op` in `layer`. It gets no others.
    fn wants(&self, layer: u16, op: Op) -> bool {
        let _ = (layer, op);
        true
    }

    /// Whether it may change what it sees. Where nobody does, ops need not wait for each other's
    /// observers.
    fn alters(&self) -> bool {
        true
    }
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    #[inline(always)]
    fn output(&mut self, _: Place, _: u32, _: Values<'_>) {}

    #[inline(always)]
    fn wants(&self, _: u16, _: Op) -> bool {
        false
    }

    #[inline(always)]
    fn alters(&self) -> bool {
        false
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn output(&mut self, place: Place, run: u32, mut values: Values<'_>) {
        if self.0.wants(place.layer, place.op) {
            self.0.output(place, run, values.reborrow());
        }
        if self.1.wants(place.layer, place.op) {
            self.1.output(place, run, values);
        }
    }

    fn outputs(&mut self, outputs: &mut [Output<'_>]) {
        let Some(Place { layer, op, .. }) = outputs.first().map(|output| output.place) else { return };
        if self.0.wants(layer, op) {
            self.0.outputs(outputs);
        }
        if self.1.wants(layer, op) {
            self.1.outputs(outputs);
        }
    }

    fn wants(&self, layer: u16, op: Op) -> bool {
        self.0.wants(layer, op) || self.1.wants(layer, op)
    }

    fn alters(&self) -> bool {
        self.0.alters() || self.1.alters()
    }
}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        (**self).output(place, run, values);
    }

    fn outputs(&mut self, outputs: &mut [Output<'_>]) {
        (**self).outputs(outputs);
    }

    fn wants(&self, layer: u16, op: Op) -> bool {
        (**self).wants(layer, op)
    }

    fn alters(&self) -> bool {
        (**self).alters()
    }
}
