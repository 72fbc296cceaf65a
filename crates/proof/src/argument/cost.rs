//! What a verification takes, from the circuit alone: no proof is read and no element computed. Whoever must charge for a verification, or bound it, knows this before it begins.
//!
//! The walk is the verifier's own ([`super::verify`]) with names in the place of elements: a coordinate of a point is the number of the challenge that it is. So it knows which claims are made
//! twice, and how long everything is that a transcript absorbs: bytes in front of the openings, challenges, claims and the transcript's compressions are exact. Columns that are
//! drawn twice, and paths that meet, make openings cheaper than said here. Products of elements are counted as the verifier forms them: at most so many, most of them exactly.

use super::{Argument, Claimed, next_batch};
use crate::circuit::{Linear, Public, Source, View};
use crate::claims::{BLOCKS_LOG, groups};
use crate::commitment::{Shape, coordinate_log};
use crate::field::{BASE_BYTES, ProofField, ext_bytes};
use crate::logup::heights;
use crate::multilinear::ROW_LOG;
use crate::transcript::{ITEM_BYTES, challenge_bytes, compressions};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

/// What a verification takes, or a step of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the proof, at most.
    pub bytes: usize,
    /// Challenges.
    pub challenges: usize,
    /// Claims on columns and weights.
    pub claims: usize,
    /// Compressions of BLAKE3, at most.
    pub compressions: usize,
    /// Products of two elements of the extension, at most.
    pub products: usize,
    /// Products of an element of the extension and one of the base field, at most.
    pub multiples: usize,
    /// Inverses in the extension.
    pub inverses: usize,
}

impl Cost {
    /// Products in the base field, if those of the extension are schoolbook's, and an inverse takes as many as 16 products.
    #[must_use]
    pub fn base_products(&self, degree: usize) -> usize {
        (self.products + 16 * self.inverses) * degree * degree + self.multiples * degree
    }

    fn since(self, before: Cost) -> Cost {
        Cost {
            bytes: self.bytes - before.bytes,
            challenges: self.challenges - before.challenges,
            claims: self.claims - before.claims,
            compressions: self.compressions - before.compressions,
            products: self.products - before.products,
            multiples: self.multiples - before.multiples,
            inverses: self.inverses - before.inverses,
        }
    }
}

/// What the steps of a verification take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// The sum of all fractions, the root of the witness included.
    pub lookups: Cost,
    /// The constraints of each space.
    pub constraints: Cost,
    /// What contractions give.
    pub products: Cost,
    /// Claims and openings of all commitments.
    pub opening: Cost,
    /// All of it.
    pub all: Cost,
}

/// A coordinate of a point: 0, 1, or one more than the number of a challenge.
type Coordinate = usize;
const ZERO: Coordinate = 0;
const ONE: Coordinate = 1;

struct Walk<'a, 'm, E: ProofField> {
    argument: &'a Argument<'m, E>,
    cost: Cost,
    /// Bytes that were absorbed since the last challenge.
    said: usize,
    coordinates: usize,
    /// For each commitment, the columns and points that are claimed, and the points.
    claims: Vec<BTreeSet<(usize, Vec<Coordinate>)>>,
    publics: BTreeSet<(usize, Vec<Coordinate>)>,
    claimed: VecDeque<Claimed<Coordinate>>,
}

impl<E: ProofField> Walk<'_, '_, E> {
    fn absorb(&mut self, label: &str, bytes: usize) {
        self.said += ITEM_BYTES + label.len() + bytes;
        self.cost.bytes += bytes;
    }

    fn receive(&mut self, label: &str, elements: usize) {
        self.absorb(label, elements * ext_bytes::<E>());
    }

    fn squeeze(&mut self, label: &str, out: usize) {
        self.said += ITEM_BYTES + label.len();
        self.cost.compressions += compressions(self.said, 32 + out);
        self.cost.challenges += 1;
        self.said = 0;
    }

    fn challenge(&mut self, label: &str) -> Coordinate {
        self.squeeze(label, challenge_bytes::<E>());
        self.coordinates += 1;
        ONE + self.coordinates
    }

    fn point(&mut self, label: &str, log: usize) -> Vec<Coordinate> {
        (0..log).map(|_| self.challenge(label)).collect()
    }

    /// A sum-check: `eq` of its variables have a factor.
    fn sum_check(&mut self, log: usize, eq: usize) -> Vec<Coordinate> {
        let mut point = vec![ZERO; log];
        for i in (0..log).rev() {
            self.receive("round", 2);
            point[i] = self.challenge("bind");
        }
        self.cost.products += 2 * log + 2 * eq;
        self.cost.inverses += eq;
        point
    }

    /// `eq` of two points, or of one and an index.
    fn eq(&mut self, coordinates: usize) {
        self.cost.products += 2 * coordinates;
    }

    fn claim(&mut self, home: usize, column: usize, point: Vec<Coordinate>) {
        if self.claims[home].insert((column, point)) {
            self.receive("claim", 1);
            self.cost.claims += 1;
        }
    }

    fn public(&mut self, number: usize, point: Vec<Coordinate>) {
        if !self.publics.insert((number, point)) {
            return;
        }
        let public = &self.argument.circuit.publics[number];
        let log = public.log();
        match public {
            Public::Vector(_) => {
                // Row by row: a table for the row, one for all rows, and a product for each of them.
                let low = log.min(ROW_LOG);
                self.cost.products += (1 << low) + (2 << (log - low));
                self.cost.multiples += 1 << log;
            }
            Public::Index(_) => {}
            Public::Width(_) | Public::Value(_) => self.cost.products += 3 * log,
            Public::Hadamard(half) => self.cost.products += 2 * half,
            Public::Gather(gather) => self.cost.products += gather.taken.len() + (2 << gather.log_from),
            Public::OneHot(marks) | Public::Before(marks) => {
                self.cost.products += marks.at.len() * (2 + marks.log);
            }
        }
    }

    fn view(&mut self, view: &View, point: &[Coordinate]) {
        let point = view.coordinates(point, [ZERO, ONE]);
        match view.source {
            Source::Committed(column) => {
                let (home, at) = self.argument.places[column];
                self.claim(home, at, point);
            }
            Source::Public(public) => self.public(public, point),
            Source::Weights(weights) => match self.argument.weights {
                Some(number) => self.claim(1 + number, weights, point),
                None => {
                    let placed = &self.argument.circuit.weights[weights];
                    self.cost.products += (1 << placed.log_rows) + (2 << placed.log_cols);
                    self.cost.multiples += placed.rows.len() * placed.cols.len();
                }
            },
            Source::Product(contraction) => {
                if self.claimed.iter().all(|known| known.contraction != contraction || known.point != point) {
                    self.receive("product", 1);
                    self.claimed.push_back(Claimed { contraction, point, value: ZERO });
                }
            }
        }
    }

    fn linear(&mut self, linear: &Linear<E::Base>, point: &[Coordinate]) {
        for term in &linear.terms {
            self.cost.products += term.views.len();
            self.cost.multiples += 1;
            term.views.iter().for_each(|view| self.view(view, point));
        }
    }

    fn lookups(&mut self) {
        let circuit = &self.argument.circuit;
        self.challenge("alpha");
        self.challenge("gamma");
        let heights = heights(circuit.fractions());
        self.receive("roots", 2 * heights.len());
        self.cost.products += 3 * heights.len();
        let mut points = vec![Vec::new(); heights.len()];
        let mut point = Vec::new();
        for layer in 0..heights.iter().copied().max().unwrap_or(0) {
            let active = heights.iter().filter(|height| **height > layer).count();
            self.challenge("layer");
            point = self.sum_check(layer, point.len());
            self.receive("children", 4 * active);
            self.cost.products += 13 * active;
            point.push(self.challenge("child"));
            for (height, at) in heights.iter().zip(&mut points) {
                if *height == layer + 1 {
                    at.clone_from(&point);
                }
            }
        }
        for (leaf, (tree, _)) in circuit.leaves.iter().zip(circuit.places()) {
            let point = points[tree].clone();
            let (high, point) = point.split_at(point.len() - leaf.log);
            self.cost.products += high.len() + 2 * leaf.tuple.len() + 2;
            self.linear(&leaf.numerator, point);
            leaf.tuple.iter().for_each(|linear| self.linear(linear, point));
        }
    }

    fn constraints(&mut self) {
        for check in &self.argument.circuit.checks {
            self.challenge("constraints");
            self.point("cell", check.log);
            let point = self.sum_check(check.log, check.log);
            for constraint in &check.constraints {
                self.cost.products += 2 + constraint.products.len();
                self.cost.multiples += constraint.products.len();
                self.linear(&constraint.linear, &point);
                for (_, left, right) in &constraint.products {
                    self.linear(left, &point);
                    self.linear(right, &point);
                }
            }
        }
    }

    fn contractions(&mut self) {
        let contractions = &self.argument.circuit.contractions;
        while !self.claimed.is_empty() {
            let batch = next_batch(contractions, &mut self.claimed);
            self.challenge("batch");
            let log = batch.iter().map(|claim| claim.kept.len()).max().unwrap_or(0);
            let mut point = vec![ZERO; log];
            for i in (0..log).rev() {
                self.receive("round", 3);
                point[i] = self.challenge("bind");
            }
            self.cost.products += 3 * log;
            for claim in batch {
                let contraction = &contractions[claim.contraction];
                let point = claim.joint(contraction, &point);
                self.eq(claim.eq.len());
                // Its claim, its power, and its factors.
                self.cost.products += 6;
                self.view(&contraction.left, &point);
                self.view(&contraction.right, &point);
            }
        }
    }

    /// Claims and openings of all commitments: [`crate::claims::verify`].
    fn opening(&mut self) {
        let argument = self.argument;
        let shapes = argument.shapes();
        let log = shapes.iter().map(|shape| shape.log).max().unwrap_or(0);
        self.challenge("claims");
        self.sum_check(log, 0);
        self.receive("cells", shapes.len());
        for (home, shape) in shapes.iter().enumerate() {
            let layout = argument.layout_at(home);
            let claims = core::mem::take(&mut self.claims[home]);
            let points: BTreeSet<&Vec<Coordinate>> = claims.iter().map(|(_, point)| point).collect();
            self.cost.products += (log - shape.log) + 3 + (1 << BLOCKS_LOG.min(shape.log));
            points.iter().for_each(|point| self.eq(point.len()));
            for (column, _) in &claims {
                let rest = (shape.log - layout.log(*column)).saturating_sub(BLOCKS_LOG);
                self.cost.products += 4 + rest;
            }
        }
        for group in groups(&shapes) {
            let together: Vec<&Shape> = group.iter().map(|at| shapes[*at]).collect();
            self.commitments(&together);
        }
    }

    /// Commitments that are opened together: [`crate::commitment::verify`].
    fn commitments(&mut self, shapes: &[&Shape]) {
        let shape = shapes[0];
        if shapes.len() > 1 {
            self.challenge("together");
            self.cost.products += 2 * shapes.len();
        }
        let queries = shape.queries().min(1 << shape.code_log());
        if shape.nested {
            self.absorb("folded row", 32);
        } else {
            self.receive("folded row", 1 << shape.log_cols);
            self.cost.products += 2 << shape.log_cols;
            self.cost.multiples += queries << shape.log_cols;
        }
        self.squeeze("columns", 4 * shape.queries());
        for shape in shapes {
            self.cost.bytes += queries * (BASE_BYTES * shape.rows + 32 * shape.path());
            let column = compressions(BASE_BYTES * shape.rows, 32);
            self.cost.compressions += queries * (column + shape.path() + 1);
            self.cost.products += 1 << (shape.log - shape.log_cols);
            self.cost.multiples += queries * shape.rows;
        }
        if let Some(inner) = shape.inner::<E>() {
            self.challenge("combine columns");
            self.sum_check(shape.log_cols, 0);
            self.receive("coordinates", E::DIMENSION);
            self.eq(shape.log_cols);
            self.cost.products += queries * (4 + shape.log_cols) + 2 * E::DIMENSION;
            self.cost.multiples += queries * shape.log_cols;
            self.point("coordinate", coordinate_log::<E>());
            self.commitments(&[&inner]);
        }
    }
}

/// What the verification of `argument` takes.
#[must_use]
pub fn cost<E: ProofField>(argument: &Argument<'_, E>) -> Costs {
    let mut walk = Walk {
        argument,
        cost: Cost::default(),
        said: argument.sponge.said(),
        coordinates: 0,
        claims: vec![BTreeSet::new(); 1 + argument.outside.len()],
        publics: BTreeSet::new(),
        claimed: VecDeque::new(),
    };
    let mut before = Cost::default();
    let mut step = |cost: Cost| {
        let step = cost.since(before);
        before = cost;
        step
    };
    walk.absorb("witness", 32);
    walk.lookups();
    let lookups = step(walk.cost);
    walk.constraints();
    let constraints = step(walk.cost);
    walk.contractions();
    let products = step(walk.cost);
    walk.opening();
    Costs { lookups, constraints, products, opening: step(walk.cost), all: walk.cost }
}
