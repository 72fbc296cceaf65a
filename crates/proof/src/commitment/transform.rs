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
use crate::lanes::arithmetic::{butterflies, scaled_base};
use crate::lanes::{Base, Kernel, LANES, Plain, Task, Wide, add, canonical, reduce, sub, vectorised, wide};
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
    wanted: &'a Wanted,
    out: &'a mut [Base],
}

/// Places of a code that somebody asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted(Vec<bool>);

impl Wanted {
    /// All of them.
    pub(super) const ALL: Wanted = Wanted(Vec::new());

    /// These; others may have any values.
    pub(super) fn of(shape: &Shape, places: &[usize]) -> Wanted {
        let mut groups = vec![false; (1usize << shape.code_log()).div_ceil(LANES)];
        places.iter().for_each(|place| groups[place / LANES] = true);
        Wanted(groups)
    }

    /// Whether one of them is among `count` places from `first` on.
    #[inline(always)]
    fn any(&self, first: usize, count: usize) -> bool {
        let groups = first / LANES..(first + count).div_ceil(LANES);
        let mut any = self.0.is_empty();
        for group in groups {
            any = any || self.0[group];
        }
        any
    }
}

impl<E: ProofField> Task for Slab<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
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
        for (number, (coset, powers)) in self.out.chunks_exact_mut(size).zip(self.shifts).enumerate() {
            if size < 4 {
                small(&message, powers, coset);
                continue;
            }
            first(w, &message, powers, self.twiddles, coset);
            transform(w, coset, self.twiddles, size / 4, (self.wanted, number * size));
        }
    }
}

/// Places of a block whose layers are computed one after the other: it fits the first cache.
const BLOCK: usize = 256;
/// Places of a block that fits the second cache: 512 KiB.
const SECOND: usize = 1 << 13;

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
fn first<W: Wide>(w: W, message: &[Base], powers: &[u32], twiddles: &[u32], out: &mut [Base]) {
    let quarter = message.len() / 4;
    for at in 0..quarter {
        let places = [at, at + quarter, at + 2 * quarter, at + 3 * quarter];
        let t = [twiddles[at], twiddles[at + quarter], twiddles[2 * at]];
        let mut x = [Base::ZERO; 4];
        for (x, place) in x.iter_mut().zip(places) {
            *x = scaled_base(w, &message[place], powers[place]);
        }
        let results = butterflies(w, [&x[0], &x[1], &x[2], &x[3]], t);
        for place in 0..4 {
            out[places[place]] = results[place];
        }
    }
}

/// Decimation in frequency of blocks of `size`: butterflies of falling distance, two layers at a time, results in bit-reversed order, as
/// canonical integers. A block is finished before the next one as soon as it fits a cache, unless nothing is wanted of it; `first` is the place of the first one.
#[inline(always)]
fn transform<W: Wide>(
    w: W,
    x: &mut [Base],
    twiddles: &[u32],
    size: usize,
    (wanted, mut first): (&Wanted, usize),
) {
    let step = 2 * twiddles.len() / size;
    let (size, step) = until(w, x, twiddles, (size, step), SECOND);
    // Not `for_each`, here and below: what it calls is not inlined.
    for x in x.chunks_exact_mut(size) {
        let (large, step) = until(w, x, twiddles, (size, step), BLOCK);
        for block in x.chunks_exact_mut(large) {
            if wanted.any(first, large) {
                let (size, _) = until(w, block, twiddles, (large, step), 2);
                last(block, size);
            }
            first += large;
        }
    }
}

/// Layers of blocks of `size` until they have at most `limit` places.
#[inline(always)]
fn until<W: Wide>(
    w: W,
    x: &mut [Base],
    twiddles: &[u32],
    (mut size, mut step): (usize, usize),
    limit: usize,
) -> (usize, usize) {
    while size > limit {
        for block in x.chunks_exact_mut(size) {
            layers(w, block, twiddles, step);
        }
        (size, step) = (size / 4, 4 * step);
    }
    (size, step)
}

/// Two layers of one block.
#[inline(always)]
fn layers<W: Wide>(w: W, block: &mut [Base], twiddles: &[u32], step: usize) {
    let quarter = block.len() / 4;
    let (low, high) = block.split_at_mut(2 * quarter);
    let ((a, b), (c, d)) = (low.split_at_mut(quarter), high.split_at_mut(quarter));
    for at in 0..quarter {
        let t = [twiddles[at * step], twiddles[(at + quarter) * step], twiddles[2 * at * step]];
        let [first, second, third, fourth] = butterflies(w, [&a[at], &b[at], &c[at], &d[at]], t);
        (a[at], b[at], c[at], d[at]) = (first, second, third, fourth);
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

    /// The code of some slabs, as [`rows_of_slabs`] has them: for each every place that is wanted. `code` is where others were, or empty.
    pub(super) fn encode<E: ProofField>(
        &self,
        slabs: &[CellsRef<'_, E::Base>],
        wanted: &Wanted,
        code: &mut Vec<Vec<Base>>,
    ) {
        code.resize(slabs.len(), Vec::new());
        let mut work: Vec<(CellsRef<'_, E::Base>, &mut Vec<Base>)> =
            slabs.iter().copied().zip(code).collect();
        parallel::for_each(&mut work, |(rows, out)| {
            let Encoder { shape, twiddles, shifts, .. } = self;
            // Every place that is wanted is written.
            out.resize(1 << shape.code_log(), Base::ZERO);
            vectorised(self.kernel, Slab::<E> { rows: *rows, shape, twiddles, shifts, wanted, out });
        });
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
