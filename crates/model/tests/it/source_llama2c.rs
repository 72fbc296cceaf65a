//! llama2.c files: both layouts mean the same weights, real models speak, damaged files are refused.

use std::path::Path;

use lockstep_model::float::{Rng, Runner, Sampling, generate};
use lockstep_model::source::{self, FloatModel, HeadKind, SourceError, llama2c};

use crate::source_data::data;

#[test]
fn both_layouts_of_stories260k_give_the_same_weights() {
    let Some(folder) = data("llama-stories260k") else { return };
    let legacy = llama2c::load(&folder.join("stories260K.bin")).unwrap();
    let v1 = llama2c::load(&folder.join("stories260K_v1.bin")).unwrap();
    assert_eq!(legacy, v1);
    let c = &legacy.config;
    assert_eq!((c.d_model, c.ffn_hidden, c.n_layers, c.n_heads, c.n_kv_heads), (64, 172, 5, 8, 4));
    assert_eq!((c.vocab, c.context, c.head), (512, 512, HeadKind::Tied));
    assert_eq!(legacy.n_params(), 260_032);
}

/// The upstream project's own golden text, byte for byte.
#[test]
fn stories260k_greedy_200_tokens_equal_upstream() {
    let Some(folder) = data("llama-stories260k") else { return };
    let source = source::open(&folder.join("stories260K.bin"), Some(&folder.join("tok512.bin"))).unwrap();
    assert_eq!(source.name, "stories260K");
    // run.c counts the prompt's BOS among its steps, so 200 steps print 200 tokens.
    let bos = source.tokenizer.bos().unwrap();
    let tokens = generate(&source.model, &[bos], 200, &[], Sampling::Greedy, &mut Rng::new(0)).unwrap();
    let expected = std::fs::read_to_string(folder.join("expected_greedy_200.txt")).unwrap();
    assert_eq!(source.tokenizer.decode(&tokens), expected);
}

#[test]
fn babyllama_greedy_begins_with_once_upon_a_time() {
    let Some(folder) = data("llama-babyllama-tok361") else { return };
    let vocabulary = folder.join("tok105.vocab");
    let source = source::open(&folder.join("tok361_model5000.bin"), Some(&vocabulary)).unwrap();
    assert_eq!(source.tokenizer.vocab_size(), 361);
    let bos = source.tokenizer.bos().unwrap();
    let tokens = generate(&source.model, &[bos], 40, &[], Sampling::Greedy, &mut Rng::new(0)).unwrap();
    let text = source.tokenizer.decode(&tokens);
    assert!(text.starts_with("Once upon a time, there was a"), "{text:?}");
}

#[test]
fn a_model_without_a_tokenizer_says_which_files_it_looked_for() {
    let Some(folder) = data("llama-stories260k") else { return };
    let error = source::open(&folder.join("stories260K.bin"), None).unwrap_err();
    assert!(matches!(error, SourceError::NoTokenizer { .. }), "{error}");
}

/// dim 4, hidden 6, 1 layer, 2 heads, 1 kv head, vocab 5, seq 3.
const WORDS: [i32; 7] = [4, 6, 1, 2, 1, 5, 3];

fn legacy_file(words: [i32; 7], floats: usize) -> Vec<u8> {
    let header = words.iter().flat_map(|word| word.to_le_bytes());
    header.chain((0..floats).flat_map(|i| (i as f32 * 0.01 - 0.5).to_le_bytes())).collect()
}

/// embed 20, norms 2 x 4, q 16, k 8, v 8, o 16, gate, down, up 24 each, final norm 4, tables 6.
const FLOATS: usize = 20 + 8 + 16 + 8 + 8 + 16 + 3 * 24 + 4 + 6;

fn load(bytes: &[u8]) -> Result<FloatModel, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    std::fs::write(&path, bytes).unwrap();
    llama2c::load(Path::new(&path))
}

#[test]
fn an_untied_head_is_read_after_the_tables() {
    let tied = load(&legacy_file(WORDS, FLOATS)).unwrap();
    let mut words = WORDS;
    words[5] = -5;
    let untied = load(&legacy_file(words, FLOATS + 20)).unwrap();
    assert!(tied.head.is_none());
    assert_eq!(untied.head.as_ref().unwrap().row(0)[0], FLOATS as f32 * 0.01 - 0.5);
    assert_eq!(tied.layers, untied.layers);
    Runner::new(&untied).step(4).unwrap();
}

#[test]
fn every_truncation_and_any_extra_byte_is_refused() {
    let mut file = legacy_file(WORDS, FLOATS);
    for len in 0..file.len() {
        let error = load(&file[..len]).unwrap_err();
        assert!(matches!(error, SourceError::Length { .. }), "{len}: {error}");
    }
    file.push(0);
    assert!(matches!(load(&file), Err(SourceError::Length { got, expected, .. }) if got == expected + 1));
}

#[test]
fn hostile_headers_are_refused_before_anything_is_allocated() {
    for index in 0..7 {
        for value in [0, -1, i32::MIN, i32::MAX, 3] {
            let mut words = WORDS;
            words[index] = value;
            if words != WORDS {
                load(&legacy_file(words, FLOATS)).unwrap_err();
            }
        }
    }
}

#[test]
fn nan_and_infinite_weights_are_named() {
    for (value, float) in
        [(f32::NAN, 20 + 4 + 3), (f32::INFINITY, 20 + 4 + 3), (f32::NEG_INFINITY, 20 + 4 + 3)]
    {
        let mut file = legacy_file(WORDS, FLOATS);
        file[28 + 4 * float..][..4].copy_from_slice(&value.to_le_bytes());
        match load(&file).unwrap_err() {
            SourceError::NotFinite { name, index, .. } => {
                assert_eq!((name.as_str(), index), ("layers.0.q", 3));
            }
            other => panic!("{other}"),
        }
    }
}
