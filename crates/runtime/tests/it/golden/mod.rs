//! The golden vectors of tests/golden (read its README.md): what the specification means, in text.

mod file;
mod layer;
mod model;
mod net;
mod ops;

use lockstep_runtime::kernels::Kernel;
use std::process::Command;

/// Files of single ops, by section of docs/spec/arithmetic.md, and the least number of cases.
const OPS: [(&str, usize); 12] = [
    ("tables.txt", 3),
    ("rounding.txt", 8),
    ("quantise.txt", 8),
    ("norm.txt", 8),
    ("families.txt", 14),
    ("linear.txt", 8),
    ("residual.txt", 4),
    ("attention.txt", 16),
    ("ffn.txt", 8),
    ("sampling.txt", 10),
    ("encoder.txt", 6),
    ("nets.txt", 9),
];

/// arithmetic.md 1 to 8: every op gives what its golden vectors say.
#[test]
fn every_op_gives_its_golden_vectors() {
    let tables = ops::Tables::read();
    for (name, least) in OPS {
        let count = file::check(name, |case| ops::compute(case, &tables));
        assert!(count >= least, "{name} has {count} cases, expected at least {least}");
    }
}

/// arithmetic.md 3 to 7: one layer over literal weights, op by op.
#[test]
fn a_layer_gives_its_golden_vectors() {
    let tables = ops::Tables::read();
    assert_eq!(file::check("layer.txt", |case| layer::compute(case, &tables)), 9);
}

/// A whole model with all kernels: logits, answer, and the roots of a route of three stages.
#[test]
fn a_model_gives_its_golden_vectors() {
    for kernel in Kernel::available() {
        assert_eq!(file::check("model.txt", |case| model::compute(case, kernel)), 4, "{kernel}");
    }
}

/// An implementation from the text of the specification, in another language, gives the same.
#[test]
fn an_independent_implementation_agrees() {
    if std::env::var("LOCKSTEP_PEERS").is_ok_and(|value| value == "off") {
        eprintln!("SKIP an_independent_implementation_agrees: LOCKSTEP_PEERS=off");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/check.py");
    let output = match Command::new("python3").arg(script).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIP an_independent_implementation_agrees: python3: {error}");
            return;
        }
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    eprint!("{out}");
}
