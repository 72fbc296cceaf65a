//! Why a proof was refused, or cannot be made.

use alloc::string::String;

/// Why a network cannot be proved (yet), or not safely.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// An op that has no argument yet, or stands where it has none.
    #[error("{place} ({op}) cannot be proved yet: expected {expected}")]
    Unsupported {
        /// Where.
        place: String,
        /// Its op.
        op: &'static str,
        /// What is supported there.
        expected: &'static str,
    },
    /// An integer that could wrap around in the field.
    #[error("{place}: {what} may be {got}, expected a proof of at most {limit}")]
    CouldWrap {
        /// Where.
        place: String,
        /// Which integer.
        what: &'static str,
        /// Its bound.
        got: i64,
        /// The largest that cannot wrap.
        limit: i64,
    },
    /// No examples, too many, or not a whole number of them.
    #[error("an input of {got} integers, expected 1 to {limit} times {each}")]
    Examples {
        /// How many integers.
        got: usize,
        /// Integers of one example.
        each: usize,
        /// The largest number of examples.
        limit: usize,
    },
    /// Outputs that do not belong to the inputs.
    #[error("an output of {got} integers, expected {expected}")]
    OutputLength {
        /// How many.
        got: usize,
        /// How many the inputs give.
        expected: usize,
    },
    /// An integer outside the declared bounds of the network.
    #[error("input {index} is {got}, expected {low} to {high}")]
    InputBounds {
        /// Which integer.
        index: usize,
        /// Its value.
        got: i32,
        /// The smallest accepted.
        low: i32,
        /// The largest.
        high: i32,
    },
    /// An output that the network cannot give: the field does not tell it from others.
    #[error("output {index} is {got}, expected {low} to {high}")]
    OutputBounds {
        /// Which integer.
        index: usize,
        /// Its value.
        got: i32,
        /// The smallest that is proved possible.
        low: i64,
        /// The largest.
        high: i64,
    },
    /// A witness that is too large for one proof.
    #[error("a witness of {got} cells, expected at most {limit}")]
    TooLarge {
        /// How many.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// No tokens, too many, or an answer that is not part of them.
    #[error(
        "{got} tokens of which {generated} are the answer, expected 2 to {limit}, and a prompt before the answer"
    )]
    Tokens {
        /// How many.
        got: usize,
        /// Those of the answer.
        generated: usize,
        /// The largest number of tokens.
        limit: usize,
    },
    /// Layers that the weights lack, or none, or the embedding or the head that belongs to them.
    #[error(
        "layers {first} to {end} are not there, or not what belongs to them, expected a part of a decoder"
    )]
    Layers {
        /// The first layer.
        first: usize,
        /// The first layer behind them.
        end: usize,
    },
    /// Weights that are needed and that somebody lacks who has a model's key alone.
    #[error("the weights of the model are not there, expected them or the root of a commitment to them")]
    Unheld,
    /// Other values than enter the layers.
    #[error("{got} values enter the layers, expected {expected}")]
    Entering {
        /// How many.
        got: usize,
        /// How many do.
        expected: usize,
    },
    /// Other commitments than the layers have boundaries.
    #[error("{got} commitments to boundaries, expected {expected}")]
    Boundaries {
        /// How many.
        got: usize,
        /// How many the layers have.
        expected: usize,
    },
    /// A token that the model does not have.
    #[error("token {got}, expected one below {vocab}")]
    Token {
        /// The token.
        got: u32,
        /// How many the model has.
        vocab: u32,
    },
    /// An embedded value that the residual stream cannot have.
    #[error("an embedded value at position {position} is {got}, expected a magnitude of at most {limit}")]
    Embedding {
        /// The position.
        position: usize,
        /// The value.
        got: i64,
        /// The largest magnitude.
        limit: i64,
    },
    /// More of something than the error of the argument was counted for.
    #[error("{got} {what}, expected at most {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        limit: usize,
    },
}

/// Why a proof was not accepted. Every variant is one check.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyError {
    /// The statement itself is not one.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Not a file of proofs.
    #[error("not a proof: begins with {got:?}, expected {expected:?}")]
    Magic {
        /// Its first bytes.
        got: String,
        /// What a proof begins with.
        expected: &'static str,
    },
    /// Too large to be a proof.
    #[error("a proof of {got} bytes, expected at most {limit}")]
    Size {
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// It ends too early.
    #[error("the proof ends: {got} bytes are left, expected {expected}")]
    Truncated {
        /// Bytes that are left.
        got: usize,
        /// Bytes that are read next.
        expected: usize,
    },
    /// A declaration of more than there can be.
    #[error("declaration {at} is {got}, expected at most {limit}")]
    Declared {
        /// Which one.
        at: usize,
        /// What it says.
        got: u8,
        /// The most that the circuit allows there.
        limit: u32,
    },
    /// It goes on behind its end.
    #[error("{got} bytes behind the proof")]
    TrailingBytes {
        /// How many.
        got: usize,
    },
    /// A second encoding of an element.
    #[error("an element of the field is not in its canonical encoding")]
    NotCanonical,
    /// A challenge that no protocol can go on from; an honest proof meets it with probability below 2^-140.
    #[error("a challenge of {what} is degenerate")]
    Degenerate {
        /// Where.
        what: &'static str,
    },
    /// What a sum-check ended with is not what the polynomial has there.
    #[error("{what}: the sum-check ends in a value that the columns do not have")]
    SumCheck {
        /// Which one.
        what: &'static str,
    },
    /// A lookup is not in its table.
    #[error("the lookups and their tables do not cancel")]
    Lookup,
    /// A denominator is zero.
    #[error("the denominators of a tree multiply to zero")]
    ZeroDenominator,
    /// An opened column is not what was committed.
    #[error("the opened columns do not have the committed root")]
    Root,
    /// An opened column does not lie on the folded row.
    #[error("column {column} is not on the folded row")]
    Column {
        /// Which column.
        column: usize,
    },
    /// The folded row has another value than claimed.
    #[error("the folded row does not have the claimed value")]
    Value,
}

/// Why a proof was not made.
#[cfg(feature = "prover")]
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProveError {
    /// There is no such statement.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The network does not run.
    #[error(transparent)]
    Run(#[from] lockstep_runtime::net::NetRunError),
    /// The witness is not what the runtime computed: a fault of this crate.
    #[error("output {index} of the witness is {got}, the runtime computed {expected}")]
    Disagreement {
        /// Which output.
        index: usize,
        /// The witness's.
        got: i64,
        /// The runtime's.
        expected: i64,
    },
    /// An integer that the runtime computes and no argument covers, like a shift to the left of an accumulator.
    #[error("{what} is {got}, for which there is no argument")]
    NotCovered {
        /// Which integer.
        what: String,
        /// Its value.
        got: i64,
    },
    /// A challenge that the prover cannot go on from.
    #[error("a challenge of {what} is degenerate")]
    Degenerate {
        /// Where.
        what: &'static str,
    },
    /// Encoded weights that were kept.
    #[error(transparent)]
    Kept(#[from] crate::commitment::kept::KeptError),
}
