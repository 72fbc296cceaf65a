//! What verifying costs, step by step: `cargo bench -p lockstep-proof --bench verify`, CPU time of one thread, medians.
//!
//! Random models of known shapes, one stage, for a verifier that has a key and no weights. `--only TEXT` runs what has TEXT in its name, `--runs N`
//! verifies N times, `--layers N` is GPT-2 small of N layers, with a vocabulary of `--vocab N`.

use lockstep_base::Digest;
use lockstep_base::config::{FeedForward, ModelConfig, Positions};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::argument::Roots;
use lockstep_proof::argument::cost::{Cost, cost};
use lockstep_proof::argument::verify::{Step, verify_watched};
use lockstep_proof::decoder::statement::{Answer, LIMB_BITS, Statement};
use lockstep_proof::decoder::weights;
use lockstep_proof::decoder::{Stage, embedding, prove_stage};
use lockstep_proof::field::Quintic;
use lockstep_proof::gadget::Builder;
use lockstep_proof::key::Key;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;

/// Runs without --runs.
const RUNS: usize = 21;

/// CPU seconds of all threads so far.
fn now() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + 1e-9 * now.tv_nsec as f64
}

/// The value behind an argument.
fn argument(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Proves the answer of a random model, and verifies it again and again.
fn decoder(name: &str, config: &ModelConfig, (prompt, generated): (usize, usize)) {
    if argument("--only").is_some_and(|only| !name.contains(&only)) {
        return;
    }
    let runs = argument("--runs").and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let held = Arc::new(synthetic::model(config, WeightFormat::Int8, 1));
    let engine = Engine::new(held.clone(), Arc::new(Compute::new(1)));
    let mut rng = SplitMix64::new(4);
    let mut tokens: Vec<u32> = (0..prompt).map(|_| rng.below(config.vocab.into()) as u32).collect();
    let (mut cache, mut fed) = (engine.new_cache(), 0);
    for _ in 0..generated {
        let mut x = engine.embed(&tokens[fed..], fed, &mut Silent).expect("tokens");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        let last = &x[x.len() - engine.width()..];
        let logits = engine.logits(last, &[tokens.len() - 1], &mut Silent).expect("in range");
        fed = tokens.len();
        tokens.push(greedy(&logits));
    }
    let layers = config.n_layers as usize;
    let root = Digest([0; 32]);
    let answer = Answer::greedy(&held, root, &tokens, generated);
    let key = Key::new(&held, root, &[layers]).expect("a key");
    let committed = weights::commit::<Quintic>(&*held, 0..layers).expect("weights");
    let stage = Stage { layers: 0..layers, entering: None, leaving: None, weights: Some(&committed) };
    let proof = prove_stage(&answer, &stage, &mut |_| {}).expect("a proof");
    let embedded = embedding::embedded(&held, &tokens[..tokens.len() - 1]).expect("rows");
    let roots = Roots { columns: Vec::new(), weights: Some(committed.root()) };

    let mut times: Vec<(String, Vec<f64>)> = Vec::new();
    let mut bytes = Vec::new();
    let mut total = Vec::new();
    let (mut sizes, mut costs) = (String::new(), Cost::default());
    for _ in 0..runs {
        let began = now();
        let mut marks: Vec<(String, f64, usize)> = vec![("circuit".into(), began, proof.body().len())];
        let answer = Answer { weights: key.weights(), ..answer };
        let statement =
            Statement::<Quintic>::of_layers(answer, 0..layers, Some(&embedded)).expect("a statement");
        let mut builder = Builder::told(LIMB_BITS, proof.body());
        statement.build(&mut builder, &[]);
        let built = builder.finish();
        let argued = built.argued(proof.body()).expect("declarations");
        let argument = statement.argument_with(built, &roots).expect("an argument");
        let mut watch = |step: Step, left: usize, _| marks.push((format!("{step:?}"), now(), left));
        verify_watched(&argument, argued, &mut watch).expect("our own proof");
        let ended = now();
        total.push(ended - began);
        let circuit = &argument.circuit;
        sizes = format!(
            "{} columns, {} publics, {} leaves, {} constraints in {} spaces, {} contractions, {} cells",
            circuit.columns.len(),
            circuit.publics.len(),
            circuit.leaves.len(),
            circuit.checks.iter().map(|check| check.constraints.len()).sum::<usize>(),
            circuit.checks.len(),
            circuit.contractions.len(),
            argument.layout.cells()
        );
        costs = cost(&argument).all;
        let ends = marks.iter().skip(1).map(|(_, time, left)| (*time, *left)).chain([(ended, 0)]);
        bytes = marks.iter().zip(ends.clone()).map(|((_, _, left), (_, end))| left - end).collect();
        for (at, ((step, time, _), (end, _))) in marks.iter().zip(ends).enumerate() {
            if times.len() == at {
                times.push((step.clone(), Vec::new()));
            }
            times[at].1.push(end - time);
        }
    }
    println!("{name}: verify {:.2} ms, {} bytes; {sizes}", 1e3 * median(total), proof.body().len());
    println!("    known before: {costs:?}, {} products in the base field", costs.base_products(5));
    for ((step, seconds), bytes) in times.into_iter().zip(bytes) {
        println!("    {step:<12} {:>8.3} ms {bytes:>9} bytes", 1e3 * median(seconds));
    }
}

fn main() {
    let layers = argument("--layers").and_then(|layers| layers.parse().ok());
    let gpt2 = |n_layers, vocab| ModelConfig {
        n_layers,
        d_model: 768,
        n_heads: 12,
        n_kv_heads: 12,
        head_dim: 64,
        d_ffn: 3072,
        vocab,
        context: 1024,
        norm_eps: 768 * 42_950,
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        ..ModelConfig::decoder()
    };
    let llama = ModelConfig {
        n_layers: 1,
        d_model: 2048,
        n_heads: 32,
        n_kv_heads: 4,
        head_dim: 64,
        d_ffn: 5632,
        vocab: 512,
        context: 2048,
        norm_eps: 2048 * 42_950,
        rope_dim: 64,
        ..ModelConfig::decoder()
    };
    if let Some(layers) = layers {
        let vocab = argument("--vocab").and_then(|vocab| vocab.parse().ok()).unwrap_or(512);
        return decoder(&format!("GPT-2 small, {layers} layers"), &gpt2(layers, vocab), (32, 32));
    }
    decoder("GPT-2 small, 1 layer", &gpt2(1, 512), (32, 32));
    decoder("GPT-2 small, 4 layers", &gpt2(4, 512), (32, 32));
    decoder("Llama 1B, 1 layer", &llama, (32, 32));
}
