//! Models in (llama2.c, safetensors), tokenizers, quantiser; the committed bundle out.

pub mod chat;
pub mod float;
pub mod source;
pub mod tokenizer;
