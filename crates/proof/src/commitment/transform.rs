//! The code words, sixteen rows at a time: a slab of sixteen rows of a message fits a core's cache, whatever the size of the matrix.
//!
//! ```text
//! C[2^s i + j] = sum_l (Z_l w^(j l)) (w^(2^s))^(i l)      for each coset j < 2^s one transform of 2^b points, from natural to
//!                                                         bit-reversed order, of the message times powers of w^j
//! ```
//!
//! The code is kept as canonical integers, as hash and proof have them, in the order in which it is computed: slab, coset, reversed
//! i. So what a leaf hashes of a slab is 64 bytes in one place: a block of BLAKE3.

use super::Shape;
use crate::field::ProofField;
use crate::lanes::vectors::group;
use crate::lanes::{Base, Kernel, LANES, Task, canonical, vectorised};
use crate::parallel;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::{PrimeCharacteristicRing, TwoAdicField};

/// The code of a matrix.
#[derive(Debug)]
pub(crate) struct Code {
    shape: Shape,
    /// For each slab of sixteen rows every position.
    slabs: Vec<Vec<Base>>,
}

/// Rows of a slab, and their code.
type Work<'a, B> = (&'a [&'a [B]], Vec<Base>);

/// All positions of sixteen rows.
struct Slab<'a, E: ProofField> {
    /// The rows, 2^b cells each; the last may be short.
    rows: &'a [&'a [E::Base]],
    shape: &'a Shape,
    /// Powers of the root of order 2^b.
    twiddles: &'a [u32],
    /// For each coset the powers of w^j.
    shifts: &'a [Vec<u32>],
    out: &'a mut Vec<Base>,
}

impl<E: ProofField> Task for Slab<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let size = 1 << self.shape.log_cols;
        let mut message = vec![Base::ZERO; size];
        for (lane, row) in self.rows.iter().enumerate() {
            for (values, out) in row.chunks(LANES).zip(message.chunks_mut(LANES)) {
                let values = group::<E>(values);
                for (x, out) in values.0.iter().zip(out) {
                    out.0[lane] = *x;
                }
            }
        }
        for powers in self.shifts {
            let first = self.out.len();
            for (x, power) in message.iter().zip(powers) {
                self.out.push(x.mul(&Base::splat(*power)));
            }
            let coset = &mut self.out[first..];
            transform(coset, self.twiddles);
            for x in coset {
                for lane in 0..LANES {
                    x.0[lane] = canonical(x.0[lane]);
                }
            }
        }
    }
}

/// Decimation in frequency: butterflies of falling distance, results in bit-reversed order.
#[inline(always)]
fn transform(x: &mut [Base], twiddles: &[u32]) {
    let mut half = x.len() / 2;
    let mut stride = 1;
    while half > 0 {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (at, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let difference = a.sub(b);
                *a = a.add(b);
                *b = difference.mul(&Base::splat(twiddles[at * stride]));
            }
        }
        half /= 2;
        stride *= 2;
    }
}

fn powers<E: ProofField>(root: E::Base, count: usize) -> Vec<u32> {
    root.powers().take(count).map(E::raw).collect()
}

impl Code {
    /// Encodes `cells`.
    pub(crate) fn new<E: ProofField>(cells: &[E::Base], shape: Shape) -> Code {
        let size = 1usize << shape.log_cols;
        let generator = E::Base::two_adic_generator(shape.code_log());
        let twiddles = powers::<E>(generator.exp_power_of_2(shape.log_inverse_rate), size / 2);
        let cosets = 0..1u64 << shape.log_inverse_rate;
        let shifts: Vec<Vec<u32>> = cosets.map(|j| powers::<E>(generator.exp_u64(j), size)).collect();
        let rows: Vec<&[E::Base]> = cells.chunks(size).collect();
        let mut slabs: Vec<Work<'_, E::Base>> = rows
            .chunks(LANES)
            .map(|rows| (rows, Vec::with_capacity(size << shape.log_inverse_rate)))
            .collect();
        let kernel = Kernel::detect();
        parallel::for_each(&mut slabs, |(rows, out)| {
            let slab = Slab::<E> { rows, shape: &shape, twiddles: &twiddles, shifts: &shifts, out };
            vectorised(kernel, slab);
        });
        Code { shape, slabs: slabs.into_iter().map(|(_, code)| code).collect() }
    }

    /// Where position `i` of the code lies in a slab.
    pub(crate) fn place(&self, i: usize) -> usize {
        let (rate, bits) = (self.shape.log_inverse_rate, self.shape.log_cols);
        let (coset, i) = (i & ((1 << rate) - 1), i >> rate);
        let reversed = if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS as usize - bits) };
        (coset << bits) + reversed
    }

    /// Slabs of sixteen rows.
    pub(crate) fn slabs(&self) -> &[Vec<Base>] {
        &self.slabs
    }

    /// Column `i`, as canonical integers.
    pub(crate) fn column(&self, i: usize) -> impl Iterator<Item = u32> + '_ {
        let place = self.place(i);
        self.slabs.iter().flat_map(move |slab| slab[place].0).take(self.shape.rows)
    }
}
