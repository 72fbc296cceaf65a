//! The operators of docs/spec/arithmetic.md as circuits. One piece of code serves both sides: it declares columns and what must
//! hold of them, and, where there is a witness, computes the cells from those before them. So what a prover claims is
//! always the consequence of what it committed to, and a lie about one value ([`Lie`]) spreads as it would in a real prover.
//!
//! - [`Builder`]: columns, products, constraints
//! - [`declared`]: how wide values are; [`ranges`]: values in limbs; [`tables`]: lookups in public tables
//! - [`linear`]: matrices of weights; [`quantise`]: codes; [`norm`]: their factors; [`digits`]: integers above 31 bits
//! - [`gain`]: norms with gains; [`cap`]: soft caps; [`experts`]: who is chosen of a mixture; [`sample`]: seeded sampling
//! - [`heads`], [`attention`], [`feed_forward`]: what a decoder layer has besides

pub mod attention;
pub mod cap;
pub mod declared;
pub mod digits;
pub mod experts;
pub mod feed_forward;
pub mod gain;
pub mod heads;
pub mod linear;
pub mod norm;
pub mod quantise;
pub mod ranges;
pub mod sample;
mod shift;
pub mod tables;

use crate::circuit::{
    Bit, Check, Circuit, Constraint, Contraction, Gather, Home, Linear, Public, Source, View,
};
use crate::error::VerifyError;
use crate::matmul::Matrix;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use declared::{DECLARATIONS_MAX, Declarations};
use p3_field::PrimeField32;
use tables::Tables;
#[cfg(feature = "prover")]
use {
    crate::argument::Witness, crate::circuit::contract::contracted, crate::circuit::read,
    crate::error::ProveError, crate::field::residue,
};

/// A value that a witness gets wrong: what is committed, or said of a contraction, as the value with number `value` (in the order in which a circuit has them) is `by` more
/// at `at`, and everything behind it is computed from that, modulo p.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie {
    /// Which value.
    pub value: usize,
    /// Which of its cells.
    pub at: usize,
    /// How wrong.
    pub by: i64,
}

/// A circuit that grows, and its witness where there is one.
#[derive(Debug)]
pub struct Builder<'m, B: PrimeField32> {
    /// So far.
    pub circuit: Circuit<B>,
    /// The matrices of the statement.
    pub matrices: Vec<Matrix<'m>>,
    /// Lookup tables.
    tables: Tables<B>,
    /// How wide values are.
    declarations: Declarations,
    /// Constraints by the logarithm of their spaces: those of one size are proved together.
    constraints: BTreeMap<usize, Vec<Constraint<B>>>,
    /// What the operator is called in messages.
    scope: String,
    /// The vector (1).
    one: Option<Source>,
    #[cfg(feature = "prover")]
    witness: Option<Witness<B>>,
    #[cfg(feature = "prover")]
    lie: Option<Lie>,
    /// Values that were committed to.
    #[cfg(feature = "prover")]
    values: Vec<(String, usize)>,
    /// The first integer that is in no table: an honest prover has none, but where the arithmetic has no argument.
    #[cfg(feature = "prover")]
    outside: Option<(String, i64)>,
}

impl<'m, B: PrimeField32> Builder<'m, B> {
    /// No witness and no declarations: the smallest circuit that a statement has.
    #[must_use]
    pub fn new(limb_bits: u32) -> Builder<'m, B> {
        Builder {
            circuit: Circuit::new(limb_bits),
            matrices: Vec::new(),
            tables: Tables::default(),
            declarations: Declarations::default(),
            constraints: BTreeMap::new(),
            scope: String::new(),
            one: None,
            #[cfg(feature = "prover")]
            witness: None,
            #[cfg(feature = "prover")]
            lie: None,
            #[cfg(feature = "prover")]
            values: Vec::new(),
            #[cfg(feature = "prover")]
            outside: None,
        }
    }

    /// The verifier's: `proof` begins with the declarations.
    #[must_use]
    pub fn told(limb_bits: u32, proof: &[u8]) -> Builder<'m, B> {
        let given = Some(proof[..proof.len().min(DECLARATIONS_MAX)].into());
        Builder { declarations: Declarations { given, ..Declarations::default() }, ..Builder::new(limb_bits) }
    }

    /// The prover's, honest but for `lie`.
    #[cfg(feature = "prover")]
    #[must_use]
    pub fn proving(limb_bits: u32, lie: Option<Lie>) -> Builder<'m, B> {
        let witness = Some(Witness { columns: Vec::new(), products: Vec::new() });
        Builder { witness, lie, ..Builder::new(limb_bits) }
    }

    /// A prover that declares what it is told to, whatever its witness is: for tests.
    #[cfg(feature = "prover")]
    #[must_use]
    pub fn declaring(limb_bits: u32, lie: Option<Lie>, declarations: &[u8]) -> Builder<'m, B> {
        let witness = Some(Witness { columns: Vec::new(), products: Vec::new() });
        Builder { witness, lie, ..Builder::told(limb_bits, declarations) }
    }

    /// Names what comes next.
    pub fn scope(&mut self, scope: String) {
        self.scope = scope;
    }

    /// The integers of an expression over `2^log` cells; none on the verifier's side.
    #[must_use]
    pub fn integers(&self, linear: &Linear<B>, log: usize) -> Vec<i64> {
        #[cfg(feature = "prover")]
        if let Some(witness) = &self.witness {
            return read::integers(&witness.cells(&self.circuit), linear, log);
        }
        let _ = (linear, log);
        Vec::new()
    }

    /// Whether there is a witness.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        #[cfg(feature = "prover")]
        return self.witness.is_some();
        #[cfg(not(feature = "prover"))]
        false
    }

    /// `values`, wrong where this is the value that is lied about.
    fn said(&mut self, name: &str, values: &mut [i64]) {
        #[cfg(feature = "prover")]
        if self.witness.is_some() {
            if let Some(lie) = self.lie.filter(|lie| lie.value == self.values.len()) {
                values[lie.at % values.len()] += lie.by;
            }
            self.values.push((format!("{}: {name}", self.scope), values.len()));
        }
        let _ = (name, values);
    }

    /// What follows from a lie is said modulo p, as a liar would: a remainder may fit again.
    fn reduced(&self, values: &mut [i64]) {
        #[cfg(feature = "prover")]
        if self.lie.is_some() {
            let order = i64::from(B::ORDER_U32);
            values
                .iter_mut()
                .filter(|value| !(0..order).contains(*value))
                .for_each(|x| *x = x.rem_euclid(order));
        }
        let _ = values;
    }

    /// A column that no lie touches by itself: a limb of a value.
    fn column(&mut self, name: &str, log: usize, values: &[i64]) -> Source {
        self.column_at(Home::Witness, name, log, values)
    }

    /// A column of a commitment.
    fn column_at(&mut self, home: Home, name: &str, log: usize, values: &[i64]) -> Source {
        debug_assert!(!self.has_witness() || values.len() == 1 << log, "{name}");
        self.column_of(home, name, log, |at| values[at])
    }

    /// A column of a commitment, cell by cell.
    fn column_of(
        &mut self,
        home: Home,
        name: &str,
        log: usize,
        of: impl Fn(usize) -> i64 + Sync + Send,
    ) -> Source {
        #[cfg(feature = "prover")]
        if let Some(witness) = &mut self.witness {
            witness.columns.push(each(1 << log, |at| residue(of(at))));
        }
        let _ = of;
        // Verifiers have no use for names.
        let name = if self.has_witness() { format!("{}: {name}", self.scope) } else { String::new() };
        self.circuit.column(name, log, home)
    }

    /// Commits to a value as one column. Nothing is said of its range.
    pub fn commit(&mut self, name: &str, log: usize, mut values: Vec<i64>) -> Source {
        self.said(name, &mut values);
        self.column(name, log, &values)
    }

    /// A value whose commitment is the statement's number `outside`, as one column. Nothing is said of its range.
    pub fn commit_outside(&mut self, outside: usize, name: &str, log: usize, mut values: Vec<i64>) -> Source {
        self.said(name, &mut values);
        self.column_at(Home::Outside(outside), name, log, &values)
    }

    /// A sum of products.
    pub fn contract(&mut self, contraction: Contraction) -> Source {
        #[cfg(feature = "prover")]
        if self.witness.is_some() {
            let mut values = match &self.witness {
                Some(witness) => contracted(&witness.cells(&self.circuit), &self.matrices, &contraction),
                None => Vec::new(),
            };
            if let Some(lie) = self.lie.filter(|lie| lie.value == self.values.len()) {
                let at = lie.at % values.len();
                values[at] += residue(lie.by);
            }
            let name = format!("{}: product {}", self.scope, self.circuit.contractions.len());
            self.values.push((name, values.len()));
            if let Some(witness) = &mut self.witness {
                witness.products.push(values);
            }
        }
        self.circuit.contraction(contraction)
    }

    /// The vectors `(2^vectors, 2^log_from)` of `source` at other places: `taken` says where each new place is taken from.
    pub fn gather(
        &mut self,
        source: Source,
        vectors: usize,
        log_from: usize,
        taken: Vec<Option<u32>>,
    ) -> Source {
        let outer = vectors + taken.len().trailing_zeros() as usize;
        let gather = self.circuit.public(Public::Gather(Gather { taken, log_from }));
        let bits = |range: core::ops::Range<usize>| range.map(Bit::At);
        let inner = outer..outer + log_from;
        self.contract(Contraction {
            outer,
            inner: log_from,
            left: View { source, bits: bits(0..vectors).chain(bits(inner.clone())).collect() },
            right: View { source: gather, bits: bits(vectors..outer).chain(bits(inner)).collect() },
        })
    }

    /// Those of the vectors x, over (vectors, channels), that the rows of `picked`, over (row, vector), say.
    pub fn pick(
        &mut self,
        (picked, rows): (Source, usize),
        (vectors, channels): (usize, usize),
        x: &Linear<B>,
    ) -> Linear<B> {
        let range = |range: core::ops::Range<usize>| range.map(Bit::At);
        let outer = rows + channels;
        let here: Vec<Bit> = range(outer..outer + vectors).chain(range(rows..outer)).collect();
        let mut sum = Linear::constant(x.constant);
        for term in &x.terms {
            let [view] = &term.views[..] else { panic!("what is picked is a sum of plain terms") };
            let bits = range(0..rows).chain(range(outer..outer + vectors)).collect();
            let left = View { source: picked, bits };
            let right = view.within(&here);
            let source = self.contract(Contraction { outer, inner: vectors, left, right });
            sum = sum.plus(&Linear::view(whole(source, outer)).times(term.coefficient));
        }
        sum
    }

    /// The vector of one 1, read where there is nothing to multiply by.
    fn one(&mut self) -> Source {
        let one = self.one.unwrap_or_else(|| self.circuit.vector([B::ONE].into()));
        self.one = Some(one);
        one
    }

    /// `sum of coefficient * left * right + linear = 0` in all `2^log` cells.
    pub fn constrain(&mut self, log: usize, products: Vec<(B, Linear<B>, Linear<B>)>, linear: Linear<B>) {
        self.constraints.entry(log).or_default().push(Constraint { products, linear });
    }

    /// Commits to an expression, so that what reads it need not read all its terms.
    pub fn settle(&mut self, name: &str, log: usize, linear: &Linear<B>) -> Linear<B> {
        let values = self.integers(linear, log);
        let settled = Linear::view(whole(self.commit(name, log, values), log));
        self.constrain(log, Vec::new(), settled.clone().minus(linear));
        settled
    }

    /// A column of zeros and ones.
    pub fn boolean(&mut self, name: &str, log: usize, values: Vec<i64>) -> Source {
        let source = self.commit(name, log, values);
        let bit = Linear::view(whole(source, log));
        self.constrain(log, [(B::ONE, bit.clone(), bit.clone())].into(), bit.times(B::NEG_ONE));
        source
    }

    /// The circuit, with the tables and their multiplicities.
    #[must_use]
    pub fn finish(mut self) -> Built<'m, B> {
        self.scope = "tables".into();
        self.close_tables();
        let mut circuit = self.circuit;
        circuit.checks =
            self.constraints.into_iter().map(|(log, constraints)| Check { log, constraints }).collect();
        circuit.sort_leaves();
        Built {
            circuit,
            matrices: self.matrices,
            declarations: self.declarations.said,
            fault: self.declarations.fault,
            #[cfg(feature = "prover")]
            witness: self.witness,
            #[cfg(feature = "prover")]
            values: self.values,
            #[cfg(feature = "prover")]
            outside: self.outside,
        }
    }
}

/// What a builder leaves.
#[derive(Debug)]
pub struct Built<'m, B> {
    /// The circuit.
    pub circuit: Circuit<B>,
    /// Its matrices.
    pub matrices: Vec<Matrix<'m>>,
    /// What was declared, in order: the first bytes of a proof.
    pub declarations: Vec<u8>,
    /// The first declaration that is none.
    pub fault: Option<VerifyError>,
    /// The witness, on the prover's side.
    #[cfg(feature = "prover")]
    pub witness: Option<Witness<B>>,
    /// Names and sizes of all values, in the order in which a [`Lie`] counts them.
    #[cfg(feature = "prover")]
    pub values: Vec<(String, usize)>,
    /// The first integer that is in no table, and its name.
    #[cfg(feature = "prover")]
    pub outside: Option<(String, i64)>,
}

impl<B> Built<'_, B> {
    /// What follows the declarations in a proof that this was built from.
    ///
    /// # Errors
    /// If one of them was none.
    pub fn argued<'p>(&self, proof: &'p [u8]) -> Result<&'p [u8], VerifyError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let expected = self.declarations.len();
        proof.get(expected..).ok_or(VerifyError::Truncated { got: proof.len(), expected })
    }
}

#[cfg(feature = "prover")]
impl<'m, B> Built<'m, B> {
    /// The witness of an honest prover.
    ///
    /// # Errors
    /// If the arithmetic has an integer that no argument covers.
    pub fn honest(mut self) -> Result<(Built<'m, B>, Witness<B>), ProveError> {
        if let Some((what, got)) = self.outside.take() {
            return Err(ProveError::NotCovered { what, got });
        }
        let witness =
            self.witness.take().unwrap_or_else(|| Witness { columns: Vec::new(), products: Vec::new() });
        Ok((self, witness))
    }
}

/// Cells of a piece of a value, which one thread computes.
const PIECE: usize = 1 << 12;

/// `of(0), ..., of(count - 1)`: the cells of a value.
pub(crate) fn each<T: Copy + Default + Send>(count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    in_pieces(count, PIECE, of)
}

/// What `of` gives for every vector of a value: rows of `size` cells.
pub(crate) fn of_rows<T: Copy + Default + Send>(
    cells: &[i64],
    size: usize,
    of: impl Fn(usize, &[i64]) -> T + Sync,
) -> Vec<T> {
    in_pieces(cells.len() / size, PIECE.div_ceil(size), |row| of(row, &cells[row * size..(row + 1) * size]))
}

#[cfg(feature = "prover")]
fn in_pieces<T: Copy + Default + Send>(count: usize, piece: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    crate::parallel::map(count, piece, of)
}

#[cfg(not(feature = "prover"))]
fn in_pieces<T: Copy + Default + Send>(count: usize, _: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    (0..count).map(of).collect()
}

/// A vector over the whole of its space.
#[must_use]
pub fn whole(source: Source, log: usize) -> View {
    View { source, bits: (0..log).map(crate::circuit::Bit::At).collect() }
}
