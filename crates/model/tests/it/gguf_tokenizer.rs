//! The tokenizer and the chat template of a GGUF file: the ids of llama.cpp, and vocabularies that are refused by name.

use std::fs;
use std::path::Path;

use lockstep_model::source::gguf::{Gguf, GgufError};
use lockstep_model::source::{self, SourceError};
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};

use crate::gguf_file::{Description, File, Meta};
use crate::source_data::data;

/// llama.cpp's 47 vectors for a vocabulary of the data folder.
fn agrees_with_llama_cpp(folder: &Path, name: &str) -> Tokenizer {
    let tokenizer = Gguf::open(&folder.join(name)).unwrap().tokenizer().unwrap().unwrap();
    let texts = fs::read_to_string(folder.join(format!("{name}.inp"))).unwrap();
    let ids = fs::read_to_string(folder.join(format!("{name}.out"))).unwrap();
    let pairs: Vec<_> = texts.split("\n__ggml_vocab_test__\n").zip(ids.split('\n')).collect();
    assert_eq!(pairs.len(), 47);
    for (text, ids) in pairs {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&ids), text, "{name}");
    }
    tokenizer
}

#[test]
fn real_vocabularies_agree_with_all_vectors_of_llama_cpp() {
    let Some(folder) = data("tokenizer-gguf") else { return };
    let llama = agrees_with_llama_cpp(&folder, "ggml-vocab-llama-spm.gguf");
    assert_eq!((llama.kind(), llama.vocab_size()), (TokenizerKind::HfJson, 32_000));
    assert_eq!((llama.bos(), llama.eos()), (Some(1), &[2][..]));
    assert!(llama.is_control(1) && llama.token_name(2).as_deref() == Some("</s>"));
    let gpt2 = agrees_with_llama_cpp(&folder, "ggml-vocab-gpt-2.gguf");
    assert_eq!((gpt2.kind(), gpt2.vocab_size()), (TokenizerKind::HfJson, 50_257));
    assert_eq!((gpt2.bos(), gpt2.eos()), (None, &[50_256][..]), "GPT-2 does not begin with a BOS");
}

/// GPT-2's printable characters for bytes.
fn byte_names() -> Vec<String> {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0xff;
    let mut name = |byte: u32| {
        let code = if printable(&byte) {
            byte
        } else {
            next += 1;
            next
        };
        char::from_u32(code).unwrap().to_string()
    };
    (0..256).map(&mut name).collect()
}

/// All bytes, three merges of digits and two of letters, three added tokens, one unused entry.
fn byte_level(pre: &str) -> File {
    let mut tokens = byte_names();
    let merged = ["12", "123", "1234", "ab", "Ġab"];
    tokens.extend(merged.map(String::from));
    tokens.extend(["<|bos|>", "<|im_end|>", "<user>", "[PAD]"].map(String::from));
    let mut types = vec![1i32; tokens.len()];
    types[261..265].copy_from_slice(&[3, 3, 4, 5]);
    let mut file = File::default();
    file.set("tokenizer.ggml.model", Meta::text("gpt2"))
        .set("tokenizer.ggml.pre", Meta::text(pre))
        .set("tokenizer.ggml.tokens", Meta::texts(&tokens))
        .set("tokenizer.ggml.token_type", Meta::I32s(types))
        .set("tokenizer.ggml.merges", Meta::texts(&["1 2", "12 3", "123 4", "a b", "Ġ ab"]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(261))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(262));
    file
}

fn open(file: &File) -> Result<Option<Tokenizer>, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    Gguf::open(&path).unwrap().tokenizer()
}

fn names(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let tokens = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens), text.replace("<|im_end|>", ""));
    tokens.iter().map(|&token| tokenizer.token_name(token).unwrap()).collect()
}

#[test]
fn texts_are_split_as_the_name_says() {
    for (pre, digits) in [
        ("gpt-2", &["1234"][..]),
        ("llama-bpe", &["123", "4"]),
        ("qwen2", &["1", "2", "3", "4"]),
        ("smollm", &["1", "2", "3", "4"]),
        ("bloom", &["1234"]),
    ] {
        let tokenizer = open(&byte_level(pre)).unwrap().unwrap();
        assert_eq!(names(&tokenizer, "1234"), digits, "{pre}");
        assert_eq!(names(&tokenizer, "ab ab"), ["ab", "Ġab"], "{pre}");
        assert_eq!(names(&tokenizer, "ab<|im_end|><user>ab"), ["ab", "<|im_end|>", "<user>", "ab"], "{pre}");
        assert_eq!((tokenizer.vocab_size(), tokenizer.eos()), (264, &[262][..]));
        assert!(tokenizer.is_control(262) && !tokenizer.is_control(263));
        let bos = if pre == "llama-bpe" { Some(261) } else { None };
        assert_eq!(tokenizer.bos(), bos, "{pre}");
    }
    // Letters with a mark: Qwen 2 composes them first, GPT-2 does not.
    let bytes = |pre: &str| open(&byte_level(pre)).unwrap().unwrap().encode("e\u{301}", false).unwrap().len();
    assert_eq!((bytes("gpt-2"), bytes("qwen2")), (3, 2));
}

#[test]
fn a_bos_is_added_where_the_file_says_so() {
    let mut file = byte_level("qwen2");
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    assert_eq!(open(&file).unwrap().unwrap().bos(), Some(261));
    let mut file = byte_level("llama-bpe");
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert_eq!(open(&file).unwrap().unwrap().bos(), None);
    // Where no key names the end of a turn, the control token by that name is one.
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(261));
    assert_eq!(open(&file).unwrap().unwrap().eos(), [261, 262]);
    file.set("tokenizer.ggml.eot_token_id", Meta::U32(263));
    assert_eq!(open(&file).unwrap().unwrap().eos(), [261, 263]);
}

/// `<unk>`, `<s>`, `</s>`, the bytes, then pieces with scores.
pub(crate) fn scored() -> File {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let pieces = ["▁", "a", "b", "▁a", "ab", "▁ab", "<sep>"];
    tokens.extend(pieces.map(String::from));
    let mut scores = vec![0.0; 259];
    scores.extend([-9.0, -8.0, -7.0, -2.0, -3.0, -1.0, 0.0]);
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend([1, 1, 1, 1, 1, 1, 4]);
    let mut file = File::default();
    file.set("tokenizer.ggml.model", Meta::text("llama"))
        .set("tokenizer.ggml.tokens", Meta::texts(&tokens))
        .set("tokenizer.ggml.scores", Meta::F32s(scores))
        .set("tokenizer.ggml.token_type", Meta::I32s(types))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    file
}

#[test]
fn scored_vocabularies_merge_by_score_and_fall_back_to_bytes() {
    let tokenizer = open(&scored()).unwrap().unwrap();
    assert_eq!(names(&tokenizer, "ab"), ["▁ab"]);
    assert_eq!(names(&tokenizer, "abé<sep>"), ["▁ab", "<0xC3>", "<0xA9>", "<sep>"]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), &[2][..]));
    assert_eq!(tokenizer.kind(), TokenizerKind::HfJson);
    let mut file = scored();
    file.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    assert_eq!(names(&open(&file).unwrap().unwrap(), "ab"), ["ab"]);
    // A chat template writes control tokens by name.
    let tokens = tokenizer.encode("<s>ab</s>", false).unwrap();
    assert_eq!((tokens[0], tokens[tokens.len() - 1]), (1, 2));
}

/// The same vocabulary without byte tokens, and one of the other algorithm, are SentencePiece models.
#[test]
fn vocabularies_without_bytes_and_unigrams_are_sentencepiece_models() {
    let mut file = File::default();
    file.set("tokenizer.ggml.model", Meta::text("llama"))
        .set("tokenizer.ggml.tokens", Meta::texts(&["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", ""]))
        .set("tokenizer.ggml.scores", Meta::F32s(vec![0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -2.0, -1.0, 0.0]))
        .set("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 1, 1, 1, 1, 1, 5]))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    let bpe = open(&file).unwrap().unwrap();
    assert_eq!((bpe.kind(), bpe.vocab_size()), (TokenizerKind::SentencePiece, 9));
    assert_eq!(bpe.encode("ab", false).unwrap(), [3, 7], "the best merge first");
    file.set("tokenizer.ggml.model", Meta::text("t5"));
    let unigram = open(&file).unwrap().unwrap();
    assert_eq!(unigram.encode("ab", false).unwrap(), [6, 5], "the best sum");
}

#[test]
fn vocabularies_that_do_not_fit_are_refused_by_name() {
    type Edit = fn(&mut File);
    let byte_level_edits: [(&str, Edit); 9] = [
        ("llama, t5 or gpt2", |f| {
            f.set("tokenizer.ggml.model", Meta::text("rwkv"));
        }),
        ("llama-bpe, llama3", |f| {
            f.set("tokenizer.ggml.pre", Meta::text("tekken"));
        }),
        ("tokenizer.ggml.pre", |f| {
            f.remove("tokenizer.ggml.pre");
        }),
        ("tokenizer.ggml.merges", |f| {
            f.remove("tokenizer.ggml.merges");
        }),
        ("merges[1]", |f| {
            f.set("tokenizer.ggml.merges", Meta::texts(&["1 2", "123"]));
        }),
        ("token_type", |f| {
            f.set("tokenizer.ggml.token_type", Meta::I32s(vec![1; 3]));
        }),
        ("token types", |f| {
            f.set("tokenizer.ggml.token_type", Meta::I32s(vec![9; 265]));
        }),
        ("eos_token_id", |f| {
            f.set("tokenizer.ggml.eos_token_id", Meta::U32(265));
        }),
        ("twice", |f| {
            f.set("tokenizer.ggml.tokens", Meta::texts(&vec!["a"; 265]));
        }),
    ];
    let refused = |file: &File, expected: &str| {
        let text = open(file).unwrap_err().to_string();
        assert!(text.contains(expected), "{text:?} does not name {expected:?}");
    };
    for (expected, edit) in byte_level_edits {
        let mut file = byte_level("gpt-2");
        edit(&mut file);
        refused(&file, expected);
    }
    for (expected, edit) in [
        (
            "scores",
            (|f| {
                f.remove("tokenizer.ggml.scores");
            }) as Edit,
        ),
        ("scores", |f| {
            f.set("tokenizer.ggml.scores", Meta::F32s(vec![0.0; 2]));
        }),
        ("finite", |f| {
            f.set("tokenizer.ggml.scores", Meta::F32s(vec![f32::NAN; 266]));
        }),
    ] {
        let mut file = scored();
        edit(&mut file);
        refused(&file, expected);
    }
    assert!(open(&File::default()).unwrap().is_none(), "no vocabulary is no error of the reader");
}

/// A whole file opens as a source: weights, tokenizer, template, name.
#[test]
fn a_file_with_everything_needs_nothing_beside_it() {
    let mut file = Description::read("llama").file();
    for (key, value) in scored().metadata {
        file.set(&key, value);
    }
    // 266 tokens need as many rows.
    for name in ["token_embd.weight", "output.weight"] {
        let tensor = file.tensor(name);
        tensor.dims[1] = 266;
        tensor.data.resize(266 * 32 * 4, 0);
    }
    file.set("tokenizer.chat_template", Meta::text("{{ messages[0]['content'] }}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let source = source::open(&path, None).unwrap();
    assert_eq!((source.name.as_str(), source.tokenizer.vocab_size()), ("model", 266));
    assert_eq!(source.chat_template.as_deref(), Some("{{ messages[0]['content'] }}"));
    let tokens = source.tokenizer.encode("ab", true).unwrap();
    assert_eq!(source.model.logits_all(&tokens).unwrap().len(), 2);
    // A tokenizer that the user names goes before the file's own.
    let chars = folder.path().join("chars.txt");
    fs::write(&chars, "a\nb\n").unwrap();
    assert_eq!(source::open(&path, Some(&chars)).unwrap().tokenizer.vocab_size(), 2);
    // More tokens than rows cannot be right.
    let tensor = file.tensor("token_embd.weight");
    tensor.dims[1] = 64;
    tensor.data.truncate(64 * 32 * 4);
    let tensor = file.tensor("output.weight");
    tensor.dims[1] = 64;
    tensor.data.truncate(64 * 32 * 4);
    fs::write(&path, file.bytes()).unwrap();
    let error = source::open(&path, None).unwrap_err();
    assert!(matches!(error, SourceError::TokenizerTooLarge { got: 266, expected: 64 }), "{error}");
    file.remove("tokenizer.ggml.tokens");
    fs::write(&path, file.bytes()).unwrap();
    assert!(matches!(source::open(&path, None), Err(SourceError::NoTokenizer { .. })));
    file.set("tokenizer.chat_template", Meta::U32(1));
    fs::write(&path, file.bytes()).unwrap();
    match source::open(&path, Some(&chars)) {
        Err(SourceError::Gguf { error: GgufError::Value { key, .. }, .. }) => {
            assert!(key.contains("chat_template"));
        }
        other => panic!("{:?}", other.map(|source| source.name)),
    }
}
