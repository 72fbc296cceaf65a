//! Tokenizer files and texts that mean harm: work stays in proportion to the text, memory too, and the rest is refused.

use std::time::{Duration, Instant};

use lockstep_model::tokenizer::{MAX_TEXT_BYTES, Tokenizer, TokenizerError, TokenizerKind};

use crate::source_data::{data, fixture};

/// Far above what linear work takes on a busy machine, far below what quadratic work on these inputs takes.
const PATIENCE: Duration = Duration::from_secs(90);
const MEGABYTE: usize = 1 << 20;

fn spm(bytes: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(TokenizerKind::SentencePiece, bytes).unwrap()
}

fn fixture_bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A length-delimited protobuf field.
fn field(number: usize, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len()), content.to_vec()].concat()
}

/// A SentencePiece of type 1 (normal) or 4 (user-defined).
fn piece(name: &str, kind: usize) -> Vec<u8> {
    let message = [
        field(1, name.as_bytes()),
        vec![2 << 3 | 5],
        (-1.0f32).to_le_bytes().to_vec(),
        varint(3 << 3),
        varint(kind),
    ];
    field(1, &message.concat())
}

/// `{model_type}`: 1 is unigram, 2 is BPE.
fn trainer(model_type: usize) -> Vec<u8> {
    field(2, &[varint(3 << 3), varint(model_type)].concat())
}

fn encode_in_time(tokenizer: &Tokenizer, what: &str, text: &str) -> Vec<u32> {
    let begin = Instant::now();
    let tokens = tokenizer.encode(text, false).unwrap();
    assert!(begin.elapsed() < PATIENCE, "{what}: {:?} for {} bytes", begin.elapsed(), text.len());
    tokens
}

#[test]
fn a_megabyte_is_encoded_in_seconds_whatever_it_holds() {
    let texts = ["a", " ", "\n", "the keeper lit the lamp. ", "é\u{2581}", "0", "a b", "\u{fdfa}", "'"]
        .map(|unit| unit.repeat(MEGABYTE / unit.len()));
    let json = Tokenizer::from_bytes(TokenizerKind::HfJson, json("", "", "").as_bytes()).unwrap();
    let gpt2 = data("tokenizer-gpt2/tokenizer.json")
        .map(|path| Tokenizer::from_bytes(TokenizerKind::HfJson, &std::fs::read(path).unwrap()).unwrap());
    for text in &texts {
        let start: String = text.chars().take(3).collect();
        let bpe = spm(&fixture_bytes("spm-bpe.model"));
        assert_eq!(bpe.decode(&encode_in_time(&bpe, &format!("spm-bpe {start:?}"), text)), *text);
        encode_in_time(&spm(&fixture_bytes("spm-unigram.model")), &format!("spm-unigram {start:?}"), text);
        encode_in_time(&json, &format!("tokenizer.json {start:?}"), text);
        if let Some(gpt2) = &gpt2 {
            assert_eq!(gpt2.decode(&encode_in_time(gpt2, &format!("gpt2 {start:?}"), text)), *text);
        }
    }
}

#[test]
fn longer_texts_and_files_are_refused() {
    let text = "a".repeat(MAX_TEXT_BYTES + 1);
    let error = spm(&fixture_bytes("spm-bpe.model")).encode(&text, false).unwrap_err();
    assert!(matches!(error, TokenizerError::TooLarge { max: MAX_TEXT_BYTES, .. }), "{error}");
    let newlines = "\n".repeat(64 << 20);
    for kind in TokenizerKind::ALL {
        assert!(Tokenizer::from_bytes(kind, newlines.as_bytes()).is_err(), "{kind}");
        assert!(Tokenizer::from_bytes(kind, &[newlines.as_bytes(), b"\n"].concat()).is_err(), "{kind}");
    }
}

/// The work per place must not grow with the number of user-defined pieces.
#[test]
fn a_hundred_thousand_user_defined_pieces_cost_no_more_than_one() {
    for model_type in [1, 2] {
        let mut file = [piece("b", 1), trainer(model_type)].concat();
        (0..100_000).for_each(|index| file.extend(piece(&format!("a{index:06}"), 4)));
        let tokenizer = spm(&[file, piece("a", 4), piece("\u{2581}", 1)].concat());
        let tokens = encode_in_time(&tokenizer, "user-defined", &"aaaaaaaab".repeat(50_000));
        assert_eq!(tokens.len(), 1 + 9 * 50_000);
        // The longest of several that fit is cut out.
        assert_eq!(tokenizer.decode(&tokenizer.encode("a000017b", false).unwrap()), "a000017b");
        assert_eq!(tokenizer.encode("a000017b", false).unwrap()[1..], [18, 0]);
    }
}

/// The worst vocabulary for the unigram lattice: every prefix of every rest of the text is a piece.
#[test]
fn long_nested_pieces_are_found_in_time() {
    let mut file = [trainer(1), piece("\u{2581}", 1)].concat();
    (1..=256).for_each(|len| file.extend(piece(&"a".repeat(len), 1)));
    let tokens = encode_in_time(&spm(&file), "nested", &"a".repeat(MEGABYTE / 4));
    assert!(tokens.len() <= MEGABYTE / 4 / 256 + 2, "{}", tokens.len());
    file.extend(piece(&"a".repeat(257), 1));
    assert!(Tokenizer::from_bytes(TokenizerKind::SentencePiece, &file).is_err());
}

/// A model whose character map has this trie and these replacements.
fn with_char_map(units: &[(usize, u32)], replacements: &[u8]) -> Tokenizer {
    let mut trie = vec![0u32; 128];
    units.iter().for_each(|&(at, unit)| trie[at] = unit);
    let trie: Vec<u8> = trie.into_iter().flat_map(u32::to_le_bytes).collect();
    let map = [&(trie.len() as u32).to_le_bytes()[..], &trie, replacements].concat();
    spm(&[fixture_bytes("spm-bpe.model"), field(3, &field(2, &map))].concat())
}

#[test]
fn a_character_map_can_neither_loop_nor_explode() {
    let a = u32::from(b'a');
    // 'a' leads back to the root: a match would be as long as the text, at every place of it.
    let cycle = with_char_map(&[(0x61, a << 10 | a)], b"x\0");
    encode_in_time(&cycle, "cycle", &"a".repeat(MEGABYTE));
    // 'a' is replaced by 250 characters, or by something without end.
    let leaf = [(0x61, 1 << 10 | 1 << 8 | a), (0x60, 1 << 31)];
    let long = [&[b'x'; 250][..], b"\0"].concat();
    assert_eq!(
        with_char_map(&leaf, &long).decode(&with_char_map(&leaf, &long).encode("a", false).unwrap()).len(),
        250
    );
    let error = with_char_map(&leaf, &long).encode(&"a".repeat(MEGABYTE), false).unwrap_err();
    assert!(
        matches!(error, TokenizerError::TooLarge { what: "bytes of the normalised text", .. }),
        "{error}"
    );
    let endless = with_char_map(&leaf, &[b'x'; 100_000]);
    assert_eq!(endless.decode(&endless.encode("aa", false).unwrap()), "aa");
}

/// A `tokenizer.json` of a few bytes with these sections (each with its comma).
fn json(sections: &str, model: &str, vocab: &str) -> String {
    format!(
        r#"{{"version":"1.0","added_tokens":[],{sections}"decoder":{{"type":"ByteFallback"}},"model":{{{model}"type":"BPE",
"vocab":{{"a":0,"b":1,"ab":2,"<0x20>":3{vocab}}},"merges":["a b"]}}}}"#
    )
}

fn refusal(sections: &str, model: &str, vocab: &str) -> String {
    let file = json(sections, model, vocab);
    Tokenizer::from_bytes(TokenizerKind::HfJson, file.as_bytes())
        .expect_err(&file[..file.len().min(300)])
        .to_string()
}

#[test]
fn tokenizer_json_is_refused_before_it_can_do_harm() {
    let ok = Tokenizer::from_bytes(TokenizerKind::HfJson, json("", "", "").as_bytes()).unwrap();
    assert_eq!(ok.encode("abb", false).unwrap(), [2, 1]);
    let replace = |pattern: &str, content: &str| {
        format!(r#""normalizer":{{"type":"Replace","pattern":{pattern},"content":"{content}"}},"#)
    };
    let split = |regex: &str| {
        format!(
            r#""pre_tokenizer":{{"type":"Split","pattern":{{"Regex":"{regex}"}},"behavior":"Isolated","invert":false}},"#
        )
    };
    let explodes = refusal(&replace(r#"{"String":"a"}"#, &"x".repeat(65)), "", "");
    assert!(explodes.contains("got 65, expected at most 64"), "{explodes}");
    let twice = replace(r#"{"Regex":""}"#, &"x".repeat(63))
        .replace("\"content\"", "\"n\":[{\"type\":\"Prepend\",\"prepend\":\"x\"}],\"content\"");
    assert!(refusal(&twice, "", "").contains("got 128, expected at most 64"));
    assert!(refusal(&replace(r#"{"String":""}"#, "x"), "", "").contains("empty pattern"));
    assert!(
        refusal(r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"////fw=="},"#, "", "")
            .contains("Precompiled")
    );
    assert!(refusal(&split("(a+)+$(?!b)"), "", "").contains("regular expression"));
    assert!(refusal(&split(r"(a)\\1"), "", "").contains("regular expression"));
    assert!(refusal("", r#""dropout":0.5,"#, "").contains("dropout"));
    assert!(refusal("", "", r#","c":1"#).contains("token 1 has two names"));
    assert!(refusal("", "", &format!(",\"{}\":4", "c".repeat(1_025))).contains("1025"));
    assert!(refusal("", "", ",\"c\":1048576").contains("1048576"));
    assert!(refusal("", "\"vocab\":{},", "").contains("duplicate field"));
    let word_piece = json("", "", "").replace("\"BPE\"", "\"WordPiece\"");
    assert!(Tokenizer::from_bytes(TokenizerKind::HfJson, word_piece.as_bytes()).is_err());
    let nested = format!("\"normalizer\":[{}0],", "0,".repeat(20_000));
    assert!(refusal(&nested, "", "").contains("values in the normalizer"));
}

/// An expression that is not known may be quadratic even without backtracking, so its texts are short.
#[test]
fn an_unknown_regular_expression_gets_short_texts_only() {
    let split = |regex: &str| {
        let section = format!(
            r#""pre_tokenizer":{{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}},"#,
            serde_json::to_string(regex).unwrap()
        );
        Tokenizer::from_bytes(TokenizerKind::HfJson, json(&section, "", "").as_bytes()).unwrap()
    };
    let quadratic = split(".*[^A-Z]|[A-Z]");
    encode_in_time(&quadratic, "quadratic", &"A".repeat(64 << 10));
    assert!(matches!(
        quadratic.encode(&"A".repeat(65 << 10), false),
        Err(TokenizerError::TooLarge { max: 65_536, .. })
    ));
    let gpt2 = split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");
    encode_in_time(&gpt2, "known", &"ab ".repeat(MEGABYTE / 3));
}
