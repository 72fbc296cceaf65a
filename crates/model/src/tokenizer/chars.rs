//! Plain character vocabularies: one character per line, optionally a tab and a score (which is not used).
//!
//! The first lines may be `<unk>`, `<s>`, `</s>`, `<pad>`. U+2581 stands for a space and then, as in SentencePiece, whose
//! `.vocab` export this is, a text gets a space in front. With `bytes` the model has 256 raw-byte tokens that the list
//! leaves out: they are ids 3 to 258, and every character of the list comes 256 later than its line.

use std::collections::HashMap;

use super::TokenizerError;
use super::normalise::SPACE_MARKER;
use super::piece::{Piece, check_vocab_size};

/// Raw-byte tokens that a list with `bytes` leaves out.
pub(super) const BYTE_TOKENS: usize = 256;
/// The first of them, after `<unk>`, `<s>`, `</s>`.
const FIRST_BYTE: usize = 3;
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// A vocabulary of single characters.
#[derive(Debug, Clone)]
pub(super) struct CharTokenizer {
    pieces: Vec<Piece>,
    names: Vec<String>,
    ids: HashMap<char, u32>,
    has_bytes: bool,
    dummy_prefix: bool,
    unk: Option<u32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

impl CharTokenizer {
    pub(super) fn parse(file: &[u8], has_bytes: bool) -> Result<Self, TokenizerError> {
        let text = std::str::from_utf8(file).map_err(|error| malformed(error.valid_up_to(), "not UTF-8"))?;
        let n_lines = file.iter().filter(|&&byte| byte == b'\n').count();
        check_vocab_size(n_lines.saturating_add(BYTE_TOKENS))?;
        let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
        check_vocab_size(lines.len().saturating_add(BYTE_TOKENS))?;
        if has_bytes
            && (lines.len() < FIRST_BYTE
                || lines[..FIRST_BYTE].iter().any(|line| !SPECIAL.contains(&piece_of(line))))
        {
            return Err(malformed(0, "a list with byte tokens begins with <unk>, <s>, </s>"));
        }
        let mut this = Self {
            pieces: Vec::new(),
            names: Vec::new(),
            ids: HashMap::new(),
            has_bytes,
            dummy_prefix: false,
            unk: None,
            bos: None,
            eos: None,
        };
        let mut at = 0;
        for (number, line) in lines.iter().enumerate() {
            if has_bytes && number == FIRST_BYTE {
                this.add_bytes();
            }
            this.add_line(at, piece_of(line))?;
            at += line.len() + 1;
        }
        if has_bytes && lines.len() == FIRST_BYTE {
            this.add_bytes();
        }
        Ok(this)
    }

    fn add_bytes(&mut self) {
        for byte in 0..=u8::MAX {
            self.pieces.push(Piece::text([byte]));
            self.names.push(format!("<0x{byte:02X}>"));
        }
    }

    fn add_line(&mut self, at: usize, name: &str) -> Result<(), TokenizerError> {
        let id = self.pieces.len() as u32;
        let piece = if SPECIAL.contains(&name) {
            let slot = match name {
                "<unk>" => &mut self.unk,
                "<s>" => &mut self.bos,
                "</s>" => &mut self.eos,
                _ => &mut None,
            };
            if slot.replace(id).is_some() {
                return Err(malformed(at, &format!("{name} occurs twice")));
            }
            if name == "<unk>" {
                Piece::text(char::REPLACEMENT_CHARACTER.to_string())
            } else {
                Piece::control()
            }
        } else {
            self.dummy_prefix |= name == SPACE_MARKER;
            let shown = if name == SPACE_MARKER { " " } else { name };
            let mut chars = shown.chars();
            let (Some(character), None) = (chars.next(), chars.next()) else {
                return Err(malformed(at, &format!("got {name:?}, expected one character per line")));
            };
            if self.ids.insert(character, id).is_some() {
                return Err(malformed(at, &format!("{name:?} occurs twice")));
            }
            Piece::text(shown)
        };
        self.pieces.push(piece);
        self.names.push(name.into());
        Ok(())
    }

    pub(super) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if self.dummy_prefix && !text.is_empty() {
            tokens.extend(self.ids.get(&' '));
        }
        for (at, character) in text.char_indices() {
            match (self.ids.get(&character), self.unk) {
                (Some(&id), _) => tokens.push(id),
                (None, _) if self.has_bytes => {
                    let mut utf8 = [0; 4];
                    let bytes = character.encode_utf8(&mut utf8).bytes();
                    tokens.extend(bytes.map(|byte| (FIRST_BYTE + byte as usize) as u32));
                }
                (None, Some(unk)) => tokens.push(unk),
                (None, None) => return Err(TokenizerError::Unrepresentable { character, at }),
            }
        }
        Ok(())
    }

    pub(super) fn adds_dummy_prefix(&self) -> bool {
        self.dummy_prefix
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn name(&self, token: u32) -> Option<String> {
        self.names.get(token as usize).cloned()
    }
}

/// The line without its score.
fn piece_of(line: &str) -> &str {
    match line.rsplit_once('\t') {
        Some((piece, score)) if !piece.is_empty() && score.parse::<f32>().is_ok() => piece,
        _ => line,
    }
}

fn malformed(at: usize, reason: &str) -> TokenizerError {
    TokenizerError::Malformed { kind: "chars", at, reason: reason.into() }
}
