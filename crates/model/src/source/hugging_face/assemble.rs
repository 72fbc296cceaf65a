//! From names to weights: reads the tensors of a family and brings them into the one convention of [`FloatModel`].
//!
//! | stored | becomes |
//! |---|---|
//! | q and k for rotated halves | rows in the order of rotated pairs ([`PairOrder`]), times LongRoPE's gain |
//! | fused q, k, v; fused gate, up | separate matrices |
//! | gains less 1 | gains |
//! | a norm of the embedding in front of pre-norm layers | the token table, with the old one as head |
//! | token type 0, rows that no position reads | the position table |

use super::super::config::{FloatConfig, HeadKind, NormKind, NormPlace};
use super::super::limits::MAX_WIDTH;
use super::super::matrix::Matrix;
use super::super::model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
use super::super::pairs::PairOrder;
use super::super::tensor_store::TensorStore;
use super::super::{SourceError, config::in_range};
use super::describe::Described;
use super::family::{ExpertNames, Family, Names, Qkv, Up};

const HEAD: &str = "lm_head.weight";
/// What quantised checkpoints say about activations and caches: nothing that a weight depends on.
const IGNORED: [&str; 4] = [".input_scale", ".k_scale", ".v_scale", ".q_scale"];

/// Reads all weights.
pub(super) fn assemble(
    family: &Family,
    described: Described,
    store: &TensorStore,
) -> Result<FloatModel, SourceError> {
    let mut config = described.config;
    if config.head == HeadKind::Own && !store.contains(HEAD) {
        config.head = HeadKind::Tied;
    }
    let mut config = config.checked()?;
    let names = &family.names;
    let embed_name = |prefix: &str| format!("{prefix}{}.weight", names.embed);
    let found = names.prefixes.iter().find(|prefix| store.contains(&embed_name(prefix)));
    let prefix = *found.unwrap_or(&names.prefixes[0]);
    let reader = Reader { store, names, config: &config, prefix, rotated_gain: described.rotated_gain };

    let mut embed = store.matrix(&embed_name(prefix), config.vocab, config.d_model)?;
    let positions = reader.positions()?;
    let mut embed_norm = names.embed_norm.map(|name| reader.norm(&format!("{prefix}{name}"))).transpose()?;
    let layers = (0..config.n_layers).map(|index| reader.layer(index)).collect::<Result<_, _>>()?;
    let behind = config.norm_place == NormPlace::Post;
    let final_name = format!("{prefix}{}", names.final_norm);
    let final_norm = (!behind).then(|| reader.norm(&final_name)).transpose()?;
    let mut head = match config.head {
        HeadKind::Own => Some(store.matrix(HEAD, config.vocab, config.d_model)?),
        HeadKind::Tied | HeadKind::Absent => None,
    };
    refuse_unread(names, prefix, store, &config)?;
    if let Some(norm) = embed_norm.take_if(|_| !behind) {
        let normed = normed_rows(&embed, &norm, config.norm_eps)?;
        head.get_or_insert(std::mem::replace(&mut embed, normed));
        config.head = HeadKind::Own;
    }
    FloatModel { config, embed, positions, embed_norm, layers, final_norm, head }.checked()
}

/// Every tensor has a meaning or is known to have none.
fn refuse_unread(
    names: &Names,
    prefix: &str,
    store: &TensorStore,
    config: &FloatConfig,
) -> Result<(), SourceError> {
    let without_meaning = |name: &String| {
        let mut ignored = IGNORED.iter().chain(names.ignored);
        ignored.any(|part| {
            if let Some(end) = part.strip_prefix('.') {
                name.ends_with(end) && name[..name.len() - end.len()].ends_with('.')
            } else {
                name.starts_with(part) || name.strip_prefix(prefix).is_some_and(|n| n.starts_with(part))
            }
        }) || (config.head == HeadKind::Tied && name == HEAD)
    };
    match store.unread().into_iter().find(|name| !without_meaning(name)) {
        Some(name) => Err(SourceError::UnexpectedTensor { name }),
        None => Ok(()),
    }
}

/// Layer norm of every row, in f64.
fn normed_rows(table: &Matrix, norm: &NormWeights, eps: f64) -> Result<Matrix, SourceError> {
    table.map_rows("embedding norm", |row| {
        let n = row.len() as f64;
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + eps).sqrt();
        for (i, x) in row.iter_mut().enumerate() {
            let beta = norm.beta.as_ref().map_or(0.0, |beta| f64::from(beta[i]));
            *x = ((f64::from(*x) - mean) * scale * f64::from(norm.gamma[i]) + beta) as f32;
        }
    })
}

struct Reader<'a> {
    store: &'a TensorStore,
    names: &'a Names,
    config: &'a FloatConfig,
    prefix: &'a str,
    rotated_gain: f64,
}

impl Reader<'_> {
    fn positions(&self) -> Result<Option<Matrix>, SourceError> {
        let Some((name, skipped)) = self.names.positions else { return Ok(None) };
        let (context, d) = (self.config.context, self.config.d_model);
        let table = self.store.matrix(&format!("{}{name}.weight", self.prefix), context + skipped, d)?;
        let table = if skipped == 0 { table } else { table.row_range(skipped, context) };
        let Some(types) = self.names.token_types else { return Ok(Some(table)) };
        let name = format!("{}{types}.weight", self.prefix);
        let count = self.store.shape(&name).and_then(|shape| shape.first().copied()).unwrap_or(1);
        in_range("token types", count, MAX_WIDTH)?;
        let types = self.store.matrix(&name, count, d)?;
        let add_first = |row: &mut [f32]| row.iter_mut().zip(types.row(0)).for_each(|(x, t)| *x += t);
        table.map_rows("positions", add_first).map(Some)
    }

    fn layer(&self, index: usize) -> Result<FloatLayer, SourceError> {
        let (c, names) = (self.config, self.names);
        let prefix = format!("{}{}{index}.", self.prefix, names.layers);
        let name = |part: &str| format!("{prefix}{part}");
        let [q, k, v] = self.qkv(&prefix)?;
        let head_norm = |part| -> Result<Option<Vec<f32>>, SourceError> {
            if !c.qk_norm {
                return Ok(None);
            }
            let gain = self.gain(&format!("{}.weight", name(part)), c.head_dim)?;
            Ok(Some(match self.pairs(index) {
                Some(pairs) => pairs.vector(&gain),
                None => gain,
            }))
        };
        let both = c.norm_place == NormPlace::PreAndPost;
        let post_norm = |part| both.then(|| self.norm(&name(part))).transpose();
        Ok(FloatLayer {
            attn_norm: self.norm(&name(names.attn_norm))?,
            q: self.rotated(index, q),
            k: self.rotated(index, k),
            v,
            o: self.linear(&name(names.o), c.d_model, c.q_dim(), c.o_bias)?,
            q_norm: head_norm(names.qk_norms[0])?,
            k_norm: head_norm(names.qk_norms[1])?,
            attn_post_norm: post_norm(names.attn_post_norm)?,
            ffn_norm: self.norm(&name(names.ffn_norm))?,
            ffn: match names.experts.filter(|_| c.is_sparse(index)) {
                Some(experts) => self.experts(&prefix, experts)?,
                None => Ffn::Dense(self.dense(&prefix)?),
            },
            ffn_post_norm: post_norm(names.ffn_post_norm)?,
        })
    }

    fn qkv(&self, prefix: &str) -> Result<[Linear; 3], SourceError> {
        let c = self.config;
        let (d, q, kv, bias) = (c.d_model, c.q_dim(), c.kv_dim(), c.qkv_bias);
        match self.names.qkv {
            Qkv::Separate([q_name, k_name, v_name]) => Ok([
                self.linear(&format!("{prefix}{q_name}"), q, d, bias)?,
                self.linear(&format!("{prefix}{k_name}"), kv, d, bias)?,
                self.linear(&format!("{prefix}{v_name}"), kv, d, bias)?,
            ]),
            Qkv::Stacked(name) => {
                let all = self.linear(&format!("{prefix}{name}"), q + 2 * kv, d, bias)?;
                Ok([(q, 0), (kv, q), (kv, q + kv)].map(|(rows, from)| select(&all, rows, |row| from + row)))
            }
            Qkv::PerHead(name) => {
                let all = self.linear(&format!("{prefix}{name}"), 3 * q, d, bias)?;
                let dim = c.head_dim;
                Ok([0, 1, 2].map(|part| select(&all, q, |row| (row / dim * 3 + part) * dim + row % dim)))
            }
        }
    }

    fn dense(&self, prefix: &str) -> Result<DenseFfn, SourceError> {
        let c = self.config;
        let (d, hidden, bias) = (c.d_model, c.ffn_hidden, c.ffn_bias);
        let linear = |name: &str, rows| self.linear(&format!("{prefix}{name}"), rows, d, bias);
        let (gate, up) = match self.names.up {
            Up::Plain(up) => (None, linear(up, hidden)?),
            Up::Gated([gate, up]) => (Some(linear(gate, hidden)?), linear(up, hidden)?),
            Up::Stacked(both) => {
                let both = linear(both, 2 * hidden)?;
                (Some(select(&both, hidden, |row| row)), select(&both, hidden, |row| hidden + row))
            }
        };
        let down = self.linear(&format!("{prefix}{}", self.names.down), d, hidden, bias)?;
        Ok(DenseFfn { gate, up, down })
    }

    fn experts(&self, prefix: &str, names: ExpertNames) -> Result<Ffn, SourceError> {
        let Some(experts) = &self.config.experts else {
            return Err(SourceError::MissingTensor { name: format!("{prefix}{}", names.router) });
        };
        let (d, hidden) = (self.config.d_model, experts.hidden);
        let router = self.linear(&format!("{prefix}{}", names.router), experts.count, d, false)?;
        let expert = |index: usize| {
            let name = |part: usize| format!("{prefix}{}{index}.{}", names.experts, names.parts[part]);
            Ok(DenseFfn {
                gate: Some(self.linear(&name(0), hidden, d, false)?),
                up: self.linear(&name(1), hidden, d, false)?,
                down: self.linear(&name(2), d, hidden, false)?,
            })
        };
        let experts = (0..experts.count).map(expert).collect::<Result<_, SourceError>>()?;
        Ok(Ffn::Experts { router, experts })
    }

    fn linear(&self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Linear, SourceError> {
        let weight_name = format!("{name}.weight");
        let weight = match self.names.transposed {
            true => self.store.matrix(&weight_name, cols, rows)?.transposed(),
            false => self.store.matrix(&weight_name, rows, cols)?,
        };
        let bias = bias.then(|| self.store.vector(&format!("{name}.bias"), rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn norm(&self, name: &str) -> Result<NormWeights, SourceError> {
        let d = self.config.d_model;
        let layer = self.config.norm == NormKind::Layer;
        let beta = layer.then(|| self.store.vector(&format!("{name}.bias"), d)).transpose()?;
        Ok(NormWeights { gamma: self.gain(&format!("{name}.weight"), d)?, beta })
    }

    fn gain(&self, name: &str, len: usize) -> Result<Vec<f32>, SourceError> {
        let mut gain = self.store.vector(name, len)?;
        if self.names.gain_less_one {
            gain.iter_mut().for_each(|gain| *gain += 1.0);
        }
        Ok(gain)
    }

    /// The order of q's and k's rows, where they rotate.
    fn pairs(&self, layer: usize) -> Option<PairOrder> {
        let rope = self.config.rope_of(layer)?;
        Some(PairOrder { head_dim: self.config.head_dim, dim: rope.dim })
    }

    /// A linear of query or key heads in the order of rotated pairs.
    fn rotated(&self, layer: usize, linear: Linear) -> Linear {
        let Some(pairs) = self.pairs(layer) else { return linear };
        pairs.scale_rotated(pairs.linear(linear), self.rotated_gain)
    }
}

/// Some rows of a linear.
fn select(linear: &Linear, rows: usize, order: impl Fn(usize) -> usize + Copy) -> Linear {
    Linear {
        weight: linear.weight.select_rows(rows, order),
        bias: linear.bias.as_ref().map(|bias| (0..rows).map(|row| bias[order(row)]).collect()),
    }
}
