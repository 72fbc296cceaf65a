//! Memory that the ops of all layers of one call share: what an op writes is large, and fresh pages
//! cost more than the arithmetic of many ops.

use crate::arith::Step;
use crate::attention::Unit;
use crate::kernels::{Activations, Compute};
use crate::observe::Values;
use alloc::vec::Vec;

/// Codes of a batch with one step a row.
#[derive(Debug, Default)]
pub(super) struct Coded {
    pub(super) codes: Vec<i8>,
    pub(super) steps: Vec<Step>,
}

impl Coded {
    /// Room for `rows` rows of `cols` codes; they hold anything.
    pub(super) fn shape(&mut self, rows: usize, cols: usize) {
        self.codes.resize(rows * cols, 0);
        self.steps.resize(rows, Step::default());
    }

    /// Ready to be multiplied.
    pub(super) fn prepare(&self, compute: &Compute) -> Prepared<'_> {
        let cols = self.codes.len() / self.steps.len().max(1);
        Prepared { coded: self, x: Activations::new(compute, &self.codes, cols) }
    }

    /// Rows as an observer sees them.
    pub(super) fn rows(&mut self) -> impl Iterator<Item = Values<'_>> {
        let cols = self.codes.len() / self.steps.len().max(1);
        self.codes.chunks_mut(cols.max(1)).zip(&self.steps).map(|(codes, step)| Values::Codes8(codes, *step))
    }
}

/// Codes of a batch, made ready for all matrices that multiply them.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) coded: &'a Coded,
    pub(super) x: Activations<'a>,
}

/// Codes of heads: `(rows, heads, dim)`, and an exponent a head.
#[derive(Debug, Default)]
pub(super) struct Heads<T> {
    pub(super) codes: Vec<T>,
    pub(super) exponents: Vec<u8>,
}

impl<T: Copy + Default> Heads<T> {
    pub(super) fn shape(&mut self, heads: usize, dim: usize) {
        self.codes.resize(heads * dim, T::default());
        self.exponents.resize(heads, 0);
    }
}

/// All of it. Each is of one width, so that nothing is made twice.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// What enters a sublayer.
    pub(super) site: Coded,
    /// `(rows, q_dim)`, `(rows, kv_dim)` twice.
    pub(super) q: Vec<i32>,
    pub(super) k: Vec<i32>,
    pub(super) v: Vec<i32>,
    pub(super) q_codes: Heads<i16>,
    pub(super) k_codes: Heads<i16>,
    pub(super) v_codes: Heads<i8>,
    /// What attention keeps of some tokens, where it is observed.
    pub(super) units: Vec<Unit>,
    /// `(rows, q_dim)`: the output of attention, and its codes.
    pub(super) attended: Vec<i32>,
    pub(super) attended_codes: Coded,
    /// `(rows, d_model)`: what a sublayer gives.
    pub(super) y: Vec<i32>,
    pub(super) normed: Vec<i32>,
    pub(super) gate: Vec<i32>,
    pub(super) up: Vec<i32>,
    /// `(rows, down_cols)`: the hidden vector, then its Hadamard transform; its codes.
    pub(super) hidden: Vec<i32>,
    pub(super) hidden_codes: Coded,
}

/// `buffer` with `len` values; they hold anything.
pub(super) fn sized(buffer: &mut Vec<i32>, len: usize) -> &mut [i32] {
    buffer.resize(len, 0);
    buffer
}
