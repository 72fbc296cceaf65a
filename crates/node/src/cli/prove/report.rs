//! What `lockstep prove` says of a proof that it made.

use super::super::bench::peak_resident;
use super::asked::Asked;
use super::work::{Seconds, Work};
use crate::output::bytes;
use lockstep_base::config::ModelConfig;
use lockstep_model::tokenizer::Tokenizer;
use lockstep_proof::file::{AnswerFile, Claimed};
use serde_json::{Value, json};
use std::path::Path;

/// Elements of a vector that are shown.
const SHOWN_ELEMENTS: usize = 4;

/// What the tokens of a file mean to a tokenizer: prompt and answer.
pub(in super::super) fn texts(tokenizer: &Tokenizer, file: &AnswerFile) -> [String; 2] {
    let mut stream = tokenizer.decode_continuation();
    let mut answer: String = file.answer().iter().map(|token| stream.push(*token)).collect();
    answer.push_str(&stream.finish());
    [tokenizer.decode(file.prompt()), answer]
}

/// How the tokens of a file were chosen, or what else it claims.
pub(in super::super) fn claim(file: &AnswerFile) -> String {
    match &file.claimed {
        Claimed::Greedy => "greedy".into(),
        Claimed::Sampled(sampling) => {
            let one = f64::from(lockstep_base::params::ONE_Q16);
            let [temperature, top_p] =
                [sampling.temperature_q16, sampling.top_p_q16].map(|number| rounded(f64::from(number) / one));
            let (top_k, seed) = (sampling.top_k, sampling.seed);
            format!("drawn, temperature {temperature}, top p {top_p}, top k {top_k}, sampler seed {seed}")
        }
        Claimed::Pooled(vector) => {
            let shown = &vector[..vector.len().min(SHOWN_ELEMENTS)];
            format!("a vector of {} integers: {shown:?} and so on", vector.len())
        }
    }
}

/// A number for people: what a user wrote, where 16 bits are nearest to it.
fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

/// A proof with what is known besides.
pub(super) struct Proved<'a> {
    pub(super) work: &'a Work,
    pub(super) asked: &'a Asked,
    pub(super) out: &'a Path,
    pub(super) config: &'a ModelConfig,
    pub(super) size: usize,
    pub(super) texts: [String; 2],
}

impl Proved<'_> {
    fn overhead(&self) -> Option<f64> {
        let inference = self.asked.inference?;
        Some(self.work.proving().cpu / inference.cpu.max(1e-9))
    }

    /// For people.
    pub(super) fn print(&self) {
        let (work, file) = (self.work, &self.work.file);
        let row = |name: &str, seconds: Seconds| println!("  {name:<12}{:>9.3} s", seconds.cpu);
        println!("model   {} ({})", self.config.name, file.root);
        if let Some(adapter) = file.adapter {
            println!("adapter {adapter}");
        }
        // Quoted, so that no character of a text does anything to a terminal.
        let [prompt, answer] = &self.texts;
        println!("prompt  {prompt:?} ({} tokens)", file.prompt().len());
        match (file.generated, self.asked.reason) {
            (0, _) => println!("answer  {}", claim(file)),
            (tokens, Some(reason)) => println!("answer  {answer:?} ({tokens} tokens, {})", reason.as_str()),
            (tokens, None) => println!("answer  {answer:?} ({tokens} tokens, as the receipts say)"),
        }
        if matches!(file.claimed, Claimed::Sampled(_)) {
            println!("chosen  {}", claim(file));
        }
        println!("CPU time:");
        if let Some(inference) = self.asked.inference {
            row("inference", inference);
        }
        work.phases.iter().for_each(|(phase, seconds)| row(phase.name(), *seconds));
        row("all proving", work.proving());
        row("verifying", work.verify);
        if let Some(overhead) = self.overhead() {
            println!("proving took {overhead:.0} times the CPU time of inference");
        }
        if let Some(peak) = peak_resident() {
            println!("peak memory {}", bytes(peak));
        }
        let stages = match (file.stages.len(), file.proved()) {
            (1, _) => String::new(),
            (all, proved) if all == proved => format!(", {all} stages"),
            (all, proved) => format!(", {proved} of {all} stages, as the beacon drew"),
        };
        let (out, size) = (self.out.display(), bytes(self.size as u64));
        println!("{out}: {size} ({} tokens{stages}), verified", file.tokens.len());
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let file = &self.work.file;
        let [prompt, answer] = &self.texts;
        let mut result = json!({
            "file": self.out.display().to_string(),
            "model": self.config.name,
            "model_root": file.root.hex(),
            "adapter_root": file.adapter.map(|root| root.hex()),
            "claim": claim(file),
            "prompt": prompt,
            "text": answer,
            "prompt_tokens": file.prompt().len(),
            "completion_tokens": file.generated,
            "finish_reason": self.asked.reason.map(|reason| reason.as_str()),
            "inference_cpu_seconds": self.asked.inference.map(|seconds| seconds.cpu),
            "overhead": self.overhead(),
            "commitment": file.commitment().hex(),
            "stages": file.stages.len(),
            "proved_stages": file.proved(),
            "key": file.keyed.as_ref().map(|keyed| keyed.digest.hex()),
            "proof_bytes": self.size,
        });
        self.work.add_to(&mut result);
        result
    }
}
