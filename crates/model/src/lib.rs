//! Models in (llama2.c, safetensors), tokenizers, quantiser; the committed bundle out.

pub mod bundle;
pub mod chat;
pub mod float;
pub mod quantise;
pub mod source;
pub mod tokenizer;
