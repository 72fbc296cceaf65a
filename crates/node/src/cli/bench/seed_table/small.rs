//! Iris and LeNet-5: imported from ONNX, quantised without data, run in integers.

use super::proofs::{Beside, Proved};
use super::row::{Measured, Row, Theirs};
use super::{Bench, SEED};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_model::net::{Idx, InputFormat, quantise, read_idx};
use lockstep_model::onnx::{Prepare, import};
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

/// Our Iris models (models/iris).
const IRIS_OLS: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/iris/iris-ols.onnx"));
const IRIS_MLP: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/iris/iris-mlp.onnx"));
/// Iris enters in tenths of a centimetre, at most ten centimetres.
const TENTHS: InputFormat = InputFormat { frac: 0, low: 0, high: 100 };
/// Rows of the data set: what least squares is measured on.
const IRIS_ROWS: usize = 150;
/// Inputs of the published figure of the network.
const IRIS_INPUTS: usize = 500;
/// LeNet-5 takes images of 32 by 32 with values of 0 to 1; MNIST has 28 by 28 bytes.
const LENET: Prepare = Prepare { scale: 1.0 / 255.0, pads: [2; 4] };
/// Where they lie in the data folder.
const LENET_FILE: &str = "mnist-models/lenet5-32x32.onnx";
const IMAGES_FILE: &str = "mnist-t10k/t10k-images-idx3-ubyte.gz";
const LABELS_FILE: &str = "mnist-t10k/t10k-labels-idx1-ubyte.gz";
const IRIS_FILE: &str = "iris/iris.csv";

/// A row of which nothing is known.
const EMPTY: Row = Row {
    id: String::new(),
    name: String::new(),
    proofs: &[],
    tee: Theirs::Seconds(0.0),
    serve: Measured::Seconds(Vec::new()),
    prove: None,
    beside: None,
    right: None,
    notes: Vec::new(),
};

type Measure = Result<Row, Box<dyn Error>>;
/// Measurements in tenths, and the class.
type Flower = ([i32; 4], usize);

/// Least squares of the class index, over as many inputs as Iris has rows.
pub(super) fn iris_ols(bench: &Bench<'_>) -> Measure {
    let net = iris_net("iris-ols", IRIS_OLS)?;
    let unit = (-f64::from(net.output().frac)).exp2();
    let class = |y: &[i32]| (f64::from(y[0]) * unit).round().clamp(0.0, 2.0) as usize;
    let row = Row {
        id: "iris-ols".into(),
        name: format!("Iris OLS, {IRIS_ROWS} inputs"),
        proofs: &[("RisQ", 32.0)],
        tee: Theirs::Seconds(0.047),
        ..EMPTY
    };
    iris(row, &net, IRIS_OLS, bench, IRIS_ROWS, &class)
}

/// The network 4-20-20-3 over 500 inputs.
pub(super) fn iris_nn(bench: &Bench<'_>) -> Measure {
    let net = iris_net("iris-mlp", IRIS_MLP)?;
    let row = Row {
        id: "iris-nn".into(),
        name: format!("Iris NN, {IRIS_INPUTS} inputs"),
        proofs: &[("EZKL", 212.0)],
        tee: Theirs::Seconds(0.045),
        ..EMPTY
    };
    iris(row, &net, IRIS_MLP, bench, IRIS_INPUTS, &|y| greedy(y) as usize)
}

fn iris_net(name: &str, file: &[u8]) -> Result<Net, Box<dyn Error>> {
    let float = import(name, file, &Prepare { scale: 0.1, ..Prepare::NONE })?;
    Ok(quantise(&float, TENTHS)?)
}

/// `count` inputs in one batch: the rows of the data over and over, or random ones of their size.
fn iris(
    mut row: Row,
    net: &Net,
    file: &[u8],
    bench: &Bench<'_>,
    count: usize,
    class: &dyn Fn(&[i32]) -> usize,
) -> Measure {
    let known = bench.data.map(|data| read_iris(&data.join(IRIS_FILE))).transpose()?;
    let input: Vec<i32> = match &known {
        Some(rows) => rows.iter().cycle().take(count).flat_map(|(x, _)| *x).collect(),
        None => {
            let mut rng = SplitMix64::new(SEED);
            (0..4 * count).map(|_| 1 + rng.below(79) as i32).collect()
        }
    };
    row.serve = timed(net, bench, |_| &input)?;
    row.prove = Some(Proved::measure(net, bench.compute, &input, count, bench.runs)?);
    row.beside = beside(net, file, bench, &input[..4], 0.1)?;
    row.notes.push(format!("{} products an input", net.products()));
    row.right = match known {
        None => {
            row.notes.push("random inputs: no --data with iris/iris.csv".into());
            None
        }
        Some(rows) => {
            let all: Vec<i32> = rows.iter().flat_map(|(x, _)| *x).collect();
            let answers = run(bench.compute, net, &all, &mut Silent)?;
            let answers = answers.chunks_exact(net.output().shape.elements());
            let right = rows.iter().zip(answers).filter(|((_, label), y)| class(y) == *label).count();
            Some((right, rows.len()))
        }
    };
    Ok(row)
}

/// EZKL's proof of the network in `file` and ours, on one input.
fn beside(
    net: &Net,
    file: &[u8],
    bench: &Bench<'_>,
    input: &[i32],
    unit: f64,
) -> Result<Option<Beside>, Box<dyn Error>> {
    let Some(ezkl) = &bench.ezkl else { return Ok(None) };
    let ours = Proved::measure(net, bench.compute, input, 1, bench.runs)?;
    let floats: Vec<f64> = input.iter().map(|x| f64::from(*x) * unit).collect();
    Ok(Some(Beside { ours, ezkl: ezkl.prove(file, &floats)? }))
}

/// The rows of the file.
fn read_iris(path: &Path) -> Result<Vec<Flower>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let row = (|| {
            let mut fields = line.split(',');
            let mut x = [0; 4];
            for x in &mut x {
                let tenths = fields.next()?.parse::<f64>().ok()? * 10.0;
                *x = (0.0..=100.0).contains(&tenths).then(|| tenths.round() as i32)?;
            }
            let species = fields.next()?;
            let class = ["setosa", "versicolor", "virginica"].iter().position(|name| *name == species)?;
            Some((x, class))
        })();
        rows.push(row.ok_or_else(|| format!("{}, line {}: {line:?}", path.display(), number + 1))?);
    }
    if rows.is_empty() {
        return Err(format!("{}: no rows", path.display()).into());
    }
    Ok(rows)
}

/// LeNet-5, one image a run; then all images, to say how many are right.
pub(super) fn lenet(bench: &Bench<'_>) -> Measure {
    let mut row = Row {
        id: "lenet".into(),
        name: "LeNet-5, 1 image".into(),
        proofs: &[("EZKL", 60.0), ("DDKang", 3.33)],
        tee: Theirs::Seconds(0.056),
        serve: Measured::Skipped(format!(
            "it needs --data DIR (or LOCKSTEP_DATA) with {LENET_FILE} and mnist-t10k/"
        )),
        ..EMPTY
    };
    let Some(data) = bench.data else { return Ok(row) };
    let file = |name: &str| {
        let path = data.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let onnx = file(LENET_FILE)?;
    let float = import("lenet-5", &onnx, &LENET)?;
    let net = quantise(&float, InputFormat::BYTES)?;
    let images: Idx = read_idx(&file(IMAGES_FILE)?)?;
    let labels: Idx = read_idx(&file(LABELS_FILE)?)?;
    let size = net.graph().input.shape.elements();
    if images.dims[1..].iter().product::<usize>() != size || images.dims[0] != labels.data.len() {
        return Err(format!(
            "images {:?} and labels {:?}, expected images of {size}",
            images.dims, labels.dims
        )
        .into());
    }
    if labels.data.is_empty() {
        return Err("no images".into());
    }
    let pixels: Vec<i32> = images.data.iter().map(|pixel| i32::from(*pixel)).collect();
    row.serve = timed(&net, bench, |run| {
        let image = run % labels.data.len();
        &pixels[image * size..(image + 1) * size]
    })?;
    row.prove = Some(Proved::measure(&net, bench.compute, &pixels[..size], 1, bench.runs)?);
    row.beside = lenet_beside(&net, &onnx, bench, &pixels[..size])?;
    let answers = run(bench.compute, &net, &pixels, &mut Silent)?;
    let answers = answers.chunks_exact(net.output().shape.elements());
    let right = answers.zip(&labels.data).filter(|(y, label)| greedy(y) == u32::from(**label)).count();
    row.right = Some((right, labels.data.len()));
    row.notes.push(format!("{} products an image", net.products()));
    Ok(row)
}

/// The same for LeNet-5, whose input EZKL gets as the network has it: with a border of 0, and from 0 to 1.
fn lenet_beside(
    net: &Net,
    file: &[u8],
    bench: &Bench<'_>,
    image: &[i32],
) -> Result<Option<Beside>, Box<dyn Error>> {
    let Some(ezkl) = &bench.ezkl else { return Ok(None) };
    let ours = Proved::measure(net, bench.compute, image, 1, bench.runs)?;
    let [top, left, ..] = LENET.pads.map(|pad| pad as usize);
    let side = image.len().isqrt();
    let (width, height) = (side + 2 * left, side + 2 * top);
    let mut floats = vec![0.0; width * height];
    for (row, pixels) in image.chunks(side).enumerate() {
        let at = (row + top) * width + left;
        floats[at..at + side].iter_mut().zip(pixels).for_each(|(out, x)| *out = f64::from(*x) / 255.0);
    }
    Ok(Some(Beside { ours, ezkl: ezkl.prove(file, &floats)? }))
}

/// Seconds of each run on what `input` gives for it, after one that does not count.
fn timed<'a>(
    net: &Net,
    bench: &Bench<'_>,
    input: impl Fn(usize) -> &'a [i32],
) -> Result<Measured, Box<dyn Error>> {
    let Bench { compute, runs, .. } = bench;
    std::hint::black_box(run(compute, net, input(0), &mut Silent)?);
    let mut seconds = Vec::with_capacity(*runs);
    for index in 0..*runs {
        let input = input(index);
        let began = Instant::now();
        std::hint::black_box(run(compute, net, input, &mut Silent)?);
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(Measured::Seconds(seconds))
}
