//! The file of an answer and its proof, and the key of its model, against a decoder that is small enough to be run for every file that is accepted.

use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::decoder::{self, statement::Answer};
use lockstep_proof::file::AnswerFile;
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::key::Key;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::pool::Pool;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic;
use std::sync::{Arc, OnceLock};

/// Root of the model.
const ROOT: Digest = Digest([7; 32]);

/// The model: one layer, five tokens, eight positions.
fn model() -> &'static Arc<ModelWeights> {
    static MODEL: OnceLock<Arc<ModelWeights>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let config = ModelConfig { n_layers: 1, context: 8, vocab: 5, ..synthetic::small_config() };
        Arc::new(synthetic::model(&config, WeightFormat::Int8, 1))
    })
}

/// `tokens` with the greedy answer behind them.
fn answered(mut tokens: Vec<u32>, generated: usize) -> Vec<u32> {
    let compute = Arc::new(Compute { kernel: Kernel::Scalar, pool: Pool::new(1) });
    let engine = Engine::new(model().clone(), compute);
    for _ in 0..generated {
        let mut cache = engine.new_cache();
        let mut x = engine.embed(&tokens, 0, &mut Silent).expect("tokens of the model");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        let last = &x[x.len() - engine.width()..];
        let logits = engine.logits(last, &[tokens.len() - 1], &mut Silent).expect("in range");
        tokens.push(greedy(&logits));
    }
    tokens
}

/// An honest file with an answer of two tokens. (Called by the seeds.)
///
/// # Panics
/// If there is none, or it is refused: then the target would be testing nothing.
#[must_use]
pub fn proved_answer() -> AnswerFile {
    let (tokens, generated) = (answered(vec![1, 3, 4], 2), 2);
    let answer = Answer::greedy(model(), ROOT, &tokens, generated);
    let proof = decoder::prove(&answer).expect("a small model is proved");
    let file = AnswerFile::whole(ROOT, tokens, generated, model().config.n_layers, proof);
    file.verify(model(), ROOT).expect("an honest proof");
    file
}

/// The model's key, and an honest file for it. (Called by the seeds.)
///
/// # Panics
/// If there is none, or the file is refused.
#[must_use]
pub fn keyed_answer() -> (Key, AnswerFile) {
    let ends = [model().config.n_layers as usize];
    let key = Key::new(model(), ROOT, &ends).expect("a small model has a key");
    let tokens = answered(vec![1, 3, 4], 2);
    let answer = Answer::greedy(model(), ROOT, &tokens, 2);
    let order = Order { answer, ends: &ends, between: &[], sample: None, key: Some(&key), kept: None };
    let file = make(&order, &mut |_, _, _| {}).expect("a small model is proved");
    file.verify_with_key(&key).expect("an honest proof");
    (key, file)
}

/// The same, made once.
fn honest() -> &'static (Key, AnswerFile) {
    static HONEST: OnceLock<(Key, AnswerFile)> = OnceLock::new();
    HONEST.get_or_init(keyed_answer)
}

/// A key; the honest file is checked with it as if it had been made for it. Only what decides nothing may differ: the configuration's names and special tokens, and what the
/// file does not get to.
pub fn answer_key(data: &[u8]) {
    let Ok(key) = Key::from_bytes(data) else { return };
    assert_eq!(key.to_bytes(), data, "one encoding");
    let (honest, file) = honest();
    let mut claimed = file.clone();
    claimed.root = key.root();
    if let Some(keyed) = &mut claimed.keyed {
        keyed.digest = key.digest();
    }
    if claimed.verify_with_key(&key).is_ok() {
        assert_eq!(key.stages(), honest.stages(), "other weights were accepted");
        assert_eq!((key.root(), key.embed()), (honest.root(), honest.embed()), "another model was accepted");
    }
}

/// A file; with the root put right (and the key, where it is for one) it is checked, and what is accepted is what the model answers.
pub fn answer_file(data: &[u8]) {
    let Ok(mut file) = AnswerFile::from_bytes(data) else { return };
    assert_eq!(file.to_bytes(), data, "one encoding");
    file.root = ROOT;
    let holds = match &mut file.keyed {
        None => file.verify(model(), ROOT).is_ok(),
        Some(keyed) => {
            let (key, _) = honest();
            keyed.digest = key.digest();
            file.verify_with_key(key).is_ok()
        }
    };
    if holds {
        assert_eq!(file.tokens, answered(file.prompt().to_vec(), file.generated), "a lie was accepted");
    }
}
