//! What a stage computes with: the border between the protocol and the arithmetic.
//!
//! Two implementations: [`crate::engine`] over the exact runtime, and [`crate::toy`], a cheap
//! arithmetic of the same shape for simulations of thousands of runs.

use crate::data::Values;
use crate::message::{Logprobs, Open, Prove};
use crate::rows::StageRows;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_runtime::stage::SpanSummary;

/// Why a stage could not compute.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComputeError {
    /// A value left the range that the arithmetic defines (the same on every machine).
    #[error("{0}")]
    Range(String),
    /// The input does not fit the part.
    #[error("{0}")]
    Input(String),
}

/// A token that was sampled, with what a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Present if the task asked for it.
    pub logprobs: Option<Logprobs>,
}

/// What leaves a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Residual rows `(count, d_model)`.
    Rows(Vec<i32>),
    /// One token for each position from the first sampled one on.
    Sampled(Vec<Sampled>),
}

/// One task of one part.
pub trait StageCompute: Send {
    /// Computes the positions from `start` on: the first call has `start` 0, every other begins
    /// where the last one ended (or was truncated to). A part with the head samples at every
    /// position from `sample_from` on.
    ///
    /// # Errors
    /// [`ComputeError`]; the task is over then.
    fn forward(&mut self, start: u32, values: &Values, sample_from: u32) -> Result<Output, ComputeError>;

    /// The four roots over `positions`, all computed, and the leaves if they are kept. Spans are
    /// closed in order, each position once.
    fn close_span(&mut self, positions: Range<u32>) -> SpanSummary;

    /// Forgets positions from `position` on, none of which is in a closed span.
    fn truncate(&mut self, position: u32);
}

/// Makes the compute of a task.
pub trait ComputeFactory: Send {
    /// A fresh sequence for the task.
    ///
    /// # Errors
    /// [`ComputeError`] if the part cannot serve it.
    fn open(&self, open: &Open) -> Result<Box<dyn StageCompute>, ComputeError>;
}

/// Proves what a stage computed: the border to the protocol of proofs.
pub trait StageProver: Send + Sync {
    /// The commitment to residual rows, `(positions, d_model)`: it follows from the rows alone.
    fn commit(&self, rows: &[i32]) -> Digest;

    /// Proves that the stage of `open`, entered by these rows, leaves those in the answer of `prove`; with the head, that it chooses its tokens. May take
    /// minutes.
    ///
    /// # Errors
    /// [`ComputeError`] if that is not so, or cannot be proved.
    fn prove(&self, open: &Open, rows: &StageRows, prove: &Prove) -> Result<Vec<u8>, ComputeError>;
}
