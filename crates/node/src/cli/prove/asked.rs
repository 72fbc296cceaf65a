//! What is to be proved: an answer to a prompt, the answer that receipts are about, or the vector of a text.

use super::super::embed::framed;
use super::work::{Clock, Seconds};
use super::{ProveArgs, SamplingChoice};
use crate::cli::run::Loaded;
use crate::output::Progress;
use crate::service::{FinishReason, GenerateEvent, GenerateRequest};
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::params::client_seed;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::weights::ModelWeights;
use lockstep_model::chat::Message;
use lockstep_model::tokenizer::Tokenizer;
use lockstep_proof::decoder::plan::Plan;
use lockstep_proof::decoder::statement::{Answer, Claim};
use lockstep_proof::file::{Claimed, FILE_TOKENS_MAX};
use lockstep_runtime::audit::adapter_of;
use lockstep_runtime::forward::Engine;
use std::error::Error;

/// An answer, and what computing it took.
pub(super) struct Asked {
    /// Prompt and answer.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the answer.
    pub(super) generated: usize,
    /// What is claimed of it.
    pub(super) claimed: Claimed,
    /// Why it ended, where it was generated here.
    pub(super) reason: Option<FinishReason>,
    /// What it took, where it was computed here.
    pub(super) inference: Option<Seconds>,
}

impl Asked {
    /// Answers a prompt as `lockstep run` does it with the same numbers.
    pub(super) fn prompt(args: &ProveArgs, loaded: &Loaded) -> Result<Asked, Box<dyn Error>> {
        let served = loaded.served();
        let text = args.prompt.as_deref().unwrap_or_default();
        let prompt = if args.chat {
            served.encode_messages(&[Message::new("user", text)])?
        } else {
            served.encode_text(text)?
        };
        let weights = &loaded.generator.engine().weights;
        let max_tokens = budget(weights, prompt.len(), args.max_tokens)?;
        let SamplingChoice { parameters, seed } = args.sampling(&weights.config, max_tokens as u32)?;
        let claimed = Claim::of(&parameters, client_seed(seed, 0)).into();
        let mut clock = Clock::start();
        let (mut tokens, before) = (prompt.clone(), prompt.len());
        let mut request = GenerateRequest::new(prompt, parameters);
        request.seed = Some(seed);
        let mut events = served.generator.generate(request);
        loop {
            match events.blocking_recv() {
                Some(GenerateEvent::Token { token, .. }) => tokens.push(token),
                Some(GenerateEvent::Stage(_)) => {}
                Some(GenerateEvent::Done(done)) => {
                    let (generated, reason) = (tokens.len() - before, Some(done.reason));
                    let inference = Some(clock.lap());
                    return Ok(Asked { tokens, generated, claimed, reason, inference });
                }
                Some(GenerateEvent::Failed(failure)) => return Err(failure.into()),
                None => return Err("the answer ended without a result".into()),
            }
        }
    }

    /// The answer of a receipt file: what was served, by whomever.
    pub(super) fn receipts(
        file: &ReceiptFile,
        root: Digest,
        weights: &ModelWeights,
        adapter: Option<&AdapterWeights>,
    ) -> Result<Asked, Box<dyn Error>> {
        if let Some(adapter) = adapter {
            adapter.check_fits(root, &weights.config, 0, &weights.layers)?;
        }
        if file.model_root != root {
            let got = file.model_root;
            return Err(format!("the receipts are about model {got}, this is model {root}").into());
        }
        let (got, expected) = (adapter_of(file), adapter.map_or(Digest::ZERO, |adapter| adapter.root));
        if got != expected {
            return Err(match adapter {
                None => format!("the answer was given under adapter {got}: give its file with --adapter"),
                Some(_) => format!("the receipts name adapter {got}, --adapter is {expected}"),
            }
            .into());
        }
        let limit = FILE_TOKENS_MAX;
        if file.tokens.len() > limit {
            let got = file.tokens.len();
            return Err(format!("prompt and answer have {got} tokens, a proof covers at most {limit}").into());
        }
        let generated = file.tokens.len().saturating_sub(file.prompt_tokens as usize);
        let claimed = Claim::of(&file.parameters, file.sampler_seed).into();
        Ok(Asked { tokens: file.tokens.clone(), generated, claimed, reason: None, inference: None })
    }

    /// The vector of a text.
    pub(super) fn vector(
        args: &ProveArgs,
        engine: &Engine,
        tokenizer: &Tokenizer,
    ) -> Result<Asked, Box<dyn Error>> {
        let tokens = framed(tokenizer, args.prompt.as_deref().unwrap_or_default())?;
        let limit = FILE_TOKENS_MAX - 1;
        if tokens.len() > limit {
            let got = tokens.len();
            return Err(format!("the text has {got} tokens, a proof covers at most {limit}").into());
        }
        let bar = Progress::new("embedding", 1, args.json);
        let mut clock = Clock::start();
        let claimed = Claimed::Pooled(engine.encode(&tokens)?);
        bar.finish();
        Ok(Asked { tokens, generated: 0, claimed, reason: None, inference: Some(clock.lap()) })
    }

    /// The statement.
    pub(super) fn answer<'a>(
        &'a self,
        weights: &'a ModelWeights,
        root: Digest,
        adapter: Option<&'a AdapterWeights>,
    ) -> Answer<'a> {
        let Asked { tokens, generated, claimed, .. } = self;
        Answer { weights, root, tokens, generated: *generated, claim: claimed.claim(), adapter }
    }
}

/// Tokens of the answer, at most; whether the model can be proved at all is known before it runs.
fn budget(weights: &ModelWeights, prompt: usize, asked: usize) -> Result<usize, Box<dyn Error>> {
    let limit = FILE_TOKENS_MAX.min(weights.config.context as usize);
    if prompt == 0 {
        return Err("the prompt has no tokens, expected at least 1".into());
    }
    let room = limit.saturating_sub(prompt);
    if room == 0 {
        let most = limit - 1;
        return Err(format!(
            "the prompt has {prompt} tokens, expected at most {most}: a proof covers {limit} with the answer"
        )
        .into());
    }
    if asked == 0 {
        return Err("--max-tokens 0, expected at least 1".into());
    }
    let tokens = asked.min(room);
    Plan::new(weights, None, prompt + tokens - 1, 0..weights.config.n_layers as usize)
        .map_err(|error| format!("this model has no proof: {error}"))?;
    Ok(tokens)
}
