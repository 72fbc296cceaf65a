//! Sum-checks over lanes: the same rounds as the scalar ones, sixteen indices at a time and two threads.
//!
//! The *first* four coordinates of a point choose the lane, the others the group: index `lane 2^k + group`. Then the coordinates that are bound
//! first pair neighbouring groups, and lanes never meet until sixteen values are left. With the factor eq, a group's
//! weight is the same in all lanes but for `eq(t_0..t_3, lane)`, which multiplies the sums at the end of a round.
//!
//! Vectors are cut into two parts, one a thread: each part folds in place, and binds and sums in one pass over its memory.

use super::prover::{Narrow, Proved, Running, Sum, Term};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::arithmetic::{add, mul, products, sub, times, toward};
use crate::lanes::sums::Fixed;
use crate::lanes::{self, Ext, Kernel, LANE_BITS, LANES, Plain, Task, vectorised};
use crate::multilinear::{doubled, eq_table};
use crate::parallel;
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// Fewest groups of a part: below, handing work to a thread takes longer than the work.
pub(crate) const PART_GROUPS: usize = 64;
/// Fewest variables for which lanes are worth their conversion.
pub(crate) const WIDE_LOG: usize = LANE_BITS + 2;

/// A consecutive half of the groups of all vectors, or all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) vectors: Vec<Vec<Ext>>,
    /// For each term the sums of a round.
    sums: Vec<[Ext; 2]>,
    scratch: Vec<[Ext; 2]>,
}

impl Part {
    /// Of these vectors.
    pub(crate) fn new(vectors: Vec<Vec<Ext>>) -> Part {
        Part { vectors, ..Part::default() }
    }
}

/// How many parts `groups` groups are cut into.
pub(crate) fn parts(groups: usize) -> usize {
    if groups >= parallel::THREADS * PART_GROUPS { parallel::THREADS } else { 1 }
}

/// One round over a part.
struct Round<'a, E> {
    part: &'a mut Part,
    terms: &'a [Term<E>],
    /// Binds the coordinate of the round before.
    bind: Option<&'a Fixed>,
    /// eq of the groups, coordinate by coordinate: of pair x entry `(first + x) >> shift`.
    weights: Option<&'a [[u32; 5]]>,
    first: usize,
    shift: usize,
}

impl<E: ProofField> Task for Round<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: lanes::Wide>(self, w: W) {
        let Part { vectors, sums, scratch } = self.part;
        let bound = if self.bind.is_some() { 4 } else { 2 };
        let pairs = vectors.first().map_or(0, Vec::len) / bound;
        for pair in 0..pairs {
            for (vector, [low, difference]) in vectors.iter_mut().zip(scratch.iter_mut()) {
                let (first, second) = match self.bind {
                    Some(r) => {
                        let four = &vector[4 * pair..4 * pair + 4];
                        let (first, second) =
                            (toward(w, &four[0], &four[1], r), toward(w, &four[2], &four[3], r));
                        vector[2 * pair] = first;
                        vector[2 * pair + 1] = second;
                        (first, second)
                    }
                    None => (vector[2 * pair], vector[2 * pair + 1]),
                };
                *difference = sub(w, &second, &first);
                *low = first;
            }
            for (term, [at_zero, leading]) in self.terms.iter().zip(sums.iter_mut()) {
                let (mut low, mut high) = (Ext::ZERO, Ext::ZERO);
                let (twos, one) = term.products.as_chunks::<2>();
                for [(a, b), (c, d)] in twos {
                    let (a, b, c, d) = (&scratch[*a], &scratch[*b], &scratch[*c], &scratch[*d]);
                    low = add(w, &low, &products(w, [&a[0], &b[0], &c[0], &d[0]]));
                    high = add(w, &high, &products(w, [&a[1], &b[1], &c[1], &d[1]]));
                }
                for (a, b) in one {
                    let (a, b) = (&scratch[*a], &scratch[*b]);
                    low = add(w, &low, &mul(w, &a[0], &b[0]));
                    high = add(w, &high, &mul(w, &a[1], &b[1]));
                }
                for vector in &term.linear {
                    low = add(w, &low, &scratch[*vector][0]);
                }
                if let Some(weights) = self.weights {
                    let weight = Fixed::new(weights[(self.first + pair) >> self.shift]);
                    low = times(w, &low, &weight);
                    if !term.products.is_empty() {
                        high = times(w, &high, &weight);
                    }
                }
                *at_zero = add(w, at_zero, &low);
                *leading = add(w, leading, &high);
            }
        }
        if self.bind.is_some() {
            vectors.iter_mut().for_each(|vector| vector.truncate(2 * pairs));
        }
    }
}

/// Binds the last coordinate that is left to groups.
struct Bind<'a> {
    vector: &'a mut Vec<Ext>,
    r: &'a Fixed,
}

impl Task for Bind<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: lanes::Wide>(self, w: W) {
        let half = self.vector.len() / 2;
        for i in 0..half {
            self.vector[i] = toward(w, &self.vector[2 * i], &self.vector[2 * i + 1], self.r);
        }
        self.vector.truncate(half);
    }
}

/// Few groups are one part.
fn join(parts: &mut Vec<Part>) {
    let groups: usize = parts.iter().filter_map(|part| part.vectors.first()).map(Vec::len).sum();
    if parts.len() > self::parts(groups) {
        let others = parts.split_off(1);
        for (vector, more) in others.into_iter().flat_map(|part| part.vectors.into_iter().enumerate()) {
            parts[0].vectors[vector].extend(more);
        }
    }
}

/// A sum whose vectors are in lanes, at least two groups in all.
#[derive(Debug)]
pub(crate) struct Wide<E> {
    parts: Vec<Part>,
    terms: Vec<Term<E>>,
    /// Variables that are not bound.
    left: usize,
    /// The first coordinates of eq, which choose the lane.
    lane_point: Option<Vec<E>>,
    lane_weights: Vec<E>,
    /// Tables of the others, one for each number of coordinates.
    tables: Vec<Vec<E>>,
    /// Whether there are others.
    weighted: bool,
    /// What binds the coordinate of the round before.
    bound: Option<Fixed>,
}

impl<E: ProofField> Wide<E> {
    pub(crate) fn new(parts: Vec<Part>, terms: Vec<Term<E>>, log: usize, eq: Option<&[E]>) -> Wide<E> {
        let (lane_point, group_point) =
            eq.map_or((&[][..], &[][..]), |eq| eq.split_at(eq.len().min(LANE_BITS)));
        let lane_table = eq_table(lane_point);
        let lane_weights =
            (0..LANES).map(|lane| lane_table[(lane * lane_table.len()) >> LANE_BITS]).collect();
        let mut tables = vec![vec![E::ONE]];
        for t in group_point.iter().take((log - LANE_BITS).saturating_sub(1)) {
            tables.push(doubled(&tables[tables.len() - 1], *t));
        }
        Wide {
            parts,
            terms,
            left: log,
            lane_point: eq.map(|_| lane_point.to_vec()),
            lane_weights,
            tables,
            weighted: !group_point.is_empty(),
            bound: None,
        }
    }

    /// h(0) and the leading coefficient.
    pub(crate) fn round(&mut self) -> [E; 2] {
        let (kernel, groups) = (Kernel::detect(), self.left - 1 - LANE_BITS);
        join(&mut self.parts);
        // Variables behind those of eq share the weight of what is in front of them.
        let known = groups.min(self.tables.len() - 1);
        self.tables.truncate(known + 1);
        let weights: Option<Vec<[u32; 5]>> =
            self.weighted.then(|| self.tables[known].iter().map(|x| lanes::raw(*x)).collect());
        let each = (1 << groups) / self.parts.len();
        let mut work: Vec<(usize, &mut Part)> = self.parts.iter_mut().enumerate().collect();
        parallel::for_each(&mut work, |(number, part)| {
            part.sums = vec![[Ext::ZERO; 2]; self.terms.len()];
            part.scratch.resize(part.vectors.len(), [Ext::ZERO; 2]);
            let (first, shift, weights) = (*number * each, groups - known, weights.as_deref());
            let (terms, bind) = (&self.terms[..], self.bound.as_ref());
            vectorised(kernel, Round { part, terms, bind, weights, first, shift });
        });
        let mut sent = [E::ZERO; 2];
        for (term, sums) in self.parts.iter().flat_map(|part| self.terms.iter().zip(&part.sums)) {
            for (sent, sum) in sent.iter_mut().zip(sums) {
                *sent += term.coefficient * lanes::weighted(sum, &self.lane_weights);
            }
        }
        sent
    }

    /// Binds the last variable; what is left, where that is one element a lane.
    pub(crate) fn bind(&mut self, r: E) -> Option<Narrow<E>> {
        let r = Fixed::of(r);
        self.left -= 1;
        if self.left > LANE_BITS {
            self.bound = Some(r);
            return None;
        }
        join(&mut self.parts);
        let kernel = Kernel::detect();
        // The round before has bound all but this coordinate in its pass.
        let mut vectors = Vec::new();
        for vector in self.parts.iter_mut().flat_map(|part| &mut part.vectors) {
            vectorised(kernel, Bind { vector, r: &r });
            vectors.push(scalars(vector));
        }
        let sum = Sum { vectors, terms: core::mem::take(&mut self.terms) };
        Some(Narrow::new(sum, LANE_BITS, self.lane_point.as_deref()))
    }
}

/// [`Sum::prove`] for vectors in lanes. `constant` is added to what is summed, with the factor eq of all variables, whose sum is 1.
pub(crate) fn prove<E: ProofField>(
    transcript: &mut ProverTranscript,
    parts: Vec<Part>,
    terms: Vec<Term<E>>,
    log: usize,
    eq: Option<&[E]>,
    claim: E,
    constant: E,
) -> Result<Proved<E>, ProveError> {
    Running::Wide(Wide::new(parts, terms, log, eq)).prove(transcript, (log, eq), claim, constant)
}

/// The elements of a vector, in the order of their indices.
pub(crate) fn scalars<E: ProofField>(groups: &[Ext]) -> Vec<E> {
    (0..LANES).flat_map(|lane| groups.iter().map(move |group| lanes::element(group.at(lane)))).collect()
}

/// A vector of `2^log` elements (filled with zeros) in lanes, cut into parts.
pub(crate) fn spread<E: ProofField>(values: &[E], log: usize) -> Vec<Vec<Ext>> {
    let groups = 1usize << (log - LANE_BITS);
    let parts = parts(groups);
    let mut out: Vec<(usize, Vec<Ext>)> =
        (0..parts).map(|part| (part * groups / parts, Vec::new())).collect();
    parallel::for_each(&mut out, |(start, part)| {
        *part = vec![Ext::ZERO; groups / parts];
        // Blocks: sixteen streams at distances that are powers of two would take turns in the same lines of the cache.
        for (block, out) in part.chunks_mut(PART_GROUPS).enumerate() {
            let first = *start + block * PART_GROUPS;
            for lane in 0..LANES {
                let from = (lane * groups + first).min(values.len());
                let values = &values[from..(from + out.len()).min(values.len())];
                out.iter_mut().zip(values).for_each(|(out, x)| out.put(lane, lanes::raw(*x)));
            }
        }
    });
    out.into_iter().map(|(_, part)| part).collect()
}
