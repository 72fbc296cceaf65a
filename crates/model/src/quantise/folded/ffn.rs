//! The feed-forward block of a folded model.
//!
//! ```text
//! down(H pad h),  h = act(gate a) * up a   or   act(up a)
//! sum over the chosen experts of  down(H pad (w h)) (biases of down: none),  w from 2^(router logits)
//! ```

use super::super::hadamard::hadamard_blocks;
use super::super::linalg::{Dense, axpy};
use super::{FoldedDense, FoldedFfn, FoldedLinear, FoldedModel, Site};

impl FoldedModel {
    pub(super) fn ffn(&self, ffn: &FoldedFfn, input: &Dense, see: &mut dyn FnMut(Site, &Dense)) -> Dense {
        match ffn {
            FoldedFfn::Dense(network) => {
                let hidden = self.hidden(network, input);
                see(Site::DownIn(0), &hidden);
                network.down.run(&hidden)
            }
            FoldedFfn::Experts { router, experts } => self.experts(router, experts, input, see),
        }
    }

    fn experts(
        &self,
        router: &FoldedLinear,
        experts: &[FoldedDense],
        input: &Dense,
        see: &mut dyn FnMut(Site, &Dense),
    ) -> Dense {
        let mut out = Dense::zeros(input.rows, self.config.d_model);
        let logits = router.run(input);
        let choices: Vec<Vec<(usize, f64)>> =
            (0..input.rows).map(|row| self.route(logits.row(row))).collect();
        for (expert, network) in experts.iter().enumerate() {
            let chosen: Vec<(usize, f64)> = choices
                .iter()
                .enumerate()
                .filter_map(|(row, choice)| {
                    choice.iter().find(|(chosen, _)| *chosen == expert).map(|(_, weight)| (row, *weight))
                })
                .collect();
            if chosen.is_empty() {
                continue;
            }
            let rows: Vec<usize> = chosen.iter().map(|(row, _)| *row).collect();
            let mut hidden = self.hidden(network, &input.select(&rows));
            for (at, (_, weight)) in chosen.iter().enumerate() {
                hidden.row_mut(at).iter_mut().for_each(|h| *h *= weight);
            }
            see(Site::DownIn(expert), &hidden);
            let added = network.down.run(&hidden);
            rows.iter().enumerate().for_each(|(at, row)| axpy(out.row_mut(*row), 1.0, added.row(at)));
        }
        out
    }

    /// The experts of a token with their weights, the most probable first.
    fn route(&self, logits: &[f64]) -> Vec<(usize, f64)> {
        let Some(experts) = &self.config.experts else { return Vec::new() };
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut order: Vec<(usize, f64)> =
            logits.iter().map(|logit| (logit - max).exp2()).enumerate().collect();
        let all: f64 = order.iter().map(|(_, weight)| weight).sum();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(experts.per_token);
        let chosen: f64 = order.iter().map(|(_, weight)| weight).sum();
        let sum = if experts.normalise { chosen } else { all };
        order.iter_mut().for_each(|(_, weight)| *weight /= sum);
        order
    }

    /// What down reads: activated, padded, transformed.
    #[must_use]
    pub fn hidden(&self, network: &FoldedDense, input: &Dense) -> Dense {
        let act = |x: f64| self.config.activation.apply(x);
        let up = network.up.run(input);
        let hidden = match &network.gate {
            Some(gate) => {
                let mut gate = gate.run(input);
                gate.data.iter_mut().zip(&up.data).for_each(|(g, u)| *g = act(*g) * u);
                gate
            }
            None => {
                let mut up = up;
                up.data.iter_mut().for_each(|u| *u = act(*u));
                up
            }
        };
        let mut hidden = hidden.padded_cols(network.down.weight.cols);
        hidden.for_rows(|row| hadamard_blocks(row, self.hadamard_block));
        hidden
    }
}
