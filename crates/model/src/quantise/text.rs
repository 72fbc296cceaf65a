//! Calibration by a text that somebody gives.
//!
//! A decoder writes the text that it is calibrated by. An encoder cannot: without one it sees random tokens, which is good
//! enough for int8, but int4 moves what rounding costs to where inputs are small, and inputs of random tokens are others
//! (docs/claims/accuracy.md). Paragraphs, with blank lines between them, are texts of their own, cut where the context is
//! full; of a long file they are taken evenly, so that its head does not stand for the whole.

use crate::source::Source;
use crate::tokenizer::TokenizerError;

/// About `tokens` tokens of the paragraphs of `text`, each between the tokens that begin and (for an encoder) end a text.
///
/// # Errors
/// If the vocabulary cannot say it.
pub fn calibration_texts(
    text: &str,
    source: &Source,
    tokens: usize,
) -> Result<Vec<Vec<u32>>, TokenizerError> {
    let (tokenizer, begin) = (&source.tokenizer, source.tokenizer.bos());
    let end = tokenizer.eos().first().filter(|_| source.model.head_matrix().is_none());
    let framed = usize::from(begin.is_some()) + usize::from(end.is_some());
    let room = source.model.config.context.saturating_sub(framed);
    if room == 0 {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for paragraph in paragraphs(text) {
        for part in tokenizer.encode(&paragraph, false)?.chunks(room) {
            all.push(begin.iter().chain(part).chain(end).copied().collect());
        }
    }
    Ok(evenly(all, tokens))
}

/// Lines between blank lines, joined.
fn paragraphs(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let parts = lines.split(|line| line.is_empty()).filter(|part| !part.is_empty());
    parts.map(|part| part.join(" ")).collect()
}

/// Some of `texts`, from all over, until about `tokens` tokens are in them.
fn evenly(texts: Vec<Vec<u32>>, tokens: usize) -> Vec<Vec<u32>> {
    let total: u128 = texts.iter().map(|text| text.len() as u128).sum();
    if total <= tokens as u128 {
        return texts;
    }
    let (mut passed, mut kept) = (0u128, 0u128);
    let due = |text: &Vec<u32>| {
        let due = tokens > 0 && kept * total <= passed * tokens as u128;
        passed += text.len() as u128;
        kept += if due { text.len() as u128 } else { 0 };
        due
    };
    texts.into_iter().filter(due).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a paragraph are one text, and blank lines are none.
    #[test]
    fn paragraphs_are_texts() {
        assert_eq!(paragraphs("\n a b\nc \n\n \nd\n"), ["a b c", "d"]);
        assert!(paragraphs(" \n\n").is_empty());
    }

    /// A third of the tokens come from every part; all of them where they are few, none where none are asked for.
    #[test]
    fn a_long_text_is_sampled_evenly() {
        let texts: Vec<Vec<u32>> = (0..90).map(|i| vec![i; 10]).collect();
        let kept = evenly(texts.clone(), 300);
        assert_eq!(kept.len(), 30);
        assert!((0..3).all(|third| kept.iter().filter(|text| text[0] / 30 == third).count() == 10));
        assert_eq!(evenly(texts.clone(), 900).len(), 90);
        assert!(evenly(texts, 0).is_empty());
    }
}
