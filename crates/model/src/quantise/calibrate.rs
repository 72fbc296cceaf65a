//! What the importer must see of a model before it rounds: text that the model writes itself, and what enters each
//! linear on it (whose second moments are the Hessians of GPTQ).
//!
//! Self-generated text at temperature 1 needs no data set, is what the model will be used on, and measured as good as
//! text of the domain (also outside it). 2,000 tokens are enough. Texts are written in parallel, one row a text, so that
//! every weight is read once for all of them. An encoder writes nothing; it sees random tokens, unless it is given a text
//! (`super::text`).

use super::folded::{BatchRows, FoldedModel, LayerCache, Site};
use super::linalg::Dense;
use super::progress::{Progress, Stage};
use crate::source::FloatConfig;
use lockstep_base::rng::SplitMix64;

/// Texts that are written side by side.
const TEXTS: usize = 8;
/// An expert that fewer tokens chose is shown all of them.
const EXPERT_TOKENS_MIN: usize = 32;

/// Texts and what was seen while they were written.
#[derive(Clone, Debug, Default)]
pub struct CalibrationText {
    /// Each begins with its first token (bos, or a random one).
    pub texts: Vec<Vec<u32>>,
    /// Largest magnitude of the residual stream after any layer.
    pub residual_max: f64,
}

impl CalibrationText {
    /// Tokens of all texts.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }
}

/// Lets a decoder write about `tokens` tokens at temperature 1. A text ends at `eos`, at bos or with the context. For an
/// encoder, random tokens between bos and eos.
pub fn write_text(
    model: &FoldedModel,
    tokens: usize,
    bos: Option<u32>,
    eos: &[u32],
    seed: u64,
    progress: &mut Progress<'_>,
) -> CalibrationText {
    let mut out = CalibrationText::default();
    if tokens == 0 {
        return out;
    }
    let mut rng = SplitMix64::new(seed);
    let sequences = TEXTS.min(tokens);
    let steps = tokens.div_ceil(sequences);
    let vocab = model.config.vocab as u64;
    if model.head.is_none() {
        let texts = random_texts(tokens, &model.config, bos, eos.first().copied(), &mut rng);
        return given_text(model, texts, progress);
    }
    let mut caches = vec![LayerCache::new(sequences); model.layers.len()];
    let mut running: Vec<Vec<u32>> = vec![Vec::new(); sequences];
    let mut next: Vec<Option<u32>> = vec![None; sequences];
    let ends = |token: u32| eos.contains(&token) || bos == Some(token);
    for step in 0..steps {
        progress.report(Stage::Calibrate, "calibration text", step, steps);
        for (sequence, text) in running.iter_mut().enumerate() {
            let full = text.len() >= model.config.context;
            let token = match next[sequence] {
                Some(token) if !full && !ends(token) => token,
                _ => {
                    caches.iter_mut().for_each(|cache| cache.clear(sequence));
                    out.texts.extend((!text.is_empty()).then(|| std::mem::take(text)));
                    bos.unwrap_or_else(|| rng.below(vocab) as u32)
                }
            };
            text.push(token);
        }
        let rows = BatchRows {
            sequence: (0..sequences).collect(),
            position: running.iter().map(|text| text.len() - 1).collect(),
        };
        let inputs: Vec<u32> = running.iter().map(|text| text[text.len() - 1]).collect();
        let mut x = model.embed(&inputs, &rows);
        out.residual_max = x.data.iter().fold(out.residual_max, |max, x| max.max(x.abs()));
        for (index, cache) in caches.iter_mut().enumerate() {
            model.layer(index, &mut x, &rows, cache, &mut |_, _| {});
            out.residual_max = x.data.iter().fold(out.residual_max, |max, x| max.max(x.abs()));
        }
        let logits = model.logits(&x, &mut |_, _| {});
        for (sequence, next) in next.iter_mut().enumerate() {
            *next = Some(sample(logits.row(sequence), &mut rng));
        }
    }
    out.texts.extend(running.into_iter().filter(|text| !text.is_empty()));
    out
}

/// Texts that are there already, and what the model makes of them.
///
/// # Panics
/// If a text is longer than the context, or a token outside the vocabulary.
pub fn given_text(model: &FoldedModel, texts: Vec<Vec<u32>>, progress: &mut Progress<'_>) -> CalibrationText {
    let mut run = CalibrationRun::new(model, &texts);
    let mut residual_max = run.largest();
    for index in 0..model.layers.len() {
        progress.report(Stage::Calibrate, "calibration text", index, model.layers.len());
        run.layer(model, index);
        residual_max = residual_max.max(run.largest());
    }
    CalibrationText { texts, residual_max }
}

/// About `tokens` random tokens in texts of at most a context.
fn random_texts(
    tokens: usize,
    config: &FloatConfig,
    bos: Option<u32>,
    eos: Option<u32>,
    rng: &mut SplitMix64,
) -> Vec<Vec<u32>> {
    let length = tokens.div_ceil(TEXTS).clamp(1, config.context);
    let mut text = || {
        let mut text: Vec<u32> = (0..length).map(|_| rng.below(config.vocab as u64) as u32).collect();
        if let Some(bos) = bos {
            text[0] = bos;
        }
        if let Some(eos) = eos.filter(|_| length > 1) {
            text[length - 1] = eos;
        }
        text
    };
    (0..tokens.div_ceil(length)).map(|_| text()).collect()
}

/// Draws from the softmax of `logits`.
fn sample(logits: &[f64], rng: &mut SplitMix64) -> u32 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let mut left = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return token as u32;
        }
    }
    logits.iter().position(|x| *x == max).unwrap_or(0) as u32
}

/// What entered the linears of one layer, a row a token, and the statistics of its keys.
#[derive(Clone, Debug)]
pub struct LayerInputs {
    /// Input of q, k, v.
    pub attn_in: Dense,
    /// Of o.
    pub o_in: Dense,
    /// Of gate and up, and of the router.
    pub ffn_in: Dense,
    /// Of down, network after network; an expert's rows are those of the tokens that chose it, times its weight.
    pub down_in: Vec<Dense>,
    /// Mean of each key channel after RoPE; zero where scores are capped, which would see it gone.
    pub key_mean: Vec<f64>,
    /// Mean square of each key channel around it.
    pub key_variance: Vec<f64>,
    /// Mean of each value channel.
    pub value_mean: Vec<f64>,
}

/// A residual stream of all calibration texts on its way through the layers, one layer at a time,
/// so that only one layer's inputs are held.
#[derive(Clone, Debug)]
pub struct CalibrationRun {
    rows: BatchRows,
    sequences: usize,
    x: Dense,
}

impl CalibrationRun {
    /// All `texts`, embedded.
    #[must_use]
    pub fn new(model: &FoldedModel, texts: &[Vec<u32>]) -> CalibrationRun {
        let rows = BatchRows::of_texts(texts);
        let tokens: Vec<u32> = texts.concat();
        CalibrationRun { x: model.embed(&tokens, &rows), rows, sequences: texts.len() }
    }

    /// Largest magnitude of the residual stream.
    fn largest(&self) -> f64 {
        self.x.data.iter().fold(0.0, |max, x| max.max(x.abs()))
    }

    /// Runs layer `index` and returns what was seen.
    pub fn layer(&mut self, model: &FoldedModel, index: usize) -> LayerInputs {
        let none = || Dense::zeros(0, 0);
        let networks = model.layers[index].ffn.networks();
        let mut seen = LayerInputs {
            attn_in: none(),
            o_in: none(),
            ffn_in: none(),
            down_in: networks.iter().map(|_| none()).collect(),
            key_mean: Vec::new(),
            key_variance: Vec::new(),
            value_mean: Vec::new(),
        };
        let capped = model.config.attn_softcap.is_some();
        let mut see = |site: Site, x: &Dense| match site {
            Site::AttnIn => seen.attn_in = x.clone(),
            Site::OIn => seen.o_in = x.clone(),
            Site::FfnIn => seen.ffn_in = x.clone(),
            Site::DownIn(network) => seen.down_in[network] = x.clone(),
            Site::Keys => {
                seen.key_mean = column_means(x, |_, x| if capped { 0.0 } else { x });
                seen.key_variance = column_means(x, |col, x| (x - seen.key_mean[col]).powi(2));
            }
            Site::Values => seen.value_mean = column_means(x, |_, x| x),
            Site::HeadIn => {}
        };
        let mut cache = LayerCache::new(self.sequences);
        model.layer(index, &mut self.x, &self.rows, &mut cache, &mut see);
        for (network, inputs) in networks.iter().zip(&mut seen.down_in) {
            if inputs.rows < EXPERT_TOKENS_MIN.min(seen.ffn_in.rows) {
                *inputs = model.hidden(network, &seen.ffn_in);
            }
        }
        seen
    }

    /// The input of the head, after all layers.
    #[must_use]
    pub fn head(&self, model: &FoldedModel) -> Dense {
        model.block_input(&self.x)
    }
}

fn column_means(x: &Dense, f: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; x.cols];
    for row in 0..x.rows {
        for (col, (sum, x)) in sums.iter_mut().zip(x.row(row)).enumerate() {
            *sum += f(col, *x);
        }
    }
    sums.iter().map(|sum| sum / x.rows.max(1) as f64).collect()
}
