//! What a proof costs, operator by operator: `cargo bench -p lockstep-proof --bench operators`, in lookups and committed cells for each element of
//! what an operator gives. Nothing is timed: the numbers are those of circuits of random models (random weights need wider values than trained ones) of every family, and
//! follow from shapes and widths alone. `--names` prints the columns behind each row.
//!
//! A lookup belongs to the operator of the last column that it reads; entries of tables are a row of their own.

use lockstep_base::Digest;
use lockstep_base::config::{
    Activation, Block, Experts, FeedForward, LayerPattern, ModelConfig, Pooling, Positions,
};
use lockstep_base::params::{ONE_Q16, Parameters, draw};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::circuit::{Circuit, Source};
use lockstep_proof::decoder::statement::{Answer, Claim, LIMB_BITS, Sampling, Statement};
use lockstep_proof::field::{ProofField, Quintic};
use lockstep_proof::gadget::Builder;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::sample;
use lockstep_runtime::synthetic;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Base = <Quintic as ProofField>::Base;
/// Positions of every answer.
const POSITIONS: usize = 64;
/// Of which so many are proved to be chosen.
const GENERATED: usize = 32;
const ROOT: Digest = Digest([0; 32]);

/// A model and how it answers.
struct Subject {
    name: &'static str,
    config: ModelConfig,
    format: WeightFormat,
    rank: Option<u32>,
    /// Temperature, top k, top p.
    numbers: Option<(u32, u32, u32)>,
}

fn llama() -> ModelConfig {
    ModelConfig {
        n_layers: 1,
        d_model: 256,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 32,
        d_ffn: 512,
        vocab: 4096,
        context: 1024,
        rope_dim: 32,
        norm_eps: 256 * 42_950,
        feed_forward: FeedForward::Gated,
        ..ModelConfig::decoder()
    }
}

fn subjects() -> Vec<Subject> {
    let plain =
        |name, config| Subject { name, config, format: WeightFormat::Int8, rank: None, numbers: None };
    let no_rope =
        |config| ModelConfig { rope_dim: 0, rope_tables: 0, feed_forward: FeedForward::Plain, ..config };
    let drawn = |name, numbers| Subject { numbers: Some(numbers), ..plain(name, llama()) };
    vec![
        plain("RoPE, gated (Llama)", llama()),
        plain(
            "learned positions, plain, rectifier (OPT)",
            no_rope(ModelConfig { positions: Positions::Learned, activation: Activation::Relu, ..llama() }),
        ),
        plain("ALiBi, plain (BLOOM)", no_rope(ModelConfig { positions: Positions::Alibi, ..llama() })),
        plain(
            "norms behind sublayers and of heads, a window, caps (Gemma)",
            ModelConfig {
                block: Block::Sandwich,
                qk_norm: true,
                score_cap: Some(2),
                logit_cap: Some(4),
                pattern: vec![LayerPattern { window: 16, rope: 0, experts: false }],
                ..llama()
            },
        ),
        plain(
            "two of eight experts (Mixtral)",
            ModelConfig {
                experts: Some(Experts { count: 8, per_token: 2, normalise: true }),
                pattern: vec![LayerPattern { window: 0, rope: 0, experts: true }],
                ..llama()
            },
        ),
        plain(
            "an encoder (BERT)",
            no_rope(ModelConfig {
                block: Block::PostNorm,
                positions: Positions::Learned,
                n_kv_heads: 8,
                pooling: Some(Pooling::Mean),
                ..llama()
            }),
        ),
        Subject { format: WeightFormat::Int16, ..plain("weights of 16 bits", llama()) },
        Subject { rank: Some(16), ..plain("an adapter of rank 16", llama()) },
        drawn("drawn, temperature 1", (ONE_Q16, 0, ONE_Q16)),
        drawn("drawn, temperature 1, top k 40", (ONE_Q16, 40, ONE_Q16)),
        drawn("drawn, temperature 1, top p 0.9", (ONE_Q16, 0, 58_982)),
    ]
}

/// Lookups and cells.
type Counts = [usize; 2];

/// What belongs to an operator, by the first words of a column's name behind its scope; and of how many elements a token.
struct Operator {
    name: &'static str,
    unit: &'static str,
    starts: &'static [&'static str],
    elements: fn(&ModelConfig) -> usize,
}

fn visible() -> usize {
    POSITIONS
}

/// Longer names stand before those that they begin with.
const OPERATORS: &[Operator] = &[
    Operator { name: "entries of tables", unit: "answer", starts: &["tables"], elements: |_| 0 },
    Operator {
        name: "adapters",
        unit: "row of A and B",
        starts: &[
            "q adapter",
            "k adapter",
            "v adapter",
            "o adapter",
            "gate adapter",
            "up adapter",
            "down adapter",
            "q adapted",
            "k adapted",
            "v adapted",
            "gate adapted",
            "up adapted",
        ],
        elements: |c| 7 * 16 + (c.q_dim() + 2 * c.kv_dim() + 2 * c.d_ffn + 2 * c.d_model) as usize,
    },
    Operator {
        name: "norm with gains, of q and k",
        unit: "channel",
        starts: &["q norm", "k norm"],
        elements: |c| (c.q_dim() + c.kv_dim()) as usize,
    },
    Operator {
        name: "norm with gains, of the stream",
        unit: "channel",
        starts: &["o norm", "down norm", "embedding norm", "experts norm"],
        elements: |c| (2 * c.d_model + if c.block == Block::PostNorm { c.d_model } else { 0 }) as usize,
    },
    Operator {
        name: "rotation of q and k (RoPE)",
        unit: "channel",
        starts: &["q rotated", "k rotated"],
        elements: |c| (c.q_dim() + c.kv_dim()) as usize,
    },
    Operator {
        name: "linear: q, k, v",
        unit: "output",
        starts: &[
            "q accumulator",
            "q output",
            "q remainder",
            "q power",
            "q low",
            "k accumulator",
            "k output",
            "k remainder",
            "k power",
            "k low",
            "v accumulator",
            "v output",
            "v remainder",
            "v power",
            "v low",
            "q shift 0",
            "k shift 0",
            "v shift 0",
        ],
        elements: |c| (c.q_dim() + 2 * c.kv_dim()) as usize,
    },
    Operator { name: "codes of v", unit: "channel", starts: &["v "], elements: |c| c.kv_dim() as usize },
    Operator {
        name: "codes of q and k",
        unit: "channel",
        starts: &["q ", "k "],
        elements: |c| (c.q_dim() + c.kv_dim()) as usize,
    },
    Operator { name: "linear: o", unit: "output", starts: &["o "], elements: |c| c.d_model as usize },
    Operator {
        name: "linear: gate, up",
        unit: "output",
        starts: &["gate ", "up "],
        elements: |c| {
            c.d_ffn as usize
                * if c.feed_forward == FeedForward::Gated { 2 } else { 1 }
                * c.experts.map_or(1, |e| e.per_token as usize)
        },
    },
    Operator {
        name: "linear: down",
        unit: "output",
        starts: &["down of an expert", "down in range", "down "],
        elements: |c| c.d_model as usize * c.experts.map_or(1, |e| e.per_token as usize),
    },
    Operator {
        name: "router: linear",
        unit: "expert",
        starts: &["router accumulator", "router output", "router remainder", "router power"],
        elements: |c| c.experts.map_or(0, |e| e.count as usize),
    },
    Operator {
        name: "router: choice and weights",
        unit: "expert",
        starts: &[
            "router",
            "last logit",
            "largest router logit",
            "beyond the last logit",
            "weight kk",
            "weight rho",
            "weight division",
            "weight sum",
        ],
        elements: |c| c.experts.map_or(0, |e| e.count as usize),
    },
    Operator {
        name: "cap of scores",
        unit: "score",
        starts: &[
            "score capped",
            "score step",
            "score beyond the cap",
            "score cap",
            "score rest of a step",
            "score risen",
        ],
        elements: |c| c.n_heads as usize * visible(),
    },
    Operator {
        name: "scores",
        unit: "score",
        starts: &["score"],
        elements: |c| c.n_heads as usize * visible(),
    },
    Operator {
        name: "softmax",
        unit: "score",
        starts: &["largest score", "distance beyond", "distance", "probability", "nearest"],
        elements: |c| c.n_heads as usize * visible(),
    },
    Operator {
        name: "weights of values",
        unit: "score",
        starts: &["largest exponent", "weight shift", "weight power", "weight"],
        elements: |c| c.n_heads as usize * visible(),
    },
    Operator {
        name: "sums and quotients of heads",
        unit: "channel",
        starts: &["attention", "sum", "quotient", "values of a block", "powers of a block", "real heads"],
        elements: |c| c.q_dim() as usize,
    },
    Operator {
        name: "codes of heads",
        unit: "channel",
        starts: &["heads"],
        elements: |c| c.q_dim() as usize,
    },
    Operator {
        name: "activation",
        unit: "element",
        starts: &["activation", "relu"],
        elements: |c| c.d_ffn as usize * c.experts.map_or(1, |e| e.per_token as usize),
    },
    Operator {
        name: "gating",
        unit: "element",
        starts: &["gated", "what a gate multiplies"],
        elements: |c| c.d_ffn as usize * c.experts.map_or(1, |e| e.per_token as usize),
    },
    Operator {
        name: "codes of hidden vectors",
        unit: "element",
        starts: &["hidden"],
        elements: |c| c.d_ffn as usize * c.experts.map_or(1, |e| e.per_token as usize),
    },
    Operator {
        name: "rotated stream and its codes",
        unit: "channel",
        starts: &["rotated"],
        elements: |c| 2 * c.d_model as usize,
    },
    Operator {
        name: "norm and codes of the stream",
        unit: "channel",
        starts: &["norm"],
        elements: |c| 2 * c.d_model as usize,
    },
    Operator {
        name: "residual stream",
        unit: "channel",
        starts: &["stream", "experts"],
        elements: |c| 2 * c.d_model as usize,
    },
    Operator { name: "pooling", unit: "channel", starts: &["pooled"], elements: |c| c.d_model as usize },
];

/// The same in the head, of rows that are chosen.
const HEAD: &[Operator] = &[
    Operator {
        name: "head: norm and codes",
        unit: "channel",
        starts: &["norm", "rotated", "unread"],
        elements: |c| c.d_model as usize,
    },
    Operator {
        name: "head: cap of logits",
        unit: "logit",
        starts: &["logit "],
        elements: |c| c.vocab as usize,
    },
    Operator {
        name: "head: pooling",
        unit: "channel",
        starts: &["pooled"],
        elements: |c| c.d_model as usize,
    },
    Operator { name: "head: linear", unit: "logit", starts: &["logits"], elements: |c| c.vocab as usize },
    Operator {
        name: "head: greedy choice",
        unit: "logit",
        starts: &["below the largest", "largest logit["],
        elements: |c| c.vocab as usize,
    },
    Operator {
        name: "head: drawing",
        unit: "logit",
        starts: &["distance", "weight", "largest logit", "draw", "top", "mass", "kept"],
        elements: |c| c.vocab as usize,
    },
];

/// What is lied about, its scope and its part.
fn split(name: &str) -> (&str, String) {
    let (scope, name) = name.split_once(": ").unwrap_or(("", name));
    let mut words: Vec<&str> = name.split(' ').collect();
    // Parts of an axis have names of their own: "norm, part 1, z", "part 1, norm chosen".
    while let Some(at) = words.iter().position(|word| *word == "part") {
        words.drain(at..(at + 2).min(words.len()));
    }
    let joined = words.join(" ").replace(',', "");
    (scope, joined.trim().to_string())
}

fn operator<'o>(all: &'o [Operator], name: &str) -> Option<&'o Operator> {
    all.iter().find(|one| one.starts.iter().any(|start| name.starts_with(start)))
}

/// Counts by column name.
fn counted(circuit: &Circuit<Base>) -> BTreeMap<String, Counts> {
    let mut all: BTreeMap<String, Counts> = BTreeMap::new();
    for column in &circuit.columns {
        all.entry(column.name.clone()).or_default()[1] += 1 << column.log;
    }
    for leaf in &circuit.leaves {
        let views = leaf.tuple.iter().rev().flat_map(|one| &one.terms).flat_map(|term| &term.views);
        let mut committed = views.filter_map(|view| match view.source {
            Source::Committed(column) => Some(circuit.columns[column].name.clone()),
            _ => None,
        });
        let name = committed.next().unwrap_or_else(|| "tables: entries".into());
        all.entry(name).or_default()[0] += 1 << leaf.log;
    }
    all
}

impl Subject {
    /// The counts of a proof of an answer that the runtime gives.
    fn measure(&self) -> BTreeMap<String, Counts> {
        let weights = Arc::new(synthetic::model(&self.config, self.format, 1));
        let adapter = self.rank.map(|rank| Arc::new(synthetic::adapter(&weights, ROOT, rank, 2)));
        let engine = Engine::new(weights.clone(), Arc::new(Compute::new(1)));
        let mut rng = SplitMix64::new(4);
        let vocab = u64::from(self.config.vocab);
        let encodes = self.config.pooling.is_some();
        let generated = if encodes { 0 } else { GENERATED };
        let mut tokens: Vec<u32> = (0..POSITIONS - generated).map(|_| rng.below(vocab) as u32).collect();
        let seed = Digest([5; 32]);
        let numbers = self.numbers.unwrap_or((0, 0, ONE_Q16));
        let (temperature_q16, top_k, top_p_q16) = numbers;
        let parameters = Parameters { temperature_q16, top_k, top_p_q16, ..Parameters::greedy(1) };
        let vector = encodes.then(|| engine.encode(&tokens).expect("in range"));
        // One more than there are positions: the last one is chosen behind the last position.
        for _ in 0..if encodes { 0 } else { generated + 1 } {
            let mut cache = engine.new_cache().with_adapter(adapter.clone());
            let mut x = engine.embed(&tokens, 0, &mut Silent).expect("tokens");
            engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
            let last = &x[x.len() - engine.width()..];
            let logits = engine.logits(last, &[tokens.len() - 1], &mut Silent).expect("in range");
            let word = draw(&seed, tokens.len() as u32);
            let frac = weights.head.as_ref().map_or(0, |head| head.out_frac.into());
            tokens.push(sample(&logits, frac, &parameters, word, &weights.tables.exp2_sample));
        }
        let claim = match (&vector, self.numbers) {
            (Some(vector), _) => Claim::Pooled(vector),
            (None, None) => Claim::Greedy,
            (None, Some(_)) => Claim::Sampled(Sampling { temperature_q16, top_k, top_p_q16, seed }),
        };
        let answer = Answer {
            claim,
            adapter: adapter.as_deref(),
            ..Answer::greedy(&weights, ROOT, &tokens, generated)
        };
        let statement = Statement::<Quintic>::new(answer).expect("a statement");
        let mut builder = Builder::proving(LIMB_BITS, None);
        statement.build(&mut builder, &[]);
        let (built, _) = builder.finish().honest().expect("an honest witness");
        counted(&built.circuit)
    }

    fn report(&self) {
        let mut rows: BTreeMap<(&str, &str), (Counts, usize, BTreeSet<String>)> = BTreeMap::new();
        for (full, counts) in self.measure() {
            let (scope, name) = split(&full);
            let head = scope == "head";
            let of = if scope == "tables" {
                operator(OPERATORS, "tables")
            } else {
                operator(if head { HEAD } else { OPERATORS }, &name)
            };
            let (label, unit, elements) = match of {
                Some(one) => (one.name, one.unit, (one.elements)(&self.config)),
                None => ("other", "answer", 0),
            };
            let rows_of = if head && self.config.pooling.is_none() {
                GENERATED
            } else if label.ends_with("pooling") {
                1
            } else {
                POSITIONS
            };
            let entry =
                rows.entry((label, unit)).or_insert(([0; 2], (elements * rows_of).max(1), BTreeSet::new()));
            (0..2).for_each(|at| entry.0[at] += counts[at]);
            entry.2.insert(name);
        }
        println!("{}", self.name);
        for ((label, unit), (counts, elements, names)) in rows {
            let each = |at: usize| counts[at] as f64 / elements as f64;
            println!("| {label} | {:.2} | {:.2} | {unit} |", each(0), each(1));
            if std::env::args().any(|arg| arg == "--names") {
                println!("    {}", names.into_iter().collect::<Vec<_>>().join(" / "));
            }
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    println!("{POSITIONS} positions, {GENERATED} of them chosen; lookups, committed cells, per");
    for subject in subjects() {
        if only.is_none_or(|only| subject.name.contains(only.as_str())) {
            subject.report();
        }
    }
}
