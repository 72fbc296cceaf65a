//! Values in limbs: committed columns of a few bits each, every one looked up with its width.

use crate::circuit::{Atom, Circuit, Domain, Leaf, Linear, Source};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// The tag of the range table.
pub const RANGE_TAG: u32 = 1;

/// How many limbs `bits` bits have.
#[must_use]
pub fn limbs(bits: u32, limb_bits: u32) -> usize {
    bits.div_ceil(limb_bits) as usize
}

/// The width of limb `limb` of a value of `bits` bits.
#[must_use]
pub fn limb_width(bits: u32, limb: usize, limb_bits: u32) -> u32 {
    bits.saturating_sub(limb_bits * limb as u32).min(limb_bits)
}

/// How wide a value is.
#[derive(Clone, Copy, Debug)]
pub enum Width<'a, B> {
    /// The same everywhere.
    Fixed(u32),
    /// The width of each limb, cell by cell.
    Computed(&'a [Linear<B>]),
}

/// A value as limbs: their columns, and the value.
#[derive(Clone, Debug)]
pub struct Value<B> {
    /// The columns, least significant limb first.
    pub columns: Vec<usize>,
    /// `sum of 2^(L k) limb_k`.
    pub value: Linear<B>,
}

/// A lookup into the range table.
pub fn look_up<B: PrimeField32>(
    circuit: &mut Circuit<B>,
    domain: Domain,
    width: Linear<B>,
    value: Linear<B>,
) {
    let (numerator, tag) = (Linear::constant(B::ONE), B::from_u32(RANGE_TAG));
    circuit.leaves.push(Leaf { domain, numerator, tag, tuple: vec![width, value] });
}

/// Commits to the limbs of a value and looks them up.
pub fn value<B: PrimeField32>(
    circuit: &mut Circuit<B>,
    domain: Domain,
    name: &str,
    width: Width<'_, B>,
) -> Value<B> {
    let limb_bits = circuit.limb_bits;
    let count = match width {
        Width::Fixed(bits) => limbs(bits, limb_bits),
        Width::Computed(widths) => widths.len(),
    };
    let (mut columns, mut value) = (Vec::with_capacity(count), Linear::constant(B::ZERO));
    for limb in 0..count {
        let source = circuit.column(format!("{name}[{limb}]"), domain.log());
        let width = match width {
            Width::Fixed(bits) => Linear::constant(B::from_u32(limb_width(bits, limb, limb_bits))),
            Width::Computed(widths) => widths[limb].clone(),
        };
        look_up(circuit, domain, width, Linear::cell(source));
        columns.push(circuit.columns.len() - 1);
        value = value.plus(&Linear::cell(source).times(B::TWO.exp_u64(u64::from(limb_bits) * limb as u64)));
    }
    Value { columns, value }
}

/// A source over examples at every place.
#[must_use]
pub fn spread<B: PrimeField32>(source: Source) -> Linear<B> {
    Linear::atom(Atom::Spread(source))
}

/// Sources over examples, each times its row vector.
#[must_use]
pub fn by_row<B: PrimeField32>(sources: impl Iterator<Item = Source>, rows: &[usize]) -> Linear<B> {
    let terms = sources.zip(rows).map(|(source, row)| (B::ONE, Atom::Example(source, *row)));
    Linear { constant: B::ZERO, terms: terms.collect() }
}
