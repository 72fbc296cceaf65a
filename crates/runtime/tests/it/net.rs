//! Small networks (docs/spec/nets.md): the runtime against a second, naive implementation of the text; bounds; hostile graphs.

use lockstep_base::net::{
    Format, Graph, Input, NET_OPSET, Net, NetError, Op, Shape, VALUE_MAX, Value, Window,
};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{Linear, Region, WeightFormat, code_offset};
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::net::{NetObserver, NetRunError, run};
use lockstep_runtime::observe::{Silent, Values};
use lockstep_runtime::pool::Pool;

/// A matrix with random codes; `columns` before padding.
fn matrix(rng: &mut SplitMix64, rows: usize, columns: usize, out_frac: i8, bias: bool) -> Linear {
    let cols = columns.next_multiple_of(32);
    let mut codes = vec![0u8; WeightFormat::Int8.code_bytes(rows, cols)];
    for row in 0..rows {
        for col in 0..columns {
            codes[code_offset(WeightFormat::Int8, cols, row, col)] = (rng.below(255) as i32 - 127) as u8;
        }
    }
    Linear {
        rows,
        cols,
        format: WeightFormat::Int8,
        codes: Region::from(codes),
        table_ids: Region::from(Vec::new()),
        multipliers: (0..rows).map(|_| 1 + rng.below(31) as u8).collect(),
        shifts: (0..rows).map(|_| 11 + rng.below(3) as u8).collect(),
        bias: if bias { (0..rows).map(|_| rng.below(1 << 16) as i32 - (1 << 15)).collect() } else { vec![] },
        pre_shift: (columns / 50) as u8 + rng.below(2) as u8,
        out_frac,
    }
}

fn window(kernel: [u32; 2], strides: [u32; 2], pads: [u32; 4]) -> Window {
    Window { kernel, strides, pads }
}

/// All ops: an image through two convolutions of which one is added to itself, pooled, to a vector.
fn network(rng: &mut SplitMix64) -> Net {
    let side = 7 + rng.below(6) as u32;
    let channels = 1 + rng.below(3) as u32;
    let (first, second) = (1 + rng.below(9) as u32, 1 + rng.below(6) as u32);
    let (k, stride) = (1 + rng.below(4) as u32, 1 + rng.below(2) as u32);
    let pad = rng.below(k.into()) as u32;
    let nodes = vec![
        Op::Pad { input: 0, pads: [1, 2, 0, 1] },
        Op::Quantise { input: 1 },
        Op::Conv { input: 2, weights: 0, window: window([k, 3], [1, stride], [pad, 1, 0, 2]) },
        Op::Relu { input: 3 },
        Op::Quantise { input: 4 },
        Op::Conv { input: 5, weights: 1, window: window([3, 3], [1, 1], [1, 1, 1, 1]) },
        Op::Add { left: 4, right: 6, frac: 6 },
        Op::MaxPool { input: 7, window: window([2, 3], [2, 2], [1, 1, 0, 0]) },
        Op::Flatten { input: 8 },
        Op::Quantise { input: 9 },
        Op::Linear { input: 10, weights: 2 },
        Op::Relu { input: 11 },
        Op::Quantise { input: 12 },
        Op::Linear { input: 13, weights: 3 },
    ];
    let out = |size: u32, kernel: u32, stride: u32, pads: u32| (size + pads - kernel) / stride + 1;
    let height = out(side + 1, k, 1, pad);
    let width = out(side + 3, 3, stride, 3);
    let pooled = out(height, 2, 2, 1) * out(width, 3, 2, 1) * first;
    let weights = vec![
        matrix(rng, first as usize, (k * 3 * channels) as usize, 6, true),
        matrix(rng, first as usize, (9 * first) as usize, 5, false),
        matrix(rng, second as usize, pooled as usize, -2, true),
        matrix(rng, 5, second as usize, 0, true),
    ];
    let input = Input {
        shape: Shape { height: side, width: side, channels },
        frac: 3,
        low: -(rng.below(300) as i32),
        high: 255,
    };
    Net::new(Graph { opset: NET_OPSET.into(), name: "random".into(), input, nodes }, weights)
        .expect("a network")
}

fn examples(rng: &mut SplitMix64, net: &Net, count: usize) -> Vec<i32> {
    let Input { shape, low, high, .. } = net.graph().input;
    let one = |rng: &mut SplitMix64| low + rng.below((high - low + 1) as u64) as i32;
    (0..count * shape.elements()).map(|_| one(rng)).collect()
}

/// The second implementation: integers without limits, position by position, from the text.
mod naive {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    pub(super) struct Tensor {
        pub(super) shape: Shape,
        pub(super) values: Vec<i128>,
        /// k and f of codes.
        pub(super) step: Option<(i128, i64)>,
    }

    impl Tensor {
        /// 0 outside.
        fn at(&self, y: i64, x: i64, c: u32) -> Option<i128> {
            let inside = (0..i64::from(self.shape.height)).contains(&y)
                && (0..i64::from(self.shape.width)).contains(&x);
            let index = (y * i64::from(self.shape.width) + x) * i64::from(self.shape.channels) + i64::from(c);
            inside.then(|| self.values[index as usize])
        }
    }

    fn rsh(x: i128, s: i64) -> i128 {
        if s == 0 { x } else { (x + (1 << (s - 1))).div_euclid(1 << s) }
    }

    fn scale(x: i128, s: i64) -> i128 {
        match s {
            ..0 => x << -s,
            0..=28 => rsh(x, s),
            _ => 0,
        }
    }

    fn quantise(x: &Tensor, frac: i64) -> Tensor {
        let down = |v: i128, e: i64| if e < 0 { v << -e } else { v >> e };
        let fits = |e: &i64| x.values.iter().all(|v| (-(1i128 << 15)..1 << 15).contains(&down(*v, *e)));
        let zero = x.values.iter().all(|v| *v == 0);
        let e = if zero { 0 } else { (-15..).find(fits).expect("a shift") };
        let candidates = (16i128..32).map(|k| {
            let r = ((1 << 19) + k) / (2 * k);
            let fits = |s: &i64| x.values.iter().all(|v| rsh(down(*v, e) * r, *s).abs() <= 127);
            let sh = (0..).find(fits).expect("a shift");
            (k << sh, k, r, sh)
        });
        let (_, k, r, sh) = candidates.min().expect("sixteen");
        let values = x.values.iter().map(|v| rsh(down(*v, e) * r, sh)).collect();
        Tensor { shape: x.shape, values, step: Some((k, sh + e - 14 - frac)) }
    }

    fn over_patches(x: &Tensor, w: &Linear, window: &Window, shape: Shape) -> Tensor {
        let (k, f) = x.step.expect("codes");
        let mut values = Vec::new();
        for oy in 0..shape.height {
            for ox in 0..shape.width {
                for row in 0..w.rows {
                    let (mut acc, mut col) = (0i128, 0);
                    for ky in 0..window.kernel[0] {
                        for kx in 0..window.kernel[1] {
                            for c in 0..x.shape.channels {
                                let y = i64::from(oy * window.strides[0] + ky) - i64::from(window.pads[0]);
                                let x_at = i64::from(ox * window.strides[1] + kx) - i64::from(window.pads[1]);
                                let weight = w.codes[w.code_offset(row, col)] as i8;
                                acc += i128::from(weight) * x.at(y, x_at, c).unwrap_or(0);
                                col += 1;
                            }
                        }
                    }
                    let v = rsh(acc, w.pre_shift.into()) * i128::from(w.multipliers[row]) * k;
                    let s = i64::from(w.shifts[row]) + 4 - i64::from(w.pre_shift) - f - i64::from(w.out_frac);
                    values.push(scale(v, s) + w.bias.get(row).map_or(0, |b| i128::from(*b)));
                }
            }
        }
        Tensor { shape, values, step: None }
    }

    /// Every value, the input first.
    pub(super) fn run(net: &Net, input: &[i32]) -> Vec<Tensor> {
        let values = input.iter().map(|x| i128::from(*x)).collect();
        let mut all = vec![Tensor { shape: net.graph().input.shape, values, step: None }];
        for (op, out) in net.graph().nodes.iter().zip(&net.values()[1..]) {
            let shape = out.shape;
            let places = (0..shape.height).flat_map(|y| (0..shape.width).map(move |x| (y, x)));
            let each = places.flat_map(|(y, x)| (0..shape.channels).map(move |c| (y, x, c)));
            let made = |f: &dyn Fn(u32, u32, u32) -> i128| Tensor {
                shape,
                values: each.clone().map(|(y, x, c)| f(y, x, c)).collect(),
                step: None,
            };
            let frac = |value: u32| i64::from(net.values()[value as usize].frac);
            let next = match op {
                Op::Pad { input, pads } => {
                    let of = &all[*input as usize];
                    let shifted = |v: u32, pad: u32| i64::from(v) - i64::from(pad);
                    made(&|y, x, c| of.at(shifted(y, pads[0]), shifted(x, pads[1]), c).unwrap_or(0))
                }
                Op::Quantise { input } => quantise(&all[*input as usize], frac(*input)),
                Op::Linear { input, weights } => {
                    let one = window([1, 1], [1, 1], [0; 4]);
                    over_patches(&all[*input as usize], &net.weights()[*weights as usize], &one, shape)
                }
                Op::Conv { input, weights, window } => {
                    over_patches(&all[*input as usize], &net.weights()[*weights as usize], window, shape)
                }
                Op::Relu { input } => {
                    let of = &all[*input as usize];
                    made(&|y, x, c| of.at(y.into(), x.into(), c).expect("inside").max(0))
                }
                Op::MaxPool { input, window } => {
                    let of = &all[*input as usize];
                    made(&|y, x, c| {
                        let offsets =
                            (0..window.kernel[0]).flat_map(|a| (0..window.kernel[1]).map(move |b| (a, b)));
                        let seen = offsets.filter_map(|(a, b)| {
                            let y = i64::from(y * window.strides[0] + a) - i64::from(window.pads[0]);
                            of.at(y, i64::from(x * window.strides[1] + b) - i64::from(window.pads[1]), c)
                        });
                        seen.max().expect("a window sees the image")
                    })
                }
                Op::Flatten { input } => {
                    let of = &all[*input as usize];
                    made(&|_, _, i| {
                        let (places, width) = (of.shape.height * of.shape.width, of.shape.width);
                        let (c, place) = (i / places, i % places);
                        of.at((place / width).into(), (place % width).into(), c).expect("inside")
                    })
                }
                Op::Add { left, right, frac: to } => {
                    let (a, b) = (&all[*left as usize], &all[*right as usize]);
                    let (s, t) = (frac(*left) - i64::from(*to), frac(*right) - i64::from(*to));
                    let pairs = a.values.iter().zip(&b.values);
                    Tensor {
                        shape,
                        values: pairs.map(|(x, y)| scale(*x, s) + scale(*y, t)).collect(),
                        step: None,
                    }
                }
            };
            all.push(next);
        }
        all
    }
}

/// Compares every output with the naive one, and with the proved bounds.
struct Against<'a> {
    net: &'a Net,
    expected: &'a [Vec<naive::Tensor>],
    seed: u64,
    seen: usize,
}

impl NetObserver for Against<'_> {
    fn output(&mut self, node: usize, example: usize, values: Values<'_>) {
        let expected = &self.expected[example][node + 1];
        let got = match values {
            Values::I32(x) => (x.iter().map(|v| i128::from(*v)).collect(), None),
            Values::Codes8(x, step) => {
                (x.iter().map(|v| i128::from(*v)).collect(), Some((step.k.into(), i64::from(step.f))))
            }
            other => panic!("{other:?}"),
        };
        let of = self.net.graph().nodes[node];
        assert_eq!(got, (expected.values.clone(), expected.step), "seed {}, node {node} {of:?}", self.seed);
        self.seen += 1;
        within_bounds(
            &self.net.values()[node + 1],
            expected,
            &format!("seed {}, node {node} {of:?}", self.seed),
        );
    }
}

/// Claim of section 4: every value, and what every code means, lies in the proved bounds.
fn within_bounds(value: &Value, tensor: &naive::Tensor, place: &str) {
    let (low, high) = (i128::from(value.low), i128::from(value.high));
    match tensor.step {
        None => assert!(tensor.values.iter().all(|x| (low..=high).contains(x)), "{place}"),
        Some((k, f)) => {
            // code * k/16 * 2^f in units of 2^-frac, times 2^40 to stay exact.
            let slack = ((high.max(-low) / 128) + 1) << 40;
            let shift = 36 + f + i64::from(value.frac);
            let means = |code: &i128| (code * k) << shift;
            let ok = |m: i128| m <= (high.max(0) << 40) + slack && m >= (low.min(0) << 40) - slack;
            assert!(tensor.values.iter().all(|code| ok(means(code))), "{place}: {value:?}");
        }
    }
}

/// Sections 2 and 3: every op of random networks against the naive implementation, on every kernel, with 1 and 3
/// threads; a batch gives what its examples give alone.
#[test]
fn every_op_equals_the_naive_one_on_all_kernels_threads_and_batches() {
    for seed in 0..24 {
        let mut rng = SplitMix64::new(seed);
        let net = network(&mut rng);
        let input = examples(&mut rng, &net, 3);
        let one = net.graph().input.shape.elements();
        let expected: Vec<_> = input.chunks(one).map(|x| naive::run(&net, x)).collect();
        for kernel in Kernel::available() {
            for threads in [1, 3] {
                let compute = Compute { kernel, pool: Pool::new(threads) };
                let mut check = Against { net: &net, expected: &expected, seed, seen: 0 };
                let batch = run(&compute, &net, &input, &mut check).expect("a run");
                assert_eq!(check.seen, 3 * net.graph().nodes.len());
                let alone: Vec<i32> = input
                    .chunks(one)
                    .flat_map(|x| run(&compute, &net, x, &mut Silent).expect("a run"))
                    .collect();
                assert_eq!(batch, alone, "seed {seed}, {kernel}, {threads} threads");
            }
        }
    }
}

/// More examples than are computed at a time: chunks change nothing.
#[test]
fn chunks_of_a_batch_change_nothing() {
    let mut rng = SplitMix64::new(7);
    let net = network(&mut rng);
    let compute = Compute::new(1);
    let input = examples(&mut rng, &net, 300);
    let one = net.graph().input.shape.elements();
    let batch = run(&compute, &net, &input, &mut Silent).expect("a run");
    let alone: Vec<i32> =
        input.chunks(one).flat_map(|x| run(&compute, &net, x, &mut Silent).expect("a run")).collect();
    assert_eq!(batch, alone);
    assert_eq!(run(&compute, &net, &[], &mut Silent), Ok(vec![]));
}

/// Section 4: extreme inputs, chosen by the signs of the weights, stay within bounds that are not much too wide.
#[test]
fn extreme_inputs_come_close_to_the_bounds_and_stay_within() {
    for seed in 0..50 {
        let mut rng = SplitMix64::new(seed);
        let rows = 1 + rng.below(5) as usize;
        let (columns, out_frac) = (1 + rng.below(90) as usize, rng.below(12) as i8);
        let linear = matrix(&mut rng, rows, columns, out_frac, true);
        let (low, high) = (-(rng.below(5000) as i32), rng.below(5000) as i32);
        let input = Input { shape: Shape::vector(columns as u32), frac: 4, low, high };
        let nodes = vec![Op::Quantise { input: 0 }, Op::Linear { input: 1, weights: 0 }];
        let graph = Graph { opset: NET_OPSET.into(), name: String::new(), input, nodes };
        let net = Net::new(graph, vec![linear]).expect("a network");
        let (mut most, mut least) = (i64::MIN, i64::MAX);
        for row in 0..rows {
            for sign in [1, -1] {
                let weights = net.weights()[0].row_weights(row, &[]);
                let pick = |w: &i8| if i32::from(*w) * sign > 0 { high } else { low };
                let x: Vec<i32> = weights[..columns].iter().map(pick).collect();
                for y in run(&Compute::new(1), &net, &x, &mut Silent).expect("a run") {
                    (most, least) = (most.max(y.into()), least.min(y.into()));
                }
            }
        }
        let output = net.output();
        assert!(output.low <= least && most <= output.high, "seed {seed}: {least}..{most} {output:?}");
        // Bounds of a layer are those of its inputs and 1/128 more, plus rounding.
        let (met, proved) = (most - least, output.high - output.low);
        assert!(
            proved as f64 <= met as f64 * 1.05 + 40.0 + f64::from(high - low),
            "seed {seed}: {met} {proved}"
        );
    }
}

struct Flip;

impl NetObserver for Flip {
    fn output(&mut self, node: usize, _: usize, mut values: Values<'_>) {
        if node == 3 {
            values.flip(0, 20);
        }
    }
}

/// What an observer leaves behind is what the next ops read: drills work on networks too.
#[test]
fn a_flipped_bit_changes_the_answer_or_is_a_range_error() {
    let mut changed = 0;
    for seed in 0..10 {
        let mut rng = SplitMix64::new(seed);
        let net = network(&mut rng);
        let input = examples(&mut rng, &net, 1);
        let compute = Compute::new(1);
        let honest = run(&compute, &net, &input, &mut Silent);
        changed += usize::from(run(&compute, &net, &input, &mut Flip) != honest);
    }
    assert!(changed >= 8, "{changed} of 10");
}

#[test]
fn inputs_outside_the_declared_bounds_are_refused() {
    let mut rng = SplitMix64::new(1);
    let net = network(&mut rng);
    let Input { low, high, .. } = net.graph().input;
    let mut input = examples(&mut rng, &net, 2);
    let one = input.len() / 2;
    input[one + 3] = high + 1;
    let refused = NetRunError::Input { example: 1, element: 3, got: high + 1, low, high };
    assert_eq!(run(&Compute::new(1), &net, &input, &mut Silent), Err(refused));
    let short = run(&Compute::new(1), &net, &input[1..], &mut Silent);
    assert_eq!(short, Err(NetRunError::Length { got: 2 * one - 1, expected: one }));
}

/// What a changed byte of a graph or a matrix may do: a network that runs, or an error; never a panic.
#[test]
fn mutated_networks_run_or_are_refused() {
    let mut refused = 0;
    for seed in 0..400u64 {
        let mut rng = SplitMix64::new(seed);
        let net = network(&mut rng);
        let (mut graph, mut weights) = (net.graph().clone(), net.weights().to_vec());
        let mut bytes = lockstep_base::cbor::encode(&graph);
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        if seed % 2 == 0 {
            match lockstep_base::cbor::decode("graph", &bytes) {
                Ok(other) => graph = other,
                Err(_) => continue,
            }
        } else {
            let linear = &mut weights[seed as usize % 4];
            match rng.below(6) {
                0 => linear.rows += 1,
                1 => linear.shifts[0] = rng.below(70) as u8,
                2 => linear.out_frac = rng.next_u64() as i8,
                3 => linear.pre_shift = rng.below(40) as u8,
                4 => linear.multipliers[0] = rng.next_u64() as u8,
                _ => linear.bias = vec![rng.next_u64() as i32; linear.rows],
            }
        }
        match Net::new(graph, weights) {
            Ok(net) if net.values().iter().map(|v| v.shape.elements()).sum::<usize>() < 1 << 18 => {
                let input = vec![net.graph().input.high; net.graph().input.shape.elements()];
                let out = run(&Compute::new(1), &net, &input, &mut Silent);
                out.unwrap_or_else(|error| panic!("seed {seed}: a proved bound does not hold: {error}"));
            }
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "{refused}");
}

/// One error a check.
#[test]
fn each_check_has_its_error() {
    let base = || {
        let mut rng = SplitMix64::new(3);
        let linear = matrix(&mut rng, 4, 10, 4, true);
        let input = Input { shape: Shape::vector(10), frac: 0, low: -100, high: 100 };
        let nodes = vec![Op::Quantise { input: 0 }, Op::Linear { input: 1, weights: 0 }];
        (Graph { opset: NET_OPSET.into(), name: "n".into(), input, nodes }, vec![linear])
    };
    let (graph, weights) = base();
    let whole = Net::new(graph, weights).expect("a network");
    assert_eq!((whole.output().format, whole.products()), (Format::Fixed, 40));
    type Change = fn(&mut Graph, &mut Vec<Linear>);
    let cases: [(&str, Change); 17] = [
        ("Opset", |g, _| g.opset = "other".into()),
        ("Name", |g, _| g.name = "n".repeat(200)),
        ("Nodes", |g, w| (g.nodes, *w) = (vec![], vec![])),
        ("InputBounds", |g, _| g.input.low = 101),
        ("InputBounds", |g, _| g.input.high = VALUE_MAX as i32 + 1),
        ("Frac", |g, _| g.input.frac = 25),
        ("Elements", |g, _| g.input.shape = Shape { height: 1 << 31, width: 1 << 31, channels: 1 << 31 }),
        ("Elements", |g, _| g.input.shape.channels = 0),
        ("Order", |g, _| g.nodes[0] = Op::Quantise { input: 1 }),
        ("Format", |g, _| g.nodes[1] = Op::Linear { input: 0, weights: 0 }),
        ("Shape", |g, _| g.input.shape = Shape { height: 2, width: 5, channels: 1 }),
        ("Window", |g, _| g.nodes[0] = Op::MaxPool { input: 0, window: window([2, 1], [1, 1], [0; 4]) }),
        ("WeightOrder", |g, _| g.nodes[1] = Op::Linear { input: 1, weights: 1 }),
        ("WeightCount", |_, w| w.push(w[0].clone())),
        ("Weights", |_, w| w[0].multipliers[0] = 32),
        ("Weights", |_, w| w[0].codes = Region::from(vec![0x80; w[0].codes.len()])),
        ("Unbounded", |_, w| (w[0].shifts[0], w[0].out_frac) = (0, 20)),
    ];
    for (expected, change) in cases {
        let (mut graph, mut weights) = base();
        change(&mut graph, &mut weights);
        let error: NetError = Net::new(graph, weights).expect_err(expected);
        assert!(format!("{error:?}").starts_with(expected), "expected {expected}, got {error:?}");
    }
}

/// The root binds graph and weights.
#[test]
fn every_part_changes_the_root() {
    let net = network(&mut SplitMix64::new(5));
    let root = net.root();
    let with = |change: &dyn Fn(&mut Graph, &mut Vec<Linear>)| {
        let (mut graph, mut weights) = (net.graph().clone(), net.weights().to_vec());
        change(&mut graph, &mut weights);
        Net::new(graph, weights).expect("a network").root()
    };
    assert_eq!(with(&|_, _| ()), root);
    assert_ne!(with(&|graph, _| graph.name.push('x')), root);
    assert_ne!(with(&|_, weights| weights[0].bias[0] += 1), root);
    assert_ne!(with(&|_, weights| weights[1].multipliers[0] ^= 1), root);
}
