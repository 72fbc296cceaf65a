//! A model as the API serves it: a generator with what turns text into its tokens.

use super::error::ApiError;
use super::fields::INVALID_VALUE;
use super::limits::PROOF_TOKENS_MAX;
use super::proofs::{Keep, Proofs};
use super::request::Common;
use super::request::Prompt;
use super::shape::{Style, now_unix_seconds};
use crate::proving::ProvesAnswers;
use crate::service::{Failure, Generator};
use crate::text::Beginning;
use lockstep_model::chat::{ChatOptions, ChatTemplate, Message};
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};
use serde_json::{Value, json};
use std::sync::Arc;

/// A generator with its tokenizer and chat template.
#[derive(Clone)]
pub struct Served {
    /// Continues prompts.
    pub generator: Arc<dyn Generator>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to text.
    pub chat: Arc<ChatTemplate>,
    /// Who proves answers, where somebody does.
    pub prover: Option<Arc<dyn ProvesAnswers>>,
    created: u64,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("model", self.generator.model()).finish_non_exhaustive()
    }
}

/// Why messages or texts cannot become a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The chat template refuses the messages.
    #[error(transparent)]
    Chat(#[from] lockstep_model::chat::ChatError),
    /// The tokenizer cannot encode the text.
    #[error(transparent)]
    Tokenizer(#[from] lockstep_model::tokenizer::TokenizerError),
}

impl Served {
    /// A model that is served from now on.
    #[must_use]
    pub fn new(generator: Arc<dyn Generator>, tokenizer: Arc<Tokenizer>, chat: ChatTemplate) -> Served {
        Served { generator, tokenizer, chat: Arc::new(chat), prover: None, created: now_unix_seconds() }
    }

    /// The same text for another generator of the same model: one under an adapter.
    #[must_use]
    pub fn with_generator(&self, generator: Arc<dyn Generator>) -> Served {
        Served { generator, prover: None, ..self.clone() }
    }

    /// Answers can be proved, by `prover`.
    #[must_use]
    pub fn proving(self, prover: Arc<dyn ProvesAnswers>) -> Served {
        Served { prover: Some(prover), ..self }
    }

    /// Where the answer to `prompts` is kept, if it is to be proved later.
    ///
    /// # Errors
    /// 400 where there are no proofs of such answers.
    pub(super) fn keep(
        &self,
        proofs: &Proofs,
        prompts: &[Vec<u32>],
        common: &Common,
    ) -> Result<Option<Keep>, ApiError> {
        if !common.proof {
            return Ok(None);
        }
        let refuse = |message: &str| Err(ApiError::field("lockstep.proof", INVALID_VALUE, message));
        let Some(prover) = &self.prover else {
            return refuse(
                "no proofs are made here, expected lockstep serve --proofs, or lockstep gateway --proofs",
            );
        };
        let ([prompt], 1) = (prompts, common.n) else {
            return refuse("one answer is proved at a time: expected one prompt and n = 1");
        };
        // Known before anything is computed, and not when somebody asks for the proof.
        if prompt.len() >= PROOF_TOKENS_MAX {
            let message = format!(
                "the prompt has {} tokens, expected at most {}: a proof here covers {PROOF_TOKENS_MAX} with the answer",
                prompt.len(),
                PROOF_TOKENS_MAX - 1
            );
            return refuse(&message);
        }
        let asked = prompt.len() + common.parameters.max_tokens as usize;
        if let Some(limit) = prover.tokens_max().filter(|limit| asked > *limit) {
            let most = limit.saturating_sub(prompt.len());
            let message = format!(
                "this prompt leaves room for max_tokens {most}, expected at most that: a proof here covers {limit}"
            );
            return refuse(&message);
        }
        Ok(Some(Keep {
            proofs: proofs.clone(),
            prover: prover.clone(),
            prompt: prompt.clone(),
            parameters: common.parameters.clone(),
        }))
    }

    /// The entry of `/v1/models`.
    #[must_use]
    pub fn json(&self) -> Value {
        let model = self.generator.model();
        let mut entry = json!({
            "id": model.id,
            "object": "model",
            "created": self.created,
            "owned_by": "lockstep",
            "lockstep": {
                "model_root": model.root.hex(),
                "opset": model.config.opset,
                "context": model.config.context,
                "layers": model.config.n_layers,
            },
        });
        if let Some(adapter) = &model.adapter {
            entry["lockstep"]["adapter_root"] = json!(adapter.root.hex());
            entry["lockstep"]["rank"] = json!(adapter.rank);
            entry["lockstep"]["parent"] = json!(adapter.parent);
        }
        entry
    }

    /// Text to tokens, the begin token in front where the model has one.
    ///
    /// # Errors
    /// If the vocabulary cannot express the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        Ok(self.tokenizer.encode(text, self.tokenizer.bos().is_some())?)
    }

    /// Messages to the tokens of the prompt that the assistant's turn continues.
    ///
    /// # Errors
    /// If the template refuses them or the vocabulary cannot express them.
    pub fn encode_messages(&self, messages: &[Message]) -> Result<Vec<u32>, PromptError> {
        let name =
            |token: Option<u32>| token.and_then(|token| self.tokenizer.token_name(token)).unwrap_or_default();
        // Only `tokenizer.json` knows its special tokens by name in a text; to all others the
        // name would be plain characters.
        let by_name = self.tokenizer.kind() == TokenizerKind::HfJson;
        let bos = if by_name { name(self.tokenizer.bos()) } else { String::new() };
        let options = ChatOptions {
            bos_token: bos.clone(),
            eos_token: if by_name { name(self.tokenizer.eos().first().copied()) } else { String::new() },
            add_generation_prompt: true,
            now_unix_seconds: now_unix_seconds(),
        };
        let text = self.chat.render(messages, &options)?;
        let written = !bos.is_empty() && text.starts_with(&bos);
        Ok(self.tokenizer.encode(&text, self.tokenizer.bos().is_some() && !written)?)
    }

    /// [`Served::encode_text`] of every text, away from the threads that serve connections.
    ///
    /// # Errors
    /// 400 in OpenAI's shape.
    pub async fn encode_prompts(self, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
        let encode = move |prompt| match prompt {
            Prompt::Text(text) => self.encode_text(&text),
            Prompt::Tokens(tokens) => Ok(tokens),
        };
        off_thread(move || prompts.into_iter().map(encode).collect(), "prompt").await
    }

    /// [`Served::encode_messages`], away from the threads that serve connections.
    ///
    /// # Errors
    /// 400 in OpenAI's shape.
    pub async fn encode_chat(self, messages: Vec<Message>) -> Result<Vec<u32>, ApiError> {
        off_thread(move || self.encode_messages(&messages), "messages").await
    }

    /// Refuses what does not fit the model, before anything is computed.
    ///
    /// # Errors
    /// 400; `context_length_exceeded` where the prompt is too long.
    pub fn check_prompt(&self, style: Style, prompt: &[u32]) -> Result<(), ApiError> {
        let param = match style {
            Style::Completion => "prompt",
            Style::Chat => "messages",
        };
        let config = &self.generator.model().config;
        let (got, context) = (prompt.len(), config.context as usize);
        if got == 0 {
            return Err(ApiError::field(
                param,
                "invalid_value",
                format!("{param} has no tokens, expected at least 1"),
            ));
        }
        if got >= context {
            let message = format!(
                "{param} has {got} tokens, expected at most {}: the context of this model is {context} tokens",
                context - 1
            );
            return Err(ApiError::context_length(param, message));
        }
        match prompt.iter().find(|token| **token >= config.vocab) {
            Some(token) => Err(ApiError::field(
                param,
                "invalid_value",
                format!("{param} has token {token}, expected tokens below {}", config.vocab),
            )),
            None => Ok(()),
        }
    }
}

impl Beginning {
    /// An answer to an empty prompt is a text of its own; any other goes on.
    #[must_use]
    pub fn of_completion(prompts: &[Prompt]) -> Beginning {
        let empty = |prompt: &Prompt| matches!(prompt, Prompt::Text(text) if text.is_empty());
        if prompts.iter().all(empty) { Beginning::Fresh } else { Beginning::Continuation }
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PromptError> + Send + 'static,
    param: &str,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(tokens)) => Ok(tokens),
        Ok(Err(error)) => Err(ApiError::field(param, "invalid_value", error.to_string())),
        Err(_) => Err(Failure::compute("the tokenizer did not finish").into()),
    }
}
