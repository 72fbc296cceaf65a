//! Circuits: columns of cells, and what must hold of them. Prover and verifier build the same one from the statement.
//!
//! What is said of the cells of a space ([`mod@view`]) is said in linear expressions ([`Linear`]): a constant, and multiples of views of vectors
//! or of products of views that share no coordinate, so that every expression is multilinear and its extension at a point follows from the
//! vectors' extensions. Vectors are committed columns, public ones, weights, and sums of products. Three kinds of statement
//! are made:
//! - [`Check`]: products of two expressions, and sums, that vanish in every cell;
//! - [`Leaf`]: fractions whose sum over everything vanishes (lookups and their tables);
//! - [`Contraction`]: a vector is the sum over some coordinates of the product of two others (matrix products).

#[cfg(feature = "prover")]
pub(crate) mod contract;
pub mod evaluate;
#[cfg(feature = "prover")]
pub mod fill;
pub mod public;
pub mod range;
#[cfg(feature = "prover")]
pub(crate) mod read;
pub mod view;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;
pub use public::{Gather, Marks, Public};
pub use view::{Bit, View};

/// Where cells come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A committed column.
    Committed(usize),
    /// A vector that the verifier has.
    Public(usize),
    /// A matrix of weights, `(rows, columns)`.
    Weights(usize),
    /// What a contraction gives.
    Product(usize),
}

/// A multiple of a product of views that share no coordinate.
#[derive(Clone, Debug)]
pub struct Term<B> {
    /// The factor.
    pub coefficient: B,
    /// One view or several.
    pub views: Vec<View>,
}

/// A constant and a sum of terms.
#[derive(Clone, Debug)]
pub struct Linear<B> {
    /// The constant.
    pub constant: B,
    /// The rest.
    pub terms: Vec<Term<B>>,
}

impl<B: PrimeField32> Linear<B> {
    /// A constant.
    #[must_use]
    pub fn constant(constant: B) -> Linear<B> {
        Linear { constant, terms: Vec::new() }
    }

    /// One view.
    #[must_use]
    pub fn view(view: View) -> Linear<B> {
        Linear::product(vec![view])
    }

    /// A product of views that share no coordinate.
    #[must_use]
    pub fn product(views: Vec<View>) -> Linear<B> {
        Linear { constant: B::ZERO, terms: vec![Term { coefficient: B::ONE, views }] }
    }

    /// A multiple.
    #[must_use]
    pub fn times(mut self, factor: B) -> Linear<B> {
        self.constant *= factor;
        self.terms.iter_mut().for_each(|term| term.coefficient *= factor);
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

    /// The same in another space, whose coordinates `bits` are those of this one.
    #[must_use]
    pub fn within(&self, bits: &[Bit]) -> Linear<B> {
        let there = |term: &Term<B>| Term {
            coefficient: term.coefficient,
            views: term.views.iter().map(|view| view.within(bits)).collect(),
        };
        Linear { constant: self.constant, terms: self.terms.iter().map(there).collect() }
    }

    /// Times a view that shares no coordinate with it.
    #[must_use]
    pub fn by(mut self, view: &View) -> Linear<B> {
        self.terms.iter_mut().for_each(|term| term.views.push(view.clone()));
        if self.constant != B::ZERO {
            self.terms.push(Term { coefficient: self.constant, views: vec![view.clone()] });
            self.constant = B::ZERO;
        }
        self
    }
}

/// `sum of coefficient * left * right + linear = 0` in every cell of a space.
#[derive(Clone, Debug)]
pub struct Constraint<B> {
    /// The products.
    pub products: Vec<(B, Linear<B>, Linear<B>)>,
    /// The rest.
    pub linear: Linear<B>,
}

/// Constraints of one space, proved by one sum-check.
#[derive(Clone, Debug)]
pub struct Check<B> {
    /// log2 of its cells.
    pub log: usize,
    /// All of them.
    pub constraints: Vec<Constraint<B>>,
}

/// Fractions `numerator / (a - (tag + c tuple_0 + c^2 tuple_1 + ...))`, one for each cell of a space.
#[derive(Clone, Debug)]
pub struct Leaf<B> {
    /// log2 of its cells.
    pub log: usize,
    /// 1 for a lookup, the negated multiplicity for a table.
    pub numerator: Linear<B>,
    /// Which table.
    pub tag: B,
    /// What is looked up.
    pub tuple: Vec<Linear<B>>,
}

/// `out(x) = sum_y left(x, y) right(x, y)`, one for each [`Source::Product`].
///
/// Coordinates of x that only one of the two has belong to a plain matrix product; those that both have are a batch of them.
#[derive(Clone, Debug)]
pub struct Contraction {
    /// Coordinates of x: the first ones of the space in which `left` and `right` are views.
    pub outer: usize,
    /// Coordinates of y: the others. Both views have all of them.
    pub inner: usize,
    /// One factor.
    pub left: View,
    /// The other.
    pub right: View,
}

/// Where a matrix of weights lies in a rectangle filled to powers of two; zero elsewhere.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Which matrix of the statement.
    pub matrix: usize,
    /// Whether these are the low parts of its weights, which only matrices of 16 bits have.
    pub low: bool,
    /// Coordinates of a row.
    pub log_rows: usize,
    /// Coordinates of a column.
    pub log_cols: usize,
    /// The first row that lies here; those before it lie elsewhere.
    pub first_row: usize,
    /// The first column.
    pub first_col: usize,
    /// Where each row lies.
    pub rows: Vec<u32>,
    /// Where each column lies; columns behind these multiply codes that are not there.
    pub cols: Vec<u32>,
}

/// Which commitment a column is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// That of the proof.
    Witness,
    /// One that the statement names: the number of its root.
    Outside(usize),
}

/// A committed column.
#[derive(Clone, Debug)]
pub struct Column {
    /// For messages.
    pub name: String,
    /// log2 of its cells.
    pub log: usize,
    /// Where it is committed.
    pub home: Home,
}

/// Everything that is committed and everything that must hold.
#[derive(Clone, Debug)]
pub struct Circuit<B> {
    /// Bits of a limb.
    pub limb_bits: u32,
    /// What is committed.
    pub columns: Vec<Column>,
    /// Vectors that the verifier has.
    pub publics: Vec<Public<B>>,
    /// Weights.
    pub weights: Vec<Placed>,
    /// What vanishes.
    pub checks: Vec<Check<B>>,
    /// What adds up to zero, largest space first (see [`Circuit::sort_leaves`]).
    pub leaves: Vec<Leaf<B>>,
    /// Sums of products.
    pub contractions: Vec<Contraction>,
}

impl<B: PrimeField32> Circuit<B> {
    /// Nothing yet.
    #[must_use]
    pub fn new(limb_bits: u32) -> Circuit<B> {
        Circuit {
            limb_bits,
            columns: Vec::new(),
            publics: Vec::new(),
            weights: Vec::new(),
            checks: Vec::new(),
            leaves: Vec::new(),
            contractions: Vec::new(),
        }
    }

    /// A committed column of `2^log` cells.
    pub fn column(&mut self, name: String, log: usize, home: Home) -> Source {
        self.columns.push(Column { name, log, home });
        Source::Committed(self.columns.len() - 1)
    }

    /// A public vector.
    pub fn public(&mut self, public: Public<B>) -> Source {
        self.publics.push(public);
        Source::Public(self.publics.len() - 1)
    }

    /// A public vector that is written out.
    pub fn vector(&mut self, values: Vec<B>) -> Source {
        self.public(Public::Vector(values))
    }

    /// A matrix of weights.
    pub fn placed(&mut self, placed: Placed) -> Source {
        self.weights.push(placed);
        Source::Weights(self.weights.len() - 1)
    }

    /// A sum of products.
    pub fn contraction(&mut self, contraction: Contraction) -> Source {
        self.contractions.push(contraction);
        Source::Product(self.contractions.len() - 1)
    }

    /// Largest first: then every leaf begins at a multiple of its size, in whole trees of falling sizes.
    pub fn sort_leaves(&mut self) {
        self.leaves.sort_by_key(|leaf| core::cmp::Reverse(leaf.log));
    }

    /// All fractions.
    #[must_use]
    pub fn fractions(&self) -> usize {
        self.leaves.iter().map(|leaf| 1usize << leaf.log).sum()
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
            offset += 1 << leaf.log;
        }
        places
    }
}
