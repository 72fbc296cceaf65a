//! Proofs of small networks (docs/spec/nets.md): `net`, run on these inputs, gives these outputs.
//!
//! Input, output and weights are public (tier A: the verifier holds the network and evaluates its weights). The argument
//! is succinct, it does not hide anything.
//!
//! - [`plan`]: what can be proved, and that no integer wraps
//! - [`cut`], [`steps`]: data-dependent shifts as a public table
//! - [`ranges`], [`build`], [`statement`]: the circuit
//! - `witness`, `prove` (feature `prover`), [`mod@verify`]: the two sides

pub mod build;
pub mod cut;
pub mod plan;
#[cfg(feature = "prover")]
pub mod prove;
pub mod ranges;
pub mod statement;
pub mod steps;
pub mod verify;
#[cfg(feature = "prover")]
pub mod witness;

use crate::error::VerifyError;
use crate::field::Quintic;
use crate::proof::Proof;
use lockstep_base::net::Net;
use statement::Statement;
#[cfg(feature = "prover")]
use {
    crate::error::ProveError, alloc::vec::Vec, lockstep_runtime::kernels::Compute,
    lockstep_runtime::observe::Silent, witness::Witness,
};

/// Runs `net` on `input` (one example behind the other) and proves the output.
///
/// # Errors
/// If the network does not run on it, or cannot be proved yet.
#[cfg(feature = "prover")]
pub fn prove(compute: &Compute, net: &Net, input: &[i32]) -> Result<(Vec<i32>, Proof), ProveError> {
    let output = lockstep_runtime::net::run(compute, net, input, &mut Silent)?;
    let statement = Statement::<Quintic>::new(net, input, &output)?;
    let witness = Witness::new(&statement, None);
    for (index, (got, expected)) in witness.outputs.iter().zip(&output).enumerate() {
        if *got != i64::from(*expected) {
            return Err(ProveError::Disagreement { index, got: *got, expected: (*expected).into() });
        }
    }
    let proof = prove::prove(&statement, &witness)?;
    Ok((output, Proof::new(&proof)))
}

/// Checks that `net` gives `output` for `input`.
///
/// # Errors
/// The first check that fails; then nothing is known.
pub fn verify(net: &Net, input: &[i32], output: &[i32], proof: &Proof) -> Result<(), VerifyError> {
    let statement = Statement::<Quintic>::new(net, input, output)?;
    verify::verify(&statement, proof.body())
}
