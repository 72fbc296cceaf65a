//! The sum-check of one layer of all trees: like [`crate::sumcheck`]'s in lanes, for one summand, in one pass over memory a round.
//!
//! ```text
//! general   p0 q1 + p1 q0 + b q0 q1 = m q1 + p1 q0,                m = p0 + b q0
//! leaves    the same = (u0 u1 - p0 p1) / b,                        u = p + b q
//!                    = (u0 u1 - 1 - d0 - d1 - d0 d1) / b,          d = p - 1
//! ```
//!
//! Leaves have numerators of 1 but for tables, so d is 0 in most groups and kept for the others alone. The two lowest layers are computed from columns: one pass for
//! two rounds ([`grid`]), another one that binds both and writes vectors of a quarter of the size. Vectors are folded in place.

mod grid;
mod leaves;
mod nodes;
mod sums;

use super::leaves::Run;
use super::tree::{Children, Node, Tree, WIDE_LOG, spread};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::sums::Fixed;
use crate::lanes::{self, Ext, Kernel, LANE_BITS, Task, vectorised};
use crate::multilinear::{doubled, eq_table};
use crate::parallel;
use crate::sumcheck::prover::{Narrow, Running};
use crate::sumcheck::wide::scalars;
use crate::sumcheck::{Proved, Sum, Term, next_claim};
use crate::transcript::ProverTranscript;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use grid::Grid;
use leaves::{LeavesBound, LeavesGrid, Units};
use nodes::{NodesFirst, NodesNext};
use sums::{SumsBound, SumsGrid};

/// Fewest groups of a part.
const PART_GROUPS: usize = 64;

/// How much of columns is bound.
enum Bound {
    Nothing,
    /// Nothing, but the sums of the next round are known.
    Known(Box<Grid>),
    /// The last coordinate.
    One(Fixed),
}

/// What a part of a tree's layer is at a round.
enum State<'a> {
    Leaves(&'a [Run], Bound),
    Sums(&'a [Run], Bound),
    /// Before and after the first binding, which puts m in the place of p0.
    Nodes(Vec<Node>),
    Mixed(Vec<Node>),
    Units(Units),
}

/// What a round multiplies with.
#[derive(Clone, Copy)]
struct Factors<'a> {
    batch: &'a Fixed,
    /// Binds the coordinate of the round before.
    bind: Option<&'a Fixed>,
    /// eq of the next coordinate, 0 and 1.
    next: &'a [Fixed; 2],
}

impl State<'_> {
    /// Groups of nodes.
    fn groups(&self) -> usize {
        let leaves = |runs: &[Run]| runs.iter().map(|run| run.groups.len()).sum::<usize>();
        let left = |bound: &Bound| if matches!(bound, Bound::One(_)) { 1 } else { 0 };
        match self {
            State::Leaves(runs, bound) => leaves(runs) >> (1 + left(bound)),
            State::Sums(runs, bound) => leaves(runs) >> (2 + left(bound)),
            State::Nodes(nodes) | State::Mixed(nodes) => nodes.len(),
            State::Units(units) => units.u.len(),
        }
    }

    /// One round: binds the coordinate of the round before, and gives the sums for 0 and for the leading coefficient, of the general
    /// summand, or b times that of leaves without its constant. `next` are the weights of the next round.
    fn round(
        &mut self,
        kernel: Kernel,
        factors: Factors<'_>,
        weights: &[[u32; 5]],
        next: &[[u32; 5]],
    ) -> [Ext; 2] {
        let Factors { batch, bind, .. } = factors;
        match (&mut *self, bind) {
            (State::Leaves(runs, bound), _) => match (&*bound, bind) {
                (Bound::Known(grid), Some(r)) => {
                    let sums = grid::second(grid, r);
                    *bound = Bound::One(*r);
                    sums
                }
                (Bound::One(first), Some(r)) => {
                    let mut units = Units::default();
                    let corners = &grid::corners(&[*first, *r]);
                    let sums =
                        vectorised(kernel, LeavesBound { runs, batch, corners, weights, out: &mut units });
                    *self = State::Units(units);
                    sums
                }
                _ => {
                    let grid = vectorised(kernel, LeavesGrid { runs, batch, weights: next });
                    let sums = grid::first(&grid, factors.next);
                    *bound = Bound::Known(Box::new(grid));
                    sums
                }
            },
            (State::Sums(runs, bound), _) => match (&*bound, bind) {
                (Bound::Known(grid), Some(r)) => {
                    let sums = grid::second(grid, r);
                    *bound = Bound::One(*r);
                    sums
                }
                (Bound::One(first), Some(r)) => {
                    let mut out = Vec::with_capacity(2 * weights.len());
                    let r = &[*first, *r];
                    let corners = &grid::corners(r);
                    let sums =
                        vectorised(kernel, SumsBound { runs, batch, r, corners, weights, out: &mut out });
                    *self = State::Mixed(out);
                    sums
                }
                _ => {
                    let grid = vectorised(kernel, SumsGrid { runs, batch, weights: next });
                    let sums = grid::first(&grid, factors.next);
                    *bound = Bound::Known(Box::new(grid));
                    sums
                }
            },
            (State::Units(units), Some(r)) => vectorised(kernel, leaves::UnitsNext { units, r, weights }),
            (State::Units(_), None) => [Ext::ZERO; 2],
            (State::Nodes(nodes) | State::Mixed(nodes), None) => {
                vectorised(kernel, NodesFirst { nodes, batch, weights })
            }
            (State::Nodes(nodes), Some(r)) => {
                let sums = vectorised(kernel, NodesNext { nodes, batch: Some(batch), r, weights });
                *self = State::Mixed(core::mem::take(nodes));
                sums
            }
            (State::Mixed(nodes), Some(r)) => {
                vectorised(kernel, NodesNext { nodes, batch: None, r, weights })
            }
        }
    }

    /// Appends a part that lies behind this one.
    fn append(&mut self, more: State<'_>) {
        match (self, more) {
            (State::Nodes(nodes), State::Nodes(more)) | (State::Mixed(nodes), State::Mixed(more)) => {
                nodes.extend_from_slice(&more);
            }
            (State::Units(units), State::Units(more)) => units.append(more),
            _ => {}
        }
    }
}

/// A tree in a layer.
struct Member<'a, E> {
    parts: Vec<State<'a>>,
    coefficient: E,
    leaves: bool,
}

impl<E> Member<'_, E> {
    /// Few groups are one part; columns have many, and no vectors to join.
    fn join(&mut self, pairs: usize) {
        let columns = self.parts.iter().any(|part| matches!(part, State::Leaves(..) | State::Sums(..)));
        if self.parts.len() > 1 && pairs < PART_GROUPS && !columns {
            let mut parts = self.parts.drain(..);
            if let Some(mut first) = parts.next() {
                parts.for_each(|part| first.append(part));
                self.parts = vec![first];
            }
        }
    }
}

/// The sum-check over the `2^layer` nodes of a layer, in terms of their children: `p0, p1, q0, q1` of each tree at the point.
pub(super) fn prove<E: ProofField>(
    transcript: &mut ProverTranscript,
    trees: Vec<&mut Tree<E>>,
    coefficients: &[E],
    point: &[E],
    batch: E,
    claim: E,
) -> Result<Proved<E>, ProveError> {
    let layer = point.len();
    let inverse = batch.try_inverse().ok_or(ProveError::Degenerate { what: "a layer of lookups" })?;
    let children: Vec<Children<'_, E>> = trees.into_iter().map(|tree| tree.children(layer)).collect();
    if layer < WIDE_LOG {
        let (mut vectors, mut terms) = (Vec::new(), Vec::with_capacity(coefficients.len()));
        for (children, coefficient) in children.into_iter().zip(coefficients) {
            let Children::Scalars([mut mixed, p1, q0, q1]) = children else { continue };
            mixed.iter_mut().zip(&q0).for_each(|(p, q)| *p += batch * *q);
            terms.push(general(*coefficient, vectors.len()));
            vectors.extend([mixed, p1, q0, q1]);
        }
        let Proved { point, mut values } =
            Sum { vectors, terms }.prove(transcript, layer, Some(point), claim)?;
        for children in values.as_chunks_mut::<4>().0 {
            children[0] -= batch * children[2];
        }
        return Ok(Proved { point, values });
    }
    let members = children.into_iter().zip(coefficients).map(|(children, coefficient)| {
        let leaves = matches!(children, Children::Leaves(_));
        let parts = match children {
            Children::Scalars(scalars) => vec![State::Nodes(spread(&scalars))],
            Children::Nodes(parts) => parts.into_iter().map(State::Nodes).collect(),
            Children::Sums(parts) => parts.iter().map(|runs| State::Sums(runs, Bound::Nothing)).collect(),
            Children::Leaves(parts) => parts.iter().map(|runs| State::Leaves(runs, Bound::Nothing)).collect(),
        };
        let coefficient = if leaves { *coefficient * inverse } else { *coefficient };
        Member { parts, coefficient, leaves }
    });
    wide(transcript, members.collect(), point, batch, inverse, claim)
}

/// `m q1 + p1 q0` of four vectors.
fn general<E>(coefficient: E, first: usize) -> Term<E> {
    Term { coefficient, products: vec![(first, first + 3), (first + 1, first + 2)], linear: Vec::new() }
}

/// [`prove`] for members in lanes.
fn wide<E: ProofField>(
    transcript: &mut ProverTranscript,
    mut members: Vec<Member<'_, E>>,
    eq: &[E],
    batch: E,
    inverse: E,
    mut claim: E,
) -> Result<Proved<E>, ProveError> {
    let kernel = Kernel::detect();
    let log = eq.len();
    let (lane_point, group_point) = eq.split_at(LANE_BITS);
    let lane_weights = eq_table(lane_point);
    let mut tables = vec![vec![E::ONE]];
    for t in &group_point[..group_point.len() - 1] {
        tables.push(doubled(&tables[tables.len() - 1], *t));
    }
    let constant: E = members.iter().filter(|member| member.leaves).map(|member| -member.coefficient).sum();
    let fixed = Fixed::of(batch);
    let mut point = vec![E::ZERO; log];
    let mut bind: Option<Fixed> = None;
    for i in (LANE_BITS..log).rev() {
        let raw = |table: &Vec<E>| -> Vec<[u32; 5]> { table.iter().map(|x| lanes::raw(*x)).collect() };
        let weights = raw(&tables.pop().unwrap_or_default());
        // Columns need two rounds' at once.
        let (next, t) = match (tables.last(), &bind) {
            (Some(table), None) => (raw(table), eq[i - 1]),
            _ => (Vec::new(), E::ZERO),
        };
        let factors =
            Factors { batch: &fixed, bind: bind.as_ref(), next: &[Fixed::of(E::ONE - t), Fixed::of(t)] };
        let mut work = Vec::new();
        for (number, member) in members.iter_mut().enumerate() {
            member.join(weights.len() / member.parts.len());
            let (each, half) = (weights.len() / member.parts.len(), next.len() / member.parts.len());
            for (part, state) in member.parts.iter_mut().enumerate() {
                let weights = &weights[part * each..(part + 1) * each];
                let next = &next[part * half..(part + 1) * half];
                work.push((number, state, weights, next, [Ext::ZERO; 2]));
            }
        }
        parallel::for_each(&mut work, |(_, state, weights, next, sums)| {
            debug_assert_eq!(state.groups() >> usize::from(bind.is_some()), 2 * weights.len());
            *sums = state.round(kernel, factors, weights, next);
        });
        let sums: Vec<(usize, [Ext; 2])> =
            work.into_iter().map(|(number, .., sums)| (number, sums)).collect();
        let mut sent = [constant, E::ZERO];
        for (number, sums) in sums {
            for (sent, sum) in sent.iter_mut().zip(&sums) {
                *sent += members[number].coefficient * lanes::weighted(sum, &lane_weights);
            }
        }
        transcript.send("round", &sent);
        let r: E = transcript.sponge.challenge("bind");
        claim =
            next_claim(claim, Some(eq[i]), sent, r).ok_or(ProveError::Degenerate { what: "a sum-check" })?;
        bind = Some(Fixed::of(r));
        point[i] = r;
    }
    let (mut vectors, mut terms) = (Vec::new(), Vec::new());
    for member in &mut members {
        let (first, coefficient) = (vectors.len(), member.coefficient);
        member.join(0);
        let last = match (&member.parts[0], &bind) {
            (State::Mixed(nodes), Some(r)) => vectorised(kernel, LastNodes { nodes, r }),
            (State::Units(units), Some(r)) => vectorised(kernel, leaves::LastUnits { units, r }),
            _ => [Ext::ZERO; 4],
        };
        vectors.extend(last.iter().map(|group| scalars(core::slice::from_ref(group))));
        if member.leaves {
            terms.push(Term::product(coefficient, first, first + 1));
            let (products, linear) = (vec![(first + 2, first + 3)], vec![first + 2, first + 3]);
            terms.push(Term { coefficient: -coefficient, products, linear });
        } else {
            terms.push(general(coefficient, first));
        }
    }
    let sum = Sum { vectors, terms };
    let rest = Running::Narrow(Narrow::new(sum, LANE_BITS, Some(lane_point)));
    let rest = rest.prove(transcript, (LANE_BITS, Some(lane_point)), claim, constant)?;
    point[..LANE_BITS].copy_from_slice(&rest.point);
    let mut values = rest.values;
    for (member, children) in members.iter().zip(values.as_chunks_mut::<4>().0) {
        if member.leaves {
            let [u0, u1, d0, d1] = *children;
            let (p0, p1) = (E::ONE + d0, E::ONE + d1);
            *children = [p0, p1, (u0 - p0) * inverse, (u1 - p1) * inverse];
        } else {
            children[0] -= batch * children[2];
        }
    }
    Ok(Proved { point, values })
}

/// Binds the last two groups.
struct LastNodes<'a> {
    nodes: &'a [Node],
    r: &'a Fixed,
}

impl Task for LastNodes<'_> {
    type Output = Node;

    #[inline(always)]
    fn run(self) -> Node {
        let mut out = [Ext::ZERO; 4];
        for (at, out) in out.iter_mut().enumerate() {
            *out = self.nodes[0][at].toward(&self.nodes[1][at], self.r);
        }
        out
    }
}
