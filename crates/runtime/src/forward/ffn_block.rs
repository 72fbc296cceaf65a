//! The feed-forward block of one layer (section 7): gate and up, activation, Hadamard transform,
//! down projection; or a router and the same for each expert that it chose.

use super::batch::Batch;
use super::buffers::{Buffers, Coded, sized};
use super::steps::{first_failed, values};
use super::{Engine, ForwardError};
use crate::arith::{Choice, LIMIT, RESIDUAL_LIMIT, RHO_ONE, RangeError, halves, route};
use crate::ffn;
use crate::kernels;
use crate::observe::{Observer, Values};
use crate::pool::Rows;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::{Experts, FeedForward};
use lockstep_base::op::Op;
use lockstep_base::weights::{DenseWeights, FfnWeights, LayerWeights, Linear};

/// Hidden values that are worth a task of their own.
const GRAIN_HIDDEN: usize = 2048;
/// A slot without expert in the output of `router_choice`.
const NO_EXPERT: i32 = -1;
/// Values of a slot: expert, rho, kk.
const SLOT: usize = 3;

/// A row that a network computes.
#[derive(Debug, Clone, Copy)]
struct Member {
    /// The row of the batch.
    row: usize,
    /// The run of its outputs: which of the token's experts this is.
    run: u32,
    /// Factor of the codes of the hidden vector, `rho 2^-kk`.
    rho: i32,
    kk: i32,
}

impl Engine {
    /// Section 7, from norm to down projection; `buffers.y` is what the block gives.
    pub(super) fn feed_forward<O: Observer>(
        &self,
        weights: &LayerWeights,
        x: &[i32],
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        self.site(x, &mut buffers.site, Op::FfnNorm, batch);
        let site = core::mem::take(&mut buffers.site);
        let result = match &weights.ffn {
            FfnWeights::Dense(dense) => {
                let all = |row| Member { row, run: 0, rho: RHO_ONE, kk: 14 };
                let members: Vec<Member> = (0..batch.rows()).map(all).collect();
                self.network(dense, &site, &members, buffers, batch)
            }
            FfnWeights::Experts { router, experts } => self.experts(router, experts, &site, buffers, batch),
        };
        buffers.site = site;
        result
    }

    /// One network over the rows of `site`, which are those of `members`.
    fn network<O: Observer>(
        &self,
        weights: &DenseWeights,
        site: &Coded,
        members: &[Member],
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let config = &self.weights.config;
        let Buffers { gate, up, hidden, hidden_codes, y, .. } = buffers;
        let rows = members.len();
        let place = |op: Op| move |batch: &Batch<'_, O>, row: usize| batch.at(members[row].row, op);
        let ready = site.prepare(&self.compute);
        let mut linear = |weights: &Linear, op: Op, bound: i32, out: &mut Vec<i32>| {
            let at = place(op);
            let out = self.product(weights, &ready, op, bound, out, &|row| at(batch, row))?;
            self.adapt(op, site, out, bound, batch)?;
            let rows = members.iter().zip(out.chunks_mut(weights.rows));
            batch.observe(op, rows.map(|(member, y)| (member.row, member.run, values(op, y))));
            Ok(())
        };
        let bound = i32::from(i16::MAX);
        let (g, u, frac) = match (config.feed_forward, &weights.gate) {
            (FeedForward::Gated, Some(weights_gate)) => {
                linear(weights_gate, Op::GateProj, bound, gate)?;
                linear(&weights.up, Op::UpProj, bound >> 1, up)?;
                (&*gate, Some(up.as_slice()), weights_gate.out_frac)
            }
            (FeedForward::Plain, None) => {
                linear(&weights.up, Op::UpProj, bound, up)?;
                (&*up, None, weights.up.out_frac)
            }
            _ => return Err(ForwardError::Missing("gate projection, or one too many")),
        };
        let frac = i32::from(frac);
        let hidden_frac = match u {
            Some(_) => frac + i32::from(weights.up.out_frac) - ffn::PRODUCT_SHIFT as i32,
            None => frac,
        };

        let (width, padded, block) = (weights.up.rows, weights.down.cols, config.hadamard_block() as usize);
        let z = sized(hidden, rows * padded);
        let shown = batch.wanted(Op::Hidden);
        let mut failed: Vec<Option<RangeError>> = vec![None; rows * padded / block];
        let blocks = (Rows::new(z, block), Rows::new(&mut failed, 1));
        self.compute.pool.rows((GRAIN_HIDDEN / block).max(1), blocks, |number, (z, failed)| {
            let (row, first) = (number / (padded / block), number % (padded / block) * block);
            let count = block.min(width.saturating_sub(first));
            let here = row * width + first..row * width + first + count;
            let (h, rest) = z.split_at_mut(count);
            let (table, u) = (&self.weights.tables.activation, u.map(|u| &u[here.clone()]));
            failed[0] =
                ffn::hidden(self.compute.kernel, config.activation, &g[here], u, frac, table, h).err();
            rest.fill(0);
            if !shown {
                kernels::hadamard(self.compute.kernel, z);
            }
        });
        first_failed(&failed, |number| batch.at(members[number / (padded / block)].row, Op::Hidden))?;
        if shown {
            let rows = members.iter().zip(z.chunks_mut(padded));
            let rows = rows.map(|(member, h)| (member.row, member.run, Values::I32(&mut h[..width])));
            batch.observe(Op::Hidden, rows);
            self.compute.pool.rows((GRAIN_HIDDEN / block).max(1), Rows::new(z, block), |_, z| {
                kernels::hadamard(self.compute.kernel, z);
            });
        }
        let scale = |row: usize| (members[row].rho, -members[row].kk - hidden_frac);
        self.quantise(z, padded, padded, scale, hidden_codes);
        let rows = members.iter().zip(hidden_codes.rows());
        batch.observe(Op::HiddenCodes, rows.map(|(member, codes)| (member.row, member.run, codes)));
        let at = place(Op::DownProj);
        let ready = hidden_codes.prepare(&self.compute);
        let y = self.product(&weights.down, &ready, Op::DownProj, LIMIT, y, &|row| at(batch, row))?;
        self.adapt(Op::DownProj, hidden_codes, y, LIMIT, batch)?;
        let rows = members.iter().zip(y.chunks_mut(self.width()));
        batch.observe(Op::DownProj, rows.map(|(member, y)| (member.row, member.run, Values::I32(y))));
        Ok(())
    }

    /// A mixture of experts: each expert runs once, over the rows that chose it.
    fn experts<O: Observer>(
        &self,
        router: &Linear,
        experts: &[DenseWeights],
        site: &Coded,
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let kind = self.weights.config.experts.ok_or(ForwardError::Missing("number of experts"))?;
        let (width, cols, rows) = (self.width(), self.weights.config.d_padded() as usize, batch.rows());
        let members = self.choose(router, &kind, site, buffers, batch)?;
        // So small that those of all experts of a token stay within the stream together.
        let limit = RESIDUAL_LIMIT >> kind.per_token.next_power_of_two().trailing_zeros();
        let mut sums = vec![0i32; rows * width];
        let mut own = Coded::default();
        // In ascending order, so that the ops of a token have one order in every batch.
        for (expert, members) in experts.iter().zip(&members) {
            if members.is_empty() {
                continue;
            }
            own.shape(members.len(), cols);
            for (at, member) in members.iter().enumerate() {
                let codes = &site.codes[member.row * cols..(member.row + 1) * cols];
                own.codes[at * cols..(at + 1) * cols].copy_from_slice(codes);
                own.steps[at] = site.steps[member.row];
            }
            self.network(expert, &own, members, buffers, batch)?;
            for (member, y) in members.iter().zip(buffers.y.chunks(width)) {
                let sums = &mut sums[member.row * width..(member.row + 1) * width];
                for (sum, y) in sums.iter_mut().zip(y) {
                    halves((*y).into(), limit, "output of an expert").map_err(|error| {
                        ForwardError::Range { place: batch.at(member.row, Op::DownProj), error }
                    })?;
                    *sum += y;
                }
            }
        }
        sized(&mut buffers.y, rows * width).copy_from_slice(&sums);
        Ok(())
    }

    /// The router: which rows each expert computes.
    fn choose<O: Observer>(
        &self,
        router: &Linear,
        kind: &Experts,
        site: &Coded,
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<Vec<Vec<Member>>, ForwardError> {
        let bound = i16::MAX.into();
        let logits = self.linear(
            router,
            &site.prepare(&self.compute),
            Op::RouterLogits,
            bound,
            &mut buffers.gate,
            batch,
        )?;
        let slots = kind.per_token as usize;
        let mut choices = vec![0; batch.rows() * slots * SLOT];
        for (row, (logits, slots)) in
            logits.chunks(router.rows).zip(choices.chunks_mut(slots * SLOT)).enumerate()
        {
            let chosen = route(logits, router.out_frac.into(), kind, &self.weights.tables.exp2)
                .map_err(|error| ForwardError::Range { place: batch.at(row, Op::RouterChoice), error })?;
            let mut chosen =
                chosen.iter().map(|Choice { expert, rho, kk }| [*expert as i32, *rho, *kk as i32]);
            for slot in slots.chunks_mut(SLOT) {
                slot.copy_from_slice(&chosen.next().unwrap_or([NO_EXPERT, 0, 0]));
            }
        }
        batch.observe_rows(Op::RouterChoice, choices.chunks_mut(slots * SLOT).map(Values::I32));
        let mut members: Vec<Vec<Member>> = vec![Vec::new(); kind.count as usize];
        for (row, choice) in choices.chunks(slots * SLOT).enumerate() {
            for (run, slot) in (0..).zip(choice.chunks(SLOT)) {
                // What a drill left may be no expert and no weight.
                let expert = usize::try_from(slot[0]).ok().and_then(|expert| members.get_mut(expert));
                let Some(expert) = expert else { continue };
                let (rho, kk) = (slot[1].clamp(1 << 13, 1 << 14), slot[2].clamp(0, 1 << 10));
                expert.push(Member { row, run, rho, kk });
            }
        }
        Ok(members)
    }
}
