//! The forward pass of a folded model.
//!
//! ```text
//! x = embed[token] (+ positions[t]),  normed where the norms stand behind
//! a = in(x);  x = join(x, o(attention(a)));  a = in(x);  x = join(x, ffn(a))
//! in(x)   = x / rms(x)              join(x, y) = x + y                 norms in front
//!         = H pad(x / rms(x))                  = x + norm(y)           on both sides
//!         = H pad(x)                           = norm(x + y)           behind
//! logits  = cap(head(in(x)))
//! ```

use super::super::hadamard::hadamard_blocks;
use super::super::linalg::{Dense, axpy, dot};
use super::attention::LayerCache;
use super::{FoldedModel, FoldedNorm, Site};
use crate::source::NormPlace;

/// Which sequence and position each row of a batch belongs to.
#[derive(Clone, Debug, Default)]
pub struct BatchRows {
    /// Sequence of each row.
    pub sequence: Vec<usize>,
    /// Position of each row in its sequence.
    pub position: Vec<usize>,
}

impl BatchRows {
    /// All rows of `texts`, text after text.
    pub fn of_texts<T>(texts: &[Vec<T>]) -> BatchRows {
        let mut rows = BatchRows::default();
        for (sequence, text) in texts.iter().enumerate() {
            rows.sequence.extend(std::iter::repeat_n(sequence, text.len()));
            rows.position.extend(0..text.len());
        }
        rows
    }
}

/// Divides by the root mean square.
pub(super) fn normalise(eps: f64, row: &mut [f64]) {
    let mean = dot(row, row) / row.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    row.iter_mut().for_each(|x| *x *= scale);
}

impl FoldedModel {
    /// Embeds one token a row.
    #[must_use]
    pub fn embed(&self, tokens: &[u32], rows: &BatchRows) -> Dense {
        let mut x = Dense::zeros(tokens.len(), self.config.d_model);
        for (i, (&token, &position)) in tokens.iter().zip(&rows.position).enumerate() {
            let row = x.row_mut(i);
            row.iter_mut().zip(self.embed.row(token as usize)).for_each(|(x, e)| *x = f64::from(*e));
            if let Some(positions) = &self.positions {
                row.iter_mut().zip(positions.row(position)).for_each(|(x, e)| *x += f64::from(*e));
            }
            if let Some(norm) = &self.embed_norm {
                norm.run(self.config.norm_eps, row);
            }
        }
        x
    }

    /// What blocks and the head read of every row.
    #[must_use]
    pub fn block_input(&self, x: &Dense) -> Dense {
        let mut out = x.clone();
        if self.config.norm_place != NormPlace::Post {
            out.for_rows(|row| normalise(self.config.norm_eps, row));
        }
        if let Some(online) = self.online {
            out = out.padded_cols(online.cols);
            out.for_rows(|row| hadamard_blocks(row, online.block));
        }
        out
    }

    /// Adds what a block wrote.
    fn join(&self, x: &mut Dense, mut y: Dense, post: Option<&FoldedNorm>) {
        let eps = self.config.norm_eps;
        let behind = self.config.norm_place == NormPlace::Post;
        if let Some(norm) = post.filter(|_| !behind) {
            y.for_rows(|row| norm.run(eps, row));
        }
        axpy(&mut x.data, 1.0, &y.data);
        if let Some(norm) = post.filter(|_| behind) {
            x.for_rows(|row| norm.run(eps, row));
        }
    }

    /// Runs layer `index` over `x` in place; `see` gets the inputs of every linear.
    pub fn layer(
        &self,
        index: usize,
        x: &mut Dense,
        rows: &BatchRows,
        cache: &mut LayerCache,
        see: &mut dyn FnMut(Site, &Dense),
    ) {
        let layer = &self.layers[index];
        let input = self.block_input(x);
        see(Site::AttnIn, &input);
        let attended = self.attention(index, &input, rows, cache, see);
        see(Site::OIn, &attended);
        self.join(x, layer.o.run(&attended), layer.attn_post.as_ref());

        let input = self.block_input(x);
        see(Site::FfnIn, &input);
        let added = self.ffn(&layer.ffn, &input, see);
        self.join(x, added, layer.ffn_post.as_ref());
    }

    /// Logits `(rows, vocab)` of residual rows; without columns in an encoder.
    #[must_use]
    pub fn logits(&self, x: &Dense, see: &mut dyn FnMut(Site, &Dense)) -> Dense {
        let input = self.block_input(x);
        see(Site::HeadIn, &input);
        let Some(head) = &self.head else { return Dense::zeros(x.rows, 0) };
        let mut logits = head.run(&input);
        if let Some(cap) = self.config.logit_softcap {
            logits.data.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        }
        logits
    }

    /// The residual stream after each token of one text: `(tokens, d_model)`.
    #[must_use]
    pub fn hidden_all(&self, tokens: &[u32]) -> Dense {
        let rows = BatchRows::of_texts(&[tokens.to_vec()]);
        let mut x = self.embed(tokens, &rows);
        for index in 0..self.layers.len() {
            self.layer(index, &mut x, &rows, &mut LayerCache::new(1), &mut |_, _| {});
        }
        x
    }

    /// Logits after each token of one text: `(tokens, vocab)`.
    #[must_use]
    pub fn logits_all(&self, tokens: &[u32]) -> Dense {
        self.logits(&self.hidden_all(tokens), &mut |_, _| {})
    }
}
