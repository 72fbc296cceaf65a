//! A byte-level vocabulary with merges as a Hugging Face `tokenizer.json`.
//!
//! The file names by `tokenizer.ggml.pre` how a text is split before anything is merged; the expressions behind the names are
//! those of `llama-vocab.cpp` and of the `tokenizer.json` of the model that gave the name. A split that is nearly right makes
//! wrong tokens without a word, so names that are not known are refused.

use serde_json::{Value, json};

use super::GgufError;
use super::vocabulary::{Vocabulary, token_type};

/// Merges at most: as many as the reader of `tokenizer.json` takes.
pub(super) const MAX_MERGES: usize = 1 << 20;
/// The splitting expression of Llama 3.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Of Qwen 2.
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Of BLOOM.
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// How a text is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// GPT-2's expression, which the byte-level step has built in.
    Gpt2,
    /// Single digits first, then as GPT-2.
    DigitsThenGpt2,
    /// An expression.
    Regex(&'static str),
}

/// What goes with a name.
struct Pre {
    name: &'static str,
    split: Split,
    /// A piece that is in the vocabulary as a whole is one token, whatever the merges say.
    ignore_merges: bool,
    /// Unicode normal form C first (what the model's own tokenizer does; llama.cpp does not).
    nfc: bool,
    /// A text begins with BOS unless the file says otherwise.
    adds_bos: bool,
}

const PRE: [Pre; 12] = [
    plain("gpt-2", Split::Gpt2),
    plain("phi-2", Split::Gpt2),
    Pre { ignore_merges: true, adds_bos: true, ..plain("llama-bpe", Split::Regex(LLAMA_3)) },
    Pre { ignore_merges: true, adds_bos: true, ..plain("llama3", Split::Regex(LLAMA_3)) },
    Pre { ignore_merges: true, adds_bos: true, ..plain("llama-v3", Split::Regex(LLAMA_3)) },
    plain("smaug-bpe", Split::Regex(LLAMA_3)),
    Pre { nfc: true, ..plain("qwen2", Split::Regex(QWEN_2)) },
    Pre { nfc: true, ..plain("deepseek-r1-qwen", Split::Regex(QWEN_2)) },
    plain("smollm", Split::DigitsThenGpt2),
    plain("starcoder", Split::DigitsThenGpt2),
    plain("refact", Split::DigitsThenGpt2),
    plain("bloom", Split::Regex(BLOOM)),
];

const fn plain(name: &'static str, split: Split) -> Pre {
    Pre { name, split, ignore_merges: false, nfc: false, adds_bos: false }
}

/// A finished file.
pub(super) struct Written {
    pub(super) json: Vec<u8>,
    pub(super) adds_bos: bool,
}

/// Writes the file.
pub(super) fn write(vocabulary: &Vocabulary<'_>) -> Result<Written, GgufError> {
    let key = "tokenizer.ggml.pre";
    let name = vocabulary.metadata.text(key)?.ok_or(GgufError::MissingKey { key: key.into() })?;
    let pre = PRE.iter().find(|pre| pre.name == name).ok_or_else(|| GgufError::PreTokenizer {
        got: name.into(),
        expected: PRE.iter().map(|pre| pre.name).collect::<Vec<_>>().join(", "),
    })?;
    let (vocab, added) = tokens(vocabulary)?;
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let pre_tokenizer = match pre.split {
        Split::Gpt2 => byte_level(true),
        Split::DigitsThenGpt2 => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]})
        }
        Split::Regex(regex) => {
            let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        }
    };
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocab,
            "merges": merges(vocabulary)?,
        },
    });
    Ok(Written { json: file.to_string().into_bytes(), adds_bos: pre.adds_bos })
}

/// Names to ids, and the tokens that are looked for before a text is split. Unused entries get no name.
pub(super) fn tokens(
    vocabulary: &Vocabulary<'_>,
) -> Result<(serde_json::Map<String, Value>, Vec<Value>), GgufError> {
    let (mut vocab, mut added) = (serde_json::Map::new(), Vec::new());
    for (index, (name, kind)) in vocabulary.iter().enumerate() {
        let refused = |reason: &str| GgufError::Vocabulary { list: "tokens", index, reason: reason.into() };
        if kind == token_type::UNUSED {
            continue;
        }
        let name = std::str::from_utf8(name).map_err(|_| refused("not UTF-8"))?;
        if vocab.insert(name.into(), json!(index)).is_some() {
            return Err(refused(&format!("{name:?} occurs twice")));
        }
        if matches!(kind, token_type::UNKNOWN | token_type::CONTROL | token_type::USER_DEFINED) {
            if name.is_empty() {
                return Err(refused("an added token without a name"));
            }
            let special = kind != token_type::USER_DEFINED;
            added.push(json!({"id": index, "content": name, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special}));
        }
    }
    Ok((vocab, added))
}

/// `"left right"`; a space can only be between them.
fn merges(vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, GgufError> {
    let key = "tokenizer.ggml.merges";
    let merges = vocabulary.metadata.texts(key)?.ok_or(GgufError::MissingKey { key: key.into() })?;
    if merges.len() > MAX_MERGES {
        let (what, got) = ("entries of tokenizer.ggml.merges", merges.len() as u64);
        return Err(GgufError::TooLarge { what, got, max: MAX_MERGES as u64 });
    }
    let pair = |(index, merge): (usize, &[u8])| {
        let pair = std::str::from_utf8(merge).ok().and_then(|merge| merge.split_once(' '));
        let pair = pair.filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        pair.map(|(left, right)| json!([left, right])).ok_or_else(|| GgufError::Vocabulary {
            list: "merges",
            index,
            reason: "expected two tokens with a space between them".into(),
        })
    };
    merges.iter().enumerate().map(pair).collect()
}
