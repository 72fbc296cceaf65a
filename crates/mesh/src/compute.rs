//! What a stage computes with: the border between the protocol and the arithmetic.
//!
//! Two implementations: [`crate::engine`] over the exact runtime, and [`crate::toy`], a cheap
//! arithmetic of the same shape for simulations of thousands of runs.

use crate::data::Values;
use crate::message::{Logprobs, Open};
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::receipt_file::ServedLeaf;

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
    /// The node itself failed.
    #[error("{0}")]
    Internal(String),
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
    /// For each position, the sampled token where one was asked for.
    Samples(Vec<Option<Sampled>>),
}

/// Roots of one span and the content of its leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanTrace {
    /// Cumulative root of the KV cache to the end of the span.
    pub kv_root: Digest,
    /// Root over the span's op outputs; the empty root in boundary mode.
    pub trace_root: Digest,
    /// The leaves, where they are kept.
    pub leaves: Vec<ServedLeaf>,
}

/// One task of one part.
pub trait StageCompute: Send {
    /// Computes the positions from `start` on; the first call has `start` 0, every other begins
    /// where the last one ended (or was truncated to). `sample` has one flag a position; a part
    /// without head ignores it.
    ///
    /// # Errors
    /// [`ComputeError`]; the task is over then.
    fn forward(&mut self, start: u32, values: &Values, sample: &[bool]) -> Result<Output, ComputeError>;

    /// Roots over `positions`, all computed; spans are closed in order, each position once.
    fn close_span(&mut self, positions: Range<u32>) -> SpanTrace;

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
