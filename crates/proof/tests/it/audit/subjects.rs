//! Answers with operators that only some families, or some requests, have: as the runtime gives them.

use super::ROOT;
use crate::decoder::{KINDS, config};
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::config::{Block, FeedForward, ModelConfig, Pooling, Positions};
use lockstep_base::params::{ONE_Q16, Parameters, draw};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::decoder::statement::{Answer, Claim, Sampling};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::sample;
use lockstep_runtime::synthetic;
use std::sync::Arc;

/// The first of the shapes with other operators than the decoders that everybody has.
const FIRST: usize = 3;

/// A temperature, top k and top p.
type Numbers = (u32, u32, u32);

/// What is answered, and how.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) config: ModelConfig,
    format: WeightFormat,
    rank: Option<u32>,
    numbers: Option<Numbers>,
}

/// An answer of the runtime.
pub(crate) struct Subject {
    pub(crate) weights: Arc<ModelWeights>,
    adapter: Option<Arc<AdapterWeights>>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) generated: usize,
    numbers: Option<Numbers>,
    seed: Digest,
    pub(crate) vector: Option<Vec<i32>>,
}

/// Shapes that are answered greedily: norms with gains, windows, rotated streams, caps, slopes.
pub(crate) fn norms_and_caps() -> Vec<Kind> {
    (FIRST..6).map(|kind| Kind::greedy("norms and caps", config(kind))).collect()
}

/// Mixtures of experts.
pub(crate) fn experts() -> Vec<Kind> {
    (6..KINDS).map(|kind| Kind::greedy("experts", config(kind))).collect()
}

/// Adapters, and weights of 16 bits.
pub(crate) fn matrices() -> Vec<Kind> {
    let adapted = Kind { rank: Some(5), ..Kind::greedy("adapter", config(0)) };
    let wide = Kind { format: WeightFormat::Int16, ..Kind::greedy("16 bits", config(1)) };
    let heads = ModelConfig { n_heads: 2, n_kv_heads: 1, head_dim: 136, rope_dim: 64, ..config(0) };
    let heads = Kind::greedy("heads of 136 channels", heads);
    vec![
        adapted,
        wide,
        heads,
        Kind { rank: Some(33), ..Kind::greedy("adapter of a rotated model", config(4)) },
    ]
}

/// Tokens that are drawn.
pub(crate) fn samplers() -> Vec<Kind> {
    let kind =
        |name, shape: usize, numbers| Kind { numbers: Some(numbers), ..Kind::greedy(name, config(shape)) };
    vec![
        kind("temperature", 0, (ONE_Q16, 0, ONE_Q16)),
        kind("top k", 1, (2 << 16, 3, ONE_Q16)),
        kind("top p", 0, (45_000, 0, 30_000)),
        kind("top k and top p", 4, (16 << 16, 7, 60_000)),
        kind("low temperature, no mass", 1, (64, 0, 0)),
        kind("more than there are", 1, (1 << 14, 1000, 65_535)),
    ]
}

/// Encoders.
pub(crate) fn encoders() -> Vec<Kind> {
    let bert = ModelConfig {
        block: Block::PostNorm,
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        n_kv_heads: 4,
        feed_forward: FeedForward::Plain,
        pooling: Some(Pooling::Mean),
        ..config(0)
    };
    let first = ModelConfig { pooling: Some(Pooling::First), d_model: 33, ..bert.clone() };
    vec![Kind::greedy("mean", bert), Kind::greedy("first row", first)]
}

impl Kind {
    fn greedy(name: &'static str, config: ModelConfig) -> Kind {
        Kind { name, config, format: WeightFormat::Int8, rank: None, numbers: None }
    }

    /// The smallest one of the kind.
    pub(crate) fn small(&self) -> Kind {
        let pattern = self.config.pattern[..1].to_vec();
        let config = ModelConfig { n_layers: 1, vocab: 9, pattern, ..self.config.clone() };
        Kind { config, ..self.clone() }
    }

    /// What the runtime answers to a random prompt.
    pub(crate) fn answered(&self, seed: u64, prompt: usize, generated: usize) -> Subject {
        let weights = Arc::new(synthetic::model(&self.config, self.format, seed));
        let adapter = self.rank.map(|rank| Arc::new(synthetic::adapter(&weights, ROOT, rank, seed + 1)));
        let engine = Engine::new(weights.clone(), Arc::new(crate::support::compute()));
        let mut rng = SplitMix64::new(seed);
        let encodes = self.config.pooling.is_some();
        let (prompt, generated) = if encodes { (prompt + generated - 1, 0) } else { (prompt, generated) };
        let vocab = u64::from(self.config.vocab);
        let mut subject = Subject {
            weights,
            adapter,
            tokens: (0..prompt).map(|_| rng.below(vocab) as u32).collect(),
            generated,
            numbers: self.numbers,
            seed: Digest::of(&[&seed.to_le_bytes()]),
            vector: None,
        };
        subject.vector = encodes.then(|| engine.encode(&subject.tokens).expect("in range"));
        for _ in 0..generated {
            let logits = subject.logits(&engine);
            subject.tokens.push(subject.next(&logits));
        }
        subject
    }
}

impl Subject {
    fn logits(&self, engine: &Engine) -> Vec<i32> {
        let mut cache = engine.new_cache().with_adapter(self.adapter.clone());
        let mut x = engine.embed(&self.tokens, 0, &mut Silent).expect("tokens");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        let last = &x[x.len() - engine.width()..];
        engine.logits(last, &[self.tokens.len() - 1], &mut Silent).expect("in range")
    }

    fn next(&self, logits: &[i32]) -> u32 {
        let (temperature_q16, top_k, top_p_q16) = self.numbers.unwrap_or((0, 0, ONE_Q16));
        let parameters = Parameters { temperature_q16, top_k, top_p_q16, ..Parameters::greedy(1) };
        let frac = self.weights.head.as_ref().expect("a head").out_frac.into();
        let word = draw(&self.seed, self.tokens.len() as u32);
        sample(logits, frac, &parameters, word, &self.weights.tables.exp2_sample)
    }

    /// The same question with another answer.
    pub(crate) fn with(&self, tokens: Vec<u32>, vector: Option<Vec<i32>>) -> Subject {
        let Subject { weights, adapter, generated, numbers, seed, .. } = self;
        Subject {
            weights: weights.clone(),
            adapter: adapter.clone(),
            tokens,
            generated: *generated,
            numbers: *numbers,
            seed: *seed,
            vector,
        }
    }

    pub(crate) fn answer(&self) -> Answer<'_> {
        let claim = match (&self.vector, self.numbers) {
            (Some(vector), _) => Claim::Pooled(vector),
            (None, None) => Claim::Greedy,
            (None, Some((temperature_q16, top_k, top_p_q16))) => {
                Claim::Sampled(Sampling { temperature_q16, top_k, top_p_q16, seed: self.seed })
            }
        };
        let adapter = self.adapter.as_deref();
        Answer { claim, adapter, ..Answer::greedy(&self.weights, ROOT, &self.tokens, self.generated) }
    }
}
