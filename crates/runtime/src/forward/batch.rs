//! Who sees which rows of a batch. A batch is made of sequences, each with its own cache and
//! observer; linear layers do not care, attention and observers do.

use crate::observe::{Observer, Output, Values};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::op::{Op, Place};

/// The rows of a batch, row by row and sequence by sequence.
pub(super) struct Batch<'a, O> {
    /// Layer number, for places.
    pub(super) layer: u16,
    /// Position of each row in its sequence.
    positions: Vec<u32>,
    sequences: Vec<Sequence<'a, O>>,
}

struct Sequence<'a, O> {
    rows: Range<usize>,
    adapter: Option<Arc<AdapterWeights>>,
    observer: &'a mut O,
}

impl<'a, O: Observer> Batch<'a, O> {
    /// A batch without rows.
    pub(super) fn new(layer: u16) -> Batch<'a, O> {
        Batch { layer, positions: Vec::new(), sequences: Vec::new() }
    }

    /// Appends the rows of a sequence.
    pub(super) fn push(&mut self, positions: impl Iterator<Item = u32>, observer: &'a mut O) {
        let start = self.positions.len();
        self.positions.extend(positions);
        self.sequences.push(Sequence { rows: start..self.positions.len(), adapter: None, observer });
    }

    /// The adapter of the sequence that was pushed last.
    pub(super) fn set_adapter(&mut self, adapter: Option<&Arc<AdapterWeights>>) {
        if let Some(sequence) = self.sequences.last_mut() {
            sequence.adapter = adapter.cloned();
        }
    }

    /// Every adapter once, with the rows of its sequences.
    pub(super) fn adapters(&self) -> Vec<(Arc<AdapterWeights>, Vec<usize>)> {
        let mut all: Vec<(Arc<AdapterWeights>, Vec<usize>)> = Vec::new();
        for sequence in &self.sequences {
            let Some(adapter) = &sequence.adapter else { continue };
            match all.iter_mut().find(|(known, _)| Arc::ptr_eq(known, adapter)) {
                Some((_, rows)) => rows.extend(sequence.rows.clone()),
                None => all.push((adapter.clone(), sequence.rows.clone().collect())),
            }
        }
        all
    }

    /// Rows of all sequences.
    pub(super) fn rows(&self) -> usize {
        self.positions.len()
    }

    /// The position of a row.
    pub(super) fn position(&self, row: usize) -> usize {
        self.positions[row] as usize
    }

    /// Rows of each sequence.
    pub(super) fn sequences(&self) -> impl Iterator<Item = Range<usize>> {
        self.sequences.iter().map(|sequence| sequence.rows.clone())
    }

    /// Where the output of `op` for `row` stands.
    pub(super) fn at(&self, row: usize, op: Op) -> Place {
        Place { position: self.positions[row], layer: self.layer, op }
    }

    /// Whether anybody wants the output of `op`.
    #[inline(always)]
    pub(super) fn wanted(&self, op: Op) -> bool {
        self.sequences.iter().any(|sequence| sequence.observer.wants(self.layer, op))
    }

    /// Whether any observer may change what it sees.
    pub(super) fn alters(&self) -> bool {
        self.sequences.iter().any(|sequence| sequence.observer.alters())
    }

    /// Shows outputs of `op`: (row, run, values), rows in order.
    #[inline(always)]
    pub(super) fn observe<'v>(
        &mut self,
        op: Op,
        outputs: impl IntoIterator<Item = (usize, u32, Values<'v>)>,
    ) {
        if !self.wanted(op) {
            return;
        }
        let mut outputs = outputs.into_iter().peekable();
        for sequence in &mut self.sequences {
            let mut own = Vec::with_capacity(sequence.rows.len());
            while let Some((row, run, values)) = outputs.next_if(|output| output.0 < sequence.rows.end) {
                let place = Place { position: self.positions[row], layer: self.layer, op };
                own.push(Output { place, run, values });
            }
            if !own.is_empty() && sequence.observer.wants(self.layer, op) {
                sequence.observer.outputs(&mut own);
            }
        }
    }

    /// Shows one output of `op` for each row.
    #[inline(always)]
    pub(super) fn observe_rows<'v>(&mut self, op: Op, rows: impl Iterator<Item = Values<'v>>) {
        self.observe(op, rows.enumerate().map(|(row, values)| (row, 0, values)));
    }
}
