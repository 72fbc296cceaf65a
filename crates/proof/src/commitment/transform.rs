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
use crate::cells::CellsRef;
use crate::field::ProofField;
use crate::lanes::{Base, Kernel, LANES, Task, add, canonical, reduce, sub, vectorised, wide};
use crate::parallel;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::{PrimeCharacteristicRing, TwoAdicField};

/// All positions of sixteen rows.
struct Slab<'a, E: ProofField> {
    /// The rows, 2^b cells each; the last may be short.
    rows: CellsRef<'a, E::Base>,
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
        // Block by block: what is written stays in the first cache while all rows of it are.
        for (block, out) in message.chunks_mut(LANES).enumerate() {
            let mut lane = 0;
            while lane * size < self.rows.len() {
                let first = lane * size + block * LANES;
                let values = self.rows.part(first..first + out.len()).group::<E>(0);
                for (out, x) in out.iter_mut().zip(values.0) {
                    out.0[lane] = x;
                }
                lane += 1;
            }
        }
        self.out.resize(size << self.shape.log_inverse_rate, Base::ZERO);
        for (coset, powers) in self.out.chunks_exact_mut(size).zip(self.shifts) {
            if size < 4 {
                small(&message, powers, coset);
                continue;
            }
            first(&message, powers, self.twiddles, coset);
            transform(coset, self.twiddles, size / 4);
        }
    }
}

/// Places of a block whose layers are computed one after the other: it fits the first cache.
const BLOCK: usize = 256;

/// One place of four in two layers of butterflies; `t` are the powers for the first two places and for the layer behind.
#[inline(always)]
fn four([a, b, c, d]: [u32; 4], t: [u32; 3]) -> [u32; 4] {
    let (c, a) = (reduce(wide(sub(a, c), t[0])), add(a, c));
    let (d, b) = (reduce(wide(sub(b, d), t[1])), add(b, d));
    [add(a, b), reduce(wide(sub(a, b), t[2])), add(c, d), reduce(wide(sub(c, d), t[2]))]
}

/// The transform of 1 or 2 points of the message times powers.
#[inline(always)]
fn small(message: &[Base], powers: &[u32], out: &mut [Base]) {
    for lane in 0..LANES {
        let a = canonical(message[0].0[lane]);
        let b = message.get(1).map_or(0, |b| canonical(reduce(wide(b.0[lane], powers[1]))));
        out[0].0[lane] = add(a, b);
        if let Some(out) = out.get_mut(1) {
            out.0[lane] = sub(a, b);
        }
    }
}

/// The first two layers, of the message times powers.
#[inline(always)]
fn first(message: &[Base], powers: &[u32], twiddles: &[u32], out: &mut [Base]) {
    let quarter = message.len() / 4;
    for at in 0..quarter {
        let places = [at, at + quarter, at + 2 * quarter, at + 3 * quarter];
        let x = [message[places[0]], message[places[1]], message[places[2]], message[places[3]]];
        let power = [powers[places[0]], powers[places[1]], powers[places[2]], powers[places[3]]];
        let t = [twiddles[at], twiddles[at + quarter], twiddles[2 * at]];
        let mut results = [Base::ZERO; 4];
        for lane in 0..LANES {
            let x = [
                reduce(wide(x[0].0[lane], power[0])),
                reduce(wide(x[1].0[lane], power[1])),
                reduce(wide(x[2].0[lane], power[2])),
                reduce(wide(x[3].0[lane], power[3])),
            ];
            let y = four(x, t);
            results[0].0[lane] = y[0];
            results[1].0[lane] = y[1];
            results[2].0[lane] = y[2];
            results[3].0[lane] = y[3];
        }
        for place in 0..4 {
            out[places[place]] = results[place];
        }
    }
}

/// Decimation in frequency of blocks of `size`: butterflies of falling distance, two layers at a time, results in bit-reversed order, as
/// canonical integers.
#[inline(always)]
fn transform(x: &mut [Base], twiddles: &[u32], size: usize) {
    let stride = 2 * twiddles.len() / size;
    let mut large = size;
    let mut step = stride;
    while large > BLOCK {
        // Not `for_each`, here and below: what it calls is not inlined.
        for block in x.chunks_exact_mut(large) {
            layers(block, twiddles, step);
        }
        (large, step) = (large / 4, 4 * step);
    }
    for block in x.chunks_exact_mut(large) {
        let (mut size, mut step) = (large, step);
        while size >= 4 {
            for block in block.chunks_exact_mut(size) {
                layers(block, twiddles, step);
            }
            (size, step) = (size / 4, 4 * step);
        }
        last(block, size);
    }
}

/// Two layers of one block.
#[inline(always)]
fn layers(block: &mut [Base], twiddles: &[u32], step: usize) {
    let quarter = block.len() / 4;
    let (low, high) = block.split_at_mut(2 * quarter);
    let ((a, b), (c, d)) = (low.split_at_mut(quarter), high.split_at_mut(quarter));
    for at in 0..quarter {
        let t = [twiddles[at * step], twiddles[(at + quarter) * step], twiddles[2 * at * step]];
        let x = [a[at], b[at], c[at], d[at]];
        let mut results = [Base::ZERO; 4];
        for lane in 0..LANES {
            let y = four([x[0].0[lane], x[1].0[lane], x[2].0[lane], x[3].0[lane]], t);
            results[0].0[lane] = y[0];
            results[1].0[lane] = y[1];
            results[2].0[lane] = y[2];
            results[3].0[lane] = y[3];
        }
        (a[at], b[at], c[at], d[at]) = (results[0], results[1], results[2], results[3]);
    }
}

/// What is left: one layer of pairs if `size` is 2, and canonical integers.
#[inline(always)]
fn last(block: &mut [Base], size: usize) {
    for pair in block.chunks_mut(2) {
        let [first, second] = pair else {
            for lane in 0..LANES {
                pair[0].0[lane] = canonical(pair[0].0[lane]);
            }
            continue;
        };
        for lane in 0..LANES {
            let (a, b) = (reduce(first.0[lane].into()), reduce(second.0[lane].into()));
            let pairs = size == 2;
            first.0[lane] = if pairs { add(a, b) } else { a };
            second.0[lane] = if pairs { sub(a, b) } else { b };
        }
    }
}

fn powers<E: ProofField>(root: E::Base, count: usize) -> Vec<u32> {
    root.powers().take(count).map(E::raw).collect()
}

/// What encodes the rows of a matrix.
#[derive(Debug)]
pub(super) struct Encoder {
    shape: Shape,
    kernel: Kernel,
    twiddles: Vec<u32>,
    shifts: Vec<Vec<u32>>,
}

impl Encoder {
    /// For matrices of this shape.
    pub(super) fn new<E: ProofField>(shape: Shape) -> Encoder {
        let size = 1usize << shape.log_cols;
        let generator = E::Base::two_adic_generator(shape.code_log());
        let twiddles = powers::<E>(generator.exp_power_of_2(shape.log_inverse_rate), size / 2);
        let cosets = 0..1u64 << shape.log_inverse_rate;
        let shifts = cosets.map(|j| powers::<E>(generator.exp_u64(j), size)).collect();
        Encoder { shape, kernel: Kernel::detect(), twiddles, shifts }
    }

    /// The code of some slabs, as [`rows_of_slabs`] has them: for each every place.
    pub(super) fn encode<E: ProofField>(&self, slabs: &[CellsRef<'_, E::Base>]) -> Vec<Vec<Base>> {
        let mut work: Vec<(CellsRef<'_, E::Base>, Vec<Base>)> =
            slabs.iter().map(|rows| (*rows, Vec::new())).collect();
        parallel::for_each(&mut work, |(rows, out)| {
            let Encoder { shape, twiddles, shifts, .. } = self;
            vectorised(self.kernel, Slab::<E> { rows: *rows, shape, twiddles, shifts, out });
        });
        work.into_iter().map(|(_, code)| code).collect()
    }
}

/// The rows of each slab of `cells`.
pub(super) fn rows_of_slabs<'a, B: Copy>(cells: CellsRef<'a, B>, shape: &Shape) -> Vec<CellsRef<'a, B>> {
    cells.chunks(LANES << shape.log_cols).collect()
}

/// Where position `i` of a code of this shape lies in a slab.
pub(super) fn place(shape: &Shape, i: usize) -> usize {
    let (rate, bits) = (shape.log_inverse_rate, shape.log_cols);
    let (coset, i) = (i & ((1 << rate) - 1), i >> rate);
    let reversed = if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS as usize - bits) };
    (coset << bits) + reversed
}
