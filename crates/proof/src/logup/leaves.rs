//! Leaves as the circuit has them: columns of the base field, and two random numbers for all.
//!
//! Most fractions are lookups, whose numerator is 1, and whose denominator is a constant plus multiples of one or two columns. So
//! nothing of the extension is stored of a leaf: its columns lie in lanes, and whoever needs a fraction or a sum of two computes
//! it from them, which takes less time than to read it from memory.

use crate::field::ProofField;
use crate::lanes::arithmetic::{add, combined, mul, mul_base, products_base, scale};
use crate::lanes::{self, Base, Ext, LANE_BITS, LANES, Wide};
use crate::parallel;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use p3_field::PrimeCharacteristicRing;

/// Smallest height of a tree whose leaves lie in lanes.
pub(super) const PACKED_HEIGHT: usize = 10;
/// Consecutive leaves that a block of such a tree has at least, as a logarithm: two folded pairs of parents of one run.
const BLOCK_LOG: usize = 4;
/// Groups that are copied at a time.
const CHUNK_GROUPS: usize = 64;
/// Groups of leaves of a part, at least.
const PART_GROUPS: usize = 512;
/// And at most: parts of some megabytes, whose memory is used again and not given back.
const PART_GROUPS_MAX: usize = 1 << 15;

/// The numerators of some leaves.
#[derive(Clone, Debug)]
pub enum Numerators<'a, B: Clone> {
    /// All are 1: lookups.
    One,
    /// One each.
    Each(Cow<'a, [B]>),
}

/// `2^log` consecutive leaves `numerator / (constant + sum of factor * column)`.
#[derive(Clone, Debug)]
pub struct Leaves<'a, E: ProofField> {
    /// log2 of their number.
    pub log: usize,
    /// The numerators.
    pub numerators: Numerators<'a, E::Base>,
    /// What all denominators have.
    pub constant: E,
    /// What is added: factors and columns of `2^log` cells.
    pub columns: Vec<(E, Cow<'a, [E::Base]>)>,
}

impl<E: ProofField> Leaves<'_, E> {
    /// Numerators and denominators, element by element.
    pub(super) fn fractions(&self) -> (Vec<E>, Vec<E>) {
        let count = 1 << self.log;
        let numerators = match &self.numerators {
            Numerators::One => vec![E::ONE; count],
            Numerators::Each(values) => values.iter().map(|x| E::from(*x)).collect(),
        };
        let mut denominators = vec![self.constant; count];
        for (factor, column) in &self.columns {
            denominators.iter_mut().zip(column.iter()).for_each(|(q, x)| *q += *factor * *x);
        }
        (numerators, denominators)
    }
}

/// What a sum of two fractions `1/q + 1/q'` is made of where q has one or two columns: `q + q'` and `q q'` as sums of multiples of
/// `c + c'`, `c c'` and `c d' + d c'`.
#[derive(Clone, Debug)]
struct Squares {
    /// Twice the constant, and its square.
    constants: [Ext; 2],
    /// Constant times factor.
    mixed: [Ext; 2],
    /// Factor times factor: both of the first, one of each, both of the second.
    squares: [Ext; 3],
}

/// Consecutive groups of leaves whose denominators are `constant + sum of factor * column`, lane by lane.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Its groups of those of its part: a multiple of 16 of them.
    pub(super) groups: Range<usize>,
    pub(super) constant: Ext,
    pub(super) factors: Vec<Ext>,
    /// Numerators lie behind the columns; otherwise all are 1.
    pub(super) numerators: bool,
    /// Group by group its columns.
    pub(super) cells: Vec<Base>,
    squares: Option<Squares>,
}

impl Run {
    /// Columns, with the numerators.
    #[inline(always)]
    pub(super) fn width(&self) -> usize {
        self.factors.len() + usize::from(self.numerators)
    }

    /// Which kernel it needs: so many columns and numerators of 1, or 0.
    pub(super) fn kind(&self) -> usize {
        if self.squares.is_some() { self.factors.len() } else { 0 }
    }

    /// The numerators of group `at`, of a run that has some.
    #[inline(always)]
    pub(super) fn numerators(&self, at: usize) -> &Base {
        &self.cells[at * self.width() + self.factors.len()]
    }

    /// The denominators of group `at`.
    #[inline(always)]
    pub(super) fn denominators<W: Wide>(&self, w: W, at: usize) -> Ext {
        combined(w, &self.constant, &self.factors, &self.cells[at * self.width()..])
    }

    /// Numerators and denominators of the sums of groups `2 at` and `2 at + 1`; `KIND` is [`Run::kind`].
    #[inline(always)]
    pub(super) fn sums<W: Wide, const KIND: usize>(&self, w: W, at: usize) -> (Ext, Ext) {
        match &self.squares {
            Some(Squares { constants, mixed, squares }) if KIND == 1 => {
                let [c, d] = [&self.cells[2 * at], &self.cells[2 * at + 1]];
                let x = [c.add(d), mul_base(w, c, d)];
                let p = combined(w, &constants[0], &self.factors[..1], &x[..1]);
                (p, combined(w, &constants[1], &[mixed[0], squares[0]], &x))
            }
            Some(Squares { constants, mixed, squares }) if KIND == 2 => {
                let [a, b] = [&self.cells[4 * at], &self.cells[4 * at + 1]];
                let [c, d] = [&self.cells[4 * at + 2], &self.cells[4 * at + 3]];
                let (first, second) = (a.add(c), b.add(d));
                let both = [mul_base(w, a, c), products_base(w, [a, d, b, c]), mul_base(w, b, d)];
                let p = combined(w, &constants[0], &self.factors[..2], &[first, second]);
                let x = [first, second, both[0], both[1], both[2]];
                let [of_first, of_second] = mixed;
                let [s, t, u] = squares;
                (p, combined(w, &constants[1], &[*of_first, *of_second, *s, *t, *u], &x))
            }
            _ => {
                let [q0, q1] = [self.denominators(w, 2 * at), self.denominators(w, 2 * at + 1)];
                let p = if self.numerators {
                    let [p0, p1] = [self.numerators(2 * at), self.numerators(2 * at + 1)];
                    add(w, &scale(w, &q1, p0), &scale(w, &q0, p1))
                } else {
                    add(w, &q0, &q1)
                };
                (p, mul(w, &q0, &q1))
            }
        }
    }
}

/// The leaves of one tree in lanes: index `lane 2^k + group`, cut into parts of consecutive groups.
pub(super) type Packed = Vec<Vec<Run>>;

/// Whether `blocks` can fill a tree of `2^height` leaves in lanes.
pub(super) fn packable<E: ProofField>(blocks: &[Leaves<'_, E>], height: usize) -> bool {
    height >= PACKED_HEIGHT && blocks.iter().all(|block| block.log >= BLOCK_LOG)
}

/// The leaves of one tree of `2^height` leaves in lanes; `blocks` fill it.
pub(super) fn pack<E: ProofField>(blocks: &[Leaves<'_, E>], height: usize) -> Packed {
    let groups = 1usize << (height - LANE_BITS);
    let least = if groups >= parallel::THREADS * PART_GROUPS { parallel::THREADS } else { 1 };
    let count = least.max(groups / PART_GROUPS_MAX);
    let each = groups / count;
    let smallest = blocks.iter().map(|block| 1usize << block.log).min().unwrap_or(1);
    // Every lane of a chunk reads one block.
    let chunk = smallest.min(CHUNK_GROUPS).min(each);
    let mut starts = Vec::with_capacity(blocks.len());
    let mut start = 0usize;
    for block in blocks {
        starts.push(start);
        start += 1 << block.log;
    }
    let mut parts: Vec<(usize, Vec<Run>)> = (0..count).map(|part| (part * each, Vec::new())).collect();
    parallel::for_each(&mut parts, |(first, runs)| {
        let of = |index: usize| starts.partition_point(|start| *start <= index) - 1;
        let blocks_at =
            |at: usize| -> [usize; LANES] { core::array::from_fn(|lane| of(lane * groups + *first + at)) };
        let mut at = 0;
        while at < each {
            // A run ends where the block of a lane does.
            let here = blocks_at(at);
            let mut end = at + chunk;
            while end < each && blocks_at(end) == here {
                end += chunk;
            }
            let mut run = Run::new(here.map(|block| &blocks[block]), at..end);
            // Chunk by chunk: sixteen lanes of one are written while it is in the first cache.
            for start in (0..end - at).step_by(chunk) {
                for (lane, block) in here.into_iter().enumerate() {
                    let offset = lane * groups + *first + at + start - starts[block];
                    run.fill(lane, &blocks[block], offset, start..start + chunk);
                }
            }
            runs.push(run);
            at = end;
        }
    });
    parts.into_iter().map(|(_, runs)| runs).collect()
}

impl Run {
    fn new<E: ProofField>(blocks: [&Leaves<'_, E>; LANES], groups: Range<usize>) -> Run {
        let numerators = blocks.iter().any(|block| matches!(block.numerators, Numerators::Each(_)));
        let width = blocks.iter().map(|block| block.columns.len()).max().unwrap_or(0);
        let (mut constant, mut factors) = (Ext::ZERO, vec![Ext::ZERO; width]);
        for (lane, block) in blocks.iter().enumerate() {
            constant.put(lane, lanes::raw(block.constant));
            for (factors, (factor, _)) in factors.iter_mut().zip(&block.columns) {
                factors.put(lane, lanes::raw(*factor));
            }
        }
        let of = |at: usize| factors.get(at).copied().unwrap_or(Ext::ZERO);
        let (a, f, g) = (constant, of(0), of(1));
        let squares = (!numerators && (1..=2).contains(&width)).then(|| Squares {
            constants: [a.add(&a), a.mul(&a)],
            mixed: [a.mul(&f), a.mul(&g)],
            squares: [f.mul(&f), f.mul(&g), g.mul(&g)],
        });
        let cells = vec![Base::ZERO; groups.len() * (width + usize::from(numerators))];
        Run { groups, constant, factors, numerators, cells, squares }
    }

    /// The cells of one lane in some of the groups, which begin at `offset` in `block`.
    fn fill<E: ProofField>(
        &mut self,
        lane: usize,
        block: &Leaves<'_, E>,
        offset: usize,
        groups: Range<usize>,
    ) {
        let width = self.width();
        let cells = &mut self.cells[groups.start * width..groups.end * width];
        let mut column = |at: usize, values: &[E::Base]| {
            let cells = cells[at..].iter_mut().step_by(width);
            cells.zip(&values[offset..]).for_each(|(cell, x)| cell.0[lane] = E::raw(*x));
        };
        for (at, (_, values)) in block.columns.iter().enumerate() {
            column(at, values);
        }
        match &block.numerators {
            Numerators::Each(values) => column(width - 1, values),
            Numerators::One if self.numerators => {
                let one = E::raw(E::Base::ONE);
                cells[width - 1..].iter_mut().step_by(width).for_each(|cell| cell.0[lane] = one);
            }
            Numerators::One => {}
        }
    }
}
