//! How fast the kernels are, against the two things that bound them: memory (decode: one token,
//! every weight read once) and multipliers (prefill: many tokens).
//!
//! ```text
//! cargo bench -p lockstep-runtime --bench kernels -- [--threads N] [--mib N] [--tokens N] [--kernel NAME]
//! ```
//!
//! GB/s counts the packed weights, table ids included, for one token and for 8 (a batch of
//! sequences); TOPS counts a multiplication and an addition as two. Each figure is the best of
//! several runs of a whole linear layer, requantisation included.

use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{GROUP_COLS, Linear, PANEL_ROWS, Region, WeightFormat};
use lockstep_runtime::arith::{Extent, RHO_ONE, Step, choose_cut};
use lockstep_runtime::kernels::{Compute, Kernel, codes, extent, hadamard, linear, scores, weighted_values};
use lockstep_runtime::pool::Pool;
use std::time::{Duration, Instant};

/// Columns of the benchmarked layers.
const COLS: usize = 2048;
/// How long each figure is measured for.
const BUDGET: Duration = Duration::from_millis(600);
/// int4 tables: as many as a bundle has.
const TABLES: u64 = 336;

fn main() {
    let options = Options::parse();
    println!(
        "threads {}, {} MiB of weights, {} tokens, {COLS} columns",
        options.threads, options.mib, options.tokens
    );
    println!(
        "{:8} {:5} {:>12} {:>12} {:>13} {:>13}",
        "kernel", "bits", "decode GB/s", "8 seqs GB/s", "32-token TOPS", "prefill TOPS"
    );
    for kernel in &options.kernels {
        for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16] {
            layer(&options, *kernel, format);
        }
    }
    println!(
        "\n{:8} {:>16} {:>16} {:>16} {:>16} {:>16}",
        "kernel", "scores", "weighted sums", "hadamard 128", "extent", "codes"
    );
    for kernel in &options.kernels {
        vectors(*kernel);
    }
}

struct Options {
    threads: usize,
    mib: usize,
    tokens: usize,
    kernels: Vec<Kernel>,
}

impl Options {
    fn parse() -> Options {
        let mut options = Options { threads: 1, mib: 256, tokens: 512, kernels: Kernel::available() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| exit(&format!("{arg} needs a value")));
            let number = |text: String| {
                text.parse::<usize>().unwrap_or_else(|_| exit(&format!("{text:?} is not a number")))
            };
            match arg.as_str() {
                "--threads" => options.threads = number(value()).max(1),
                "--mib" => options.mib = number(value()).max(1),
                "--tokens" => options.tokens = number(value()).max(1),
                "--kernel" => match value().parse() {
                    Ok(kernel) => options.kernels = vec![kernel],
                    Err(error) => exit(&error.to_string()),
                },
                // What cargo adds.
                "--bench" => {}
                _ => exit(&format!("unknown option {arg}, expected --threads, --mib, --tokens or --kernel")),
            }
        }
        options
    }
}

fn exit(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}

/// The shortest of at least three runs.
fn best(mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || begin.elapsed() < BUDGET {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// One linear layer: as large as asked for one token, 2048 rows for many.
fn layer(options: &Options, kernel: Kernel, format: WeightFormat) {
    // The specification is for reading: it gets a small share.
    let share = if kernel == Kernel::Scalar { 64 } else { 1 };
    let compute = Compute { kernel, pool: Pool::new(options.threads) };
    let per_row = format.code_bytes(PANEL_ROWS, COLS) / PANEL_ROWS;
    let decode_rows = ((options.mib << 20) / share / per_row).next_multiple_of(64);
    let rate = |tokens: usize| {
        let mut layer = Layer::new(format, decode_rows, tokens);
        let bytes = layer.weights.codes.len() + layer.weights.table_ids.len();
        bytes as f64 / 1e9 / best(|| layer.run(&compute))
    };
    let [one, eight] = [1, 8].map(rate);
    // Two planes take two multiplications a weight, and are counted so.
    let planes = if format == WeightFormat::Int16 { 2 } else { 1 };
    let speed = |tokens: usize| {
        let mut layer = Layer::new(format, 2048, tokens);
        let operations = (2 * 2048 * COLS * tokens * planes) as f64 / 1e12;
        operations / best(|| layer.run(&compute))
    };
    let [few, many] = [32usize, options.tokens].map(|tokens| speed(tokens.div_ceil(share)));
    let bits = match format {
        WeightFormat::Int4 => 4,
        WeightFormat::Int8 => 8,
        WeightFormat::Int16 => 16,
    };
    println!("{kernel:8} {bits:<5} {one:12.1} {eight:12.1} {few:13.3} {many:13.3}");
}

struct Layer {
    weights: Linear,
    tables: Vec<[i8; 16]>,
    x: Vec<i8>,
    steps: Vec<Step>,
    out: Vec<i32>,
}

impl Layer {
    fn new(format: WeightFormat, rows: usize, tokens: usize) -> Layer {
        let mut rng = SplitMix64::new(1);
        let mut codes = vec![0; format.code_bytes(rows, COLS)];
        rng.fill(&mut codes);
        let ids = match format {
            WeightFormat::Int8 | WeightFormat::Int16 => 0,
            WeightFormat::Int4 => rows * COLS / GROUP_COLS,
        };
        let table_ids: Vec<u8> = (0..ids).flat_map(|_| (rng.below(TABLES) as u16).to_le_bytes()).collect();
        let mut bytes = |n: usize| (0..n).map(|_| (rng.below(255) as i64 - 127) as i8).collect::<Vec<i8>>();
        let tables = (0..TABLES).map(|_| bytes(16).try_into().expect("16 entries")).collect();
        let x = bytes(tokens * COLS);
        let weights = Linear {
            rows,
            cols: COLS,
            format,
            codes: Region::from(codes),
            table_ids: Region::from(table_ids),
            multipliers: vec![21; rows],
            shifts: vec![20; rows],
            bias: Vec::new(),
            pre_shift: 3,
            out_frac: 0,
        };
        let (steps, out) = (vec![Step { k: 20, f: 0 }; tokens], vec![0; rows * tokens]);
        Layer { weights, tables, x, steps, out }
    }

    fn run(&mut self, compute: &Compute) {
        linear(compute, &self.weights, &self.tables, &self.x, &self.steps, &mut self.out).expect("in range");
        std::hint::black_box(&self.out);
    }
}

/// The loops over vectors, in cache: elements per nanosecond on one thread.
fn vectors(kernel: Kernel) {
    const ROUNDS: usize = 64;
    let (dim, n) = (64, 256);
    let mut rng = SplitMix64::new(2);
    let q: Vec<i16> = (0..dim).map(|_| rng.below(4095) as i16 - 2047).collect();
    let keys: Vec<i16> = (0..n * dim).map(|_| rng.below(4095) as i16 - 2047).collect();
    let values: Vec<i8> = (0..n * dim).map(|_| (rng.below(255) as i64 - 127) as i8).collect();
    let p: Vec<i32> = (0..n).map(|_| rng.below(32_769) as i32).collect();
    let x: Vec<i32> = (0..n * dim).map(|_| rng.next_u64() as i32 >> 12).collect();
    let (mut scored, mut weighted, mut z, mut cut) = (vec![0; n], vec![0; dim], x.clone(), vec![0; x.len()]);
    let step = choose_cut(Extent::of(&x), RHO_ONE, 0);
    let rate = |run: &mut dyn FnMut()| {
        let seconds = best(|| (0..ROUNDS).for_each(|_| run()));
        format!("{:.1} per ns", (ROUNDS * n * dim) as f64 / seconds / 1e9)
    };
    let rates = [
        rate(&mut || scores(kernel, &q, std::hint::black_box(&keys), &mut scored)),
        rate(&mut || weighted_values(kernel, &p, std::hint::black_box(&values), &mut weighted)),
        rate(&mut || z.chunks_mut(128).for_each(|block| hadamard(kernel, block))),
        rate(&mut || _ = std::hint::black_box(extent(kernel, std::hint::black_box(&x)))),
        rate(&mut || codes(kernel, std::hint::black_box(&x), &step, &mut cut)),
    ];
    std::hint::black_box((&scored, &weighted, &z, &cut));
    let [a, b, c, d, e] = rates;
    println!("{kernel:8} {a:>16} {b:>16} {c:>16} {d:>16} {e:>16}");
}
