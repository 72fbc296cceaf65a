//! What proofs cost: `cargo bench -p lockstep-proof`, CPU time of two threads, the median of some runs.
//!
//! Networks of this repository, then the parts alone at 2^20 (and with `-- --large` at 2^24 cells).

use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_model::net::{InputFormat, quantise};
use lockstep_model::onnx::{Prepare, import};
use lockstep_proof::argument;
use lockstep_proof::commitment::{self, Committed, Shape};
use lockstep_proof::field::{ProofField, Quintic, residue};
use lockstep_proof::gadget::Builder;
use lockstep_proof::logup::{self, Leaves, Numerators};
use lockstep_proof::multilinear::eq_table;
use lockstep_proof::net::statement::Statement;
use lockstep_proof::net::{prove, verify};
use lockstep_proof::transcript::{ProverTranscript, Sponge, VerifierTranscript};
use lockstep_runtime::kernels::Compute;
use p3_field::{Field, PrimeCharacteristicRing};
use rustix::time::{ClockId, clock_gettime};
use std::borrow::Cow;

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

fn network(name: &str, net: &Net, examples: usize) {
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

/// `2^log` lookups of one column, or of two, in a table of 2^16 entries.
fn lookups(log: usize, columns: usize) {
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
        logup::prove_leaves(&mut transcript, &all).expect("no zero");
        transcript.finish()
    });
    let heights = logup::heights((1 << log) + (1 << TABLE_LOG));
    let (verifying, result) = median(3, || {
        let mut transcript = VerifierTranscript::new(Sponge::new("bench"), &proof);
        logup::verify::<Quintic>(&mut transcript, &heights)
    });
    result.expect("our own proof");
    println!(
        "LogUp-GKR, 2^{log} lookups of {columns} in 2^{TABLE_LOG} entries: {:.1} ns each, verify {:.2} ms, {} bytes",
        1e9 * proving / f64::from(1u32 << log),
        1e3 * verifying,
        proof.len()
    );
}

fn matrix(log: usize) {
    let mut rng = SplitMix64::new(3);
    let cells: Vec<Base> = (0..1usize << log).map(|_| residue(rng.below(255) as i64 - 127)).collect();
    let shape = Shape::new::<Quintic>(cells.len());
    let (committing, committed) = median(2, || Committed::<Quintic>::new(cells.clone()));
    let point: Vec<Quintic> = Sponge::new("bench").point("point", log);
    let value: Quintic = cells.iter().zip(eq_table(&point)).map(|(x, w)| w * *x).sum();
    assert!(!value.is_zero());
    let (opening, proof) = median(3, || {
        let mut transcript = ProverTranscript::new(Sponge::new("bench"));
        committed.open(&mut transcript, &point);
        transcript.finish()
    });
    let (verifying, result) = median(3, || {
        let mut transcript = VerifierTranscript::new(Sponge::new("bench"), &proof);
        commitment::verify(&mut transcript, &shape, &committed.root(), &point, value)
    });
    result.expect("our own opening");
    println!(
        "matrix of 2^{log} cells ({} rows of 2^{}, rate 1/{}): commit {:.1} ms, open {:.1} ms, verify {:.2} ms, {} bytes",
        shape.rows,
        shape.log_cols,
        1 << shape.log_inverse_rate,
        1e3 * committing,
        1e3 * opening,
        1e3 * verifying,
        proof.len()
    );
}

fn main() {
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
