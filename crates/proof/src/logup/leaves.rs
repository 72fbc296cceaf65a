//! Leaves as the circuit has them: columns of the base field, and two random numbers for all.
//!
//! Most fractions are lookups, whose numerator is 1, and whose denominator is a constant plus multiples of one or two columns. So a leaf is
//! a few products of an extension element and a base element when its tree is built, nothing of the extension is stored that is not
//! summed, and numerators that are all 1 are not stored at all.

use super::tree::{Leafage, Nodes};
use crate::field::ProofField;
use crate::lanes::{self, Base, Ext, Kernel, LANE_BITS, LANES, Task, vectorised};
use crate::parallel;
use crate::sumcheck::wide::{PART_GROUPS, parts};
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeCharacteristicRing;

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

/// Groups of a tree that need the same factors.
struct Chunk<'a> {
    constant: &'a Ext,
    factors: &'a [Ext],
    /// For each factor as many groups as the chunk has.
    columns: &'a [Vec<Base>],
    /// `None`: all are 1.
    numerators: Option<&'a [Base]>,
    groups: usize,
    /// Its first group in its part: even groups are left children. A chunk of one group may begin at an odd one.
    first: usize,
    out: &'a mut Nodes,
}

impl Task for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for at in 0..self.groups {
            let mut q = *self.constant;
            for (factor, column) in self.factors.iter().zip(self.columns) {
                q = q.add(&factor.scale(&column[at]));
            }
            let side = (self.first + at) % 2;
            self.out[2 + side].push(q);
            if let Some(numerators) = self.numerators {
                let mut p = Ext::ZERO;
                p.0[0] = numerators[at].0;
                self.out[side].push(p);
            }
        }
    }
}

/// The leaves of one tree of `2^height` leaves in lanes; `blocks` fill it.
pub(super) fn pack<E: ProofField>(blocks: &[Leaves<'_, E>], height: usize) -> Leafage {
    let kernel = Kernel::detect();
    let groups = 1usize << (height - LANE_BITS);
    let (count, ones) =
        (parts(groups), blocks.iter().all(|block| matches!(block.numerators, Numerators::One)));
    let each = groups / count;
    let smallest = blocks.iter().map(|block| 1usize << block.log).min().unwrap_or(1);
    // Every lane of a chunk reads one block.
    let chunk = smallest.min(PART_GROUPS).min(each);
    let mut starts = Vec::with_capacity(blocks.len());
    let mut start = 0usize;
    for block in blocks {
        starts.push(start);
        start += 1 << block.log;
    }
    let empty = |groups: usize| core::array::from_fn(|_| Vec::with_capacity(groups / 2));
    let mut out: Vec<(usize, Nodes)> = (0..count).map(|part| (part * each, empty(each))).collect();
    parallel::for_each(&mut out, |(first, nodes)| {
        let mut columns: Vec<Vec<Base>> = Vec::new();
        let mut numerators = vec![Base::ZERO; chunk];
        for group in (*first..*first + each).step_by(chunk) {
            let (mut constant, mut factors) = (Ext::ZERO, Vec::new());
            columns.iter_mut().for_each(|column| column.fill(Base::ZERO));
            for lane in 0..LANES {
                let index = lane * groups + group;
                let block = starts.partition_point(|start| *start <= index) - 1;
                let (block, offset) = (&blocks[block], index - starts[block]);
                constant.put(lane, lanes::raw(block.constant));
                if block.columns.len() > factors.len() {
                    factors.resize(block.columns.len(), Ext::ZERO);
                    columns.resize_with(columns.len().max(factors.len()), || vec![Base::ZERO; chunk]);
                }
                for ((factor, values), (splat, column)) in
                    block.columns.iter().zip(factors.iter_mut().zip(&mut columns))
                {
                    splat.put(lane, lanes::raw(*factor));
                    let values = &values[offset..offset + chunk];
                    column.iter_mut().zip(values).for_each(|(out, x)| out.0[lane] = E::raw(*x));
                }
                match &block.numerators {
                    Numerators::One => {
                        let one = E::raw(E::Base::ONE);
                        numerators.iter_mut().for_each(|out| out.0[lane] = one);
                    }
                    Numerators::Each(values) => {
                        let values = &values[offset..offset + chunk];
                        numerators.iter_mut().zip(values).for_each(|(out, x)| out.0[lane] = E::raw(*x));
                    }
                }
            }
            let numerators = (!ones).then_some(&numerators[..]);
            let (constant, factors, columns) = (&constant, &factors[..], &columns[..]);
            let place = group - *first;
            vectorised(
                kernel,
                Chunk { constant, factors, columns, numerators, groups: chunk, first: place, out: nodes },
            );
        }
    });
    Leafage { parts: out.into_iter().map(|(_, nodes)| nodes).collect(), ones }
}
