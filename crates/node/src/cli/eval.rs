//! `lockstep eval`: how far a bundle is from the float model that it was made of.
//!
//! ```text
//! bits per token = mean over tokens of -log2 p(token | tokens before it in its window)
//! mean KL        = mean over positions of sum p ln(p / q), p the float model, in nats
//! top-1          = share of positions at which both prefer the same token
//! ```
//! Documents end at `<|endoftext|>`; each is cut into windows of the context, and each window
//! begins with BOS where the model has one. Of encoders, vectors are compared: see `encoder`.

pub(super) mod encoder;
pub(super) mod llama_cpp;
pub(super) mod texts;

use super::CommandResult;
use super::compute::ComputeArgs;
use crate::bundles;
use crate::local::PREFILL_CHUNK;
use crate::output::Progress;
use lockstep_base::config::ModelConfig;
use lockstep_base::part::Part;
use lockstep_base::weights::ModelWeights;
use lockstep_model::float::ggml::{self, quantise_weights};
use lockstep_model::float::ggml_k;
use lockstep_model::float::{self, Activations, compare};
use lockstep_model::source::{self, FloatModel};
use lockstep_model::tokenizer::Tokenizer;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::pool::Pool;
use serde_json::{Value, json};
use std::error::Error;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use texts::TestSet;

/// Bytes of a tokenizer file.
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// Compare a bundle with the float model that it was made of.
///
/// Ends with one JSON object: tokens, bits_per_token, bits_per_byte, float_bits_per_token,
/// float_bits_per_byte, top1_agreement, mean_kl. With --rival the same figures for ggml's Q8_0,
/// Q4_0 and (where 256 divides all widths) Q4_K_M, simulated on the same weights and text.
///
/// Of an encoder, the vectors of the text's sentences are compared with the float model's: cosine_mean,
/// cosine_low (the 1 % quantile), cosine_least, and nearest_agreement, the share of sentences whose most
/// similar other sentence is the same one. With --rival-python llama.cpp itself is judged beside it.
///
/// Examples:
///   lockstep eval stories.lockstep --text stories.txt --float stories260K.bin --json
///   lockstep eval model.lockstep --text a.txt --float model/ --generated 2000 --rival
///   lockstep eval minilm.lockstep --text alice.txt --float all-MiniLM-L6-v2/ --rival
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct EvalArgs {
    /// Bundle to judge
    bundle: PathBuf,
    /// Text to predict, UTF-8; documents end at <|endoftext|>
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The float model: what the bundle was imported from
    #[arg(long, value_name = "SRC")]
    float: PathBuf,
    /// Tokenizer to use instead of the bundle's own
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Use the first N tokens of the text only
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Add N tokens that the float model writes itself
    #[arg(long, value_name = "N", default_value_t = 0)]
    generated: usize,
    /// Seed of the generated text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Judge ggml's formats on the same weights and text
    #[arg(long)]
    rival: bool,
    /// Judge llama.cpp itself, of an encoder: a Python that has llama-cpp-python and gguf
    #[arg(long, value_name = "PATH")]
    rival_python: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: EvalArgs) -> CommandResult {
    let compute = args.compute.build()?;
    let bundle = bundles::open(Some(&args.bundle))?;
    if bundle.config().pooling.is_some() {
        return encoder::run(&args, &compute, &bundle);
    }
    if args.rival_python.is_some() {
        return Err("--rival-python: the model is a decoder, expected an encoder; --rival simulates".into());
    }
    let config = bundle.config().clone();
    let weights = Arc::new(bundle.load(&Part::whole(config.n_layers))?);
    let float = source::open_weights(&args.float)?;
    check_same_shape(&float, &config)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => read_tokenizer(path, &config)?,
        None => bundle.tokenizer()?,
    };
    let mut set = TestSet::read(&args.text, &tokenizer, &config, args.tokens)?;
    if args.generated > 0 {
        set.add_generated(&float, &tokenizer, &config, args.generated, args.seed)?;
    }
    if set.predicted == 0 {
        return Err(format!("{}: no token to predict, expected some text", args.text.display()).into());
    }
    let rivals = if args.rival { Rivals::new(&float)? } else { Rivals::default() };
    let judge = Judge { weights: vec![weights], kernel: compute.kernel, float: &float, rivals: &rivals };
    let bar = Progress::new("evaluating", set.windows.len() as u64, args.json);
    let totals = judge.all(&set.windows, compute.pool.threads(), &bar)?;
    bar.finish();
    let result = report(&totals, &set, &rivals);
    if !args.json {
        eprintln!("{} windows, {} bytes, kernel {}", set.windows.len(), set.bytes, compute.kernel);
    }
    writeln!(stdout(), "{result}")?;
    Ok(())
}

fn check_same_shape(float: &FloatModel, config: &ModelConfig) -> CommandResult {
    let got = (float.config.n_layers, float.config.d_model, float.config.ffn_hidden, float.config.vocab);
    let expected =
        (config.n_layers as usize, config.d_model as usize, config.d_ffn as usize, config.vocab as usize);
    if got == expected {
        return Ok(());
    }
    Err(format!(
        "--float has (layers, width, feed-forward, vocabulary) = {got:?}, expected the bundle's {expected:?}"
    )
    .into())
}

fn read_tokenizer(path: &Path, config: &ModelConfig) -> Result<Tokenizer, Box<dyn Error>> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = read(path, TOKENIZER_BYTES_MAX)?;
    let tokenizer = Tokenizer::detect(&bytes, config.vocab as usize).map_err(|error| named(&error))?;
    Ok(tokenizer.with_special(config.bos, config.eos.clone()).map_err(|error| named(&error))?)
}

pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let got = std::fs::metadata(path).map_err(|error| named(&error))?.len();
    if got > max {
        return Err(named(&format!("{got} bytes, expected at most {max}")).into());
    }
    Ok(std::fs::read(path).map_err(|error| named(&error))?)
}

/// ggml's formats on the same weights: name, rounded model, what happens to inputs.
#[derive(Default)]
pub(super) struct Rivals(pub(super) Vec<(&'static str, FloatModel, Activations)>);

impl Rivals {
    /// Q8_0, Q4_0, and Q4_K_M where the shape allows it.
    pub(super) fn new(float: &FloatModel) -> Result<Rivals, Box<dyn Error>> {
        let formats = [("q8_0", ggml::WeightFormat::Q8_0), ("q4_0", ggml::WeightFormat::Q4_0)];
        let mut all = Vec::new();
        for (name, format) in formats {
            all.push((name, quantise_weights(float, format)?, Activations::Q8_0));
        }
        if ggml_k::fits(float) {
            all.push(("q4_k_m", ggml_k::quantise_weights(float)?, Activations::Q8K));
        }
        Ok(Rivals(all))
    }
}

/// Sums over windows.
#[derive(Clone, Copy, Default)]
pub(super) struct Total {
    pub(super) bits: f64,
    pub(super) agreeing: f64,
    pub(super) kl: f64,
}

impl Total {
    fn add(&mut self, reference: &[Vec<f32>], logits: &[Vec<f32>], tokens: &[u32]) {
        let fidelity = compare(reference, logits, tokens);
        self.bits += fidelity.bits_per_token * (tokens.len() - 1) as f64;
        self.agreeing += fidelity.top1_agreement * tokens.len() as f64;
        self.kl += fidelity.mean_kl * tokens.len() as f64;
    }
}

/// The bundles, the float model, then the rivals.
#[derive(Clone, Default)]
pub(super) struct Totals {
    pub(super) ours: Vec<Total>,
    pub(super) float: Total,
    pub(super) rivals: Vec<Total>,
}

/// Compares bundles of one float model with it.
pub(super) struct Judge<'a> {
    pub(super) weights: Vec<Arc<ModelWeights>>,
    pub(super) kernel: Kernel,
    pub(super) float: &'a FloatModel,
    pub(super) rivals: &'a Rivals,
}

type ThreadError = Box<dyn Error + Send + Sync>;

impl Judge<'_> {
    /// All windows, on `threads` threads; the sums are taken in order, so they do not depend on them.
    pub(super) fn all(
        &self,
        windows: &[Vec<u32>],
        threads: usize,
        bar: &Progress,
    ) -> Result<Totals, Box<dyn Error>> {
        let next = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let work = || {
            let compute = Arc::new(Compute { kernel: self.kernel, pool: Pool::new(1) });
            let engines: Vec<Engine> =
                self.weights.iter().map(|weights| Engine::new(weights.clone(), compute.clone())).collect();
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(window) = windows.get(index) else { return Ok::<_, ThreadError>(results) };
                results.push((index, self.window(&engines, window)?));
                bar.set(done.fetch_add(1, Ordering::Relaxed) as u64 + 1);
            }
        };
        let mut results = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.min(windows.len())).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                results.extend(worker.join().map_err(|_| "an evaluation thread panicked")??);
            }
            Ok::<_, ThreadError>(())
        })
        .map_err(|error| -> Box<dyn Error> { error })?;
        Ok(sum(results))
    }

    fn window(&self, engines: &[Engine], tokens: &[u32]) -> Result<Totals, ThreadError> {
        let reference = float::logits_all(self.float, Activations::Float, tokens)?;
        let mut totals = Totals::default();
        totals.float.add(&reference, &reference, tokens);
        for engine in engines {
            let mut total = Total::default();
            total.add(&reference, &integer_logits(engine, tokens)?, tokens);
            totals.ours.push(total);
        }
        for (_, rival, activations) in &self.rivals.0 {
            let mut total = Total::default();
            total.add(&reference, &float::logits_all(rival, *activations, tokens)?, tokens);
            totals.rivals.push(total);
        }
        Ok(totals)
    }
}

fn sum(mut results: Vec<(usize, Totals)>) -> Totals {
    results.sort_by_key(|(index, _)| *index);
    let mut all = Totals::default();
    let add = |all: &mut Total, one: Total| {
        all.bits += one.bits;
        all.agreeing += one.agreeing;
        all.kl += one.kl;
    };
    for (_, one) in results {
        add(&mut all.float, one.float);
        for (all, one) in [(&mut all.ours, one.ours), (&mut all.rivals, one.rivals)] {
            all.resize(one.len(), Total::default());
            all.iter_mut().zip(one).for_each(|(all, one)| add(all, one));
        }
    }
    all
}

/// Logits `(tokens, vocab)` of the integer model, as the floats that they mean.
fn integer_logits(engine: &Engine, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ThreadError> {
    let head = engine.weights.head.as_ref().ok_or("the bundle has no head")?;
    let unit = 2f64.powi(-i32::from(head.out_frac));
    let mut cache = engine.new_cache();
    let mut all = Vec::with_capacity(tokens.len());
    for chunk in tokens.chunks(PREFILL_CHUNK) {
        let start = cache.len();
        let mut x = engine.embed(chunk, start, &mut Silent)?;
        engine.layers(&mut x, &mut cache, &mut Silent)?;
        let positions: Vec<usize> = (start..cache.len()).collect();
        let logits = engine.logits(&x, &positions, &mut Silent)?;
        all.extend(
            logits
                .chunks(head.rows)
                .map(|row| row.iter().map(|logit| (f64::from(*logit) * unit) as f32).collect()),
        );
    }
    Ok(all)
}

fn report(totals: &Totals, set: &TestSet, rivals: &Rivals) -> Value {
    let (tokens, bytes) = (set.predicted as f64, set.bytes.max(1) as f64);
    let positions: usize = set.windows.iter().map(Vec::len).sum();
    let mean = |sum: f64| sum / positions as f64;
    let ours = totals.ours.first().copied().unwrap_or_default();
    let mut value = json!({
        "tokens": set.predicted,
        "bits_per_token": ours.bits / tokens,
        "bits_per_byte": ours.bits / bytes,
        "float_bits_per_token": totals.float.bits / tokens,
        "float_bits_per_byte": totals.float.bits / bytes,
        "top1_agreement": mean(ours.agreeing),
        "mean_kl": mean(ours.kl),
    });
    if !rivals.0.is_empty() {
        let figures = rivals.0.iter().zip(&totals.rivals).map(|((name, ..), total)| {
            let figures = json!({
                "bits_per_token": total.bits / tokens,
                "bits_per_byte": total.bits / bytes,
                "top1_agreement": mean(total.agreeing),
                "mean_kl": mean(total.kl),
            });
            ((*name).to_owned(), figures)
        });
        value["rival"] = Value::Object(figures.collect());
    }
    value
}
