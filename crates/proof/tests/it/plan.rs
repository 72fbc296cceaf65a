//! What cannot be proved, or not safely, is refused by name before anything is computed (proofs.md, 1 and 4).

use crate::support::{compute, dense, filled, inputs};
use lockstep_base::limits::{COLS_MAX, PRE_SHIFT_MAX};
use lockstep_base::net::{Builder, Input, Net, Op, Shape, Window};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::Linear;
use lockstep_proof::error::{PlanError, ProveError, VerifyError};
use lockstep_proof::field::Quintic;
use lockstep_proof::net::plan::Plan;
use lockstep_proof::net::statement::Statement;
use lockstep_proof::net::{prove, verify};
use lockstep_proof::proof::Proof;

/// A matrix whose codes are all `code`.
fn constant(rows: usize, columns: usize, code: i8, pre_shift: u8) -> Linear {
    Linear { pre_shift, ..filled(rows, columns, || code) }
}

fn build(shape: Shape, nodes: Vec<(Op, Option<Linear>)>) -> Net {
    let mut builder = Builder::new("test", Input { shape, frac: 0, low: -1, high: 1 }).expect("an input");
    for (op, linear) in nodes {
        builder.push(op, linear).expect("a node");
    }
    builder.finish().expect("a network")
}

/// proofs.md, 1: what has no argument is refused by its name.
#[test]
fn other_graphs_are_refused_by_name() {
    let quantise = |input| (Op::Quantise { input }, None);
    let image = Shape { height: 2, width: 2, channels: 1 };
    let pool = Window { kernel: [2, 2], strides: [1, 1], pads: [0; 4] };
    let cases = [
        (
            image,
            vec![(Op::Pad { input: 0, pads: [1; 4] }, None), (Op::MaxPool { input: 1, window: pool }, None)],
            1,
            "max_pool",
        ),
        (
            image,
            vec![
                (Op::Pad { input: 0, pads: [1; 4] }, None),
                (Op::Flatten { input: 1 }, None),
                quantise(2),
                (Op::Linear { input: 3, weights: 0 }, Some(constant(2, 16, 3, 0))),
            ],
            3,
            "linear",
        ),
        (
            Shape { channels: 3, ..image },
            vec![
                quantise(0),
                (Op::Conv { input: 1, weights: 0, window: Window::PLACE }, Some(constant(3, 3, 3, 0))),
                (Op::Add { left: 0, right: 2, frac: 0 }, None),
            ],
            2,
            "add",
        ),
    ];
    for (shape, nodes, node, op) in cases {
        let error = Plan::new(&build(shape, nodes)).expect_err(op);
        let PlanError::Unsupported { place, op: name, .. } = error else { panic!("{error}") };
        assert_eq!((place, name), (format!("node {node}"), op));
    }
}

/// Windows that cover more than a proof has cells are refused before they are listed.
#[test]
fn windows_that_are_too_large_are_refused() {
    let kernel = [1024, 1024];
    let pool = Window { kernel, strides: [1, 1], pads: [0; 4] };
    let far = Window { kernel: [65_536, 65_536], strides: [1, 1], pads: [65_535; 4] };
    for (side, window) in [(2048, pool), (1, far)] {
        let shape = Shape { height: side, width: side, channels: 1 };
        let input = Input { shape, frac: 0, low: -1, high: 1 };
        let mut builder = Builder::new("test", input).expect("an input");
        // What the network itself refuses is not asked for a proof.
        if builder.push(Op::MaxPool { input: 0, window }, None).is_err() {
            continue;
        }
        let Ok(net) = builder.finish() else { continue };
        let error = Plan::new(&net).expect_err("too large");
        assert!(matches!(error, PlanError::TooLarge { .. }), "{error}");
    }
}

/// proofs.md, 4: the widest matrix that the arithmetic has cannot wrap, whatever its weights are, with any static shift that it allows.
#[test]
fn no_accumulator_can_wrap() {
    let net = |columns: usize, pre_shift: u8| {
        let nodes = vec![
            (Op::Quantise { input: 0 }, None),
            (Op::Linear { input: 1, weights: 0 }, Some(constant(1, columns, 127, pre_shift))),
        ];
        build(Shape::vector(columns as u32), nodes)
    };
    for pre_shift in [10, PRE_SHIFT_MAX] {
        let columns = if pre_shift == PRE_SHIFT_MAX { COLS_MAX as usize } else { 32_000 };
        assert_eq!(Plan::new(&net(columns, pre_shift)).err(), None, "{columns} columns");
    }
}

/// proofs.md, 4: the widest that is accepted, at its extremes, is proved.
#[test]
fn the_largest_accumulators_are_proved() {
    let nodes = vec![
        (Op::Quantise { input: 0 }, None),
        (Op::Linear { input: 1, weights: 0 }, Some(constant(2, 8192, 127, 8))),
    ];
    let net = build(Shape::vector(8192), nodes);
    for x in [-1, 1] {
        let (output, proof) = prove(&compute(), &net, &vec![x; 8192]).expect("a proof");
        lockstep_proof::net::verify(&net, &vec![x; 8192], &output, &proof).expect("accepted");
    }
}

/// proofs.md, 5: the largest statement has 2^27 cells, and 2^27 fractions.
#[test]
fn a_witness_that_is_too_large_is_refused() {
    let nodes = vec![
        (Op::Quantise { input: 0 }, None),
        (Op::Linear { input: 1, weights: 0 }, Some(constant(1024, 1, 3, 0))),
        (Op::Relu { input: 2 }, None),
        (Op::Quantise { input: 3 }, None),
        (Op::Linear { input: 4, weights: 1 }, Some(constant(1, 1024, 3, 0))),
    ];
    let net = build(Shape::vector(1), nodes);
    let error = prove(&compute(), &net, &[1; 16_384]).expect_err("too large");
    assert!(
        matches!(
            error,
            ProveError::Plan(PlanError::TooLarge { .. } | PlanError::TooMany { what: "fractions", .. })
        ),
        "{error}"
    );
    let error = verify(&net, &[1; 16_384], &[1; 16_384], &Proof::new(&[0; 64])).expect_err("too large");
    assert!(
        matches!(
            error,
            VerifyError::Plan(PlanError::TooLarge { .. } | PlanError::TooMany { what: "fractions", .. })
        ),
        "{error}"
    );
    let got = 65_537;
    let error = Statement::<Quintic>::new(&net, &vec![1; got], &vec![1; got]).expect_err("too many");
    assert_eq!(error, PlanError::Examples { got, each: 1, limit: 65_536 });
}

/// What the runtime refuses is not proved.
#[test]
fn inputs_outside_their_bounds_are_not_proved() {
    let mut rng = SplitMix64::new(5);
    let net = dense(&mut rng, &[2, 2]);
    let mut input = inputs(&mut rng, &net, 1);
    input[1] = net.graph().input.high + 1;
    assert!(matches!(prove(&compute(), &net, &input), Err(ProveError::Run(_))));
}
