//! Completeness: what the runtime computes is proved and accepted (proofs.md, 1).

use crate::support::{compute, convolutional, dense, inputs, iris_mlp, iris_ols};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_model::net::{InputFormat, quantise, read_idx};
use lockstep_model::onnx::{Prepare, import};
use lockstep_proof::net::{prove, verify};
use lockstep_proof::proof::Proof;
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;

fn accepted(net: &Net, input: &[i32], what: &str) -> usize {
    let (output, proof) = prove(&compute(), net, input).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(output, run(&compute(), net, input, &mut Silent).expect("it runs"), "{what}");
    let read = Proof::from_bytes(proof.as_bytes().to_vec()).expect("our own file");
    verify(net, input, &output, &read).unwrap_or_else(|error| panic!("{what}: {error}"));
    proof.as_bytes().len()
}

/// proofs.md, 1: Iris, one input and many, with limbs of 8 and of 16 bits.
#[test]
fn iris_is_proved() {
    let mut rng = SplitMix64::new(1);
    for (net, name) in [(iris_ols(), "OLS"), (iris_mlp(), "MLP")] {
        for examples in [1, 2, 3, 150, 500] {
            let input = inputs(&mut rng, &net, examples);
            let bytes = accepted(&net, &input, &format!("{name}, {examples} examples"));
            eprintln!("{name}, {examples} examples: {bytes} bytes");
        }
    }
}

/// proofs.md, 3: convolutions, pooling, padding, sums, over random images.
#[test]
fn convolutional_networks_are_proved() {
    for seed in 0..6 {
        let mut rng = SplitMix64::new(seed);
        let net = convolutional(&mut rng);
        let input = inputs(&mut rng, &net, 1 + seed as usize % 3);
        let bytes = accepted(&net, &input, &format!("seed {seed}"));
        eprintln!("seed {seed}: {bytes} bytes");
    }
}

/// proofs.md, 1: the networks of the seed's table on real images.
#[test]
fn mnist_is_proved() {
    let Some(folder) = std::env::var_os("LOCKSTEP_DATA") else {
        assert!(std::env::var_os("CI").is_none(), "LOCKSTEP_DATA is not set");
        eprintln!("SKIP mnist_is_proved: LOCKSTEP_DATA is not set");
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    let read =
        |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let images = read_idx(&read("mnist-t10k/t10k-images-idx3-ubyte.gz")).expect("images");
    let lenet = Prepare { scale: 1.0 / 255.0, pads: [2; 4] };
    for (file, prepare) in [("lenet5-32x32.onnx", lenet), ("opt-mnist.onnx", Prepare::NONE)] {
        let float = import(file, &read(&format!("mnist-models/{file}")), &prepare).expect("an ONNX file");
        let net = quantise(&float, InputFormat::BYTES).expect("bounds");
        for image in images.items().take(2) {
            let input: Vec<i32> = image.iter().map(|pixel| i32::from(*pixel)).collect();
            let bytes = accepted(&net, &input, file);
            eprintln!("{file}: {bytes} bytes");
        }
    }
}

/// proofs.md, 1: random dense networks, with static shifts, shifts to both sides, zeros and extremes.
#[test]
fn random_dense_networks_are_proved() {
    for seed in 0..30 {
        let mut rng = SplitMix64::new(seed);
        let depth = 1 + rng.below(4) as usize;
        let widths: Vec<usize> = (0..=depth).map(|_| 1 + rng.below(40) as usize).collect();
        let net = dense(&mut rng, &widths);
        let examples = 1 + rng.below(6) as usize;
        let mut input = inputs(&mut rng, &net, examples);
        let (low, high) = (net.graph().input.low, net.graph().input.high);
        input[..widths[0]].fill([0, low, high][seed as usize % 3]);
        accepted(&net, &input, &format!("seed {seed}, widths {widths:?}"));
    }
}
