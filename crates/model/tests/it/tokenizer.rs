//! Tokenizers: the same ids as their upstreams, bytes in and out, and files that are not what they claim.

use std::fs;

use lockstep_model::tokenizer::{Tokenizer, TokenizerError, TokenizerKind};
use proptest::prelude::*;

use crate::source_data::{data, fixture};

fn read(kind: TokenizerKind, path: &std::path::Path) -> Tokenizer {
    Tokenizer::from_bytes(kind, &fs::read(path).unwrap()).unwrap()
}

fn gpt2() -> Option<Tokenizer> {
    data("tokenizer-gpt2/tokenizer.json").map(|path| read(TokenizerKind::HfJson, &path))
}

fn stories() -> Option<Tokenizer> {
    data("llama-stories260k/tok512.bin").map(|path| read(TokenizerKind::Llama2c, &path))
}

fn babyllama() -> Option<Tokenizer> {
    data("llama-babyllama-tok361/tok105.vocab").map(|path| read(TokenizerKind::CharsBytes, &path))
}

fn spm(name: &str) -> Tokenizer {
    read(TokenizerKind::SentencePiece, &fixture(&format!("{name}.model")))
}

/// The file ships with truncation at 50 tokens; one vector is longer.
#[test]
fn gpt2_agrees_with_all_47_vectors_of_llama_cpp() {
    let (Some(gpt2), Some(folder)) = (gpt2(), data("tokenizer-gguf")) else { return };
    let texts = fs::read_to_string(folder.join("ggml-vocab-gpt-2.gguf.inp")).unwrap();
    let ids = fs::read_to_string(folder.join("ggml-vocab-gpt-2.gguf.out")).unwrap();
    let (texts, ids): (Vec<_>, Vec<_>) =
        (texts.split("\n__ggml_vocab_test__\n").collect(), ids.split('\n').collect());
    let pairs: Vec<_> = texts.iter().zip(&ids).take(47).collect();
    assert_eq!(pairs.len(), 47);
    for (text, ids) in pairs {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(gpt2.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(gpt2.decode(&ids), *text);
    }
    assert_eq!((gpt2.vocab_size(), gpt2.bos(), gpt2.eos()), (50_257, Some(50_256), &[50_256][..]));
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[test]
fn sentencepiece_models_agree_with_the_sentencepiece_package() {
    for name in ["spm-bpe", "spm-unigram"] {
        let tokenizer = spm(name);
        let cases: Vec<Case> =
            serde_json::from_slice(&fs::read(fixture(&format!("{name}.json"))).unwrap()).unwrap();
        assert!(cases.len() >= 12);
        for Case { text, ids, decoded } in cases {
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), decoded, "{name}: {text:?}");
        }
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), &[2][..]));
    }
}

/// A vocabulary-only check of the scored BPE against llama.cpp is in the GGUF file; here llama2.c's own file.
#[test]
fn llama2c_pieces_are_merged_by_score() {
    let Some(stories) = stories() else { return };
    let tokens = stories.encode("Once upon a time", true).unwrap();
    assert_eq!(tokens[0], 1);
    assert!(tokens.len() < 10, "{tokens:?}");
    assert_eq!(stories.decode(&tokens), "Once upon a time");
    let mut continued = stories.decode_continuation();
    let text: String = tokens.iter().map(|&token| continued.push(token)).collect();
    assert_eq!(text, " Once upon a time");
}

#[test]
fn a_stream_emits_only_whole_characters() {
    let Some(stories) = stories() else { return };
    let byte = |byte: u8| 3 + u32::from(byte);
    let mut stream = stories.decode_stream();
    let pushes: Vec<String> = "é😀".bytes().map(|b| stream.push(byte(b))).collect();
    assert_eq!(pushes, ["", "é", "", "", "", "😀"]);
    // A lead byte without its continuation becomes U+FFFD as soon as the next byte shows it, or at the end.
    assert_eq!((stream.push(byte(0xe2)), stream.push(byte(b'a'))), (String::new(), "\u{fffd}a".into()));
    assert_eq!(stream.push(byte(0xff)), "\u{fffd}");
    assert_eq!(stream.push(byte(0xf0)), "");
    assert_eq!(stream.push(99_999), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn kinds_are_found_by_content_and_named() {
    for kind in TokenizerKind::ALL {
        assert_eq!(kind.as_str().parse::<TokenizerKind>().unwrap(), kind);
    }
    assert!(matches!("bpe".parse::<TokenizerKind>(), Err(TokenizerError::UnknownKind { .. })));
    let detect = |bytes: &[u8], vocab| Tokenizer::detect(bytes, vocab).map(|t| t.kind());
    assert_eq!(detect(spm("spm-bpe").to_bytes(), 320), Ok(TokenizerKind::SentencePiece));
    assert_eq!(detect(b"a\nb\nc\n", 3), Ok(TokenizerKind::Chars));
    assert_eq!(detect(b"<unk>\n<s>\n</s>\na\n", 260), Ok(TokenizerKind::CharsBytes));
    assert!(matches!(detect(b"GIF89a", 3), Err(TokenizerError::UnknownFormat { .. })));
    assert!(matches!(detect(b"{\"model\": 3}", 3), Err(TokenizerError::HuggingFace { .. })));
    if let (Some(gpt2), Some(stories), Some(baby)) = (gpt2(), stories(), babyllama()) {
        assert_eq!(detect(gpt2.to_bytes(), 50_257), Ok(TokenizerKind::HfJson));
        assert_eq!(detect(stories.to_bytes(), 512), Ok(TokenizerKind::Llama2c));
        assert_eq!(detect(baby.to_bytes(), 361), Ok(TokenizerKind::CharsBytes));
    }
}

#[test]
fn plain_characters() {
    let plain = Tokenizer::from_bytes(TokenizerKind::Chars, "a\nb\n \né".as_bytes()).unwrap();
    assert_eq!(plain.encode("é ab", false).unwrap(), [3, 2, 0, 1]);
    assert_eq!(plain.decode(&[3, 2, 0, 1]), "é ab");
    let missing = TokenizerError::Unrepresentable { character: 'z', at: 1 };
    assert_eq!(plain.encode("az", false), Err(missing));
    assert_eq!(plain.encode("a", true), Err(TokenizerError::NoBos));
    for bad in ["ab\n", "a\na\n", "a\n\nb", "<s>\n<s>\n"] {
        assert!(Tokenizer::from_bytes(TokenizerKind::Chars, bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(Tokenizer::from_bytes(TokenizerKind::CharsBytes, b"a\nb\n").is_err());
}

#[test]
fn special_tokens_can_be_overridden_but_only_by_existing_ones() {
    let tokenizer = spm("spm-bpe").with_special(Some(5), vec![6, 7]).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(5), &[6, 7][..]));
    assert_eq!(tokenizer.encode("", true).unwrap(), [5]);
    assert!(matches!(tokenizer.with_special(Some(99_999), vec![]), Err(TokenizerError::UnknownToken { .. })));
}

/// A `tokenizer.json` in the manner of Llama: byte fallback and a stripped space, both known from the decoder section.
const LLAMA_JSON: &str = r#"{"version":"1.0","added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,
"rstrip":false,"normalized":false,"special":true}],"truncation":{"direction":"Right","max_length":2,"strategy":
"LongestFirst","stride":0},"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace",
"pattern":{"String":" "},"content":"▁"}]},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},
"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":
{"type":"BPE","vocab":{"<s>":0,"▁":1,"a":2,"b":3,"▁a":4,"<0xC3>":5,"<0xA9>":6},"merges":[["▁","a"]],"byte_fallback":true}}"#;

#[test]
fn llama_style_tokenizer_json_decodes_to_bytes() {
    let tokenizer = Tokenizer::from_bytes(TokenizerKind::HfJson, LLAMA_JSON.as_bytes()).unwrap();
    let tokens = tokenizer.encode("a baé", true).unwrap();
    assert_eq!(tokens, [0, 4, 1, 3, 2, 5, 6]);
    assert_eq!(tokenizer.decode(&tokens), "a baé");
    assert_eq!(tokenizer.token_bytes(5), Some(&[0xc3][..]));
    assert!(tokenizer.is_control(0) && tokenizer.token_name(0).as_deref() == Some("<s>"));
    let dropout = LLAMA_JSON.replace("\"byte_fallback\"", "\"dropout\":0.1,\"byte_fallback\"");
    assert!(Tokenizer::from_bytes(TokenizerKind::HfJson, dropout.as_bytes()).is_err());
    let word_piece = LLAMA_JSON.replace("\"Fuse\"", "\"CTC\"");
    let error = Tokenizer::from_bytes(TokenizerKind::HfJson, word_piece.as_bytes()).unwrap_err();
    assert!(matches!(&error, TokenizerError::UnsupportedDecoder { got } if got == "CTC"), "{error}");
}

#[test]
fn truncated_files_are_errors_never_panics() {
    let files = [TokenizerKind::SentencePiece; 2].into_iter().zip([spm("spm-bpe"), spm("spm-unigram")]);
    let files = files.chain(stories().map(|tokenizer| (TokenizerKind::Llama2c, tokenizer)));
    for (kind, whole) in files {
        let bytes = whole.to_bytes();
        for len in 0..bytes.len() {
            // A cut between two entries leaves a smaller, well-formed file: that cannot be told.
            if let Ok(cut) = Tokenizer::from_bytes(kind, &bytes[..len]) {
                assert!(cut.vocab_size() <= whole.vocab_size());
            }
        }
        assert!(Tokenizer::from_bytes(kind, &bytes[..5]).is_err());
    }
    for len in 0..LLAMA_JSON.len() {
        assert!(Tokenizer::from_bytes(TokenizerKind::HfJson, &LLAMA_JSON.as_bytes()[..len]).is_err());
    }
}

fn round_trip(tokenizer: &Tokenizer, text: &str) {
    let tokens = tokenizer.encode(text, tokenizer.bos().is_some()).unwrap();
    assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
    assert_eq!(tokenizer.decode(&tokens), text);
    let again = Tokenizer::from_bytes(tokenizer.kind(), tokenizer.to_bytes()).unwrap();
    assert_eq!(again.encode(text, false).ok(), tokenizer.encode(text, false).ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// With byte tokens every text comes back, the space marker and leading spaces included.
    #[test]
    fn any_text_survives_where_bytes_exist(text in "(\\PC|[ \u{2581}\n]|the|keeper){0,24}") {
        round_trip(&spm("spm-bpe"), &text);
        for tokenizer in [stories(), babyllama()].into_iter().flatten() {
            round_trip(&tokenizer, &text);
        }
    }

    /// Concatenated pushes equal decode for any tokens, valid UTF-8 or not.
    #[test]
    fn streams_equal_decode(tokens in prop::collection::vec(0u32..400, 0..40)) {
        let tokenizer = spm("spm-bpe");
        let mut stream = tokenizer.decode_stream();
        let mut text: String = tokens.iter().map(|&token| stream.push(token)).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(&text, &tokenizer.decode(&tokens));
        let bytes: Vec<u8> = tokens.iter().flat_map(|&t| tokenizer.token_bytes(t).unwrap_or_default()).copied().collect();
        let whole = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(text.as_str(), whole.strip_prefix(' ').unwrap_or(&whole));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in TokenizerKind::ALL {
            let _ = Tokenizer::from_bytes(kind, &bytes);
        }
    }

    /// One flipped byte in a real model: refused, or a tokenizer that still encodes without panicking.
    #[test]
    fn damaged_models_never_panic(at in 0usize..5_000, byte in any::<u8>()) {
        for name in ["spm-bpe", "spm-unigram"] {
            let mut bytes = spm(name).to_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(tokenizer) = Tokenizer::from_bytes(TokenizerKind::SentencePiece, &bytes) {
                let _ = tokenizer.encode("The keeper \u{fb01} Cafe\u{301} <<lamp>>", false);
                tokenizer.decode(&[0, 1, 2, 3, 100]);
            }
        }
    }
}
