//! Tensors to a [`FloatModel`]. Names: `gguf-py/gguf/tensor_mapping.py` of llama.cpp.
//!
//! | here | file |
//! |---|---|
//! | q, k, v | `blk.N.attn_q`, `attn_k`, `attn_v`, or all rows in `attn_qkv` |
//! | o | `attn_output` |
//! | gate, up, down | `ffn_gate`, `ffn_up`, `ffn_down`; gate and up both in `ffn_up` (Phi-3) |
//! | experts | `ffn_gate_inp`; `ffn_gate_exps`, … stacked, or `ffn_gate.E`, … one by one (old files) |
//!
//! A tensor that nobody asked for would change the model: it is refused by name.

use super::super::SourceError;
use super::super::config::{FloatConfig, HeadKind, NormKind, NormPlace};
use super::super::matrix::Matrix;
use super::super::model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
use super::super::pairs::PairOrder;
use super::super::positions::Positions;
use super::config::Keys;
use super::family::{Family, Place};
use super::store::Gguf;

/// Reads all weights.
pub(super) fn load(gguf: &Gguf, family: &'static Family) -> Result<FloatModel, SourceError> {
    let keys = Keys { gguf, family };
    let config = keys.config()?;
    let loader = Loader { gguf, family, config: &config, rope_gain: keys.rope_gain()? as f32 };
    let table = gguf.matrix("token_embd.weight", config.vocab, config.d_model)?;
    let head = match (config.head, gguf.contains("output.weight")) {
        (HeadKind::Own, true) => Some(gguf.matrix("output.weight", config.vocab, config.d_model)?),
        (HeadKind::Own, false) => Some(table.clone()),
        (HeadKind::Tied | HeadKind::Absent, _) => None,
    };
    let embed = if family.embed_norm { loader.normed(&table)? } else { table };
    let positions = match config.positions {
        Positions::Learned => Some(gguf.matrix("position_embd.weight", config.context, config.d_model)?),
        Positions::Rope(_) | Positions::Alibi => None,
    };
    let layers = (0..config.n_layers).map(|index| loader.layer(index)).collect::<Result<_, _>>()?;
    let final_norm = Some(loader.norm("output_norm")?);
    if let Some(name) = gguf.unread() {
        return Err(SourceError::UnexpectedTensor { name });
    }
    FloatModel { config, embed, positions, embed_norm: None, layers, final_norm, head }.checked()
}

struct Loader<'a> {
    gguf: &'a Gguf,
    family: &'static Family,
    config: &'a FloatConfig,
    rope_gain: f32,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> Result<FloatLayer, SourceError> {
        let c = self.config;
        let name = |part: &str| format!("blk.{index}.{part}");
        let [q, k, v] = self.qkv(&name)?;
        let post = |part: &str| {
            let present = c.norm_place == NormPlace::PreAndPost;
            present.then(|| self.norm(&name(part))).transpose()
        };
        Ok(FloatLayer {
            attn_norm: self.norm(&name("attn_norm"))?,
            q: self.turning(q)?,
            k: self.turning(k)?,
            v,
            o: self.linear(&name("attn_output"), c.d_model, c.q_dim(), c.o_bias)?,
            q_norm: self.head_norm(&name("attn_q_norm"))?,
            k_norm: self.head_norm(&name("attn_k_norm"))?,
            attn_post_norm: post("post_attention_norm")?,
            ffn_norm: self.norm(&name("ffn_norm"))?,
            ffn: self.ffn(index)?,
            ffn_post_norm: post("post_ffw_norm")?,
        })
    }

    fn qkv(&self, name: &impl Fn(&str) -> String) -> Result<[Linear; 3], SourceError> {
        let c = self.config;
        let rows = [c.q_dim(), c.kv_dim(), c.kv_dim()];
        if self.family.fused_qkv {
            let all = self.linear(&name("attn_qkv"), rows.iter().sum(), c.d_model, c.qkv_bias)?;
            return Ok([
                row_range(&all, 0, rows[0]),
                row_range(&all, rows[0], rows[1]),
                row_range(&all, rows[0] + rows[1], rows[2]),
            ]);
        }
        let part = |part: &str, rows| self.linear(&name(part), rows, c.d_model, c.qkv_bias);
        Ok([part("attn_q", rows[0])?, part("attn_k", rows[1])?, part("attn_v", rows[2])?])
    }

    /// Channels of a head that turn, if any do.
    fn turning_dim(&self) -> usize {
        match &self.config.positions {
            Positions::Rope(rope) => rope.dim,
            Positions::Learned | Positions::Alibi => 0,
        }
    }

    fn order(&self) -> Option<PairOrder> {
        let order = PairOrder { head_dim: self.config.head_dim, dim: self.turning_dim() };
        (self.family.positions == Place::Halves).then_some(order)
    }

    /// Rows of q or k as adjacent pairs, multiplied by what the rotation multiplies them by. A norm of heads undoes the
    /// latter, so then it is in the norm's gain.
    fn turning(&self, linear: Linear) -> Result<Linear, SourceError> {
        let linear = match self.order() {
            Some(order) => order.linear(linear),
            None => linear,
        };
        if self.rope_gain == 1.0 || self.config.qk_norm {
            return Ok(linear);
        }
        let (head_dim, dim) = (self.config.head_dim, self.turning_dim());
        let gain = |row: usize| if row % head_dim < dim { self.rope_gain } else { 1.0 };
        let mut rows = 0..;
        let weight = linear.weight.map_rows("q or k", |row| {
            let gain = gain(rows.next().unwrap_or(0));
            row.iter_mut().for_each(|x| *x *= gain);
        })?;
        let bias = linear.bias.map(|bias| (0..).zip(bias).map(|(row, x)| x * gain(row)).collect());
        Ok(Linear { weight, bias })
    }

    fn head_norm(&self, name: &str) -> Result<Option<Vec<f32>>, SourceError> {
        if !self.config.qk_norm {
            return Ok(None);
        }
        let gains = self.gguf.vector(&format!("{name}.weight"), self.config.head_dim)?;
        let mut gains = self.order().map_or_else(|| gains.clone(), |order| order.vector(&gains));
        gains.iter_mut().take(self.turning_dim()).for_each(|gain| *gain *= self.rope_gain);
        Ok(Some(gains))
    }

    fn ffn(&self, index: usize) -> Result<Ffn, SourceError> {
        let c = self.config;
        let name = |part: &str| format!("blk.{index}.{part}");
        let (d, hidden, bias) = (c.d_model, c.ffn_hidden, c.ffn_bias);
        let Some(experts) = c.experts.as_ref().filter(|_| c.is_sparse(index)) else {
            let down = self.linear(&name("ffn_down"), d, hidden, bias)?;
            if self.family.fused_gate {
                let both = self.linear(&name("ffn_up"), hidden.saturating_mul(2), d, bias)?;
                let gate = Some(row_range(&both, 0, hidden));
                return Ok(Ffn::Dense(DenseFfn { gate, up: row_range(&both, hidden, hidden), down }));
            }
            let gate = c.gated.then(|| self.linear(&name("ffn_gate"), hidden, d, bias)).transpose()?;
            let up = self.linear(&name("ffn_up"), hidden, d, bias)?;
            return Ok(Ffn::Dense(DenseFfn { gate, up, down }));
        };
        let router = self.linear(&name("ffn_gate_inp"), experts.count, d, false)?;
        let stacked = self.gguf.contains(&name("ffn_up_exps.weight"));
        let matrix = |part: &str, expert: usize, rows, cols| {
            let weight = if stacked {
                let name = name(&format!("{part}_exps.weight"));
                self.gguf.stacked(&name, (expert, experts.count), rows, cols)?
            } else {
                self.gguf.matrix(&name(&format!("{part}.{expert}.weight")), rows, cols)?
            };
            Ok::<_, SourceError>(Linear { weight, bias: None })
        };
        let expert = |expert: usize| {
            Ok(DenseFfn {
                gate: c.gated.then(|| matrix("ffn_gate", expert, experts.hidden, d)).transpose()?,
                up: matrix("ffn_up", expert, experts.hidden, d)?,
                down: matrix("ffn_down", expert, d, experts.hidden)?,
            })
        };
        let experts = (0..experts.count).map(expert).collect::<Result<_, SourceError>>()?;
        Ok(Ffn::Experts { router, experts })
    }

    fn linear(&self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Linear, SourceError> {
        let weight = self.gguf.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = bias.then(|| self.gguf.vector(&format!("{name}.bias"), rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn norm(&self, name: &str) -> Result<NormWeights, SourceError> {
        let vector = |part: &str| self.gguf.vector(&format!("{name}.{part}"), self.config.d_model);
        let beta = (self.config.norm == NormKind::Layer).then(|| vector("bias")).transpose()?;
        Ok(NormWeights { gamma: vector("weight")?, beta })
    }

    /// Every row of the embedding through the embedding's own norm.
    fn normed(&self, table: &Matrix) -> Result<Matrix, SourceError> {
        let norm = self.norm("token_embd_norm")?;
        let beta = norm.beta.unwrap_or_else(|| vec![0.0; norm.gamma.len()]);
        let gains: Vec<(f64, f64)> =
            norm.gamma.iter().zip(&beta).map(|(&gamma, &beta)| (gamma.into(), beta.into())).collect();
        table.map_rows("token_embd.weight", |row| {
            let n = row.len() as f64;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let inverse = 1.0 / (variance + self.config.norm_eps).sqrt();
            for (x, (gamma, beta)) in row.iter_mut().zip(&gains) {
                *x = ((f64::from(*x) - mean) * inverse * gamma + beta) as f32;
            }
        })
    }
}

/// Rows of a linear that holds several, bias included.
fn row_range(all: &Linear, from: usize, count: usize) -> Linear {
    Linear {
        weight: all.weight.row_range(from, count),
        bias: all.bias.as_ref().map(|bias| bias[from..from + count].to_vec()),
    }
}
