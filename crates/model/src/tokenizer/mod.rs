//! Text to tokens and back, for every kind of vocabulary that a model may bring.
//!
//! A bundle stores a kind and the file's bytes; [`Tokenizer::from_bytes`] parses them again, strictly and without panics:
//! they come from whoever made the bundle. Tokens are byte strings ([`Tokenizer::token_bytes`]), so decoding is the same
//! for all kinds; only encoding differs:
//!
//! | kind | file | encoding |
//! |---|---|---|
//! | `hf-json` | `tokenizer.json` | the `tokenizers` crate, truncation and padding off |
//! | `sentencepiece` | `tokenizer.model` | scored BPE or unigram, byte fallback |
//! | `llama2c` | `tokenizer.bin` | the same scored BPE |
//! | `chars`, `chars-bytes` | one character per line | look-up |
//!
//! Files and texts may mean harm. Every file is bounded in size, entries and the length of an entry, so that encoding takes
//! time and memory in proportion to the text (a logarithm apart), at most some hundred bytes of memory per byte of text;
//! texts are bounded by [`MAX_TEXT_BYTES`].

mod bpe;
mod chars;
mod error;
mod hf;
mod hf_check;
mod llama2c;
mod normalise;
mod piece;
mod prefix;
mod scored;
mod sentencepiece;
mod stream;
mod unigram;

use std::fmt;
use std::str::FromStr;

pub use error::TokenizerError;
pub use piece::MAX_VOCAB;
pub use stream::DecodeStream;

/// Longest text that [`Tokenizer::encode`] takes, in bytes.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Longest file that [`Tokenizer::from_bytes`] takes, in bytes.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// How the bytes of a tokenizer are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenizerKind {
    /// Hugging Face `tokenizer.json`.
    HfJson,
    /// SentencePiece `.model`.
    SentencePiece,
    /// llama2.c `tokenizer.bin`.
    Llama2c,
    /// One character per line; the id is the line.
    Chars,
    /// One character per line after `<unk>`, `<s>`, `</s>`; ids 3 to 258 are the 256 raw bytes, characters come after.
    CharsBytes,
}

impl TokenizerKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::HfJson, Self::SentencePiece, Self::Llama2c, Self::Chars, Self::CharsBytes];

    /// The name that a bundle stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HfJson => "hf-json",
            Self::SentencePiece => "sentencepiece",
            Self::Llama2c => "llama2c",
            Self::Chars => "chars",
            Self::CharsBytes => "chars-bytes",
        }
    }
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TokenizerKind {
    type Err = TokenizerError;

    fn from_str(name: &str) -> Result<Self, TokenizerError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| TokenizerError::UnknownKind {
            got: name.into(),
            expected: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

/// A parsed tokenizer together with the bytes it came from.
#[derive(Clone)]
pub struct Tokenizer {
    kind: TokenizerKind,
    file: Vec<u8>,
    encoder: Encoder,
    bos: Option<u32>,
    eos: Vec<u32>,
}

/// The one thing in which the kinds differ.
#[derive(Clone)]
enum Encoder {
    Hf(Box<hf::HfTokenizer>),
    Scored(Box<scored::ScoredTokenizer>),
    Chars(chars::CharTokenizer),
}

impl Tokenizer {
    /// Parses the bytes as this kind and nothing else.
    pub fn from_bytes(kind: TokenizerKind, bytes: &[u8]) -> Result<Self, TokenizerError> {
        if bytes.len() > MAX_FILE_BYTES {
            let what = "bytes of the tokenizer file";
            return Err(TokenizerError::TooLarge { what, got: bytes.len(), max: MAX_FILE_BYTES });
        }
        let encoder = match kind {
            TokenizerKind::HfJson => Encoder::Hf(Box::new(hf::HfTokenizer::parse(bytes)?)),
            TokenizerKind::SentencePiece => Encoder::Scored(Box::new(sentencepiece::parse(bytes)?)),
            TokenizerKind::Llama2c => Encoder::Scored(Box::new(llama2c::parse(bytes)?)),
            TokenizerKind::Chars => Encoder::Chars(chars::CharTokenizer::parse(bytes, false)?),
            TokenizerKind::CharsBytes => Encoder::Chars(chars::CharTokenizer::parse(bytes, true)?),
        };
        let (bos, eos) = match &encoder {
            Encoder::Hf(hf) => hf.conventional_special(),
            Encoder::Scored(scored) => (scored.bos, scored.eos),
            Encoder::Chars(chars) => (chars.bos, chars.eos),
        };
        Ok(Self { kind, file: bytes.to_vec(), encoder, bos, eos: eos.into_iter().collect() })
    }

    /// Finds the kind by content. `model_vocab` decides whether a character list has 256 byte tokens in front.
    pub fn detect(bytes: &[u8], model_vocab: usize) -> Result<Self, TokenizerError> {
        if bytes.trim_ascii_start().first() == Some(&b'{') {
            return Self::from_bytes(TokenizerKind::HfJson, bytes);
        }
        for kind in [TokenizerKind::Llama2c, TokenizerKind::SentencePiece] {
            if let Ok(tokenizer) = Self::from_bytes(kind, bytes) {
                return Ok(tokenizer);
            }
        }
        let plain = Self::from_bytes(TokenizerKind::Chars, bytes)
            .map_err(|error| TokenizerError::UnknownFormat { reason: error.to_string() })?;
        if plain.vocab_size() + chars::BYTE_TOKENS == model_vocab {
            return Self::from_bytes(TokenizerKind::CharsBytes, bytes);
        }
        Ok(plain)
    }

    /// Replaces bos and eos by what the model's config says.
    pub fn with_special(mut self, bos: Option<u32>, eos: Vec<u32>) -> Result<Self, TokenizerError> {
        let vocab_size = self.vocab_size();
        if let Some(&got) = bos.iter().chain(&eos).find(|&&id| id as usize >= vocab_size) {
            return Err(TokenizerError::UnknownToken { got, vocab_size });
        }
        (self.bos, self.eos) = (bos, eos);
        Ok(self)
    }

    /// Which parser the bytes are for.
    pub fn kind(&self) -> TokenizerKind {
        self.kind
    }

    /// The bytes that [`Tokenizer::from_bytes`] parses to this tokenizer (bos and eos overrides are not in them).
    pub fn to_bytes(&self) -> &[u8] {
        &self.file
    }

    /// Largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.pieces().len()
    }

    /// The token in front of every text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// What decoding appends for this token: empty for control tokens, `None` outside the vocabulary.
    pub fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        self.pieces().get(token as usize).map(|piece| piece.bytes.as_slice())
    }

    /// A token that is never shown: BOS, EOS, padding, chat markers.
    pub fn is_control(&self, token: u32) -> bool {
        self.pieces().get(token as usize).is_some_and(|piece| piece.control)
    }

    /// The name of a token as a chat template writes it, e.g. `</s>`.
    pub fn token_name(&self, token: u32) -> Option<String> {
        match &self.encoder {
            Encoder::Hf(hf) => hf.name(token),
            Encoder::Scored(scored) => scored.name(token),
            Encoder::Chars(chars) => chars.name(token),
        }
    }

    /// Text to tokens; control tokens only where the kind's own rules say so (added tokens of `tokenizer.json`).
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TooLarge {
                what: "bytes of the text",
                got: text.len(),
                max: MAX_TEXT_BYTES,
            });
        }
        let mut tokens = Vec::new();
        if add_bos {
            tokens.push(self.bos.ok_or(TokenizerError::NoBos)?);
        }
        match &self.encoder {
            Encoder::Hf(hf) => hf.encode(text, &mut tokens)?,
            Encoder::Scored(scored) => scored.encode(text, &mut tokens)?,
            Encoder::Chars(chars) => chars.encode(text, &mut tokens)?,
        }
        Ok(tokens)
    }

    /// Tokens to text from the beginning of a text. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = self.decode_stream();
        let mut text: String = tokens.iter().map(|&token| stream.push(token)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes token by token from the beginning of a text.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, self.strips_space())
    }

    /// Decodes tokens that continue a text: a leading space is theirs and stays.
    pub fn decode_continuation(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, false)
    }

    fn strips_space(&self) -> bool {
        match &self.encoder {
            Encoder::Hf(hf) => hf.strips_space(),
            Encoder::Scored(scored) => scored.adds_dummy_prefix(),
            Encoder::Chars(chars) => chars.adds_dummy_prefix(),
        }
    }

    fn pieces(&self) -> &[piece::Piece] {
        match &self.encoder {
            Encoder::Hf(hf) => hf.pieces(),
            Encoder::Scored(scored) => scored.pieces(),
            Encoder::Chars(chars) => chars.pieces(),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("kind", &self.kind)
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
