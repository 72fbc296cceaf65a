//! ONNX files (github.com/onnx/onnx, `onnx.proto3`) of small networks, from strangers: every length is compared with what is there before
//! anything is allocated.
//!
//! Fields read: model `7 graph, 8 opset_import`; graph `1 node, 5 initializer, 11 input, 12 output`; node `1 input, 2 output, 3 name,
//! 4 op_type, 5 attribute, 7 domain`; attribute `1 name, 2 f, 3 i, 4 s, 5 t, 8 ints`; tensor `1 dims, 2 data_type,
//! 4 float_data, 7 int64_data, 8 name, 9 raw_data, 13 external_data, 14 data_location`.
//!
//! Ops: Conv, Gemm, MatMul, Add, Relu, MaxPool, Flatten, Reshape, Identity, Dropout, a final Softmax or LogSoftmax (left out: it
//! does not change the order of its inputs); Constant, Shape, Gather, Unsqueeze and Concat as far as exporters compute shapes with them.
//! Everything else is refused by name. The batch is one example.

mod convert;
mod error;
mod fold;
mod proto;
mod window;

pub use convert::{Prepare, import};
pub use error::OnnxError;
