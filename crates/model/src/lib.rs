//! Models in (llama2.c, safetensors), tokenizers, quantiser; the committed bundle out. Small networks from ONNX.

pub mod bundle;
pub mod chat;
pub mod float;
pub mod net;
pub mod onnx;
mod protobuf;
pub mod quantise;
pub mod source;
pub mod tokenizer;
