//! Data frames, on `/lockstep/stage/1`: tokens for the first stage, residual rows for the others.
//!
//! ```text
//! task 32 | branch u32 BE | position u32 BE | count u32 BE | sample from u32 BE | values
//! ```
//! The last stage samples at every position of the frame from `sample from` on; position + count
//! there means nowhere. Values are little-endian: one u32 a token, or `count` rows of i32. A
//! truncation has the header only, with count 0 and sample from = position. Positions are
//! absolute, so that failover, speculation and audits share the frames.

use crate::frame::{Frame, Kind};
use crate::limits::{DATA_HEADER_BYTES, PREFILL_CHUNK_TOKENS, ROW_WIDTH_MAX};
use lockstep_base::Digest;

/// What enters a stage. Its `Debug` form is a length: contents never get into logs.
#[derive(Clone, PartialEq, Eq)]
pub enum Values {
    /// Tokens, one a position.
    Tokens(Vec<u32>),
    /// Residual rows of equal width, one after the other (count, width).
    Rows(Vec<i32>),
}

impl core::fmt::Debug for Values {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Values::Tokens(tokens) => write!(f, "Tokens({})", tokens.len()),
            Values::Rows(rows) => write!(f, "Rows({})", rows.len()),
        }
    }
}

/// Consecutive positions of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The task.
    pub task: Digest,
    /// The branch.
    pub branch: u32,
    /// Absolute position of the first value.
    pub position: u32,
    /// Positions, 1 to [`PREFILL_CHUNK_TOKENS`].
    pub count: u32,
    /// First position where the last stage samples; `position + count` for nowhere.
    pub sample_from: u32,
    /// The values.
    pub values: Values,
}

impl Batch {
    /// One past the last position.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.position + self.count
    }

    /// What it has at `position` and behind it; `None` if there is nothing.
    pub(crate) fn without(self, position: u32) -> Option<Batch> {
        let gone = position.saturating_sub(self.position).min(self.count);
        let count = self.count - gone;
        let values = match &self.values {
            Values::Tokens(tokens) => Values::Tokens(tokens[gone as usize..].to_vec()),
            Values::Rows(rows) => {
                Values::Rows(rows[rows.len() / self.count as usize * gone as usize..].to_vec())
            }
        };
        let first = self.position + gone;
        let batch =
            Batch { position: first, count, sample_from: self.sample_from.max(first), values, ..self };
        (count > 0).then_some(batch)
    }
}

/// A data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Values to compute with.
    Batch(Batch),
    /// Forget all positions from `position` on.
    Truncate {
        /// The task.
        task: Digest,
        /// The branch.
        branch: u32,
        /// First position to forget.
        position: u32,
    },
}

/// Why a payload is no data frame.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataError {
    /// A control frame was given.
    #[error("a {got:?} frame holds no data")]
    Kind {
        /// Its kind.
        got: Kind,
    },
    /// Shorter than its header.
    #[error("a data frame has {got} bytes, expected at least {DATA_HEADER_BYTES}")]
    Header {
        /// Length of the payload.
        got: usize,
    },
    /// No positions, or too many.
    #[error("a data frame has {got} positions, expected 1 to {PREFILL_CHUNK_TOKENS}")]
    Count {
        /// Announced positions.
        got: u32,
    },
    /// The last position does not fit in 32 bits.
    #[error("a data frame has {count} positions from {position} on, expected an end below 2^32")]
    End {
        /// First position.
        position: u32,
        /// Announced positions.
        count: u32,
    },
    /// Sampling begins outside the frame.
    #[error("sampling from position {got}, expected {first} to {end}")]
    SampleFrom {
        /// Where it would begin.
        got: u32,
        /// First position of the frame.
        first: u32,
        /// One past its last position.
        end: u32,
    },
    /// The values are not `count` values or rows.
    #[error("{got} bytes of values for {count} positions, expected {expected}")]
    Values {
        /// Bytes of values.
        got: usize,
        /// Announced positions.
        count: u32,
        /// What would fit, in words.
        expected: &'static str,
    },
}

impl Data {
    /// The task.
    #[must_use]
    pub fn task(&self) -> Digest {
        match self {
            Data::Batch(batch) => batch.task,
            Data::Truncate { task, .. } => *task,
        }
    }

    /// The frame that carries it.
    ///
    /// # Panics
    /// If a batch has no positions or more than a frame takes: what we send is within limits.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        match self {
            Data::Truncate { task, branch, position } => {
                Frame { kind: Kind::Truncate, payload: header(task, [*branch, *position, 0, *position]) }
            }
            Data::Batch(batch) => {
                assert!((1..=PREFILL_CHUNK_TOKENS as u32).contains(&batch.count), "count within its limit");
                let words = [batch.branch, batch.position, batch.count, batch.sample_from];
                let mut payload = header(&batch.task, words);
                let kind = match &batch.values {
                    Values::Tokens(tokens) => {
                        payload.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
                        Kind::Tokens
                    }
                    Values::Rows(rows) => {
                        payload.extend(rows.iter().flat_map(|value| value.to_le_bytes()));
                        Kind::Activations
                    }
                };
                Frame { kind, payload }
            }
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`DataError`] if the payload is not exactly one data frame. Whether rows have the model's
    /// width is for the stage to say.
    pub fn from_frame(frame: &Frame) -> Result<Data, DataError> {
        let payload = &frame.payload;
        let Some((head, rest)) = payload.split_first_chunk::<DATA_HEADER_BYTES>() else {
            return Err(DataError::Header { got: payload.len() });
        };
        let task = Digest(head[..32].try_into().expect("32 of 48 bytes"));
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("4 of 48 bytes"));
        let (branch, position, count, sample_from) = (word(32), word(36), word(40), word(44));
        if frame.kind == Kind::Truncate {
            if count != 0 || !rest.is_empty() {
                return Err(DataError::Values {
                    got: rest.len(),
                    count,
                    expected: "0 positions and no bytes",
                });
            }
        } else if count == 0 || count as usize > PREFILL_CHUNK_TOKENS {
            return Err(DataError::Count { got: count });
        }
        let end = position.checked_add(count).ok_or(DataError::End { position, count })?;
        if !(position..=end).contains(&sample_from) {
            return Err(DataError::SampleFrom { got: sample_from, first: position, end });
        }
        let values = match frame.kind {
            Kind::Control => return Err(DataError::Kind { got: frame.kind }),
            Kind::Truncate => return Ok(Data::Truncate { task, branch, position }),
            Kind::Tokens | Kind::Activations => read_values(frame.kind, rest, count)?,
        };
        Ok(Data::Batch(Batch { task, branch, position, count, sample_from, values }))
    }
}

fn header(task: &Digest, words: [u32; 4]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DATA_HEADER_BYTES);
    bytes.extend_from_slice(&task.0);
    for word in words {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes
}

fn read_values(kind: Kind, bytes: &[u8], count: u32) -> Result<Values, DataError> {
    let row_bytes = 4 * count as usize;
    let (chunks, rest) = bytes.as_chunks::<4>();
    debug_assert!(rest.len() < 4);
    if kind == Kind::Tokens {
        if bytes.len() != row_bytes {
            return Err(DataError::Values { got: bytes.len(), count, expected: "4 bytes a position" });
        }
        return Ok(Values::Tokens(chunks.iter().map(|b| u32::from_le_bytes(*b)).collect()));
    }
    if bytes.is_empty() || !bytes.len().is_multiple_of(row_bytes) || bytes.len() / row_bytes > ROW_WIDTH_MAX {
        return Err(DataError::Values {
            got: bytes.len(),
            count,
            expected: "as many rows of i32 as positions, each of 1 to 16384 values",
        });
    }
    Ok(Values::Rows(chunks.iter().map(|b| i32::from_le_bytes(*b)).collect()))
}
