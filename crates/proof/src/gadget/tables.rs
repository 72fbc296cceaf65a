//! Lookups: tables of ranges, and public tables of tuples.
//!
//! A lookup is a fraction `1 / (a - fingerprint)`, an entry one with its negated multiplicity; that all of them add up to 0 means that every
//! lookup is an entry (docs/spec/proofs.md, section 2). Multiplicities are counted when all lookups are made (`count`), and committed last.
//!
//! Tables of ranges are formulas ([`crate::circuit::range`]), so that no verifier reads them:
//!
//! ```text
//! (w, z)        z < 2^w                  widths up to those of a limb
//! (w, z, u)     z < 2^w, u < 2^b         a second value of b bits in the same lookup, w up to the widest that is looked up
//! (w, 2^w, z)   z < 2^(low + w)          a remainder whose width is computed, with the power that it is one of
//! ```

#[cfg(feature = "prover")]
mod count;

use super::{Builder, whole};
use crate::circuit::{Bit, Circuit, Leaf, Linear, Marks, Public, Source, View, range};
use crate::field::{power_of_two, residue};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use p3_field::PrimeField32;

/// No row of a table.
const NO_ROW: u32 = u32::MAX;

/// Rows of a table by their first numbers, as an array with one axis for each: `(least, how many)`.
#[derive(Clone, Debug)]
struct Rows {
    axes: Vec<(i64, usize)>,
    rows: Vec<u32>,
}

impl Rows {
    /// By the columns of keys.
    fn new(keys: &[Vec<i64>]) -> Rows {
        let axis = |numbers: &Vec<i64>| {
            let (least, most) = (numbers.iter().min().unwrap_or(&0), numbers.iter().max().unwrap_or(&0));
            (*least, (most - least + 1) as usize)
        };
        let axes: Vec<(i64, usize)> = keys.iter().map(axis).collect();
        let mut rows = Rows { rows: vec![NO_ROW; axes.iter().map(|axis| axis.1).product()], axes };
        for row in 0..keys.first().map_or(0, Vec::len) {
            if let Some(place) = rows.place(keys.iter().map(|key| key[row])) {
                rows.rows[place] = row as u32;
            }
        }
        rows
    }

    fn place(&self, numbers: impl Iterator<Item = i64>) -> Option<usize> {
        let mut place = 0;
        for ((least, count), number) in self.axes.iter().zip(numbers) {
            let at = usize::try_from(number.checked_sub(*least)?).ok().filter(|at| at < count)?;
            place = place * count + at;
        }
        Some(place)
    }

    fn of(&self, numbers: impl Iterator<Item = i64>) -> Option<usize> {
        let row = self.rows[self.place(numbers)?];
        (row != NO_ROW).then_some(row as usize)
    }
}

/// A public table.
#[derive(Clone, Debug)]
struct Table<B> {
    name: String,
    tag: u32,
    /// log2 of its entries.
    log: usize,
    /// Their numbers, over the entries.
    tuple: Vec<Linear<B>>,
    /// The same as integers, column by column, where there is a witness.
    columns: Vec<Vec<i64>>,
    rows: Rows,
}

/// A table of ranges; its entry is `(2^w + z) 2^low + u`.
#[derive(Clone, Debug)]
struct Ranges {
    tag: u32,
    /// The widest so far, or that there is.
    top: u32,
}

/// All tables of a circuit.
#[derive(Clone, Debug)]
pub struct Tables<B> {
    known: Vec<Table<B>>,
    /// By the bits of the second value.
    beside: BTreeMap<u32, Ranges>,
    /// By the bits of every width that are not counted, and the widest.
    powers: BTreeMap<(u32, u32), Ranges>,
    tags: u32,
}

impl<B> Default for Tables<B> {
    fn default() -> Tables<B> {
        Tables { known: Vec::new(), beside: BTreeMap::new(), powers: BTreeMap::new(), tags: 0 }
    }
}

impl<B> Tables<B> {
    fn tag(&mut self) -> u32 {
        self.tags += 1;
        self.tags
    }

    fn beside(&mut self, low: u32, top: u32) -> &mut Ranges {
        if !self.beside.contains_key(&low) {
            let tag = self.tag();
            self.beside.insert(low, Ranges { tag, top: 0 });
        }
        let ranges = self.beside.entry(low).or_insert(Ranges { tag: 0, top: 0 });
        ranges.top = ranges.top.max(top);
        ranges
    }

    fn powers(&mut self, low: u32, top: u32) -> &mut Ranges {
        if !self.powers.contains_key(&(low, top)) {
            let tag = self.tag();
            self.powers.insert((low, top), Ranges { tag, top });
        }
        self.powers.entry((low, top)).or_insert(Ranges { tag: 0, top })
    }
}

/// A table of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableId(usize);

impl<B: PrimeField32> Builder<'_, B> {
    /// A table of `entries`, whose first numbers are distinct; filled up with its last entry to a power of two. The same name means the same table.
    pub fn table(&mut self, name: &str, entries: impl FnOnce() -> Vec<Vec<i64>>) -> TableId {
        self.keyed_table(name, 1, entries)
    }

    /// The same, whose entries differ in their first `keys` numbers.
    pub fn keyed_table(
        &mut self,
        name: &str,
        keys: usize,
        entries: impl FnOnce() -> Vec<Vec<i64>>,
    ) -> TableId {
        if let Some(known) = self.known_table(name) {
            return known;
        }
        let mut entries = entries();
        entries.resize(entries.len().next_power_of_two(), entries[entries.len() - 1].clone());
        let log = entries.len().trailing_zeros() as usize;
        self.formula_table(name, (log, keys), |circuit| {
            let column = |at: usize| entries.iter().map(|entry| residue(entry[at])).collect();
            let mut view = |at| Linear::view(whole(circuit.vector(column(at)), log));
            (0..entries[0].len()).map(&mut view).collect()
        })
    }

    /// A table of `2^log` entries that differ in their first `keys` numbers, which are expressions over them: formulas need not be written out.
    pub fn formula_table(
        &mut self,
        name: &str,
        (log, keys): (usize, usize),
        tuple: impl FnOnce(&mut Circuit<B>) -> Vec<Linear<B>>,
    ) -> TableId {
        if let Some(known) = self.known_table(name) {
            return known;
        }
        let tuple = tuple(&mut self.circuit);
        let columns: Vec<Vec<i64>> = if self.has_witness() {
            tuple.iter().map(|numbers| self.integers(numbers, log)).collect()
        } else {
            Vec::new()
        };
        let rows = Rows::new(columns.get(..keys).unwrap_or_default());
        let tag = self.tables.tag();
        self.tables.known.push(Table { name: name.into(), tag, log, tuple, columns, rows });
        TableId(self.tables.known.len() - 1)
    }

    fn known_table(&self, name: &str) -> Option<TableId> {
        self.tables.known.iter().position(|table| table.name == name).map(TableId)
    }

    /// A lookup of a tuple in every one of `2^log` cells.
    pub fn look_up(&mut self, table: TableId, log: usize, tuple: Vec<Linear<B>>) {
        let found = &self.tables.known[table.0];
        debug_assert_eq!(found.tuple.len(), tuple.len(), "{}", found.name);
        let tag = B::from_u32(found.tag);
        self.circuit.leaves.push(Leaf { log, numerator: Linear::constant(B::ONE), tag, tuple });
    }

    /// Commits to what the table has behind each key, and looks it up: expressions for the numbers behind the first.
    pub fn fetch(&mut self, name: &str, table: TableId, log: usize, key: Linear<B>) -> Vec<Linear<B>> {
        let keys = self.integers(&key, log);
        let mut tuple = vec![key];
        for at in 1..self.tables.known[table.0].tuple.len() {
            let found = &self.tables.known[table.0];
            // A key that is not there, a liar's, fetches the first entry.
            let row = |key: &i64| found.rows.of(core::iter::once(*key)).unwrap_or(0);
            let values = keys.iter().map(|key| found.columns[at][row(key)]).collect();
            let source = self.commit(&format!("{name}.{at}"), log, values);
            tuple.push(Linear::view(whole(source, log)));
        }
        self.look_up(table, log, tuple.clone());
        tuple.remove(0);
        tuple
    }

    /// A lookup in the table of ranges.
    pub fn look_up_range(&mut self, log: usize, width: Linear<B>, value: Linear<B>) {
        let limb_bits = self.circuit.limb_bits;
        let tag = self.tables.beside(0, limb_bits).tag;
        let (numerator, tag) = (Linear::constant(B::ONE), B::from_u32(tag));
        self.circuit.leaves.push(Leaf { log, numerator, tag, tuple: vec![width, value] });
    }

    /// A lookup of two values: one of `width` bits, at most `top`, and one of `bits`.
    pub fn look_up_beside(
        &mut self,
        log: usize,
        (width, top): (Linear<B>, u32),
        value: Linear<B>,
        (bits, beside): (u32, Linear<B>),
    ) {
        let tag = self.tables.beside(bits, top).tag;
        let (numerator, tag) = (Linear::constant(B::ONE), B::from_u32(tag));
        self.circuit.leaves.push(Leaf { log, numerator, tag, tuple: vec![width, value, beside] });
    }

    /// A lookup of `(w, 2^w, z)` with z of `low + w` bits, w at most `top`.
    pub fn look_up_power(
        &mut self,
        log: usize,
        (low, top): (u32, u32),
        [width, power, value]: [Linear<B>; 3],
    ) {
        let tag = self.tables.powers(low, top).tag;
        let (numerator, tag) = (Linear::constant(B::ONE), B::from_u32(tag));
        self.circuit.leaves.push(Leaf { log, numerator, tag, tuple: vec![width, power, value] });
    }

    /// The entries of all tables, with their multiplicities.
    pub(super) fn close_tables(&mut self) {
        #[cfg(feature = "prover")]
        let mut counts = self.counted();
        #[cfg(not(feature = "prover"))]
        let mut counts = Vec::<Vec<u32>>::new();
        let mut counts = |tag: u32| counts.get_mut(tag as usize).map(core::mem::take).unwrap_or_default();
        let tables = core::mem::take(&mut self.tables);
        let first = |bits: usize, public| View { source: public, bits: (0..bits).map(Bit::At).collect() };
        for (low, ranges) in tables.beside {
            let bits = ranges.top as usize + 1;
            let log = bits + low as usize;
            let name = if low == 0 { "ranges".into() } else { format!("ranges beside {low} bits") };
            let mut tuple = Vec::new();
            for public in [Public::Width(bits), Public::Value(bits)] {
                tuple.push(Linear::view(first(bits, self.circuit.public(public))));
            }
            if low > 0 {
                let source = self.circuit.public(Public::Index(low as usize));
                tuple.push(Linear::view(View { source, bits: (bits..log).map(Bit::At).collect() }));
            }
            self.close(&name, log, ranges.tag, tuple, counts(ranges.tag));
        }
        for table in tables.known {
            self.close(&table.name, table.log, table.tag, table.tuple, counts(table.tag));
        }
        for ((low, top), ranges) in tables.powers {
            let bits = top as usize + 1;
            let log = bits + low as usize;
            // The first entry of a table of ranges is none; here it is that of width 0.
            let width = |at: usize| range::entry(at).0.max(0);
            let of = |f: &dyn Fn(i64) -> i64| (0..1 << bits).map(|at| residue(f(width(at)))).collect();
            let (widths, powers) = (of(&|w| w), of(&|w| 1 << w));
            let mut view = |public| Linear::view(first(bits, self.circuit.public(public)));
            let (widths, powers) = (view(Public::Vector(widths)), view(Public::Vector(powers)));
            let high = view(Public::Value(bits));
            let source = self.circuit.public(Public::Index(low as usize));
            let rest = Linear::view(View { source, bits: (bits..log).map(Bit::At).collect() });
            let tuple = vec![widths, powers, high.times(power_of_two(low)).plus(&rest)];
            self.close(&format!("powers to {top} and {low}"), log, ranges.tag, tuple, counts(ranges.tag));
        }
    }

    fn close(&mut self, name: &str, log: usize, tag: u32, tuple: Vec<Linear<B>>, mut counts: Vec<u32>) {
        counts.resize(1 << log, 0);
        let counts = counts.into_iter().map(i64::from).collect();
        let counts = if self.has_witness() { counts } else { Vec::new() };
        let multiplicity: Source = self.commit(name, log, counts);
        let numerator = Linear::view(whole(multiplicity, log)).times(B::NEG_ONE);
        self.circuit.leaves.push(Leaf { log, numerator, tag: B::from_u32(tag), tuple });
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The table of all integers of a magnitude of at most `max`.
    pub fn bounded(&mut self, name: &str, max: i64) -> TableId {
        match log_of_bound(max) {
            Some(log) => self.formula_table(name, (log, 1), |circuit| vec![within(circuit, 0..log)]),
            None => self.table(name, || (-max..=max).map(|x| vec![x]).collect()),
        }
    }
}

/// Coordinates of a table of all integers of a magnitude of at most `max`, if it is a power of two less 1.
pub(super) fn log_of_bound(max: i64) -> Option<usize> {
    let entries = u64::try_from(max).ok()? + 1;
    entries.is_power_of_two().then(|| entries.trailing_zeros() as usize + 1)
}

/// The number that the coordinates `bits` are.
pub(super) fn number<B: PrimeField32>(circuit: &mut Circuit<B>, bits: Range<usize>) -> Linear<B> {
    let source = circuit.public(Public::Index(bits.len()));
    Linear::view(View { source, bits: bits.map(Bit::At).collect() })
}

/// 1 where the coordinates `bits` are all 0.
pub(super) fn none<B: PrimeField32>(circuit: &mut Circuit<B>, bits: Range<usize>) -> Linear<B> {
    let source = circuit.public(Public::Before(Marks { at: vec![1], log: bits.len() }));
    Linear::view(View { source, bits: bits.map(Bit::At).collect() })
}

/// `-2^k + 1, -2^k + 1, ..., 2^k - 1` by the k + 1 coordinates `bits`: there is one such integer less than places.
pub(super) fn within<B: PrimeField32>(circuit: &mut Circuit<B>, bits: Range<usize>) -> Linear<B> {
    let half = power_of_two::<B>(bits.len() as u32 - 1);
    number(circuit, bits.clone()).plus(&none(circuit, bits)).offset(-half)
}

/// A width w and a value below `2^w` by the coordinates `bits`, as in [`range`], but that the first entry is that of width 0 once more.
pub(super) fn width_and_value<B: PrimeField32>(
    circuit: &mut Circuit<B>,
    bits: Range<usize>,
) -> (Linear<B>, Linear<B>) {
    let [width, value] = [Public::Width(bits.len()), Public::Value(bits.len())].map(|public| {
        let source = circuit.public(public);
        Linear::view(View { source, bits: bits.clone().map(Bit::At).collect() })
    });
    (width.plus(&none(circuit, bits)), value)
}
