//! Stop strings and characters across token borders: the same text however it was cut.

use crate::support::{token, tokenizer};
use lockstep_base::rng::SplitMix64;
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};
use lockstep_node::text::Assembler;

/// Pieces as they were shown, and whether a stop string ended the text.
fn shown(tokenizer: &Tokenizer, tokens: &[u32], stop: &[&str]) -> (Vec<String>, bool) {
    let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
    let mut assembler = Assembler::new(tokenizer.decode_continuation(), &stop);
    let mut pieces = Vec::new();
    for token in tokens {
        pieces.push(assembler.push(*token, None).text);
    }
    pieces.push(assembler.finish().text);
    (pieces, assembler.stopped())
}

fn tokens(text: &str) -> Vec<u32> {
    text.chars().map(token).collect()
}

#[test]
fn without_stop_strings_every_token_shows_its_text_at_once() {
    assert_eq!(
        shown(&tokenizer(), &tokens("abc"), &[]),
        (vec!["a".into(), "b".into(), "c".into(), String::new()], false)
    );
}

#[test]
fn text_that_may_become_a_stop_string_is_held_back() {
    let (pieces, stopped) = shown(&tokenizer(), &tokens("xab"), &["abc"]);
    assert_eq!((pieces, stopped), (vec!["x".into(), String::new(), String::new(), "ab".into()], false));
}

#[test]
fn a_stop_string_over_three_tokens_ends_the_answer_and_is_not_shown() {
    let (pieces, stopped) = shown(&tokenizer(), &tokens("xabcyz"), &["abc"]);
    assert_eq!((pieces.concat(), stopped), ("x".into(), true));
}

#[test]
fn a_false_beginning_is_released_when_it_turns_out_wrong() {
    let (pieces, stopped) = shown(&tokenizer(), &tokens("aabaabcx"), &["aabc"]);
    assert_eq!((pieces.concat(), stopped), ("aab".into(), true));
}

#[test]
fn the_stop_string_that_is_complete_first_counts_and_the_longest_of_those() {
    assert_eq!(shown(&tokenizer(), &tokens("xabc"), &["abc", "b"]).0.concat(), "xa");
    assert_eq!(shown(&tokenizer(), &tokens("xabc"), &["bc", "abc", "c"]).0.concat(), "x");
}

/// A character of four bytes comes whole, in the piece of its last byte, and a broken one is U+FFFD.
#[test]
fn characters_come_whole() {
    let bytes = |text: &[u8]| text.iter().map(|byte| 3 + u32::from(*byte)).collect::<Vec<_>>();
    let (pieces, _) = shown(&tokenizer(), &bytes("a😀b".as_bytes()), &[]);
    assert_eq!(pieces, ["a", "", "", "", "😀", "b", ""]);
    let (pieces, _) = shown(&tokenizer(), &bytes(&"😀".as_bytes()[..3]), &[]);
    assert_eq!(pieces, ["", "", "", "\u{fffd}"]);
    let (pieces, stopped) = shown(&tokenizer(), &bytes("a😀b".as_bytes()), &["😀"]);
    assert_eq!((pieces.concat(), stopped), ("a".into(), true));
}

/// A vocabulary in which a text can be cut in many ways.
fn many_ways() -> Tokenizer {
    // llama2.c: u32 longest piece, then score, length and bytes of each; ids 0 to 2 are special.
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    for length in 1..=4u32 {
        for index in 0..3u32.pow(length) {
            pieces.push((0..length).map(|at| ["a", "b", "é"][(index / 3u32.pow(at) % 3) as usize]).collect());
        }
    }
    let mut file = 16u32.to_le_bytes().to_vec();
    for piece in &pieces {
        file.extend_from_slice(&0f32.to_le_bytes());
        file.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        file.extend_from_slice(piece.as_bytes());
    }
    Tokenizer::from_bytes(TokenizerKind::Llama2c, &file).expect("tokenizer")
}

/// Cuts a text into pieces of one to four characters.
fn cut(text: &[char], tokenizer: &Tokenizer, rng: &mut SplitMix64) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + rng.below(4) as usize).min(rest.len()));
        let piece: String = piece.iter().collect();
        let id = (0..tokenizer.vocab_size() as u32)
            .find(|id| tokenizer.token_bytes(*id) == Some(piece.as_bytes()));
        tokens.push(id.expect("every piece is in the vocabulary"));
        rest = after;
    }
    tokens
}

/// What is shown does not depend on how the text was cut into tokens, and nothing that was shown
/// is ever taken back.
#[test]
fn the_cut_into_tokens_does_not_matter() {
    let tokenizer = many_ways();
    for seed in 0..300 {
        let mut rng = SplitMix64::new(seed);
        let word = |length: u64, rng: &mut SplitMix64| -> Vec<char> {
            (0..length).map(|_| ['a', 'b', 'é'][rng.below(3) as usize]).collect()
        };
        let text = word(40, &mut rng);
        let stops: Vec<String> = (0..1 + rng.below(3))
            .map(|_| {
                let length = 2 + rng.below(4);
                word(length, &mut rng).into_iter().collect()
            })
            .collect();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let whole: String = text.iter().collect();
        let ends = stops.iter().filter_map(|stop| Some((whole.find(stop)? + stop.len(), stop.len())));
        let expected = match ends.min_by_key(|(end, length)| (*end, usize::MAX - length)) {
            Some((end, length)) => &whole[..end - length],
            None => whole.as_str(),
        };
        for _ in 0..4 {
            let tokens = cut(&text, &tokenizer, &mut rng);
            let (pieces, stopped) = shown(&tokenizer, &tokens, &stops);
            assert_eq!(pieces.concat(), expected, "seed {seed}, stops {stops:?} of {whole}");
            assert_eq!(stopped, expected.len() < whole.len(), "seed {seed}");
        }
    }
}
