//! Lookups: the table of ranges, and public tables of tuples.
//!
//! A lookup is a fraction `1 / (a - fingerprint)`, an entry one with its negated multiplicity; that all of them add up to 0 means that every
//! lookup is an entry (docs/spec/proofs.md, section 2). Multiplicities are counted as lookups are made, and committed last.

use super::{Builder, whole};
use crate::circuit::{Leaf, Linear, Public, Source};
use crate::field::{centred, residue};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// The tag of the range table; other tables have those behind it.
const RANGE_TAG: u32 = 1;

/// A public table.
#[derive(Clone, Debug)]
struct Table<B> {
    name: String,
    columns: Vec<Vec<B>>,
    /// The rows by their first number, where it is looked for.
    rows: BTreeMap<i64, usize>,
    counts: Vec<u32>,
}

/// All tables of a circuit.
#[derive(Clone, Debug)]
pub struct Tables<B> {
    known: Vec<Table<B>>,
    ranges: BTreeMap<u32, u32>,
}

impl<B> Default for Tables<B> {
    fn default() -> Tables<B> {
        Tables { known: Vec::new(), ranges: BTreeMap::new() }
    }
}

/// A table of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableId(usize);

impl<B: PrimeField32> Builder<'_, B> {
    /// A table of `entries`, whose first numbers are distinct; filled up with its last entry to a power of two. The same name means the same table.
    pub fn table(&mut self, name: &str, entries: impl FnOnce() -> Vec<Vec<i64>>) -> TableId {
        if let Some(at) = self.tables.known.iter().position(|table| table.name == name) {
            return TableId(at);
        }
        let mut entries = entries();
        let rows = entries.iter().enumerate().map(|(row, entry)| (entry[0], row)).collect();
        entries.resize(entries.len().next_power_of_two(), entries[entries.len() - 1].clone());
        let columns = (0..entries[0].len())
            .map(|at| entries.iter().map(|entry| residue(entry[at])).collect())
            .collect();
        let counts = vec![0; entries.len()];
        self.tables.known.push(Table { name: name.into(), columns, rows, counts });
        TableId(self.tables.known.len() - 1)
    }

    /// A lookup of a tuple in every one of `2^log` cells.
    pub fn look_up(&mut self, table: TableId, log: usize, tuple: Vec<Linear<B>>) {
        let keys = self.integers(&tuple[0], log);
        let found = &mut self.tables.known[table.0];
        debug_assert_eq!(found.columns.len(), tuple.len(), "{}", found.name);
        let mut outside = None;
        for key in keys {
            match found.rows.get(&key) {
                Some(row) => found.counts[*row] += 1,
                None => outside = Some((found.name.clone(), key)),
            }
        }
        if let Some((name, key)) = outside {
            self.outside(&name, key);
        }
        let tag = B::from_u32(RANGE_TAG + 1 + table.0 as u32);
        self.circuit.leaves.push(Leaf { log, numerator: Linear::constant(B::ONE), tag, tuple });
    }

    /// Commits to what the table has behind each key, and looks it up: expressions for the numbers behind the first.
    pub fn fetch(&mut self, name: &str, table: TableId, log: usize, key: Linear<B>) -> Vec<Linear<B>> {
        let keys = self.integers(&key, log);
        let mut tuple = vec![key];
        for at in 1..self.tables.known[table.0].columns.len() {
            let found = &self.tables.known[table.0];
            // A key that is not there, a liar's, fetches the first entry.
            let row = |key: &i64| found.rows.get(key).copied().unwrap_or(0);
            let values = keys.iter().map(|key| centred(found.columns[at][row(key)])).collect();
            let source = self.commit(&format!("{name}.{at}"), log, values);
            tuple.push(Linear::view(whole(source, log)));
        }
        self.look_up(table, log, tuple.clone());
        tuple.remove(0);
        tuple
    }

    /// A lookup in the table of ranges.
    pub fn look_up_range(&mut self, log: usize, width: Linear<B>, value: Linear<B>) {
        let widths = self.integers(&width, log);
        let values = self.integers(&value, log);
        let limb_bits = i64::from(self.circuit.limb_bits);
        for (width, value) in widths.into_iter().zip(values) {
            if (0..=limb_bits).contains(&width) && (0..1 << width).contains(&value) {
                *self.tables.ranges.entry(((1 << width) + value) as u32).or_default() += 1;
            } else {
                self.outside(&format!("a value of {width} bits"), value);
            }
        }
        let (numerator, tag) = (Linear::constant(B::ONE), B::from_u32(RANGE_TAG));
        self.circuit.leaves.push(Leaf { log, numerator, tag, tuple: vec![width, value] });
    }

    /// The entries of all tables, with their multiplicities.
    pub(super) fn close_tables(&mut self) {
        let tables = core::mem::take(&mut self.tables);
        let log = self.circuit.limb_bits as usize + 1;
        let count = |at| tables.ranges.get(&at).copied().unwrap_or(0);
        let tuple = vec![Public::Width(log), Public::Value(log)];
        self.close("ranges", log, RANGE_TAG, tuple, (0..1 << log).map(|at| count(at).into()));
        for (number, table) in tables.known.into_iter().enumerate() {
            let log = table.counts.len().trailing_zeros() as usize;
            let tuple = table.columns.into_iter().map(Public::Vector).collect();
            let tag = RANGE_TAG + 1 + number as u32;
            self.close(&table.name, log, tag, tuple, table.counts.into_iter().map(i64::from));
        }
    }

    fn close(
        &mut self,
        name: &str,
        log: usize,
        tag: u32,
        tuple: Vec<Public<B>>,
        counts: impl Iterator<Item = i64>,
    ) {
        let counts = if self.has_witness() { counts.collect() } else { Vec::new() };
        let multiplicity: Source = self.commit(name, log, counts);
        let view = |source| Linear::view(whole(source, log));
        let tuple = tuple.into_iter().map(|public| view(self.circuit.public(public))).collect();
        let numerator = view(multiplicity).times(B::NEG_ONE);
        self.circuit.leaves.push(Leaf { log, numerator, tag: B::from_u32(tag), tuple });
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The table of all integers of a magnitude of at most `max`.
    pub fn bounded(&mut self, name: &str, max: i64) -> TableId {
        self.table(name, || (-max..=max).map(|x| vec![x]).collect())
    }
}
