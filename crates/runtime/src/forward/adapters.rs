//! What low-rank adapters add to a linear layer (section 4): `y = W x + b + B (A x)`. Each sequence of a batch may
//! have an adapter of its own, or none; W is multiplied for all of them at once, A and B for the rows that they
//! belong to. Experts are never adapted, so the rows of a linear layer are those of the batch.

use super::batch::Batch;
use super::buffers::Coded;
use super::{Engine, ForwardError};
use crate::arith::{ADAPTED_LIMIT, LIMIT, RHO_ONE, halves, within};
use crate::observe::Observer;
use alloc::vec::Vec;
use lockstep_base::adapter::Target;
use lockstep_base::op::Op;

/// Range of what A gives.
const BETWEEN_BOUND: i32 = i16::MAX as i32;

/// The matrix whose output is that of `op`.
fn target(op: Op) -> Option<Target> {
    match op {
        Op::QProj => Some(Target::Q),
        Op::KProj => Some(Target::K),
        Op::VProj => Some(Target::V),
        Op::OProj => Some(Target::O),
        Op::GateProj => Some(Target::Gate),
        Op::UpProj => Some(Target::Up),
        Op::DownProj => Some(Target::Down),
        _ => None,
    }
}

impl Engine {
    /// Adds what adapters add to `y`, the output of `op` for the codes `x`; its range is `bound` again.
    pub(super) fn adapt<O: Observer>(
        &self,
        op: Op,
        x: &Coded,
        y: &mut [i32],
        bound: i32,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let Some(target) = target(op) else { return Ok(()) };
        // What is added to the residual stream has a range of its own.
        let streams = matches!(target, Target::O | Target::Down);
        for (adapter, rows) in batch.adapters() {
            let layer = usize::from(batch.layer).checked_sub(adapter.first_layer);
            let Some(part) = layer.and_then(|at| adapter.layers.get(at)).and_then(|layer| layer.get(target))
            else {
                continue;
            };
            let cols = part.a.cols;
            let mut own = Coded::default();
            own.shape(rows.len(), cols);
            for (at, row) in rows.iter().enumerate() {
                own.codes[at * cols..(at + 1) * cols].copy_from_slice(&x.codes[row * cols..(row + 1) * cols]);
                own.steps[at] = x.steps[*row];
            }
            let (mut between, mut codes, mut added) = (Vec::new(), Coded::default(), Vec::new());
            let at = |row: usize| batch.at(rows[row], Op::AdapterCodes);
            self.product(
                &part.a,
                &own.prepare(&self.compute),
                Op::AdapterCodes,
                BETWEEN_BOUND,
                &mut between,
                &at,
            )?;
            let base = -14 - i32::from(part.a.out_frac);
            self.quantise(&between, part.a.rows, part.b.cols, move |_| (RHO_ONE, base), &mut codes);
            let shown = rows.iter().zip(codes.rows()).map(|(row, codes)| (*row, target as u32, codes));
            batch.observe(Op::AdapterCodes, shown);

            let at = |row: usize| batch.at(rows[row], op);
            let added = self.product(&part.b, &codes.prepare(&self.compute), op, LIMIT, &mut added, &at)?;
            let width = part.b.rows;
            for ((at, row), added) in rows.iter().enumerate().zip(added.chunks(width)) {
                for (y, added) in y[row * width..(row + 1) * width].iter_mut().zip(added) {
                    let sum = i64::from(*y) + i64::from(*added);
                    let added =
                        if streams { halves((*added).into(), ADAPTED_LIMIT, "adapter") } else { Ok(()) };
                    added
                        .and_then(|()| within(sum.abs(), bound.into(), "adapted output"))
                        .map_err(|error| ForwardError::Range { place: batch.at(rows[at], op), error })?;
                    *y = sum as i32;
                }
            }
        }
        Ok(())
    }
}
