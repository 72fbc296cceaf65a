//! What lies beside the weights: the tokenizer, the special tokens and the chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::SourceError;
use super::config_json::ConfigJson;
use super::files::{io_error, read_bounded};
use super::limits::{MAX_CHAT_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};
use crate::tokenizer::Tokenizer;

/// In the order in which they are tried.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer.model", "tokenizer.bin"];

/// The folder of a model.
pub(super) struct Beside {
    model: PathBuf,
    folder: PathBuf,
}

impl Beside {
    pub(super) fn find(model: &Path) -> Self {
        let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
        Self { model: model.into(), folder: folder.into() }
    }

    /// The file that the caller named, or the first that is there, with the config's bos and eos.
    pub(super) fn tokenizer(
        &self,
        named: Option<&Path>,
        model_vocab: usize,
    ) -> Result<Tokenizer, SourceError> {
        let found = TOKENIZER_FILES.iter().map(|name| self.folder.join(name)).find(|path| path.is_file());
        let Some(path) = named.map(PathBuf::from).or(found) else {
            let looked_for = "tokenizer.json, tokenizer.model, tokenizer.bin";
            return Err(SourceError::NoTokenizer { path: self.model.clone(), looked_for });
        };
        let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES)?;
        let tokenizer = Tokenizer::detect(&bytes, model_vocab)
            .map_err(|error| SourceError::Tokenizer { path: path.clone(), error })?;
        if tokenizer.vocab_size() > model_vocab {
            return Err(SourceError::TokenizerTooLarge {
                got: tokenizer.vocab_size(),
                expected: model_vocab,
            });
        }
        let (bos, eos) = self.special_tokens(&tokenizer)?;
        tokenizer.with_special(bos, eos).map_err(|error| SourceError::Tokenizer { path, error })
    }

    /// A lone .bin has no config of its own: what lies in its folder may belong to another model.
    fn has_config(&self) -> bool {
        self.model.extension().is_none_or(|extension| extension != "bin")
    }

    /// `generation_config.json` goes before `config.json`, and both before what the tokenizer file says itself.
    fn special_tokens(&self, tokenizer: &Tokenizer) -> Result<(Option<u32>, Vec<u32>), SourceError> {
        let (mut bos, mut eos) = (tokenizer.bos(), tokenizer.eos().to_vec());
        let in_vocabulary = |id: &u32| (*id as usize) < tokenizer.vocab_size();
        for name in ["config.json", "generation_config.json"] {
            let path = self.folder.join(name);
            if !self.has_config() || !path.is_file() {
                continue;
            }
            let json = ConfigJson::read(&path)?;
            bos = json.token_ids("bos_token_id")?.into_iter().find(in_vocabulary).or(bos);
            let stated: Vec<u32> =
                json.token_ids("eos_token_id")?.into_iter().filter(in_vocabulary).collect();
            if !stated.is_empty() {
                eos = stated;
            }
        }
        Ok((bos, eos))
    }

    /// `chat_template.jinja`, or the field of `tokenizer_config.json` (a string, or a list with one named `default`).
    pub(super) fn chat_template(&self) -> Result<Option<String>, SourceError> {
        if !self.has_config() {
            return Ok(None);
        }
        let file = self.folder.join("chat_template.jinja");
        if file.is_file() {
            let bytes = read_bounded(&file, MAX_CHAT_TEMPLATE_BYTES)?;
            let not_utf8 =
                |error| io_error(&file)(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
            return String::from_utf8(bytes).map(Some).map_err(not_utf8);
        }
        let path = self.folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let json = ConfigJson::read(&path)?;
        let template = match json.get("chat_template") {
            Some(Value::Array(named)) => {
                let default = named.iter().find(|entry| entry["name"] == "default");
                default.and_then(|entry| entry["template"].as_str())
            }
            other => other.and_then(Value::as_str),
        };
        match template {
            Some(text) if text.len() as u64 > MAX_CHAT_TEMPLATE_BYTES => Err(SourceError::OutOfRange {
                what: "bytes of the chat template".into(),
                got: text.len() as u64,
                min: 0,
                max: MAX_CHAT_TEMPLATE_BYTES,
            }),
            other => Ok(other.map(String::from)),
        }
    }
}
