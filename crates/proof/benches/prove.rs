//! What proofs cost: `cargo bench -p lockstep-proof`, CPU time of two threads, the median of some runs.
//!
//! Networks of this repository, then the parts alone at 2^20 (and with `-- --large` at 2^24 cells). With `-- --decoders` decoders instead,
//! phase by phase (with `--large` one of four layers besides), and with `--operators` lookups and cells of each of their columns. `--only TEXT` runs what has TEXT in its name. A
//! proof's digest shows whether two builds say the same.

use lockstep_base::Digest;
use lockstep_base::config::{FeedForward, ModelConfig, Positions};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_model::net::{InputFormat, quantise};
use lockstep_model::onnx::{Prepare, import};
use lockstep_proof::argument::{self, Argument, prove::Phase};
use lockstep_proof::circuit::Source;
use lockstep_proof::commitment::{self, Committed, Opened, Shape};
use lockstep_proof::decoder::{self, statement::Answer};
use lockstep_proof::field::{ProofField, Quintic, residue};
use lockstep_proof::gadget::Builder;
use lockstep_proof::logup::{self, Leaves, Numerators};
use lockstep_proof::multilinear::eq_table;
use lockstep_proof::net::statement::Statement;
use lockstep_proof::net::{prove, verify};
use lockstep_proof::transcript::{ProverTranscript, Sponge, VerifierTranscript};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use p3_field::{Field, PrimeCharacteristicRing};
use rustix::time::{ClockId, clock_gettime};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

type Base = <Quintic as ProofField>::Base;
/// Runs of each.
const RUNS: usize = 5;

/// CPU seconds of all threads so far: other programs on the machine do not count.
fn now() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + 1e-9 * now.tv_nsec as f64
}

/// CPU seconds of the median run, and what the last one gave.
fn median<T>(runs: usize, mut f: impl FnMut() -> T) -> (f64, T) {
    let mut seconds = Vec::with_capacity(runs);
    let mut timed = || {
        let began = now();
        let result = f();
        seconds.push(now() - began);
        result
    };
    (1..runs).for_each(|_| drop(timed()));
    let result = timed();
    seconds.sort_by(f64::total_cmp);
    (seconds[runs / 2], result)
}

/// Whether `--only` names this, or nothing.
fn wanted(name: &str) -> bool {
    let args: Vec<String> = std::env::args().collect();
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    only.is_none_or(|only| name.contains(only))
}

/// Most memory that was in use since the last call, in MiB; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    // Where it is refused, the figures are those of the whole run so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    kib.unwrap_or(0) / 1024
}

fn network(name: &str, net: &Net, examples: usize) {
    if !wanted(name) {
        return;
    }
    let compute = Compute::new(1);
    let mut rng = SplitMix64::new(1);
    let input: Vec<i32> = (0..4 * examples).map(|_| 1 + rng.below(79) as i32).collect();
    let (proving, (output, proof)) =
        median(RUNS, || prove(&compute, net, &input).expect("a network of ours is proved"));
    let (verifying, result) = median(RUNS, || verify(net, &input, &output, &proof));
    result.expect("our own proof");
    let bytes = proof.as_bytes().len();
    let statement = Statement::<Quintic>::new(net, &input, &output).expect("a statement");
    let (filling, (built, witness)) = median(RUNS, || {
        let mut builder = Builder::proving(statement.limb_bits(), None);
        statement.build(&mut builder);
        builder.finish().honest().expect("an honest witness")
    });
    let argument = statement.argument(built).expect("an argument");
    let (arguing, _) = median(RUNS, || argument::prove::prove(&argument, &witness));
    println!(
        "{name}, {examples} inputs: prove {:.2} ms ({:.2} ms the witness of {} cells, {:.2} ms the argument with {} fractions), verify {:.2} ms, {bytes} bytes",
        1e3 * proving,
        1e3 * filling,
        argument.layout.cells(),
        1e3 * arguing,
        argument.circuit.fractions(),
        1e3 * verifying
    );
}

/// Lookups and cells a token by what they are about, of every layer and every scope together.
fn operators(argument: &Argument<'_, Quintic>, tokens: usize) {
    let circuit = &argument.circuit;
    let mut all: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let about = |column: usize| circuit.columns[column].name.clone();
    for column in &circuit.columns {
        all.entry(column.name.clone()).or_default()[1] += 1 << column.log;
    }
    for leaf in &circuit.leaves {
        let views = leaf.tuple.iter().rev().flat_map(|one| &one.terms).flat_map(|term| &term.views);
        let mut committed = views.filter_map(|view| match view.source {
            Source::Committed(column) => Some(about(column)),
            _ => None,
        });
        let name = committed.next().unwrap_or_else(|| "tables".into());
        all.entry(name).or_default()[0] += 1 << leaf.log;
    }
    let mut widths: BTreeMap<(bool, usize, bool), usize> = BTreeMap::new();
    for leaf in &circuit.leaves {
        let varying = leaf.tuple.iter().filter(|one| !one.terms.is_empty()).count();
        let plain = leaf
            .tuple
            .iter()
            .filter(|one| !one.terms.is_empty())
            .all(|one| one.constant.is_zero() && one.terms.len() == 1 && one.terms[0].views.len() == 1);
        *widths.entry((leaf.numerator.terms.is_empty(), varying, plain)).or_default() += 1 << leaf.log;
    }
    for ((lookups, varying, plain), count) in widths {
        let what = if lookups { "lookups" } else { "entries" };
        let how = if plain { "columns" } else { "sums" };
        println!("    {} {what} a token have {varying} numbers that vary, {how}", count / tokens);
    }
    for (name, [lookups, cells]) in all {
        if lookups.max(cells) >= 32 * tokens {
            let each = |count: usize| count as f64 / tokens as f64;
            println!("    {name}: {:.0} lookups, {:.0} cells a token", each(lookups), each(cells));
        }
    }
}

/// A random model of a shape, one token of whose answer is proved. Its tokens are those that its own witness gives.
fn decoder(name: &str, config: &ModelConfig, tokens: usize) {
    if !wanted(&format!("{name}, {tokens} tokens")) {
        return;
    }
    let weights = Arc::new(synthetic::model(config, WeightFormat::Int8, 1));
    let engine = Engine::new(weights.clone(), Arc::new(Compute::new(1)));
    let mut rng = SplitMix64::new(4);
    let mut all: Vec<u32> = (0..tokens).map(|_| rng.below(config.vocab.into()) as u32).collect();
    let mut infer = || {
        let mut cache = engine.new_cache();
        let mut x = engine.embed(&all, 0, &mut Silent).expect("tokens");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        let last = &x[x.len() - engine.width()..];
        engine.logits(last, &[tokens - 1], &mut Silent).expect("in range")
    };
    let (inferring, logits) = median(3, &mut infer);
    let best = (0..logits.len()).max_by_key(|at| (logits[*at], core::cmp::Reverse(*at)));
    all.push(best.expect("a vocabulary") as u32);
    let root = lockstep_base::Digest([0; 32]);
    let answer = Answer::greedy(&weights, root, &all, 1);
    let statement = decoder::statement::Statement::<Quintic>::new(answer).expect("a statement");
    peak_memory();
    let (filling, (built, witness)) = median(1, || {
        let mut builder = Builder::proving(decoder::statement::LIMB_BITS, None);
        statement.build(&mut builder, &[]);
        builder.finish().honest().expect("an honest witness")
    });
    let declared = built.declarations.clone();
    let argument = statement.argument(built).expect("an argument");
    let mut phases = vec![(Phase::Witness, now() - filling)];
    let mut peaks = Vec::new();
    let (arguing, proof) = median(1, || {
        let mut watch = |phase| {
            peaks.push(peak_memory());
            phases.push((phase, now()));
        };
        argument::prove::prove_watched(&argument, &witness, &mut watch).expect("a proof")
    });
    peaks.push(peak_memory());
    let ends = phases.iter().skip(1).map(|(_, began)| *began).chain([now()]);
    for (((phase, began), end), peak) in phases.iter().zip(ends).zip(&peaks) {
        println!("    {:<12} {:>6.3} s, {peak:>5} MiB", phase.name(), end - began);
    }
    let (verifying, result) = median(3, || {
        let mut builder = Builder::told(decoder::statement::LIMB_BITS, &declared);
        statement.build(&mut builder, &[]);
        let argument = statement.argument(builder.finish()).expect("an argument");
        argument::verify::verify(&argument, &proof)
    });
    result.expect("our own proof");
    println!(
        "{name}, {tokens} tokens: witness {:.2} s of {} cells, argument {:.2} s with {} fractions, {} columns, {} contractions; verify {:.1} ms, {} bytes ({}); {:.0} times inference",
        filling,
        argument.layout.cells(),
        arguing,
        argument.circuit.fractions(),
        argument.circuit.columns.len(),
        argument.circuit.contractions.len(),
        1e3 * verifying,
        declared.len() + proof.len(),
        Digest::of(&[&proof]),
        (filling + arguing) / inferring,
    );
    if std::env::args().any(|arg| arg == "--operators") {
        operators(&argument, tokens);
    }
}

fn decoders() {
    let tiny = ModelConfig {
        n_layers: 2,
        d_model: 64,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 8,
        d_ffn: 172,
        vocab: 512,
        context: 512,
        rope_dim: 8,
        ..ModelConfig::decoder()
    };
    decoder("2 layers of 64 channels", &tiny, 16);
    let gpt2 = ModelConfig {
        n_layers: 1,
        d_model: 768,
        n_heads: 12,
        n_kv_heads: 12,
        head_dim: 64,
        d_ffn: 3072,
        vocab: 512,
        context: 1024,
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        ..ModelConfig::decoder()
    };
    decoder("1 layer of GPT-2 small", &gpt2, 16);
    decoder("1 layer of GPT-2 small", &gpt2, 64);
    if std::env::args().any(|arg| arg == "--large") {
        decoder("4 layers of GPT-2 small", &ModelConfig { n_layers: 4, ..gpt2 }, 64);
    }
}

/// `2^log` lookups of one column, or of two, in a table of 2^16 entries.
fn lookups(log: usize, columns: usize) {
    if !wanted("LogUp-GKR") {
        return;
    }
    const TABLE_LOG: usize = 16;
    let mut rng = SplitMix64::new(2);
    let mut counts = vec![0i64; 1 << TABLE_LOG];
    let looked_up: Vec<usize> = (0..1 << log).map(|_| rng.below(1 << TABLE_LOG) as usize).collect();
    looked_up.iter().for_each(|x| counts[*x] += 1);
    let mut sponge = Sponge::new("bench");
    let (alpha, gamma): (Quintic, Quintic) = (sponge.challenge("alpha"), sponge.challenge("gamma"));
    // The second column is a function of the first.
    let column = |values: &[usize], number: usize| -> Cow<'static, [Base]> {
        values.iter().map(|x| residue((x * (1 + 6 * number) % 127) as i64 + (x << 7) as i64)).collect()
    };
    let leaves = |log, values: &[usize], numerators| Leaves {
        log,
        numerators,
        constant: alpha,
        columns: (0..columns).map(|c| (-gamma.exp_u64(c as u64), column(values, c))).collect(),
    };
    let entries: Vec<usize> = (0..1 << TABLE_LOG).collect();
    let counts = Numerators::Each(counts.into_iter().map(|count| residue(-count)).collect());
    let all = [leaves(log, &looked_up, Numerators::One), leaves(TABLE_LOG, &entries, counts)];
    let (proving, proof) = median(3, || {
        let mut transcript = ProverTranscript::new(Sponge::new("bench"));
        logup::prove_leaves(&mut transcript, all.to_vec()).expect("no zero");
        transcript.finish()
    });
    let digest = Digest::of(&[&proof]);
    let heights = logup::heights((1 << log) + (1 << TABLE_LOG));
    let (verifying, result) = median(3, || {
        let mut transcript = VerifierTranscript::new(Sponge::new("bench"), &proof);
        logup::verify::<Quintic>(&mut transcript, &heights)
    });
    result.expect("our own proof");
    println!(
        "LogUp-GKR, 2^{log} lookups of {columns} in 2^{TABLE_LOG} entries: {:.1} ns each, verify {:.2} ms, {} bytes ({digest})",
        1e9 * proving / f64::from(1u32 << log),
        1e3 * verifying,
        proof.len()
    );
}

fn matrix(log: usize) {
    if !wanted("matrix") {
        return;
    }
    let mut rng = SplitMix64::new(3);
    let cells: Vec<Base> = (0..1usize << log).map(|_| residue(rng.below(255) as i64 - 127)).collect();
    let shape = Shape::new::<Quintic>(cells.len());
    let (committing, committed) = median(2, || Committed::<Quintic>::new(cells.clone()));
    let point: Vec<Quintic> = Sponge::new("bench").point("point", log);
    let value: Quintic = cells.iter().zip(eq_table(&point)).map(|(x, w)| w * *x).sum();
    assert!(!value.is_zero());
    let (opening, proof) = median(3, || {
        let mut transcript = ProverTranscript::new(Sponge::new("bench"));
        commitment::open(&mut transcript, &[(&committed, &point)]).expect("no zero");
        transcript.finish()
    });
    let (verifying, result) = median(3, || {
        let mut transcript = VerifierTranscript::new(Sponge::new("bench"), &proof);
        commitment::verify(
            &mut transcript,
            &[Opened { shape: &shape, root: &committed.root(), point: &point, value }],
        )
    });
    result.expect("our own opening");
    println!(
        "matrix of 2^{log} cells ({} rows of 2^{}, rate 1/{}, {} commitments): commit {:.1} ms, open {:.1} ms, verify {:.2} ms, {} bytes ({})",
        shape.rows,
        shape.log_cols,
        1 << shape.log_inverse_rate,
        shape.depth::<Quintic>(),
        1e3 * committing,
        1e3 * opening,
        1e3 * verifying,
        proof.len(),
        Digest::of(&[&proof])
    );
}

fn main() {
    if std::env::args().any(|arg| arg == "--decoders") {
        return decoders();
    }
    let tenths = InputFormat { frac: 0, low: 0, high: 100 };
    let models = [
        ("Iris OLS", &include_bytes!("../../../models/iris/iris-ols.onnx")[..]),
        ("Iris NN", &include_bytes!("../../../models/iris/iris-mlp.onnx")[..]),
    ];
    for (name, file) in models {
        let float = import(name, file, &Prepare { scale: 0.1, ..Prepare::NONE }).expect("our own file");
        let net = quantise(&float, tenths).expect("a network");
        for examples in [1, 150, 500] {
            network(name, &net, examples);
        }
    }
    for log in [20, 22] {
        lookups(log, 1);
        lookups(log, 2);
    }
    matrix(20);
    matrix(22);
    if std::env::args().any(|arg| arg == "--large") {
        matrix(24);
    }
}
