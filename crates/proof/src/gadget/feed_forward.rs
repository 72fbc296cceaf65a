//! The feed-forward block (docs/spec/arithmetic.md, section 7).
//!
//! ```text
//! (g, a) in the table of the activation         all 16-bit integers, tails included: it is the range of g too
//! 2^7 h + r = a u + 2^6                         gated
//! z = H h                                       blocks of the Hadamard matrix: a contraction
//! ```

use super::ranges::Width;
use super::tables::within;
use super::{Builder, each, whole};
use crate::circuit::{Bit, Contraction, Linear, Public, View};
use crate::field::{power_of_two, residue};
use crate::integer::rsh;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Largest magnitude of what an activation reads.
pub const GATE_MAX: i64 = 32_767;
/// Coordinates of a table of all of it.
const GATE_LOG: usize = 16;
/// Largest magnitude of what a gate multiplies.
pub const UP_MAX: i64 = 16_383;
/// Bits of the magnitude of a gated value.
const GATED_BITS: u32 = 23;
/// Bits that gating shifts out.
const GATED_SHIFT: u32 = 7;

/// An activation.
#[derive(Clone, Copy, Debug)]
pub enum Activation<'a> {
    /// By a table of 8,192 steps of 2^-8 from -16 on, with 11 fractional bits.
    Table(&'a [i16]),
    /// max(x, 0).
    Relu,
}

impl Activation<'_> {
    /// The activation of g in `frac` (at most 11) fractional bits.
    fn of(&self, g: i64, frac: i32) -> i64 {
        let Activation::Table(table) = self else { return g.max(0) };
        let g8 = if frac >= 8 { rsh(g, (frac - 8) as u32) } else { g << (8 - frac) };
        match g8 {
            4096.. => g,
            ..-4096 => 0,
            _ => rsh(i64::from(table[(g8 + 4096) as usize]), (11 - frac) as u32),
        }
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The activation of every cell of g, which has `frac` fractional bits.
    pub fn activate(
        &mut self,
        log: usize,
        g: &Linear<B>,
        activation: Activation<'_>,
        frac: i32,
    ) -> Linear<B> {
        let table = self.formula_table(&format!("activation of {frac} bits"), (GATE_LOG, 1), |circuit| {
            let gates = core::iter::once(-GATE_MAX).chain(-GATE_MAX..=GATE_MAX);
            let values = circuit.vector(gates.map(|g| residue(activation.of(g, frac))).collect());
            vec![within(circuit, 0..GATE_LOG), Linear::view(whole(values, GATE_LOG))]
        });
        let values = self.integers(g, log);
        let values = each(values.len(), |at| activation.of(values[at].clamp(-GATE_MAX, GATE_MAX), frac));
        let a = Linear::view(whole(self.commit("activation", log, values), log));
        self.look_up(table, log, vec![g.clone(), a.clone()]);
        a
    }

    /// `h = rsh(a u, 7)`.
    pub fn gate(&mut self, log: usize, a: &Linear<B>, u: &Linear<B>) -> Linear<B> {
        let products: Vec<i64> = {
            let [a, u] = [a, u].map(|linear| self.integers(linear, log));
            each(a.len(), |at| a[at] * u[at] + (1 << (GATED_SHIFT - 1)))
        };
        let gated = each(products.len(), |at| products[at] >> GATED_SHIFT);
        let (gated, _) = self.signed("gated", log, GATED_BITS + 1, gated);
        let rest = {
            let gated = self.integers(&gated, log);
            each(products.len(), |at| products[at] - (gated[at] << GATED_SHIFT))
        };
        let rest = self.value("gated remainder", log, Width::Fixed(GATED_SHIFT), rest);
        let both = gated.clone().times(power_of_two(GATED_SHIFT)).plus(&rest);
        let both = both.offset(-power_of_two::<B>(GATED_SHIFT - 1));
        self.constrain(log, vec![(B::ONE, a.clone(), u.clone())], both.times(B::NEG_ONE));
        gated
    }

    /// `z_i = sum_j (-1)^popcount(i & j) h_j` in blocks of `2^block` channels, the last coordinates of a space of `2^log` cells.
    pub fn hadamard(&mut self, log: usize, block: usize, h: &Linear<B>) -> Linear<B> {
        let matrix = self.circuit.public(Public::Hadamard(block));
        let right = View { source: matrix, bits: (log - block..log + block).map(Bit::At).collect() };
        // Coordinate i of the input is one of the outer ones, or the summed one of the block.
        let read: Vec<Bit> = (0..log - block).chain(log..log + block).map(Bit::At).collect();
        let mut z = Linear::constant(B::ZERO);
        for term in &h.terms {
            let [view] = &term.views[..] else { panic!("what is transformed is a sum of plain terms") };
            let left = view.within(&read);
            let right = right.clone();
            let sum = self.contract(Contraction { outer: log, inner: block, left, right });
            z = z.plus(&Linear::view(whole(sum, log)).times(term.coefficient));
        }
        if h.constant != B::ZERO {
            // The transform of a constant is its multiple at the first channel of each block.
            let mut first = vec![B::ZERO; 1 << block];
            first[0] = power_of_two::<B>(block as u32);
            let source = self.circuit.vector(first);
            let view = View { source, bits: (log - block..log).map(Bit::At).collect() };
            z = z.plus(&Linear::view(view).times(h.constant));
        }
        z
    }
}
