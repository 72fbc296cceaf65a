//! How often each entry of each table is looked up: the expressions of all lookups, read block by block, by two threads that take one lookup after the
//! other and have counts of their own.

use super::{Builder, Rows};
use crate::circuit::fill::Cells;
use crate::circuit::read::{BLOCK, Reader};
use crate::circuit::{Leaf, Source};
use crate::lanes::Kernel;
use crate::parallel;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use p3_field::PrimeField32;

/// What a table has.
enum Entries<'a> {
    /// Those of a list, by their first numbers; its name, and how many there are.
    Listed(&'a Rows, &'a str, usize),
    /// `(2^w + z) 2^low + u` for (w, z, u), w up to `top`.
    Beside { low: u32, top: u32 },
    /// `2^(low + w) + z` for (w, 2^w, z), w up to `top`.
    Power { low: u32, top: u32 },
}

impl Entries<'_> {
    fn count(&self) -> usize {
        match self {
            Entries::Listed(.., count) => *count,
            Entries::Beside { low, top } | Entries::Power { low, top } => 1 << (top + 1 + low),
        }
    }

    /// Which of a lookup's expressions choose the entry.
    fn keys(&self) -> Vec<usize> {
        match self {
            Entries::Listed(rows, ..) => (0..rows.axes.len()).collect(),
            Entries::Beside { low: 0, .. } => vec![0, 1],
            Entries::Beside { .. } => vec![0, 1, 2],
            Entries::Power { .. } => vec![0, 2],
        }
    }

    /// The entry with these keys.
    #[inline]
    fn place(&self, keys: &[i64]) -> Option<usize> {
        match self {
            Entries::Listed(rows, ..) => rows.of(keys.iter().copied()),
            Entries::Beside { low, top } => {
                let (width, value, beside) = (keys[0], keys[1], keys.get(2).copied().unwrap_or(0));
                let fits = (0..=i64::from(*top)).contains(&width)
                    && (0..1 << width).contains(&value)
                    && (0..1 << low).contains(&beside);
                fits.then(|| ((((1 << width) + value) << low) + beside) as usize)
            }
            Entries::Power { low, top } => {
                let (width, value) = (keys[0], keys[1]);
                let fits = (0..=i64::from(*top)).contains(&width)
                    && (0..1i64 << (i64::from(*low) + width)).contains(&value);
                fits.then(|| ((1i64 << (i64::from(*low) + width)) + value) as usize)
            }
        }
    }

    /// What is said of numbers that no entry has.
    fn refused(&self, keys: &[i64]) -> (String, i64) {
        match self {
            Entries::Listed(_, name, _) => ((*name).into(), keys[keys.len() - 1]),
            Entries::Beside { low: 0, .. } => (format!("a value of {} bits", keys[0]), keys[1]),
            Entries::Beside { .. } => (format!("a value of {} bits beside {}", keys[0], keys[2]), keys[1]),
            Entries::Power { low, .. } => (format!("a remainder of {low} bits and {}", keys[0]), keys[1]),
        }
    }
}

/// What one thread has counted.
#[derive(Default)]
struct Counter {
    /// By tag and entry.
    counts: Vec<Vec<u32>>,
    /// The first lookup of no entry: its number, and what is said of it.
    outside: Option<(usize, (String, i64))>,
}

impl Counter {
    fn add<B: PrimeField32>(
        &mut self,
        cells: &Cells<'_, B>,
        (number, leaf): (usize, &Leaf<B>),
        tag: usize,
        entries: &Entries<'_>,
        scratch: &mut Vec<i64>,
    ) {
        let counts = &mut self.counts[tag];
        counts.resize(entries.count(), 0);
        let keys = entries.keys();
        let readers: Vec<Reader<'_, B>> =
            keys.iter().map(|key| Reader::new(cells, &leaf.tuple[*key], leaf.log)).collect();
        let kernel = Kernel::detect();
        let size = BLOCK.min(1 << leaf.log);
        scratch.resize(keys.len() * BLOCK, 0);
        let mut tuple = vec![0; keys.len()];
        for start in (0..1usize << leaf.log).step_by(size) {
            for (reader, out) in readers.iter().zip(scratch.chunks_mut(BLOCK)) {
                match reader.constant() {
                    Some(constant) => out.fill(constant),
                    None => reader.integers(kernel, start, &mut out[..size]),
                }
            }
            for at in 0..size {
                for (key, values) in tuple.iter_mut().zip(scratch.chunks(BLOCK)) {
                    *key = values[at];
                }
                match entries.place(&tuple) {
                    Some(place) => counts[place] += 1,
                    None if self.outside.is_none() => self.outside = Some((number, entries.refused(&tuple))),
                    None => {}
                }
            }
        }
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The multiplicities of every table, by its tag.
    pub(super) fn counted(&mut self) -> Vec<Vec<u32>> {
        let Some(witness) = &self.witness else { return Vec::new() };
        let cells = witness.cells(&self.circuit);
        let mut tables: BTreeMap<u32, Entries<'_>> = BTreeMap::new();
        for table in &self.tables.known {
            tables.insert(table.tag, Entries::Listed(&table.rows, &table.name, 1 << table.log));
        }
        for (low, ranges) in &self.tables.beside {
            tables.insert(ranges.tag, Entries::Beside { low: *low, top: ranges.top });
        }
        for ((low, top), ranges) in &self.tables.powers {
            tables.insert(ranges.tag, Entries::Power { low: *low, top: *top });
        }
        let next = AtomicUsize::new(0);
        let mut counters: Vec<Counter> = (0..parallel::THREADS).map(|_| Counter::default()).collect();
        parallel::for_each(&mut counters, |counter| {
            counter.counts.resize(self.tables.tags as usize + 1, Vec::new());
            let mut scratch = Vec::new();
            while let number = next.fetch_add(1, Ordering::Relaxed)
                && let Some(leaf) = self.circuit.leaves.get(number)
            {
                let tag = leaf.tag.as_canonical_u32();
                if let Some(entries) = tables.get(&tag) {
                    counter.add(&cells, (number, leaf), tag as usize, entries, &mut scratch);
                }
            }
        });
        let outside = counters.iter_mut().filter_map(|counter| counter.outside.take());
        let outside = outside.min_by_key(|(number, _)| *number);
        let mut all = counters.into_iter().map(|counter| counter.counts);
        let mut counts = all.next().unwrap_or_default();
        for (tag, more) in all.flat_map(|more| more.into_iter().enumerate()) {
            let length = counts[tag].len().max(more.len());
            counts[tag].resize(length, 0);
            counts[tag].iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
        if let Some((number, (what, got))) = outside {
            // A column says which operator it is of.
            let terms = self.circuit.leaves[number].tuple.iter().rev().flat_map(|linear| &linear.terms);
            let column = terms.flat_map(|term| &term.views).find_map(|view| match view.source {
                Source::Committed(column) => Some(self.circuit.columns[column].name.as_str()),
                _ => None,
            });
            self.outside = Some((format!("{}: {what}", column.unwrap_or("tables")), got));
        }
        counts
    }
}
