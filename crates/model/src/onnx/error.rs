//! One variant per check of ONNX files.

use crate::net::FloatNetError;
use crate::protobuf::WireError;

/// Why a file is not imported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// A number above its limit.
    #[error("{what}: got {got}, expected at most {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// Not the wire format of protocol buffers, or a field of another type.
    #[error("{what}, byte {at}: {reason}")]
    Wire {
        /// The message.
        what: &'static str,
        /// Where in it.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// Something that the file lacks.
    #[error("the file has no {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// A version of the operators that is not known.
    #[error("operator set {got}, expected 7 to 23")]
    Opset {
        /// The version.
        got: i64,
    },
    /// More or fewer inputs or outputs than one.
    #[error("{got} {what}, expected 1")]
    Ends {
        /// Inputs or outputs.
        what: &'static str,
        /// How many.
        got: usize,
    },
    /// A tensor whose dimensions and data differ.
    #[error("tensor {name:?}: dimensions {dims:?} with {got} bytes of data")]
    TensorSize {
        /// Its name.
        name: String,
        /// Its dimensions.
        dims: Vec<i64>,
        /// Bytes of its data.
        got: usize,
    },
    /// A tensor in a form that is not read.
    #[error("tensor {name:?}: {what}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is not read.
        what: String,
    },
    /// An op, or a use of one, that is not supported.
    #[error("node {node} ({op}): {what}")]
    Unsupported {
        /// Which node.
        node: usize,
        /// Its op.
        op: String,
        /// What is not supported.
        what: String,
    },
    /// A name that nothing before has defined.
    #[error("node {node} reads {name:?}, which no node before it computes")]
    Unknown {
        /// Which node.
        node: usize,
        /// The name.
        name: String,
    },
    /// A network that is refused.
    #[error(transparent)]
    Net(#[from] FloatNetError),
}

impl OnnxError {
    /// Names the message in which the wire format is broken.
    pub(super) fn wire(what: &'static str) -> impl Fn(WireError) -> OnnxError {
        move |WireError { at, reason }| OnnxError::Wire { what, at, reason }
    }
}
