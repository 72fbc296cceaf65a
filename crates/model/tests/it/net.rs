//! Small networks: float reference, quantisation without data, the file; on trained networks where data are at hand.

use crate::onnx::{conv_net, dense_net, prepared_lenet};
use crate::source_data::data;
use lockstep_base::net::{Graph, Net, Op, Shape, Window};
use lockstep_base::rng::SplitMix64;
use lockstep_model::net::{
    Affine, FILE_BYTES_MAX, FloatNet, FloatNetError, FloatOp, Idx, IdxError, InputFormat, NetFileError,
    QuantiseNetError, quantise, read, read_idx, write,
};
use lockstep_model::onnx::{Prepare, import};
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model of this repository.
fn model(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/iris").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

fn outputs(net: &Net, input: &[i32]) -> Vec<i32> {
    run(&Compute::new(2), net, input, &mut Silent).expect("a run")
}

/// Outputs in real units.
fn real(net: &Net, outputs: &[i32]) -> Vec<f64> {
    let unit = (-f64::from(net.output().frac)).exp2();
    outputs.iter().map(|y| f64::from(*y) * unit).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The reference itself: ops in the order of the ONNX specification, computed by hand.
#[test]
fn the_reference_computes_what_onnx_defines() {
    let affine = |rows: usize, weights: &[f32], bias: &[f32]| {
        let (weights, bias) = (weights.to_vec(), bias.to_vec());
        Arc::new(Affine { rows, cols: weights.len() / rows, weights, bias })
    };
    // Two channels of 2 by 3.
    let x: Vec<f64> = (1..=12).map(f64::from).collect();
    let mut net = FloatNet::new("n", Shape { height: 2, width: 3, channels: 2 }).unwrap();
    let window = Window { kernel: [2, 2], strides: [1, 2], pads: [1, 0, 0, 1] };
    let weights = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0];
    let conv = net.push(FloatOp::Conv { input: 0, affine: affine(1, &weights, &[0.5]), window }).unwrap();
    // Rows -1..1, columns 0..2 and 2..4: w00 of channel 0 plus ten times w11 of channel 1.
    let values = net.values(&x).unwrap();
    assert_eq!(values[conv], [0.0 + 80.5, 0.5, 1.0 + 110.5, 3.5]);
    let pool = Window { kernel: [2, 2], strides: [2, 2], pads: [0, 1, 0, 0] };
    net.push(FloatOp::MaxPool { input: 0, window: pool }).unwrap();
    assert_eq!(net.output(&x).unwrap(), [4.0, 6.0, 10.0, 12.0]);
    net.push(FloatOp::Pad { input: 0, pads: [1, 0, 0, 1] }).unwrap();
    assert_eq!(net.output(&x).unwrap()[..8], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
    net.push(FloatOp::Flatten { input: 0 }).unwrap();
    assert_eq!(net.output(&x).unwrap(), x);
}

/// Networks with random weights of both kinds: the integers follow the floats. The check would see a mistake in the
/// order of columns, in a bias or in a scale.
#[test]
fn integers_follow_floats_on_random_networks() {
    for seed in 0..12 {
        let mut rng = SplitMix64::new(seed);
        for float in [dense_net(&mut rng), conv_net(&mut rng)] {
            let net = quantise(&float, InputFormat::BYTES).expect("bounds");
            let elements = float.shapes()[0].elements();
            let (mut floats, mut integers) = (Vec::new(), Vec::new());
            for _ in 0..16 {
                // The integer network takes images channel-last.
                let image: Vec<i32> = (0..elements).map(|_| rng.below(256) as i32).collect();
                let Shape { channels, .. } = float.shapes()[0];
                let places = elements / channels as usize;
                let at = |i: usize| f64::from(image[i % places * channels as usize + i / places]);
                floats.extend(float.output(&(0..elements).map(at).collect::<Vec<_>>()).unwrap());
                integers.extend(real(&net, &outputs(&net, &image)));
            }
            let similar = cosine(&floats, &integers);
            assert!(similar > 0.999, "seed {seed}, {}: cosine {similar}", float.name());
        }
    }
}

/// Changing what a check is for is seen by it: a wrong bias, a wrong weight, two channels exchanged.
#[test]
fn the_comparison_sees_mistakes() {
    let mut rng = SplitMix64::new(3);
    let float = conv_net(&mut rng);
    let net = quantise(&float, InputFormat::BYTES).unwrap();
    let elements = float.shapes()[0].elements();
    let image: Vec<i32> = (0..elements).map(|_| rng.below(256) as i32).collect();
    let honest = real(&net, &outputs(&net, &image));
    let mut mistakes: Vec<Vec<lockstep_base::weights::Linear>> = Vec::new();
    let change = |change: &dyn Fn(&mut lockstep_base::weights::Linear)| {
        let mut weights = net.weights().to_vec();
        change(&mut weights[0]);
        weights
    };
    mistakes.push(change(&|linear| linear.multipliers[0] = 47 - linear.multipliers[0]));
    mistakes.push(change(&|linear| linear.shifts.swap(0, 1)));
    mistakes.push(change(&|linear| linear.bias.clear()));
    let seen = mistakes.into_iter().filter(|weights| {
        let Ok(wrong) = Net::new(net.graph().clone(), weights.clone()) else { return true };
        outputs(&wrong, &image) != outputs(&net, &image)
    });
    assert!(seen.count() >= 2);
    assert!(honest.iter().any(|y| *y != 0.0));
}

#[test]
fn what_cannot_be_quantised_is_refused_by_name() {
    let dense = |weight: f32| {
        let mut net = FloatNet::new("n", Shape::vector(2)).unwrap();
        let affine = Affine { rows: 1, cols: 2, weights: vec![weight, 0.0], bias: vec![0.0] };
        net.push(FloatOp::Linear { input: 0, affine: Arc::new(affine) }).unwrap();
        net
    };
    assert!(quantise(&dense(3000.0), InputFormat::BYTES).is_ok());
    let large = quantise(&dense(4000.0), InputFormat::BYTES);
    assert!(matches!(large, Err(QuantiseNetError::Weight { op: 0, row: 0, .. })), "{large:?}");
    let huge = quantise(&dense(3000.0), InputFormat { frac: -24, low: 0, high: 1 << 29 });
    assert!(matches!(huge, Err(QuantiseNetError::Net { .. })), "{huge:?}");
    let mut scaled = FloatNet::new("n", Shape::vector(2)).unwrap();
    scaled.push(FloatOp::Relu { input: 0 }).unwrap();
    scaled.push(FloatOp::Scale { input: 1, factor: 0.1 }).unwrap();
    let unit = quantise(&scaled, InputFormat::BYTES);
    assert!(matches!(unit, Err(QuantiseNetError::Output { .. })), "{unit:?}");
    scaled.push(FloatOp::Add { left: 1, right: 2 }).unwrap();
    assert!(matches!(quantise(&scaled, InputFormat::BYTES), Err(QuantiseNetError::Units { .. })));
    let nan =
        FloatNet::new("n", Shape::vector(2)).unwrap().push(FloatOp::Scale { input: 0, factor: f64::NAN });
    assert!(matches!(nan, Err(FloatNetError::NotFinite { .. })));
}

/// A sum of two paths (a residual connection) keeps what both say.
#[test]
fn residual_sums_are_exact_in_their_format() {
    let mut rng = SplitMix64::new(9);
    let mut uniform = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.below(2001) as f32 / 1e3 - 1.0).collect() };
    let mut float = FloatNet::new("residual", Shape::vector(8)).unwrap();
    let mut dense = |net: &mut FloatNet, input| {
        let affine = Affine { rows: 8, cols: 8, weights: uniform(64), bias: uniform(8) };
        net.push(FloatOp::Linear { input, affine: Arc::new(affine) }).unwrap()
    };
    let first = dense(&mut float, 0);
    let relu = float.push(FloatOp::Relu { input: first }).unwrap();
    let second = dense(&mut float, relu);
    float.push(FloatOp::Add { left: first, right: second }).unwrap();
    let net = quantise(&float, InputFormat::BYTES).unwrap();
    assert!(matches!(net.graph().nodes.last(), Some(Op::Add { .. })));
    let x = [3, 200, 0, 17, 99, 255, 1, 128];
    let floats = float.output(&x.map(f64::from)).unwrap();
    assert!(cosine(&floats, &real(&net, &outputs(&net, &x))) > 0.9995);
}

#[test]
fn files_are_read_back_and_every_changed_bit_is_refused_or_another_root() {
    let net = quantise(&conv_net(&mut SplitMix64::new(1)), InputFormat::BYTES).unwrap();
    let bytes = write(&net);
    let root = net.root();
    assert_eq!(read(&bytes, Some(&root)).expect("a file").root(), root);
    let mut rng = SplitMix64::new(2);
    for _ in 0..600 {
        let mut changed = bytes.clone();
        let at = rng.below(bytes.len() as u64) as usize;
        changed[at] ^= 1 << rng.below(8);
        let error = read(&changed, Some(&root)).expect_err("a changed file");
        // What is read at all is another network.
        if let Ok(other) = read(&changed, None) {
            assert!(matches!(error, NetFileError::Root { .. }), "{error}");
            assert_ne!(other.root(), root, "byte {at}");
        }
    }
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len], None).is_err(), "{len} bytes");
    }
    assert!(read(&[&bytes[..], &[0]].concat(), None).is_err());
    assert!(bytes.len() < FILE_BYTES_MAX);
}

#[test]
fn idx_files_hold_what_their_header_says() {
    let whole = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
    let idx = read_idx(&whole).expect("a file");
    assert_eq!(
        (idx.dims.clone(), idx.items().collect::<Vec<_>>()),
        (vec![2, 3], vec![&[1, 2, 3][..], &[4, 5, 6]])
    );
    for len in 0..whole.len() {
        assert!(read_idx(&whole[..len]).is_err(), "{len} bytes");
    }
    let huge = [0, 0, 8, 4, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
    assert!(matches!(read_idx(&huge), Err(IdxError::Length { .. })));
    assert!(matches!(read_idx(&[0x1f, 0x8b, 8, 0]), Err(IdxError::Gzip(_))));
    assert!(matches!(read_idx(&[0, 0, 13, 1, 0, 0, 0, 0]), Err(IdxError::Header { .. })));
}

/// Iris in tenths of a centimetre, and the species.
fn iris() -> Option<Vec<([i32; 4], usize)>> {
    let text = std::fs::read_to_string(data("iris/iris.csv")?).expect("text");
    let species = ["setosa", "versicolor", "virginica"];
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let tenths = |field: &str| (field.parse::<f64>().expect("a number") * 10.0).round() as i32;
        let class = species.iter().position(|name| *name == fields[4]).expect("a species");
        ([0, 1, 2, 3].map(|i| tenths(fields[i])), class)
    };
    Some(text.lines().skip(1).map(row).collect())
}

/// How Iris enters: tenths of a centimetre, at most ten centimetres.
const TENTHS: InputFormat = InputFormat { frac: 0, low: 0, high: 100 };

fn iris_net(name: &str) -> (FloatNet, Net) {
    let prepare = Prepare { scale: 0.1, ..Prepare::NONE };
    let float = import(name, &model(&format!("{name}.onnx")), &prepare).expect("an ONNX file");
    let net = quantise(&float, TENTHS).expect("bounds");
    (float, net)
}

/// Least squares of the class index: the integers give nearly the same number, and the same classes within 2 of 150.
#[test]
fn iris_by_least_squares_is_as_right_in_integers() {
    let Some(rows) = iris() else { return };
    let (float, net) = iris_net("iris-ols");
    let (mut right, mut squares) = ([0, 0], 0.0);
    let input: Vec<i32> = rows.iter().flat_map(|(x, _)| *x).collect();
    for ((x, class), y) in rows.iter().zip(real(&net, &outputs(&net, &input))) {
        let exact = float.output(&x.map(f64::from)).unwrap()[0];
        squares += (exact - y) * (exact - y);
        for (right, y) in right.iter_mut().zip([exact, y]) {
            *right += usize::from(y.round().clamp(0.0, 2.0) as usize == *class);
        }
    }
    let rms = (squares / 150.0).sqrt();
    println!("iris-ols: float {} of 150, integers {}, rms difference {rms:.5}", right[0], right[1]);
    assert!(right[0] >= 143 && right[0].abs_diff(right[1]) <= 2, "{right:?}");
    // A step is a sixteenth of a centimetre at most, and the weights have an L1 norm below 1.2.
    assert!(rms < 0.04, "{rms}");
}

#[test]
fn iris_by_a_network_is_as_right_in_integers() {
    let Some(rows) = iris() else { return };
    let (float, net) = iris_net("iris-mlp");
    let input: Vec<i32> = rows.iter().flat_map(|(x, _)| *x).collect();
    let mut right = [0, 0];
    for ((x, class), y) in rows.iter().zip(outputs(&net, &input).chunks(3)) {
        right[0] += usize::from(largest(&float.output(&x.map(f64::from)).unwrap()) == *class);
        right[1] += usize::from(greedy(y) as usize == *class);
    }
    println!("iris-mlp: float {} of 150, integers {}", right[0], right[1]);
    assert!(right[0] >= 146 && right[0].abs_diff(right[1]) <= 1, "{right:?}");
}

struct Mnist {
    images: Idx,
    labels: Idx,
}

fn mnist() -> Option<Mnist> {
    let images = read_file(&data("mnist-t10k/t10k-images-idx3-ubyte.gz")?);
    let labels = read_file(&data("mnist-t10k/t10k-labels-idx1-ubyte.gz")?);
    Some(Mnist { images: read_idx(&images).expect("images"), labels: read_idx(&labels).expect("labels") })
}

/// Right answers of both, on all 10,000 images, and the least cosine of their outputs among the first 500.
fn compare(float: &FloatNet, net: &Net, mnist: &Mnist) -> ([usize; 2], f64) {
    let pixels: Vec<i32> = mnist.images.data.iter().map(|pixel| i32::from(*pixel)).collect();
    let all = outputs(net, &pixels);
    let (mut right, mut least) = ([0, 0], 1.0f64);
    let answers = all.chunks_exact(10).zip(mnist.images.items()).zip(&mnist.labels.data);
    for (index, ((integers, image), label)) in answers.enumerate() {
        let image: Vec<f64> = image.iter().map(|pixel| f64::from(*pixel)).collect();
        let floats = float.output(&image).expect("an image");
        right[0] += usize::from(largest(&floats) == usize::from(*label));
        right[1] += usize::from(greedy(integers) == u32::from(*label));
        if index < 500 {
            least = least.min(cosine(&floats, &real(net, integers)));
        }
    }
    (right, least)
}

fn within_half_a_point(name: &str, float: &FloatNet, mnist: &Mnist, expected: f64) {
    let net = quantise(float, InputFormat::BYTES).expect("bounds");
    assert_eq!(read(&write(&net), Some(&net.root())).expect("a file").root(), net.root());
    let ([floats, integers], least) = compare(float, &net, mnist);
    println!("{name}: float {floats} of 10000, integers {integers}, least cosine of 500 {least:.5}");
    let percent = floats as f64 / 100.0;
    assert!((percent - expected).abs() < 0.6, "{name}: the reference has {percent} %, expected {expected} %");
    assert!(floats.abs_diff(integers) <= 50, "{name}: float {floats}, integers {integers} of 10,000");
    assert!(least > 0.99, "{name}: cosine {least}");
}

/// The bound: within 0.5 points of the float network on all 10,000 test images, without calibration.
#[test]
fn the_mnist_cnn_is_within_half_a_point_in_integers() {
    let (Some(path), Some(mnist)) = (data("mnist-models/opt-mnist.onnx"), mnist()) else { return };
    let float = import("mnist-cnn", &read_file(&path), &Prepare::NONE).expect("an ONNX file");
    within_half_a_point("mnist-cnn", &float, &mnist, 98.7);
}

#[test]
fn lenet_is_within_half_a_point_in_integers() {
    let path: Option<PathBuf> = data("mnist-models/lenet5-32x32.onnx");
    let (Some(path), Some(mnist)) = (path, mnist()) else { return };
    let float = import("lenet-5", &read_file(&path), &prepared_lenet()).expect("an ONNX file");
    within_half_a_point("lenet-5", &float, &mnist, 98.0);
}

/// What a graph says is what a reader of the file can rely on: shapes, formats and bounds of every value.
#[test]
fn the_graph_is_explicit() {
    let net = quantise(&conv_net(&mut SplitMix64::new(4)), InputFormat::BYTES).unwrap();
    let Graph { nodes, .. } = net.graph();
    let names: Vec<&str> = nodes.iter().map(Op::name).collect();
    assert_eq!(
        names,
        [
            "pad", "quantise", "conv", "relu", "max_pool", "quantise", "conv", "relu", "flatten", "quantise",
            "linear"
        ]
    );
    assert_eq!(net.values().len(), nodes.len() + 1);
}
