//! A scored vocabulary with byte tokens (Llama 2, Mistral, Gemma, Phi-3) as a Hugging Face `tokenizer.json`.
//!
//! Why not the SentencePiece model that it came from: chat templates write control tokens by name, and only a
//! `tokenizer.json` finds them in a text. Merging by score becomes merging by rank: a piece may be made of any two pieces that
//! join to it, in the order of its score (`SentencePieceExtractor` of transformers).

use std::collections::HashMap;

use serde_json::{Value, json};

use super::GgufError;
use super::bpe::{self, MAX_MERGES};
use super::spm;
use super::vocabulary::{Vocabulary, token_type};

/// Longest piece that merges make, in bytes; longer ones are never made.
const MAX_PIECE_BYTES: usize = 256;
/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// `None` if the vocabulary cannot express every text in bytes: then it stays a SentencePiece model.
pub(super) fn write(vocabulary: &Vocabulary<'_>) -> Result<Option<Vec<u8>>, GgufError> {
    if !vocabulary.has_all_bytes() {
        return Ok(None);
    }
    let (vocab, mut added) = bpe::tokens(vocabulary)?;
    // Runs of spaces are merged like all else; as added tokens they would be looked for before spaces have their sign.
    added.retain(|token| token["content"].as_str().is_some_and(|name| !name.contains(SPACE)));
    let unk = vocabulary.iter().find(|(_, kind)| *kind == token_type::UNKNOWN);
    let unk = unk.map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    let flag = |key: &str, default| Ok::<_, GgufError>(vocabulary.metadata.flag(key)?.unwrap_or(default));
    let prefix = flag("tokenizer.ggml.add_space_prefix", true)?;
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    if flag("tokenizer.ggml.remove_extra_whitespaces", false)? {
        return Ok(None);
    }
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unk,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges(vocabulary)?,
        },
    });
    Ok(Some(file.to_string().into_bytes()))
}

/// Every way to join two pieces to a third, best score first.
fn merges(vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, GgufError> {
    let scores = spm::scores(vocabulary)?;
    let pieces: HashMap<&str, f32> = vocabulary
        .iter()
        .zip(&scores)
        .filter(|((_, kind), _)| matches!(*kind, token_type::NORMAL | token_type::USER_DEFINED))
        .filter_map(|((name, _), &score)| std::str::from_utf8(name).ok().map(|name| (name, score)))
        .collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    // In the order of the file: a map has none.
    for (name, _) in vocabulary.iter() {
        let Some((&name, &score)) =
            std::str::from_utf8(name).ok().and_then(|name| pieces.get_key_value(name))
        else {
            continue;
        };
        if name.len() > MAX_PIECE_BYTES {
            continue;
        }
        for (at, _) in name.char_indices().skip(1) {
            let (left, right) = name.split_at(at);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                merges.push((score, left, right));
            }
        }
        if merges.len() > MAX_MERGES {
            let (what, got) = ("merges of the vocabulary", merges.len() as u64);
            return Err(GgufError::TooLarge { what, got, max: MAX_MERGES as u64 });
        }
    }
    merges
        .sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.len().cmp(&a.1.len())).then(b.2.len().cmp(&a.2.len())));
    Ok(merges.into_iter().map(|(_, left, right)| json!([left, right])).collect())
}
