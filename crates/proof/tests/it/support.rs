//! Networks to prove: those of this repository, and random dense ones.

use lockstep_base::net::{Builder, Input, Net, Op, Shape, Window};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{Linear, Region, WeightFormat, code_offset};
use lockstep_model::net::{InputFormat, quantise};
use lockstep_model::onnx::{Prepare, import};
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::pool::Pool;

/// Iris enters in tenths of a centimetre.
const TENTHS: InputFormat = InputFormat { frac: 0, low: 0, high: 100 };
const OLS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/iris/iris-ols.onnx"));
const MLP: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/iris/iris-mlp.onnx"));

/// The network of one of our Iris models.
fn iris(name: &str, file: &[u8]) -> Net {
    let float = import(name, file, &Prepare { scale: 0.1, ..Prepare::NONE }).expect("our own file");
    quantise(&float, TENTHS).expect("a network")
}

/// Least squares, 4 to 1.
pub(crate) fn iris_ols() -> Net {
    iris("iris-ols", OLS)
}

/// 4-20-20-3 with ReLU.
pub(crate) fn iris_mlp() -> Net {
    iris("iris-mlp", MLP)
}

/// One thread, the specification's kernel.
pub(crate) fn compute() -> Compute {
    Compute { kernel: Kernel::Scalar, pool: Pool::new(1) }
}

/// Weights of magnitudes up to `largest`.
fn matrix(
    rng: &mut SplitMix64,
    rows: usize,
    columns: usize,
    largest: i32,
    pre_shift: u8,
    out_frac: i8,
) -> Linear {
    let linear = filled(rows, columns, || (rng.below(2 * largest as u64 + 1) as i32 - largest) as i8);
    Linear {
        multipliers: (0..rows).map(|_| 16 + rng.below(16) as u8).collect(),
        shifts: (0..rows).map(|_| 11 + rng.below(3) as u8).collect(),
        bias: (0..rows).map(|_| rng.below(1 << 10) as i32 - (1 << 9)).collect(),
        pre_shift,
        out_frac,
        ..linear
    }
}

/// A matrix of the codes that `code` gives, row after row, with scales of 2^-10 and nothing else.
pub(crate) fn filled(rows: usize, columns: usize, mut code: impl FnMut() -> i8) -> Linear {
    let cols = columns.next_multiple_of(32);
    let mut codes = vec![0u8; WeightFormat::Int8.code_bytes(rows, cols)];
    for row in 0..rows {
        for col in 0..columns {
            codes[code_offset(WeightFormat::Int8, cols, row, col)] = code() as u8;
        }
    }
    Linear {
        rows,
        cols,
        format: WeightFormat::Int8,
        codes: Region::from(codes),
        table_ids: Region::from(Vec::new()),
        multipliers: vec![1; rows],
        shifts: vec![10; rows],
        bias: Vec::new(),
        pre_shift: 0,
        out_frac: 0,
    }
}

/// A random dense network with these widths; static shifts of 0 to 3 bits; inputs on both sides of 0. Some layers have
/// small weights and outputs as fine as their bounds allow: then shifts go to the left.
pub(crate) fn dense(rng: &mut SplitMix64, widths: &[usize]) -> Net {
    loop {
        let high = 1 << (1 + rng.below(16));
        let input = Input { shape: Shape::vector(widths[0] as u32), frac: 3, low: -(high / 2), high };
        let mut builder = Builder::new("dense", input).expect("an input");
        let mut fits = true;
        for (layer, pair) in widths.windows(2).enumerate() {
            let value = builder.values().len() as u32 - 1;
            if layer > 0 {
                builder.push(Op::Relu { input: value }, None).expect("a node");
            }
            let value = builder.values().len() as u32 - 1;
            builder.push(Op::Quantise { input: value }, None).expect("a node");
            let op = Op::Linear { input: value + 1, weights: layer as u32 };
            let finest = rng.below(3) == 0;
            let (pre_shift, frac) = (rng.below(4) as u8, rng.below(12) as i8 - 6);
            let mut linear = matrix(rng, pair[1], pair[0], if finest { 1 } else { 127 }, pre_shift, frac);
            if finest {
                linear.pre_shift = 0;
                linear.out_frac = 24;
                while linear.out_frac > -24 && builder.check(&op, Some(&linear)).is_err() {
                    linear.out_frac -= 1;
                }
            }
            // Some formats leave 32 bits; then another network is drawn.
            fits = fits && builder.push(op, Some(linear)).is_ok();
            if !fits {
                break;
            }
        }
        if fits {
            return builder.finish().expect("a network");
        }
    }
}

/// A random convolutional network with every op: padding of the image and of windows, strides, overlapping and partial
/// windows, a sum of two branches, a vector at the end.
pub(crate) fn convolutional(rng: &mut SplitMix64) -> Net {
    loop {
        let input = Input { shape: Shape { height: 5, width: 4, channels: 2 }, frac: 0, low: -60, high: 200 };
        let mut builder = Builder::new("convolutional", input).expect("an input");
        let wide = Window { kernel: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1] };
        let pool = Window { kernel: [2, 3], strides: [2, 1], pads: [1, 0, 0, 1] };
        let narrow = Window { kernel: [2, 2], strides: [1, 2], pads: [0; 4] };
        let mut matrix = |rows, columns, frac| matrix(rng, rows, columns, 90, 1, frac);
        let ops: Vec<(Op, Option<Linear>)> = vec![
            (Op::Pad { input: 0, pads: [1, 0, 0, 1] }, None),
            (Op::Quantise { input: 1 }, None),
            (Op::Conv { input: 2, weights: 0, window: wide }, Some(matrix(3, 18, -2))),
            (Op::Conv { input: 2, weights: 1, window: wide }, Some(matrix(3, 18, -3))),
            (Op::Relu { input: 3 }, None),
            (Op::Add { left: 5, right: 4, frac: -4 }, None),
            (Op::MaxPool { input: 6, window: pool }, None),
            (Op::Quantise { input: 7 }, None),
            (Op::Conv { input: 8, weights: 2, window: narrow }, Some(matrix(2, 12, -6))),
            (Op::Flatten { input: 9 }, None),
            (Op::Quantise { input: 10 }, None),
        ];
        let mut fits = true;
        for (op, linear) in ops {
            fits = fits && builder.push(op, linear).is_ok();
        }
        let elements = builder.values().last().map_or(0, |value| value.shape.elements());
        let last = matrix(3, elements.max(1), -10);
        fits = fits && builder.push(Op::Linear { input: 11, weights: 3 }, Some(last)).is_ok();
        if fits {
            return builder.finish().expect("a network");
        }
    }
}

/// Random inputs of some examples, of very different sizes.
pub(crate) fn inputs(rng: &mut SplitMix64, net: &Net, examples: usize) -> Vec<i32> {
    let Input { shape, low, high, .. } = net.graph().input;
    let mut all = Vec::new();
    for _ in 0..examples {
        let shrink = rng.below(20) as u32;
        for _ in 0..shape.elements() {
            let x = i64::from(low) + rng.below((i64::from(high) - i64::from(low) + 1) as u64) as i64;
            all.push(((x >> shrink) as i32).clamp(low, high));
        }
    }
    all
}
