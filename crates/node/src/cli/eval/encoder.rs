//! Encoders: how far vectors of sentences are from those of the float model.
//!
//! ```text
//! cosine  = of a sentence's vector to the float model's: mean, 1 % quantile, least
//! nearest = share of sentences whose most similar other sentence is the one that the float model names
//! ```
//! The float model is our own reference, which the tests of `lockstep-model` hold against PyPI `transformers`.

use super::llama_cpp::LlamaCpp;
use super::{CommandResult, EvalArgs, Rivals, ThreadError, check_same_shape, read, read_tokenizer};
use crate::cli::embed::framed;
use crate::output::Progress;
use lockstep_base::config::Pooling;
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_model::float::Activations;
use lockstep_model::source::{self, FloatModel};
use lockstep_model::tokenizer::{MAX_TEXT_BYTES, Tokenizer};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::pool::Pool;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::error::Error;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shorter ones are headings and exclamations.
const WORDS_MIN: usize = 6;
/// Marks that end a sentence.
const ENDS: [char; 3] = ['.', '!', '?'];
/// What may follow the mark.
const CLOSING: [char; 7] = ['"', '\'', ')', ']', '*', '\u{2019}', '\u{201d}'];
/// Sentences below the low quantile, in a thousand.
const LOW_PER_MILLE: usize = 10;

/// `lockstep eval` on the bundle of an encoder.
pub(super) fn run(args: &EvalArgs, compute: &Compute, bundle: &Bundle) -> CommandResult {
    if args.generated > 0 {
        let got = args.generated;
        return Err(format!("--generated {got}: an encoder writes no text, expected 0").into());
    }
    let config = bundle.config();
    let float = source::open_weights(&args.float)?;
    check_same_shape(&float, config)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => read_tokenizer(path, config)?,
        None => bundle.tokenizer()?,
    };
    let sentences = Sentences::read(&args.text, &tokenizer, config.context as usize, args.tokens)?;
    let rivals = if args.rival { Rivals::new(&float)? } else { Rivals::default() };
    let bar = Progress::new("evaluating", 1, args.json);
    let threads = compute.pool.threads();
    let judge = EncoderJudge { float: &float, rivals: &rivals, kernel: compute.kernel, threads, bar: &bar };
    let reference = judge.reference(&sentences)?;
    let mut result = judge.bundle(bundle, &sentences, &reference)?;
    result["sentences"] = json!(sentences.count());
    result["tokens"] = json!(sentences.tokens());
    if args.rival {
        result["rival"] = Value::Object(judge.rivals(&sentences, &reference)?);
    }
    if let Some(python) = &args.rival_python {
        let cls = config.pooling == Some(Pooling::First);
        let rival = LlamaCpp { python, folder: &args.float, cls, threads };
        result["llama.cpp"] = rival.figures(&sentences, &reference)?;
    }
    bar.finish();
    writeln!(stdout(), "{result}")?;
    Ok(())
}

/// The sentences of a text, as tokens between those that the encoder was trained with.
pub(in crate::cli) struct Sentences(Vec<Vec<u32>>);

impl Sentences {
    /// Of a text file: different ones, that fit the context; at most about `limit` tokens.
    pub(in crate::cli) fn read(
        path: &Path,
        tokenizer: &Tokenizer,
        context: usize,
        limit: Option<usize>,
    ) -> Result<Sentences, Box<dyn Error>> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = String::from_utf8(read(path, MAX_TEXT_BYTES as u64)?).map_err(|error| named(&error))?;
        let (mut kept, mut seen, mut left) = (Vec::new(), BTreeSet::new(), limit.unwrap_or(usize::MAX));
        for sentence in split(&text) {
            let tokens = framed(tokenizer, &sentence).map_err(|error| named(&error))?;
            if tokens.len() > left {
                break;
            }
            if tokens.len() <= context && seen.insert(tokens.clone()) {
                left -= tokens.len();
                kept.push(tokens);
            }
        }
        match kept.len() {
            got @ 0..2 => Err(named(&format!("{got} sentences, expected at least 2")).into()),
            _ => Ok(Sentences(kept)),
        }
    }

    /// How many.
    pub(in crate::cli) fn count(&self) -> usize {
        self.0.len()
    }

    /// All tokens.
    pub(in crate::cli) fn tokens(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The token ids of each.
    pub(super) fn ids(&self) -> &[Vec<u32>] {
        &self.0
    }
}

/// Sentences of a text: lines of a paragraph belong together, a word that ends in one of [`ENDS`] ends its sentence.
fn split(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let mut end = |words: &mut Vec<&str>| {
        if words.len() >= WORDS_MIN {
            all.push(words.join(" "));
        }
        words.clear();
    };
    for line in text.lines() {
        if line.trim().is_empty() {
            end(&mut words);
        }
        for word in line.split_whitespace() {
            words.push(word);
            if word.trim_end_matches(CLOSING).ends_with(ENDS) {
                end(&mut words);
            }
        }
    }
    end(&mut words);
    all
}

/// Vectors of length one.
pub(in crate::cli) struct Vectors(Vec<Vec<f64>>);

impl Vectors {
    pub(super) fn new(vectors: impl IntoIterator<Item = Vec<f64>>) -> Vectors {
        let unit = |mut vector: Vec<f64>| {
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            vector.iter_mut().for_each(|x| *x /= length);
            vector
        };
        Vectors(vectors.into_iter().map(unit).collect())
    }

    /// For each the most similar other one, the first of equals.
    fn nearest(&self) -> Vec<usize> {
        let best = |(at, vector): (usize, &Vec<f64>)| {
            let mut best = (f64::NEG_INFINITY, at);
            for (other, candidate) in self.0.iter().enumerate().filter(|(other, _)| *other != at) {
                let cosine = dot(vector, candidate);
                if cosine > best.0 {
                    best = (cosine, other);
                }
            }
            best.1
        };
        self.0.iter().enumerate().map(best).collect()
    }

    /// The figures of these vectors, which should be those of `reference`.
    pub(super) fn figures(&self, reference: &Vectors) -> Value {
        let mut cosines: Vec<f64> = self.0.iter().zip(&reference.0).map(|(a, b)| dot(a, b)).collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        cosines.sort_by(f64::total_cmp);
        let pairs = self.nearest().into_iter().zip(reference.nearest());
        let agreeing = pairs.filter(|(got, expected)| got == expected).count();
        json!({
            "cosine_mean": mean,
            "cosine_low": cosines[cosines.len() * LOW_PER_MILLE / 1000],
            "cosine_least": cosines[0],
            "nearest_agreement": agreeing as f64 / cosines.len() as f64,
        })
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Compares bundles of one encoder with its float model.
pub(in crate::cli) struct EncoderJudge<'a> {
    pub(in crate::cli) float: &'a FloatModel,
    pub(in crate::cli) rivals: &'a Rivals,
    pub(in crate::cli) kernel: Kernel,
    pub(in crate::cli) threads: usize,
    pub(in crate::cli) bar: &'a Progress,
}

impl EncoderJudge<'_> {
    /// The vectors of the float model: what all others are compared with.
    pub(in crate::cli) fn reference(&self, sentences: &Sentences) -> Result<Vectors, Box<dyn Error>> {
        self.float_vectors(self.float, Activations::Float, sentences)
    }

    /// The figures of a bundle's vectors.
    pub(in crate::cli) fn bundle(
        &self,
        bundle: &Bundle,
        sentences: &Sentences,
        reference: &Vectors,
    ) -> Result<Value, Box<dyn Error>> {
        let weights = Arc::new(bundle.load(&Part::whole(bundle.config().n_layers))?);
        let vectors = self.vectors(sentences, || {
            let compute = Arc::new(Compute { kernel: self.kernel, pool: Pool::new(1) });
            let engine = Engine::new(weights.clone(), compute);
            move |tokens: &[u32]| Ok(engine.encode(tokens)?.into_iter().map(f64::from).collect())
        })?;
        Ok(vectors.figures(reference))
    }

    /// The figures of ggml's formats, simulated.
    pub(in crate::cli) fn rivals(
        &self,
        sentences: &Sentences,
        reference: &Vectors,
    ) -> Result<Map<String, Value>, Box<dyn Error>> {
        let judged = self.rivals.0.iter().map(|(name, model, activations)| {
            let vectors = self.float_vectors(model, *activations, sentences)?;
            Ok(((*name).to_owned(), vectors.figures(reference)))
        });
        judged.collect()
    }

    fn float_vectors(
        &self,
        model: &FloatModel,
        activations: Activations,
        sentences: &Sentences,
    ) -> Result<Vectors, Box<dyn Error>> {
        self.vectors(sentences, || {
            move |tokens: &[u32]| {
                let vector = model.embedding_with(activations, tokens)?;
                Ok(vector.into_iter().map(f64::from).collect())
            }
        })
    }

    /// What workers give for all sentences, in order, whoever of them is first.
    fn vectors<W>(
        &self,
        sentences: &Sentences,
        worker: impl Fn() -> W + Sync,
    ) -> Result<Vectors, Box<dyn Error>>
    where
        W: FnMut(&[u32]) -> Result<Vec<f64>, ThreadError>,
    {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        self.bar.set_total(sentences.0.len() as u64);
        let work = || {
            let mut worker = worker();
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(tokens) = sentences.0.get(index) else { return Ok::<_, ThreadError>(results) };
                results.push((index, worker(tokens)?));
                self.bar.set(done.fetch_add(1, Ordering::Relaxed) as u64 + 1);
            }
        };
        let mut results = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                results.extend(worker.join().map_err(|_| "an evaluation thread panicked")??);
            }
            Ok::<_, ThreadError>(())
        })
        .map_err(|error| -> Box<dyn Error> { error })?;
        results.sort_by_key(|(index, _)| *index);
        Ok(Vectors::new(results.into_iter().map(|(_, vector)| vector)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a paragraph belong together, quotes may close behind the mark, headings are left out.
    #[test]
    fn a_text_is_cut_into_sentences() {
        let text = "Chapter one.\n\n`Oh dear!' said the rabbit to\nnobody at all. \u{201c}I shall be late for the \
                    tea!\u{201d} It looked at its watch and went";
        let expected = [
            "said the rabbit to nobody at all.",
            "\u{201c}I shall be late for the tea!\u{201d}",
            "It looked at its watch and went",
        ];
        assert_eq!(split(text), expected);
    }

    /// Vectors that agree in all but one: the mean over four, and whose nearest is another.
    #[test]
    fn figures_say_what_differs() {
        let of = |angles: [f64; 4]| Vectors::new(angles.map(|a: f64| vec![3.0 * a.cos(), 3.0 * a.sin()]));
        let reference = of([0.0, 0.1, 0.3, 1.0]);
        let same = reference.figures(&reference);
        assert!((same["cosine_least"].as_f64().unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(same["nearest_agreement"], 1.0);
        let moved = of([0.0, 0.1, 0.7, 1.0]).figures(&reference);
        let least = moved["cosine_least"].as_f64().unwrap();
        assert!((least - 0.4f64.cos()).abs() < 1e-12);
        assert!((moved["cosine_mean"].as_f64().unwrap() - (3.0 + least) / 4.0).abs() < 1e-12);
        // The third is nearest to the last now.
        assert_eq!(moved["nearest_agreement"], 0.75);
    }
}
