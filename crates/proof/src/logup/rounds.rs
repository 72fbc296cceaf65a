//! The sum-check of one layer of all trees: like [`crate::sumcheck`]'s in lanes, for one summand, in one pass over memory a round.
//!
//! ```text
//! general   p0 q1 + p1 q0 + b q0 q1 = m q1 + p1 q0,                m = p0 + b q0
//! leaves    the same = (u0 u1 - p0 p1) / b,                        u = p + b q
//!                    = (u0 u1 - 1 - d0 - d1 - d0 d1) / b,          d = p - 1
//! ```
//!
//! Leaves have numerators of 1 but for tables, so d is 0 in most groups and kept for the others alone. Rounds before the first challenge
//! read what the tree has, or compute it from columns; the first binding writes vectors of half the size, which are then folded in place.

mod leaves;
mod nodes;

use super::leaves::Run;
use super::tree::{Children, Node, Tree, WIDE_LOG, spread};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::sums::Fixed;
use crate::lanes::{self, Ext, Kernel, LANE_BITS, Task, vectorised};
use crate::multilinear::{doubled, eq_table};
use crate::parallel;
use crate::recycle::Recycled;
use crate::sumcheck::prover::{Narrow, Running};
use crate::sumcheck::wide::scalars;
use crate::sumcheck::{Proved, Sum, Term, next_claim};
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;
use leaves::{LeavesBound, LeavesFirst, Units};
use nodes::{NodesFirst, NodesNext, SumsBound, SumsFirst};

/// Fewest groups of a part.
const PART_GROUPS: usize = 64;

/// What a part of a tree's layer is at a round.
enum State<'a> {
    Leaves(&'a [Run]),
    Sums(&'a [Run]),
    /// Before and after the first binding, which puts m in the place of p0.
    Nodes(Recycled<Node>),
    Mixed(Recycled<Node>),
    Units(Units),
}

impl State<'_> {
    /// Groups of nodes.
    fn groups(&self) -> usize {
        let leaves = |runs: &[Run]| runs.iter().map(|run| run.groups.len()).sum::<usize>();
        match self {
            State::Leaves(runs) => leaves(runs) / 2,
            State::Sums(runs) => leaves(runs) / 4,
            State::Nodes(nodes) | State::Mixed(nodes) => nodes.len(),
            State::Units(units) => units.u.len(),
        }
    }

    /// One round: binds the coordinate of the round before, and gives the sums for 0 and for the leading coefficient, of the general
    /// summand, or b times that of leaves without its constant.
    fn round(
        &mut self,
        kernel: Kernel,
        batch: &Fixed,
        bind: Option<&Fixed>,
        weights: &[[u32; 5]],
    ) -> [Ext; 2] {
        match (&mut *self, bind) {
            (State::Leaves(runs), None) => vectorised(kernel, LeavesFirst { runs, batch, weights }),
            (State::Leaves(runs), Some(r)) => {
                let mut units = Units::default();
                let sums = vectorised(kernel, LeavesBound { runs, batch, r, weights, out: &mut units });
                *self = State::Units(units);
                sums
            }
            (State::Units(units), Some(r)) => vectorised(kernel, leaves::UnitsNext { units, r, weights }),
            (State::Units(_), None) => [Ext::ZERO; 2],
            (State::Sums(runs), None) => vectorised(kernel, SumsFirst { runs, batch, weights }),
            (State::Sums(runs), Some(r)) => {
                let mut out = Recycled::with_capacity(2 * weights.len());
                let sums = vectorised(kernel, SumsBound { runs, batch, r, weights, out: &mut out });
                *self = State::Mixed(out);
                sums
            }
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
        let columns = self.parts.iter().any(|part| matches!(part, State::Leaves(_) | State::Sums(_)));
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
            Children::Scalars(scalars) => vec![State::Nodes(spread(&scalars).into())],
            Children::Nodes(parts) => parts.into_iter().map(State::Nodes).collect(),
            Children::Sums(parts) => parts.iter().map(|runs| State::Sums(runs)).collect(),
            Children::Leaves(parts) => parts.iter().map(|runs| State::Leaves(runs)).collect(),
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
        let weights: Vec<[u32; 5]> =
            tables.pop().unwrap_or_default().into_iter().map(|x| lanes::raw(x)).collect();
        let mut work = Vec::new();
        for (number, member) in members.iter_mut().enumerate() {
            member.join(weights.len() / member.parts.len());
            let each = weights.len() / member.parts.len();
            let parts = member.parts.iter_mut().zip(weights.chunks(each));
            work.extend(parts.map(|(state, weights)| (number, state, weights, [Ext::ZERO; 2])));
        }
        parallel::for_each(&mut work, |(_, state, weights, sums)| {
            debug_assert_eq!(state.groups() >> usize::from(bind.is_some()), 2 * weights.len());
            *sums = state.round(kernel, &fixed, bind.as_ref(), weights);
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
