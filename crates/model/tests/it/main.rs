//! Behaviour of the importers, the tokenizers and the bundle.

mod bundle_hostile;
mod bundle_open;
mod chat;
mod float;
mod gguf_file;
mod gguf_hostile;
mod gguf_models;
mod gguf_tokenizer;
mod net;
mod onnx;
mod quantise_check;
mod quantise_fidelity;
mod quantise_fold;
mod quantise_integers;
mod quantise_models;
mod source_adapter;
mod source_data;
mod source_encoder;
mod source_families;
mod source_folder;
mod source_hf;
mod source_llama2c;
mod source_refusals;
mod tokenizer;
mod tokenizer_hostile;
mod tokenizer_spm32k;
