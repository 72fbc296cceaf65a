//! A sentence-transformers folder as a whole: WordPiece tokenizer, weights and pooling make one vector of a text.

use std::fs;

use lockstep_model::quantise::{ImportError, ImportOptions, Progress, import_source};
use lockstep_model::source;
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};

use crate::source_data::fixture;

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn word_pieces_are_those_of_the_tokenizers_package() {
    let source = source::open(&fixture("bert"), None).unwrap();
    let tokenizer = &source.tokenizer;
    assert_eq!(
        (tokenizer.kind(), tokenizer.bos(), tokenizer.eos()),
        (TokenizerKind::HfJson, Some(2), &[3][..])
    );
    let cases: Vec<Case> =
        serde_json::from_slice(&fs::read(fixture("bert").join("expected_ids.json")).unwrap()).unwrap();
    for Case { text, ids } in cases {
        let mut got = tokenizer.encode(&text, true).unwrap();
        got.extend(tokenizer.eos());
        assert_eq!(got, ids, "{text:?}");
    }
    let shown = tokenizer.encode("the bell", false).unwrap();
    assert_eq!(tokenizer.decode(&shown), "the bell");
}

/// Lower case is the tokenizer's; another sentence is another vector; every vector has length one.
#[test]
fn a_text_becomes_one_vector() {
    let source = source::open(&fixture("bert"), None).unwrap();
    let embedding = |text: &str| {
        let mut tokens = source.tokenizer.encode(text, true).unwrap();
        tokens.extend(source.tokenizer.eos());
        source.model.embedding(&tokens).unwrap()
    };
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let bell = embedding("The keeper rang the bell.");
    assert_eq!(bell, embedding("the KEEPER rang THE bell."));
    assert!((cosine(&bell, &bell) - 1.0).abs() < 1e-6);
    assert!(cosine(&bell, &embedding("Boats wait outside the harbour.")) < 0.999);
}

/// A word without limit would be taken apart in quadratic time.
#[test]
fn a_vocabulary_that_takes_long_words_apart_is_refused() {
    let file = fs::read_to_string(fixture("bert").join("tokenizer.json")).unwrap();
    assert!(Tokenizer::from_bytes(TokenizerKind::HfJson, file.as_bytes()).is_ok());
    for limit in ["0", "201", "1000000", "-1", "null"] {
        let changed = file
            .replace("\"max_input_chars_per_word\": 100", &format!("\"max_input_chars_per_word\": {limit}"));
        assert_ne!(changed, file);
        let error = Tokenizer::from_bytes(TokenizerKind::HfJson, changed.as_bytes()).unwrap_err();
        assert!(limit == "-1" || error.to_string().contains("max_input_chars_per_word"), "{limit}: {error}");
    }
}

/// An encoder cannot write: a text that is given is what it is calibrated by; random tokens are said to be random.
#[test]
fn calibration_is_by_a_given_text() {
    let source = source::open(&fixture("bert"), None).unwrap();
    let import = |text: Option<&str>| {
        let options = ImportOptions { calibration_text: text.map(Into::into), ..Default::default() };
        import_source(&source, &options, &mut Progress::none())
    };
    let text = import(Some("the bell of the keeper.\n\nthe lamp! the keeper.\n")).unwrap();
    assert!(text.report.warnings.is_empty() && text.report.calibration_tokens < 100, "{:?}", text.report);
    let random = import(None).unwrap();
    assert!(
        random.report.warnings.concat().contains("random tokens")
            && random.report.calibration_tokens >= 2_000
    );
    assert!(matches!(import(Some(" \n\n")), Err(ImportError::NoText)));
}
