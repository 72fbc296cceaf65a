//! Proofs of small networks (docs/spec/nets.md): `net`, run on these inputs, gives these outputs.
//!
//! Input, output and weights are public (tier A: the verifier holds the network and evaluates its weights). The argument
//! is succinct, it does not hide anything.
//!
//! - [`plan`]: what can be proved
//! - [`statement`]: the circuit

pub mod plan;
pub mod statement;

use crate::argument;
use crate::error::VerifyError;
use crate::field::Quintic;
use crate::gadget::Builder;
use crate::proof::Proof;
use lockstep_base::net::Net;
use statement::Statement;
#[cfg(feature = "prover")]
use {
    crate::error::ProveError, alloc::vec::Vec, lockstep_runtime::kernels::Compute,
    lockstep_runtime::observe::Silent,
};

/// Runs `net` on `input` (one example behind the other) and proves the output.
///
/// # Errors
/// If the network does not run on it, or cannot be proved yet.
#[cfg(feature = "prover")]
pub fn prove(compute: &Compute, net: &Net, input: &[i32]) -> Result<(Vec<i32>, Proof), ProveError> {
    let output = lockstep_runtime::net::run(compute, net, input, &mut Silent)?;
    let statement = Statement::<Quintic>::new(net, input, &output)?;
    // Whether it is too large is known before there is a witness.
    let mut empty = Builder::new(statement.limb_bits());
    statement.build(&mut empty);
    statement.argument(empty.finish())?;
    let mut builder = Builder::proving(statement.limb_bits(), None);
    statement.build(&mut builder);
    let (built, witness) = builder.finish().honest()?;
    let declared = built.declarations.clone();
    let proof = argument::prove::prove(&statement.argument(built)?, &witness)?;
    Ok((output, Proof::new(&[declared, proof].concat())))
}

/// Checks that `net` gives `output` for `input`.
///
/// # Errors
/// The first check that fails; then nothing is known.
pub fn verify(net: &Net, input: &[i32], output: &[i32], proof: &Proof) -> Result<(), VerifyError> {
    let statement = Statement::<Quintic>::new(net, input, output)?;
    let mut builder = Builder::told(statement.limb_bits(), proof.body());
    statement.build(&mut builder);
    let built = builder.finish();
    let argued = built.argued(proof.body())?;
    argument::verify::verify(&statement.argument(built)?, argued)
}
