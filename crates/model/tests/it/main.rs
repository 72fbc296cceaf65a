//! Behaviour of the importers, the tokenizers and the bundle.

mod chat;
mod float;
mod source_data;
mod source_folder;
mod source_hf;
mod source_llama2c;
mod tokenizer;
mod tokenizer_spm32k;
