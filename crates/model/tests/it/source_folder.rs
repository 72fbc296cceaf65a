//! A whole Hugging Face folder: weights, tokenizer, template and special tokens come together, and must fit together.

use std::fs;
use std::path::Path;

use lockstep_model::source::{self, SourceError};
use lockstep_model::tokenizer::TokenizerKind;

use crate::source_data::fixture;

/// 96 single characters for the 96 rows of the fixture's embedding.
fn characters(n: u32) -> String {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let letters = (special.len() as u32..n).map(|id| char::from_u32(0x4e00 + id).unwrap().to_string());
    special.into_iter().chain(letters).collect::<Vec<_>>().join("\n")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("llama-gqa").join(name), folder.path().join(name)).unwrap();
    }
    write(folder.path(), "vocabulary.txt", &characters(96));
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn open(folder: &Path) -> Result<source::Source, SourceError> {
    source::open(folder, Some(&folder.join("vocabulary.txt")))
}

#[test]
fn a_folder_and_its_safetensors_file_are_the_same_model() {
    let folder = folder();
    let by_folder = open(folder.path()).unwrap();
    let file = folder.path().join("model.safetensors");
    let by_file = source::open(&file, Some(&folder.path().join("vocabulary.txt"))).unwrap();
    assert_eq!(by_folder.model, by_file.model);
    assert_eq!(by_file.name, "model");
    assert_eq!(by_folder.tokenizer.kind(), TokenizerKind::Chars);
    assert_eq!((by_folder.tokenizer.bos(), by_folder.tokenizer.eos()), (Some(1), &[2][..]));
    assert_eq!(by_folder.chat_template, None);
}

#[test]
fn the_generation_config_decides_which_tokens_end_a_text() {
    let folder = folder();
    write(folder.path(), "generation_config.json", r#"{"bos_token_id": 5, "eos_token_id": [7, 8, 4000000]}"#);
    let source = open(folder.path()).unwrap();
    assert_eq!((source.tokenizer.bos(), source.tokenizer.eos()), (Some(5), &[7, 8][..]));
    write(folder.path(), "generation_config.json", r#"{"eos_token_id": "two"}"#);
    assert!(matches!(open(folder.path()), Err(SourceError::ConfigField { field: "eos_token_id", .. })));
}

#[test]
fn chat_templates_are_found_in_their_three_places() {
    let folder = folder();
    let template = || open(folder.path()).unwrap().chat_template;
    write(folder.path(), "tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(template().as_deref(), Some("one"));
    let list =
        r#"{"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "two"}]}"#;
    write(folder.path(), "tokenizer_config.json", list);
    assert_eq!(template().as_deref(), Some("two"));
    write(folder.path(), "chat_template.jinja", "three");
    assert_eq!(template().as_deref(), Some("three"));
    write(folder.path(), "chat_template.jinja", &" ".repeat(300 << 10));
    assert!(matches!(open(folder.path()), Err(SourceError::OutOfRange { .. })));
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused() {
    let folder = folder();
    write(folder.path(), "vocabulary.txt", &characters(97));
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, SourceError::TokenizerTooLarge { got: 97, expected: 96 }), "{error}");
    write(folder.path(), "vocabulary.txt", "not one character per line");
    assert!(matches!(open(folder.path()), Err(SourceError::Tokenizer { .. })));
}

#[test]
fn a_tokenizer_beside_the_weights_is_found() {
    let folder = folder();
    assert!(matches!(source::open(folder.path(), None), Err(SourceError::NoTokenizer { .. })));
    fs::copy(fixture("spm-unigram.model"), folder.path().join("tokenizer.model")).unwrap();
    let source = source::open(folder.path(), None).unwrap();
    assert_eq!(source.tokenizer.kind(), TokenizerKind::SentencePiece);
}
