//! Proofs of decoders: a model, fed these tokens, gives the last of them greedily.
//!
//! Tokens and weights are public (tier A: the verifier holds the model and evaluates its weights). All positions are proved in one pass, as
//! in prefill: prefill and decode give the same bits (docs/spec/arithmetic.md, section 1). The argument is succinct, it does not hide anything.
//!
//! - [`plan`]: which models can be proved
//! - [`statement`]: the circuit

pub mod plan;
pub mod statement;

use crate::argument;
#[cfg(feature = "prover")]
use crate::argument::prove::Phase;
#[cfg(feature = "prover")]
use crate::error::ProveError;
use crate::error::VerifyError;
use crate::field::Quintic;
use crate::gadget::Builder;
use crate::proof::Proof;
use statement::{Answer, LIMB_BITS, Statement};

/// Proves an answer.
///
/// # Errors
/// If it is not the model's, or cannot be proved yet.
#[cfg(feature = "prover")]
pub fn prove(answer: &Answer<'_>) -> Result<Proof, ProveError> {
    prove_watched(answer, &mut |_| {})
}

/// [`prove`], telling `watch` of every phase that begins.
///
/// # Errors
/// As [`prove`].
#[cfg(feature = "prover")]
pub fn prove_watched(answer: &Answer<'_>, watch: &mut dyn FnMut(Phase)) -> Result<Proof, ProveError> {
    watch(Phase::Witness);
    let statement = Statement::<Quintic>::new(*answer)?;
    // Whether it is too large is known before there is a witness.
    let mut empty = Builder::new(LIMB_BITS);
    statement.build(&mut empty);
    statement.argument(empty.finish())?;
    let mut builder = Builder::proving(LIMB_BITS, None);
    statement.build(&mut builder);
    let (built, witness) = builder.finish().honest()?;
    let proof = argument::prove::prove_watched(&statement.argument(built)?, &witness, watch)?;
    Ok(Proof::new(&proof))
}

/// Checks the proof of an answer.
///
/// # Errors
/// The first check that fails; then nothing is known.
pub fn verify(answer: &Answer<'_>, proof: &Proof) -> Result<(), VerifyError> {
    let statement = Statement::<Quintic>::new(*answer)?;
    let mut builder = Builder::new(LIMB_BITS);
    statement.build(&mut builder);
    argument::verify::verify(&statement.argument(builder.finish())?, proof.body())
}
