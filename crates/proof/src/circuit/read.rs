//! Expressions block by block, for the prover: what it computes cell by cell is never in memory as a vector of the field for every term.
//!
//! A view's index is linear in the bits of a cell. Mostly the last coordinates are those of the vector, in order, or it has none of them: then a block
//! is copied, or filled with one element.

use super::fill::{Cells, Indices};
use super::{Linear, View};
use crate::field::ProofField;
use crate::lanes::arithmetic::{Total, add};
use crate::lanes::{
    self, Base as Lanes, Ext, Kernel, LANE_BITS, LANES, Plain, Task, Wide, canonical, reduce, vectorised,
    wide,
};
use crate::parallel;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Cells of a block: what is computed of them stays in the first cache.
pub(crate) const BLOCK: usize = 1 << 10;
/// Cells of a piece of work.
const PIECE: usize = 1 << 13;

/// How the last coordinates of a cell choose a vector's element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// They are the vector's last ones, in order.
    Consecutive,
    /// It has none of them.
    Still,
    /// Any other way.
    Scattered,
}

/// A view, block by block.
#[derive(Clone, Debug)]
struct Viewed<'a, B: Clone> {
    source: Cow<'a, [B]>,
    indices: Indices,
    run: Run,
    /// Cells of which `run` speaks.
    length: usize,
}

impl<'a, B: PrimeField32> Viewed<'a, B> {
    fn new(cells: &Cells<'a, B>, view: &View, log: usize) -> Viewed<'a, B> {
        let weights = Indices::weights(&view.bits, log).0;
        let last = weights.iter().rev();
        let still = last.clone().take_while(|weight| **weight == 0).count();
        let consecutive = last.enumerate().take_while(|(at, weight)| **weight == 1 << *at).count();
        let (run, bits) = match (still, consecutive) {
            (LANE_BITS.., _) => (Run::Still, still),
            (_, LANE_BITS..) => (Run::Consecutive, consecutive),
            _ => (Run::Scattered, 0),
        };
        let indices = Indices::new(&view.bits, log);
        Viewed { source: cells.source(view.source), indices, run, length: 1 << bits }
    }

    /// The cells from `start` on.
    #[inline(always)]
    fn read(&self, start: usize, out: &mut [u32]) {
        if self.run == Run::Scattered {
            for (at, out) in out.iter_mut().enumerate() {
                *out = self.source[self.indices.at(start + at)].to_unique_u32();
            }
            return;
        }
        let length = self.length.min(out.len());
        for (number, out) in out.chunks_exact_mut(length).enumerate() {
            let index = self.indices.at(start + number * length);
            if self.run == Run::Still {
                out.fill(self.source[index].to_unique_u32());
            } else {
                for (out, x) in out.iter_mut().zip(&self.source[index..index + length]) {
                    *out = x.to_unique_u32();
                }
            }
        }
    }
}

/// What a product, and a factor of it, are read into.
type Scratch = [[u32; BLOCK]; 2];

/// An expression, block by block.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a, B: Clone> {
    constant: u32,
    terms: Vec<(u32, Vec<Viewed<'a, B>>)>,
    order: u32,
}

impl<'a, B: PrimeField32> Reader<'a, B> {
    /// `linear` over `2^log` cells.
    pub(crate) fn new(cells: &Cells<'a, B>, linear: &Linear<B>, log: usize) -> Reader<'a, B> {
        let views = |views: &[View]| views.iter().map(|view| Viewed::new(cells, view, log)).collect();
        let terms = linear.terms.iter().map(|term| (term.coefficient.to_unique_u32(), views(&term.views)));
        Reader { constant: linear.constant.to_unique_u32(), terms: terms.collect(), order: B::ORDER_U32 }
    }

    /// The integer that it is everywhere, if it is one without being read.
    pub(crate) fn constant(&self) -> Option<i64> {
        self.terms.is_empty().then(|| centred(canonical(self.constant), self.order))
    }

    /// Montgomery forms of a block, at most [`BLOCK`] cells, from `start` on, a multiple of its length.
    #[inline(always)]
    fn raw(&self, start: usize, out: &mut [u32], [product, factor]: &mut Scratch) {
        let (product, factor) = (&mut product[..out.len()], &mut factor[..out.len()]);
        if let ([(lanes::ONE, views)], 0) = (&self.terms[..], self.constant)
            && let [view] = &views[..]
        {
            return view.read(start, out);
        }
        out.fill(self.constant);
        for (coefficient, views) in &self.terms {
            let Some((first, others)) = views.split_first() else {
                out.iter_mut().for_each(|out| *out = lanes::add(*out, *coefficient));
                continue;
            };
            first.read(start, product);
            for view in others {
                view.read(start, factor);
                for (product, factor) in product.iter_mut().zip(factor.iter()) {
                    *product = reduce(wide(*product, *factor));
                }
            }
            if *coefficient == lanes::ONE {
                for (out, x) in out.iter_mut().zip(product.iter()) {
                    *out = lanes::add(*out, *x);
                }
            } else {
                for (out, x) in out.iter_mut().zip(product.iter()) {
                    *out = lanes::add(*out, reduce(wide(*x, *coefficient)));
                }
            }
        }
    }

    /// The integers of smallest magnitude of cells from `start` on, a multiple of their number or of [`BLOCK`].
    pub(crate) fn integers(&self, kernel: Kernel, start: usize, out: &mut [i64]) {
        vectorised(kernel, Integers { reader: self, start, out });
    }
}

#[inline(always)]
fn centred(x: u32, order: u32) -> i64 {
    i64::from(x) - if x > order / 2 { i64::from(order) } else { 0 }
}

struct Integers<'a, 'b, B: Clone> {
    reader: &'b Reader<'a, B>,
    start: usize,
    out: &'b mut [i64],
}

impl<B: PrimeField32> Task for Integers<'_, '_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (mut block, mut scratch) = ([0; BLOCK], [[0; BLOCK]; 2]);
        for (number, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let raw = &mut block[..out.len()];
            self.reader.raw(self.start + number * BLOCK, raw, &mut scratch);
            for (out, x) in out.iter_mut().zip(raw.iter()) {
                *out = centred(canonical(*x), self.reader.order);
            }
        }
    }
}

/// The integers of `linear`: the representatives of its cells that are smallest in magnitude.
pub(crate) fn integers<B: PrimeField32>(cells: &Cells<'_, B>, linear: &Linear<B>, log: usize) -> Vec<i64> {
    let (reader, kernel) = (Reader::new(cells, linear, log), Kernel::detect());
    if let Some(constant) = reader.constant() {
        return vec![constant; 1 << log];
    }
    let mut out = vec![0; 1 << log];
    let mut pieces: Vec<(usize, &mut [i64])> = out.chunks_mut(PIECE).enumerate().collect();
    parallel::for_each(&mut pieces, |(piece, out)| reader.integers(kernel, *piece * PIECE, out));
    out
}

/// Groups that are filled at a time: all lanes of them stay in the first caches.
const GROUPS: usize = 64;
/// Terms that are added at a time.
const TERMS: usize = 8;

/// Some groups, from `first` on of `2^k`: cell `lane 2^k + group` is in lane `lane`.
#[inline(always)]
fn fill_lanes<B: PrimeField32>(
    reader: &Reader<'_, B>,
    (first, groups): (usize, usize),
    out: &mut [Lanes],
    scratch: &mut Scratch,
) {
    let mut raw = [0; GROUPS];
    let raw = &mut raw[..out.len()];
    for lane in 0..LANES {
        reader.raw(lane * groups + first, raw, scratch);
        for (out, x) in out.iter_mut().zip(raw.iter()) {
            out.0[lane] = *x;
        }
    }
}

struct InLanes<'a, 'b, B: Clone> {
    reader: &'b Reader<'a, B>,
    first: usize,
    groups: usize,
    out: &'b mut [Lanes],
}

impl<B: PrimeField32> Task for InLanes<'_, '_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut scratch = [[0; BLOCK]; 2];
        for (number, out) in self.out.chunks_mut(GROUPS).enumerate() {
            fill_lanes(self.reader, (self.first + number * GROUPS, self.groups), out, &mut scratch);
        }
    }
}

/// The vector of `linear` in lanes: index `lane 2^k + group`; `log` is at least that of a group.
pub(crate) fn in_lanes<B: PrimeField32>(cells: &Cells<'_, B>, linear: &Linear<B>, log: usize) -> Vec<Lanes> {
    let (reader, kernel, groups) =
        (Reader::new(cells, linear, log), Kernel::detect(), 1 << (log - LANE_BITS));
    let mut out = vec![Lanes::ZERO; groups];
    let mut pieces: Vec<(usize, &mut [Lanes])> = out.chunks_mut(PIECE / LANES).enumerate().collect();
    parallel::for_each(&mut pieces, |(piece, out)| {
        let first = *piece * (PIECE / LANES);
        vectorised(kernel, InLanes { reader: &reader, first, groups, out });
    });
    out
}

struct Weighed<'a, 'b, B: Clone> {
    constant: Ext,
    terms: &'b [([u32; 5], Reader<'a, B>)],
    first: usize,
    groups: usize,
    out: &'b mut [Ext],
}

impl<B: PrimeField32> Task for Weighed<'_, '_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        let (mut columns, mut scratch) = (vec![Lanes::ZERO; TERMS * GROUPS], [[0; BLOCK]; 2]);
        for (number, out) in self.out.chunks_mut(GROUPS).enumerate() {
            let first = self.first + number * GROUPS;
            out.fill(self.constant);
            for terms in self.terms.chunks(TERMS) {
                for ((_, reader), column) in terms.iter().zip(columns.chunks_mut(GROUPS)) {
                    fill_lanes(reader, (first, self.groups), &mut column[..out.len()], &mut scratch);
                }
                for (at, out) in out.iter_mut().enumerate() {
                    let mut sum = Total::zero(w);
                    for (term, (coefficient, _)) in terms.iter().enumerate() {
                        sum.add_multiples(w, coefficient, &columns[term * GROUPS + at]);
                    }
                    *out = add(w, out, &sum.reduce(w));
                }
            }
        }
    }
}

/// `constant + sum of coefficient * product of views`, in lanes.
pub(crate) fn weighed<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    constant: E,
    terms: &[(E, &[View])],
    log: usize,
) -> Vec<Ext> {
    let (kernel, groups) = (Kernel::detect(), 1 << (log - LANE_BITS));
    let reader = |views: &[View]| Reader::new(cells, &Linear::product(views.to_vec()), log);
    let terms: Vec<([u32; 5], Reader<'_, E::Base>)> =
        terms.iter().map(|(coefficient, views)| (lanes::raw(*coefficient), reader(views))).collect();
    let constant = Ext::splat(&lanes::raw(constant));
    let mut out = vec![Ext::ZERO; groups];
    let mut pieces: Vec<(usize, &mut [Ext])> = out.chunks_mut(4 * GROUPS).enumerate().collect();
    parallel::for_each(&mut pieces, |(piece, out)| {
        let first = *piece * 4 * GROUPS;
        vectorised(kernel, Weighed { constant, terms: &terms, first, groups, out });
    });
    out
}
