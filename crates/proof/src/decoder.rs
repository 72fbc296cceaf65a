//! Proofs of decoders: a model, fed these tokens, gives the last of them greedily.
//!
//! Tokens are public. All positions are proved in one pass, as in prefill: prefill and decode give the same bits (docs/spec/arithmetic.md, section 1). A whole
//! model is one statement, or a chain of *stages*: statements about some layers each, whose boundaries are committed to ([`boundary`]), proved one by one, by one
//! prover or by several. The verifier holds the weights (tier A), or a commitment to them ([`weights`], tier B). The argument is succinct, it does not hide anything.
//!
//! - [`answer`]: what is claimed
//! - [`plan`]: which models can be proved
//! - [`statement`]: the circuit

pub mod answer;
pub mod boundary;
pub mod embedding;
pub mod plan;
pub mod statement;
#[cfg(feature = "prover")]
pub mod weights;

#[cfg(feature = "prover")]
use crate::argument::prove::Phase;
use crate::argument::{self, Roots};
#[cfg(feature = "prover")]
use crate::commitment::Committed;
use crate::error::VerifyError;
#[cfg(feature = "prover")]
use crate::error::{PlanError, ProveError};
use crate::field::Quintic;
use crate::gadget::Builder;
use crate::proof::Proof;
#[cfg(feature = "prover")]
use alloc::vec::Vec;
use core::ops::Range;
#[cfg(feature = "prover")]
use lockstep_runtime::pool::Heap;
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
    let layers = 0..answer.weights.config.n_layers as usize;
    let stage = Stage { layers, entering: None, leaving: None, weights: None };
    prove_stage(answer, &stage, watch)
}

/// What the prover of a stage has besides the answer.
#[cfg(feature = "prover")]
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// Its layers.
    pub layers: Range<usize>,
    /// Rows of the stream that enter it, `(positions, d_model)`, and the commitment to them; none where it embeds.
    pub entering: Option<(&'a [i32], &'a Committed<Quintic>)>,
    /// The commitment to the rows that leave it; none where it has the head.
    pub leaving: Option<&'a Committed<Quintic>>,
    /// The commitment to its weights, for a verifier that lacks them.
    pub weights: Option<&'a Committed<Quintic>>,
}

/// Proves what the layers of a stage do in an answer.
///
/// # Errors
/// If it is not what they do, or cannot be proved yet.
#[cfg(feature = "prover")]
pub fn prove_stage(
    answer: &Answer<'_>,
    stage: &Stage<'_>,
    watch: &mut dyn FnMut(Phase),
) -> Result<Proof, ProveError> {
    watch(Phase::Witness);
    let _heap = Heap::keep();
    if answer.weights.layers.iter().any(|layer| layer.q.codes.is_empty()) {
        return Err(ProveError::Plan(PlanError::Unheld));
    }
    let statement = Statement::<Quintic>::of_layers(*answer, stage.layers.clone(), None)?;
    let ends: Vec<&Committed<Quintic>> =
        stage.entering.iter().map(|(_, committed)| *committed).chain(stage.leaving).collect();
    let roots = Roots {
        columns: ends.iter().map(|committed| committed.root()).collect(),
        weights: stage.weights.map(Committed::root),
    };
    // Whether it is too large is known before there is a witness.
    let mut empty = Builder::new(LIMB_BITS);
    statement.build(&mut empty, &[]);
    statement.argument_with(empty.finish(), &roots)?;
    let rows = stage.entering.map_or(&[][..], |(rows, _)| rows);
    statement.check_entering(rows)?;
    let mut builder = Builder::proving(LIMB_BITS, None);
    statement.build(&mut builder, rows);
    let (built, witness) = builder.finish().honest()?;
    let declared = built.declarations.clone();
    let argument = statement.argument_with(built, &roots)?;
    let outside: Vec<&Committed<Quintic>> = ends.into_iter().chain(stage.weights).collect();
    let proof = argument::prove::prove_with(&argument, &witness, &outside, watch)?;
    Ok(Proof::new(&[declared, proof].concat()))
}

/// Cells of the witness of the layers `layers`, at most: with values as wide as the arithmetic allows. A real one has about half as many.
///
/// # Errors
/// If there is no such statement.
#[cfg(feature = "prover")]
pub fn cells_at_most(answer: &Answer<'_>, layers: Range<usize>) -> Result<usize, PlanError> {
    let statement = Statement::<Quintic>::of_layers(*answer, layers, None)?;
    let mut empty = Builder::new(LIMB_BITS);
    statement.build(&mut empty, &[]);
    Ok(empty.finish().circuit.columns.iter().map(|column| 1usize << column.log).sum())
}

/// Checks the proof of an answer.
///
/// # Errors
/// The first check that fails; then nothing is known.
pub fn verify(answer: &Answer<'_>, proof: &Proof) -> Result<(), VerifyError> {
    verify_stage(answer, 0..answer.weights.config.n_layers as usize, None, &Roots::default(), proof)
}

/// Checks the proof of what the layers `layers` do in an answer, between boundaries and with weights that have these roots; `embedded` as in
/// [`Statement::of_layers`].
///
/// # Errors
/// The first check that fails; then nothing is known.
pub fn verify_stage(
    answer: &Answer<'_>,
    layers: Range<usize>,
    embedded: Option<&[i64]>,
    roots: &Roots,
    proof: &Proof,
) -> Result<(), VerifyError> {
    let statement = Statement::<Quintic>::of_layers(*answer, layers, embedded)?;
    let mut builder = Builder::told(LIMB_BITS, proof.body());
    statement.build(&mut builder, &[]);
    let built = builder.finish();
    let argued = built.argued(proof.body())?;
    argument::verify::verify(&statement.argument_with(built, roots)?, argued)
}
