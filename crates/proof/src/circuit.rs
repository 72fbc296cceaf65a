//! Circuits: columns of cells, and what must hold of them. Prover and verifier build the same one from the statement.
//!
//! A *domain* is a rectangle of `2^a` examples by `2^b` places; cell `(j, i)` has index `j 2^b + i`, so a point is `(r_j, r_i)`. What is said of
//! cells is said in linear expressions ([`Linear`]) over their domain:
//!
//! | atom | at (j, i) | extension at (r_j, r_i) |
//! |---|---|---|
//! | a source | its cell | its extension |
//! | a source over examples, times a row vector | source(j) row(i) | source~(r_j) row~(r_i) |
//! | a row vector | row(i) | row~(r_i) |
//! | the number of the example | j | sum of 2^k r_j,k |
//! | the range table | width, value of entry (j, i) | closed forms, see [`range`] |
//!
//! Sources are committed columns, public vectors and accumulators of matrix products. Two kinds of statement are made:
//! [`Check`]: products and sums that vanish in every cell; [`Leaf`]: fractions whose sum over everything vanishes.

pub mod evaluate;
#[cfg(feature = "prover")]
pub mod fill;
pub mod range;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeCharacteristicRing;

/// A rectangle of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// log2 of the examples: the first coordinates of a point.
    pub log_examples: usize,
    /// log2 of the places of an example.
    pub log_width: usize,
}

impl Domain {
    /// log2 of its cells.
    #[must_use]
    pub fn log(&self) -> usize {
        self.log_examples + self.log_width
    }
}

/// Where cells come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A committed column.
    Committed(usize),
    /// A vector that the verifier has.
    Public(usize),
    /// The accumulators of a matrix product.
    Accumulator(usize),
}

/// What expressions are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atom {
    /// A source over the domain of the expression.
    Cell(Source),
    /// A source over the examples, times a row vector.
    Example(Source, usize),
    /// A source over the examples, the same at every place.
    Spread(Source),
    /// A row vector.
    Row(usize),
    /// The number of the example.
    Index,
    /// The width of an entry of the range table.
    Width,
    /// The value of an entry of the range table.
    Value,
}

/// A constant and a sum of multiples of atoms.
#[derive(Clone, Debug)]
pub struct Linear<B> {
    /// The constant.
    pub constant: B,
    /// The multiples.
    pub terms: Vec<(B, Atom)>,
}

impl<B: PrimeCharacteristicRing + Copy> Linear<B> {
    /// A constant.
    #[must_use]
    pub fn constant(constant: B) -> Linear<B> {
        Linear { constant, terms: Vec::new() }
    }

    /// One atom.
    #[must_use]
    pub fn atom(atom: Atom) -> Linear<B> {
        Linear { constant: B::ZERO, terms: vec![(B::ONE, atom)] }
    }

    /// A source over the domain.
    #[must_use]
    pub fn cell(source: Source) -> Linear<B> {
        Linear::atom(Atom::Cell(source))
    }

    /// A multiple.
    #[must_use]
    pub fn times(mut self, factor: B) -> Linear<B> {
        self.constant *= factor;
        self.terms.iter_mut().for_each(|(coefficient, _)| *coefficient *= factor);
        self
    }

    /// A sum.
    #[must_use]
    pub fn plus(mut self, other: &Linear<B>) -> Linear<B> {
        self.constant += other.constant;
        self.terms.extend_from_slice(&other.terms);
        self
    }

    /// A difference.
    #[must_use]
    pub fn minus(self, other: &Linear<B>) -> Linear<B> {
        self.plus(&other.clone().times(B::NEG_ONE))
    }

    /// With a constant added.
    #[must_use]
    pub fn offset(mut self, constant: B) -> Linear<B> {
        self.constant += constant;
        self
    }
}

/// `sum of coefficient * left * right + linear = 0` in every cell of a domain.
#[derive(Clone, Debug)]
pub struct Constraint<B> {
    /// The products.
    pub products: Vec<(B, Linear<B>, Linear<B>)>,
    /// The rest.
    pub linear: Linear<B>,
}

/// Constraints of one domain, proved by one sum-check.
#[derive(Clone, Debug)]
pub struct Check<B> {
    /// Their cells.
    pub domain: Domain,
    /// All of them.
    pub constraints: Vec<Constraint<B>>,
}

/// Fractions `numerator / (a - (tag + c tuple_0 + c^2 tuple_1 + ...))`, one for each cell of a domain.
#[derive(Clone, Debug)]
pub struct Leaf<B> {
    /// Its cells.
    pub domain: Domain,
    /// 1 for a lookup, the negated multiplicity for a table.
    pub numerator: Linear<B>,
    /// Which table.
    pub tag: B,
    /// What is looked up.
    pub tuple: Vec<Linear<B>>,
}

/// `acc[j, i] = sum_c source(j, c) W[i, c]`, one for each [`Source::Accumulator`].
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// The codes.
    pub source: Source,
    /// log2 of their width.
    pub log_cols: usize,
    /// Columns that are not filling.
    pub cols: usize,
    /// Index of the weights.
    pub weights: usize,
    /// Where the accumulators lie.
    pub domain: Domain,
}

/// A committed column.
#[derive(Clone, Debug)]
pub struct Column {
    /// For messages.
    pub name: String,
    /// log2 of its cells.
    pub log: usize,
}

/// Everything that is committed and everything that must hold.
#[derive(Clone, Debug)]
pub struct Circuit<B> {
    /// Bits of a limb.
    pub limb_bits: u32,
    /// What is committed.
    pub columns: Vec<Column>,
    /// Vectors that the verifier has.
    pub publics: Vec<Vec<B>>,
    /// Row vectors, each over the places of its domain.
    pub rows: Vec<Vec<B>>,
    /// What vanishes.
    pub checks: Vec<Check<B>>,
    /// What adds up to zero, largest domain first (see [`Circuit::sort_leaves`]).
    pub leaves: Vec<Leaf<B>>,
    /// Matrix products.
    pub matmuls: Vec<Matmul>,
}

impl<B: PrimeCharacteristicRing + Copy> Circuit<B> {
    /// Nothing yet.
    #[must_use]
    pub fn new(limb_bits: u32) -> Circuit<B> {
        Circuit {
            limb_bits,
            columns: Vec::new(),
            publics: Vec::new(),
            rows: Vec::new(),
            checks: Vec::new(),
            leaves: Vec::new(),
            matmuls: Vec::new(),
        }
    }

    /// A committed column of `2^log` cells.
    pub fn column(&mut self, name: String, log: usize) -> Source {
        self.columns.push(Column { name, log });
        Source::Committed(self.columns.len() - 1)
    }

    /// A public vector.
    pub fn public(&mut self, values: Vec<B>) -> Source {
        self.publics.push(values);
        Source::Public(self.publics.len() - 1)
    }

    /// A row vector.
    pub fn row(&mut self, values: Vec<B>) -> usize {
        self.rows.push(values);
        self.rows.len() - 1
    }

    /// Largest first: then every leaf begins at a multiple of its size, in whole trees of falling sizes.
    pub fn sort_leaves(&mut self) {
        self.leaves.sort_by_key(|leaf| core::cmp::Reverse(leaf.domain.log()));
    }

    /// All fractions.
    #[must_use]
    pub fn fractions(&self) -> usize {
        self.leaves.iter().map(|leaf| 1usize << leaf.domain.log()).sum()
    }

    /// Where each leaf lies: `(tree, offset in the tree)`.
    #[must_use]
    pub fn places(&self) -> Vec<(usize, usize)> {
        let heights = crate::logup::heights(self.fractions());
        let (mut tree, mut offset) = (0, 0);
        let mut places = Vec::with_capacity(self.leaves.len());
        for leaf in &self.leaves {
            if offset == 1 << heights[tree] {
                (tree, offset) = (tree + 1, 0);
            }
            places.push((tree, offset));
            offset += 1 << leaf.domain.log();
        }
        places
    }
}
