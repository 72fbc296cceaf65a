//! ONNX files: what they say is what is imported; what is not supported is named; hostile bytes are refused without
//! allocating what they only claim.

use lockstep_base::net::{Shape, Window};
use lockstep_base::rng::SplitMix64;
use lockstep_model::net::{Affine, FloatNet, FloatOp, InputFormat, quantise};
use lockstep_model::onnx::{OnnxError, Prepare, import};
use std::sync::Arc;

/// LeNet-5 takes 32 by 32 images of 0 to 1.
pub(crate) fn prepared_lenet() -> Prepare {
    Prepare { scale: 1.0 / 255.0, pads: [2; 4] }
}

fn affine(rng: &mut SplitMix64, rows: usize, cols: usize) -> Arc<Affine> {
    let size = (3.0 / cols as f32).sqrt();
    let mut uniform = |n: usize, size: f32| -> Vec<f32> {
        (0..n).map(|_| (rng.below(20_001) as f32 / 1e4 - 1.0) * size).collect()
    };
    Arc::new(Affine { rows, cols, weights: uniform(rows * cols, size), bias: uniform(rows, 0.3) })
}

/// A random dense network over 40 to 140 bytes, each as 0 to 1.
pub(crate) fn dense_net(rng: &mut SplitMix64) -> FloatNet {
    let sizes = [40 + rng.below(100) as usize, 5 + rng.below(40) as usize, 5 + rng.below(40) as usize, 7];
    let mut net = FloatNet::new("dense", Shape::vector(sizes[0] as u32)).expect("a net");
    let mut value = net.push(FloatOp::Scale { input: 0, factor: 1.0 / 255.0 }).expect("a scale");
    for (layer, pair) in sizes.windows(2).enumerate() {
        let affine = affine(rng, pair[1], pair[0]);
        value = net.push(FloatOp::Linear { input: value, affine }).expect("a layer");
        if layer < 2 {
            value = net.push(FloatOp::Relu { input: value }).expect("an activation");
        }
    }
    net
}

/// A random convolutional network over small images: padding, strides, pooling, a dense end.
pub(crate) fn conv_net(rng: &mut SplitMix64) -> FloatNet {
    let (side, channels) = (9 + rng.below(5) as u32, 1 + rng.below(3) as u32);
    let input = Shape { height: side, width: side + 1, channels };
    let mut net = FloatNet::new("conv", input).expect("a net");
    let (first, second) = (3 + rng.below(6) as usize, 3 + rng.below(9) as usize);
    net.push(FloatOp::Scale { input: 0, factor: 1.0 / 255.0 }).expect("a scale");
    net.push(FloatOp::Pad { input: 1, pads: [1, 2, 0, 1] }).expect("padding");
    let window = Window { kernel: [3, 2], strides: [1, 1], pads: [1, 0, 1, 1] };
    let layer = affine(rng, first, 6 * channels as usize);
    net.push(FloatOp::Conv { input: 2, affine: layer, window }).expect("a convolution");
    net.push(FloatOp::Relu { input: 3 }).expect("an activation");
    let pool = Window { kernel: [2, 2], strides: [2, 2], pads: [0; 4] };
    net.push(FloatOp::MaxPool { input: 4, window: pool }).expect("a pool");
    let window = Window { kernel: [3, 3], strides: [2, 1], pads: [1; 4] };
    let layer = affine(rng, second, 9 * first);
    net.push(FloatOp::Conv { input: 5, affine: layer, window }).expect("a convolution");
    net.push(FloatOp::Relu { input: 6 }).expect("an activation");
    net.push(FloatOp::Flatten { input: 7 }).expect("a vector");
    let layer = affine(rng, 6, net.shapes()[8].elements());
    net.push(FloatOp::Linear { input: 8, affine: layer }).expect("a layer");
    net
}

// The wire format, as much as the tests write.

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: i64) -> Vec<u8> {
    [varint(field << 3), varint(n as u64)].concat()
}

fn block(field: u64, data: impl AsRef<[u8]>) -> Vec<u8> {
    [varint(field << 3 | 2), varint(data.as_ref().len() as u64), data.as_ref().to_vec()].concat()
}

fn numbers(field: u64, list: &[i64]) -> Vec<u8> {
    list.iter().flat_map(|n| number(field, *n)).collect()
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    [numbers(1, dims), number(2, 1), block(8, name), block(9, raw)].concat()
}

fn ints(name: &str, dims: &[i64], values: &[i64]) -> Vec<u8> {
    let packed: Vec<u8> = values.iter().flat_map(|v| varint(*v as u64)).collect();
    [numbers(1, dims), number(2, 7), block(7, packed), block(8, name)].concat()
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| block(1, name)).collect();
    let attributes: Vec<u8> = attributes.iter().flat_map(|a| block(5, a)).collect();
    block(1, [inputs, block(2, output), block(4, op), attributes].concat())
}

fn int(name: &str, value: i64) -> Vec<u8> {
    [block(1, name), number(3, value)].concat()
}

fn list(name: &str, values: &[i64]) -> Vec<u8> {
    [block(1, name), numbers(8, values)].concat()
}

fn info(field: u64, name: &str, dims: &[i64]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| block(1, number(1, *dim))).collect();
    let kind = block(2, block(1, [number(1, 1), block(2, dims)].concat()));
    block(field, [block(1, name), kind].concat())
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, 8), block(7, graph.concat()), block(8, number(2, 13))].concat()
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + 3) % 13) as f32 / 10.0 - 0.6).collect()
}

/// The parts of a model with every supported op; what an exporter writes for `x.view(x.size(0), -1)` in the middle.
fn parts() -> Vec<Vec<u8>> {
    let constant = |name: &str, tensor: Vec<u8>| {
        node("Constant", &[], name, &[[block(1, "value"), block(5, tensor)].concat()])
    };
    vec![
        info(11, "x", &[0, 2, 5, 5]),
        info(11, "w", &[3, 2, 3, 3]),
        block(5, floats("w", &[3, 2, 3, 3], &ramp(54))),
        block(5, floats("wb", &[3], &[0.1, -0.2, 0.3])),
        block(5, floats("extra", &[3, 1, 1], &[1.0, 2.0, 3.0])),
        node(
            "Conv",
            &["x", "w", "wb"],
            "c",
            &[list("kernel_shape", &[3, 3]), [block(1, "auto_pad"), block(4, "SAME_UPPER")].concat()],
        ),
        node("Add", &["c", "extra"], "ca", &[]),
        node("Relu", &["ca"], "r", &[]),
        node("Identity", &["r"], "ri", &[]),
        node("MaxPool", &["ri"], "p", &[list("kernel_shape", &[2, 2]), list("strides", &[2, 2])]),
        node("Shape", &["p"], "s", &[]),
        constant("zero", ints("", &[], &[0])),
        constant("open", ints("", &[], &[-1])),
        node("Gather", &["s", "zero"], "n", &[int("axis", 0)]),
        node("Unsqueeze", &["n"], "n1", &[list("axes", &[0])]),
        node("Unsqueeze", &["open"], "o1", &[list("axes", &[0])]),
        node("Concat", &["n1", "o1"], "target", &[int("axis", 0)]),
        node("Reshape", &["p", "target"], "v", &[]),
        block(5, floats("g", &[12, 4], &ramp(48))),
        block(5, floats("gb", &[1, 4], &[0.5, 0.0, -0.5, 1.0])),
        node("Gemm", &["v", "g", "gb"], "h", &[[block(1, "alpha"), vec![0x15, 0, 0, 0, 0x40]].concat()]),
        // What nobody reads may be anything.
        node("FancyOp", &["h"], "unused", &[]),
        node("Dropout", &["h"], "hd", &[]),
        block(5, floats("m", &[4, 4], &ramp(16))),
        node("MatMul", &["hd", "m"], "mm", &[]),
        block(5, floats("mb", &[4], &[1.0, 1.0, 1.0, 2.0])),
        node("Add", &["mb", "mm"], "ma", &[]),
        node("Add", &["ma", "hd"], "sum", &[]),
        node("LogSoftmax", &["sum"], "y", &[int("axis", 1)]),
        info(12, "y", &[0, 4]),
    ]
}

/// The model with every supported op is also a file, which the fuzzer starts from.
#[test]
fn the_fixture_has_every_supported_op() {
    let path = crate::source_data::fixture("every-op.onnx");
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(&path, model(&parts())).expect("the fixture is written");
    }
    assert!(
        std::fs::read(&path).expect("the fixture") == model(&parts()),
        "rewrite it with LOCKSTEP_BLESS=1"
    );
}

/// Each node becomes what the ONNX specification says; compared with a computation by hand.
#[test]
fn every_supported_op_is_imported() {
    let net = import("all", &model(&parts()), &Prepare::NONE).expect("a network");
    let x: Vec<f64> = (0..50).map(|i| f64::from((i * 11 + 5) % 17) / 5.0 - 1.0).collect();
    let w = ramp(54);
    let mut conv = [[[0.0f64; 5]; 5]; 3];
    for (o, image) in conv.iter_mut().enumerate() {
        for (y, line) in image.iter_mut().enumerate() {
            for (z, value) in line.iter_mut().enumerate() {
                let mut sum = [0.1f32, -0.2, 0.3][o] as f64 + (o + 1) as f64;
                for c in 0..2 {
                    for (ky, kx) in (0..3).flat_map(|ky| (0..3).map(move |kx| (ky, kx))) {
                        let (row, col) = (y + ky, z + kx);
                        if (1..=5).contains(&row) && (1..=5).contains(&col) {
                            let weight = f64::from(w[((o * 2 + c) * 3 + ky) * 3 + kx]);
                            sum += weight * x[(c * 5 + row - 1) * 5 + col - 1];
                        }
                    }
                }
                *value = sum.max(0.0);
            }
        }
    }
    let pooled: Vec<f64> = (0..12)
        .map(|i| (i / 4, i / 2 % 2 * 2, i % 2 * 2))
        .map(|(o, y, z)| [conv[o][y][z], conv[o][y][z + 1], conv[o][y + 1][z], conv[o][y + 1][z + 1]])
        .map(|four| four.into_iter().fold(f64::MIN, f64::max))
        .collect();
    let times = |x: &[f64], w: &[f32], bias: [f64; 4], alpha: f64| -> Vec<f64> {
        (0..4)
            .map(|j| {
                bias[j] + alpha * x.iter().enumerate().map(|(i, x)| x * f64::from(w[i * 4 + j])).sum::<f64>()
            })
            .collect()
    };
    let h = times(&pooled, &ramp(48), [0.5, 0.0, -0.5, 1.0], 2.0);
    let m = times(&h, &ramp(16), [1.0, 1.0, 1.0, 2.0], 1.0);
    let expected: Vec<f64> = h.iter().zip(&m).map(|(a, b)| a + b).collect();
    let got = net.output(&x).expect("an output");
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{got:?}, expected {expected:?}");
    assert!(quantise(&net, InputFormat { frac: 8, low: -1000, high: 1000 }).is_ok());
}

/// Preparation comes before the file's network, whose input shrinks by the padding.
#[test]
fn preparation_scales_and_pads() {
    let prepare = Prepare { scale: 0.5, pads: [1, 0, 0, 2] };
    let net = import("all", &model(&parts()), &prepare).expect("a network");
    assert_eq!(net.shapes()[0], Shape { height: 4, width: 3, channels: 2 });
    let plain = import("all", &model(&parts()), &Prepare::NONE).expect("a network");
    let small: Vec<f64> = (0..24).map(f64::from).collect();
    let mut padded = vec![0.0; 50];
    for (i, x) in small.iter().enumerate() {
        padded[i / 12 * 25 + (i % 12 / 3 + 1) * 5 + i % 3] = x * 0.5;
    }
    assert_eq!(net.output(&small), plain.output(&padded));
    let wide = import("all", &model(&parts()), &Prepare { scale: 1.0, pads: [5, 0, 0, 0] });
    assert!(wide.is_err(), "nothing is left of the image");
}

fn replaced(from: &str, part: Vec<u8>) -> Vec<Vec<u8>> {
    let mut parts = parts();
    let at = parts.iter().position(|part| part.windows(from.len()).any(|w| w == from.as_bytes()));
    parts[at.unwrap_or_else(|| panic!("{from}"))] = part;
    parts
}

/// An op, attribute or type that is not implemented is refused, and the message says which.
#[test]
fn what_is_not_supported_is_named() {
    let pool = |attributes: &[Vec<u8>]| replaced("MaxPool", node("MaxPool", &["ri"], "p", attributes));
    let kernel = || list("kernel_shape", &[2, 2]);
    let conv = |attributes: &[Vec<u8>]| replaced("Conv", node("Conv", &["x", "w", "wb"], "c", attributes));
    let other_type = [numbers(1, &[3]), number(2, 10), block(8, "wb"), block(9, [0; 6])].concat();
    let external = [numbers(1, &[3]), number(2, 1), block(8, "wb"), number(14, 1)].concat();
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("Sigmoid", replaced("Relu", node("Sigmoid", &["ca"], "r", &[]))),
        ("dilations", pool(&[kernel(), list("dilations", &[2, 2])])),
        ("ceil_mode is 1", pool(&[kernel(), int("ceil_mode", 1)])),
        ("stride of 0", pool(&[kernel(), list("strides", &[0, 1])])),
        ("expected 2 numbers", pool(&[list("kernel_shape", &[2, 2, 2])])),
        ("expected 2 numbers", pool(&[list("kernel_shape", &[2, -2])])),
        ("padding is 2, expected 0 to 1", pool(&[kernel(), list("pads", &[2, 0, 0, 0])])),
        ("group is 2", conv(&[int("group", 2)])),
        ("kernel_shape is [2, 2]", conv(&[kernel()])),
        ("auto_pad \"ODD\"", conv(&[[block(1, "auto_pad"), block(4, "ODD")].concat()])),
        ("transA is 1", replaced("Gemm", node("Gemm", &["v", "g", "gb"], "h", &[int("transA", 1)]))),
        ("reads \"nobody\"", replaced("Relu", node("Relu", &["nobody"], "r", &[]))),
        ("data type 10", replaced("wb\x4a", block(5, other_type))),
        ("another file", replaced("wb\x4a", block(5, external))),
        ("expected only at the end", replaced("Relu", node("LogSoftmax", &["ca"], "r", &[]))),
        ("not the bias", replaced("MaxPool", node("Add", &["ri", "extra"], "p", &[]))),
        (
            "as [5, 5]",
            replaced(
                "Concat",
                node(
                    "Constant",
                    &[],
                    "target",
                    &[[block(1, "value"), block(5, ints("", &[2], &[5, 5]))].concat()],
                ),
            ),
        ),
        ("0 outputs", parts().into_iter().rev().skip(1).rev().collect()),
        (
            "columns, got 12, expected 50",
            vec![
                info(11, "x", &[1, 50]),
                block(5, floats("g", &[12, 4], &ramp(48))),
                node("Gemm", &["x", "g"], "y", &[]),
                info(12, "y", &[1, 4]),
            ],
        ),
        (
            "finite",
            vec![
                info(11, "x", &[1, 1]),
                block(5, floats("g", &[1, 1], &[f32::NAN])),
                node("Gemm", &["x", "g"], "y", &[]),
                info(12, "y", &[1, 1]),
            ],
        ),
    ];
    for (expected, parts) in cases {
        let error = import("n", &model(&parts), &Prepare::NONE).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    }
    let old = [number(1, 8), block(7, parts().concat()), block(8, number(2, 6))].concat();
    assert_eq!(import("n", &old, &Prepare::NONE).unwrap_err(), OnnxError::Opset { got: 6 });
}

/// Dimensions that claim what the bytes do not hold are refused before anything of their size is allocated: a claim
/// of 2^62 elements would end the process.
#[test]
fn huge_dimensions_are_refused() {
    let huge = [i64::MAX, 1 << 62, 1 << 40, 1 << 31, -1];
    for dim in huge {
        let tensor = [numbers(1, &[dim, 2]), number(2, 1), block(8, "wb"), block(9, [0; 12])].concat();
        let error = import("n", &model(&replaced("wb\x4a", block(5, tensor))), &Prepare::NONE).unwrap_err();
        assert!(matches!(error, OnnxError::TensorSize { .. }), "{error}");
        for parts in [
            replaced("x\x12", info(11, "x", &[1, 2, dim, 5])),
            replaced("MaxPool", node("MaxPool", &["ri"], "p", &[list("kernel_shape", &[dim, 2])])),
            replaced(
                "MaxPool",
                node(
                    "MaxPool",
                    &["ri"],
                    "p",
                    &[list("kernel_shape", &[2, 2]), list("pads", &[dim, 0, 0, 0])],
                ),
            ),
        ] {
            assert!(import("n", &model(&parts), &Prepare::NONE).is_err(), "{dim}");
        }
    }
    // A length that ends behind the file.
    let mut bytes = model(&parts());
    bytes.extend([7 << 3 | 2, 255, 255, 255, 255, 255, 255, 255, 255, 127]);
    assert!(matches!(import("n", &bytes, &Prepare::NONE), Err(OnnxError::Wire { .. })));
    // The same weights named by many nodes: copies are bounded by the file.
    let mut many = vec![info(11, "x", &[1, 30]), block(5, floats("g", &[30, 30], &ramp(900)))];
    for i in 0..100 {
        let (from, to) = (if i == 0 { "x".into() } else { format!("h{i}") }, format!("h{}", i + 1));
        many.push(node("MatMul", &[&from, "g"], &to, &[]));
    }
    many.push(info(12, "h100", &[1, 30]));
    let error = import("n", &model(&many), &Prepare::NONE).unwrap_err().to_string();
    assert!(error.contains("more often than the file is long"), "{error}");
}

/// Never a panic: every truncation, and thousands of flipped bits and spliced bytes. What is accepted can be
/// quantised and run, or is refused there.
#[test]
fn mutated_files_are_imported_or_refused() {
    let whole = model(&parts());
    for len in 0..whole.len() {
        let _ = import("n", &whole[..len], &Prepare::NONE);
    }
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..6000 {
        let mut rng = SplitMix64::new(seed);
        let mut bytes = whole.clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(4) {
                0 => bytes[at] = rng.next_u64() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, rng.next_u64() as u8),
                _ => bytes[at] ^= 1 << rng.below(8),
            }
        }
        match import("n", &bytes, &Prepare::NONE) {
            Ok(net) if net.shapes().iter().map(Shape::elements).sum::<usize>() < 1 << 16 => {
                accepted += 1;
                let net = quantise(&net, InputFormat::BYTES);
                if let Ok(net) = net {
                    let input = vec![255; net.graph().input.shape.elements()];
                    let compute = lockstep_runtime::kernels::Compute::new(1);
                    lockstep_runtime::net::run(
                        &compute,
                        &net,
                        &input,
                        &mut lockstep_runtime::observe::Silent,
                    )
                    .unwrap_or_else(|error| panic!("seed {seed}: a proved bound does not hold: {error}"));
                }
            }
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 500 && refused > 1000, "{accepted} accepted, {refused} refused");
}
