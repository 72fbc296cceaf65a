//! Small networks: the float model, its integer twin, and the file of the latter.
//!
//! ```text
//! file.onnx --onnx::import--> FloatNet --quantise--> lockstep_base::net::Net --write--> bytes (root)
//!                                 └── values: the reference in f64
//! ```
//!
//! Quantisation takes no data: weights are rounded on the grid of their row scales, formats follow from proved
//! bounds, and activations get their step from the example at run time (docs/spec/nets.md).

mod file;
mod float;
mod idx;
mod quantise;

pub use file::{FILE_BYTES_MAX, MAGIC, NetFileError, read, write};
pub use float::{Affine, FloatNet, FloatNetError, FloatOp};
pub use idx::{Idx, IdxError, read_idx};
pub use quantise::{InputFormat, QuantiseNetError, quantise};
