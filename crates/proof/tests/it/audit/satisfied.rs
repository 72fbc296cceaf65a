//! What a circuit says, cell by cell: the argument accepts a witness if and only if nothing here is violated, but with the probability of its error.
//! So a thousand lies cost what one proof does.

use crate::harness::Base;
use lockstep_proof::argument::Witness;
use lockstep_proof::circuit::fill::{Cells, base_vector};
use lockstep_proof::circuit::{Circuit, Constraint, Leaf, Linear, Source};
use p3_field::{PrimeCharacteristicRing, PrimeField32};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Something that must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// Check and constraint.
    Constraint(usize, usize),
    /// A leaf that looks something up.
    Lookup(usize),
    /// A sum of products.
    Contraction(usize),
}

/// A circuit with its tables, as numbers: where each entry is.
pub(crate) struct Checker<'a> {
    pub(crate) circuit: &'a Circuit<Base>,
    tables: BTreeMap<Base, HashMap<Vec<u32>, usize>>,
}

fn is_table(leaf: &Leaf<Base>) -> bool {
    !leaf.numerator.terms.is_empty()
}

fn sources(linear: &Linear<Base>) -> impl Iterator<Item = Source> + '_ {
    linear.terms.iter().flat_map(|term| term.views.iter().map(|view| view.source))
}

fn of_constraint(constraint: &Constraint<Base>) -> impl Iterator<Item = &Linear<Base>> {
    let factors = constraint.products.iter().flat_map(|(_, left, right)| [left, right]);
    core::iter::once(&constraint.linear).chain(factors)
}

/// The tuples of a leaf, cell by cell.
fn tuples(cells: &Cells<'_, Base>, leaf: &Leaf<Base>) -> Vec<Vec<u32>> {
    let columns: Vec<Vec<Base>> = leaf.tuple.iter().map(|one| base_vector(cells, one, leaf.log)).collect();
    let tuple = |at: usize| columns.iter().map(|column| column[at].as_canonical_u32()).collect();
    (0..1usize << leaf.log).map(tuple).collect()
}

impl<'a> Checker<'a> {
    pub(crate) fn new(circuit: &'a Circuit<Base>) -> Checker<'a> {
        let cells = Cells { circuit, columns: &[], products: &[] };
        let tables = circuit.leaves.iter().filter(|leaf| is_table(leaf)).map(|leaf| {
            (leaf.tag, tuples(&cells, leaf).into_iter().enumerate().map(|(at, tuple)| (tuple, at)).collect())
        });
        Checker { circuit, tables: tables.collect() }
    }

    /// All constraints and lookups, and all contractions.
    pub(crate) fn items(&self) -> Vec<Item> {
        let circuit = self.circuit;
        let constraints = circuit.checks.iter().enumerate();
        let constraints = constraints
            .flat_map(|(check, of)| (0..of.constraints.len()).map(move |at| Item::Constraint(check, at)));
        let lookups = (0..circuit.leaves.len()).filter(|leaf| !is_table(&circuit.leaves[*leaf]));
        let contractions = (0..circuit.contractions.len()).map(Item::Contraction);
        constraints.chain(lookups.map(Item::Lookup)).chain(contractions).collect()
    }

    fn expressions(&self, item: Item) -> Vec<&'a Linear<Base>> {
        match item {
            Item::Constraint(check, at) => {
                of_constraint(&self.circuit.checks[check].constraints[at]).collect()
            }
            Item::Lookup(leaf) => self.circuit.leaves[leaf].tuple.iter().collect(),
            Item::Contraction(_) => Vec::new(),
        }
    }

    /// An item by what it speaks of.
    pub(crate) fn describe(&self, item: Item) -> String {
        let sources: BTreeSet<Source> = self.expressions(item).into_iter().flat_map(sources).collect();
        let name = |source: Source| match source {
            Source::Committed(column) => self.circuit.columns[column].name.clone(),
            other => format!("{other:?}"),
        };
        format!("{item:?}: {}", sources.into_iter().map(name).collect::<Vec<_>>().join(" | "))
    }

    /// Whether a constraint or a lookup does not hold.
    fn fails(&self, cells: &Cells<'_, Base>, item: Item) -> bool {
        match item {
            Item::Constraint(check, at) => {
                let (check, at) = (&self.circuit.checks[check], at);
                let constraint = &check.constraints[at];
                let mut sum = base_vector(cells, &constraint.linear, check.log);
                for (coefficient, left, right) in &constraint.products {
                    let (left, right) =
                        (base_vector(cells, left, check.log), base_vector(cells, right, check.log));
                    let products = left.iter().zip(&right).map(|(left, right)| *left * *right * *coefficient);
                    sum.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
                }
                sum.iter().any(|sum| *sum != Base::ZERO)
            }
            Item::Lookup(leaf) => {
                let leaf = &self.circuit.leaves[leaf];
                let table = &self.tables[&leaf.tag];
                tuples(cells, leaf).iter().any(|tuple| !table.contains_key(tuple))
            }
            Item::Contraction(_) => false,
        }
    }

    /// The constraints and lookups that do not hold. Products are taken as they are, multiplicities as if they were counted again.
    pub(crate) fn violated(&self, witness: &Witness<Base>) -> Vec<Item> {
        let cells = witness.cells(self.circuit);
        self.items().into_iter().filter(|item| self.fails(&cells, *item)).collect()
    }

    /// The same for a witness that differs from an honest one: only what reads a difference can fail.
    pub(crate) fn violated_since(&self, witness: &Witness<Base>, honest: &Witness<Base>) -> Vec<Item> {
        let cells = witness.cells(self.circuit);
        let differs = |source: Source| match source {
            Source::Committed(at) => witness.columns[at] != honest.columns[at],
            Source::Product(at) => witness.products[at] != honest.products[at],
            _ => false,
        };
        let mut known: BTreeMap<Source, bool> = BTreeMap::new();
        let mut reads = |item: &Item| {
            let mut all = self.expressions(*item).into_iter().flat_map(sources);
            all.any(|source| *known.entry(source).or_insert_with(|| differs(source)))
        };
        let items: Vec<Item> = self.items().into_iter().filter(|item| reads(item)).collect();
        items.into_iter().filter(|item| self.fails(&cells, *item)).collect()
    }

    /// Counts lookups again.
    pub(crate) fn recount(&self, witness: &mut Witness<Base>) {
        let mut counts: BTreeMap<(Base, usize), u32> = BTreeMap::new();
        for leaf in self.circuit.leaves.iter().filter(|leaf| !is_table(leaf)) {
            for tuple in tuples(&witness.cells(self.circuit), leaf) {
                if let Some(at) = self.tables[&leaf.tag].get(&tuple) {
                    *counts.entry((leaf.tag, *at)).or_default() += 1;
                }
            }
        }
        for leaf in self.circuit.leaves.iter().filter(|leaf| is_table(leaf)) {
            let Some(Source::Committed(column)) = sources(&leaf.numerator).next() else { continue };
            for (at, count) in witness.columns[column].iter_mut().enumerate() {
                *count = Base::from_u32(counts.get(&(leaf.tag, at)).copied().unwrap_or(0));
            }
        }
    }
}
