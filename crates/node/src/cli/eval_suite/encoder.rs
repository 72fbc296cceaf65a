//! The suite's table of encoders.

use super::EvalSuiteArgs;
use crate::cli::eval::Rivals;
use crate::cli::eval::encoder::{EncoderJudge, Sentences};
use crate::cli::eval::llama_cpp::LlamaCpp;
use crate::output::Progress;
use lockstep_base::config::Pooling;
use lockstep_model::bundle::Bundle;
use lockstep_model::source::Source;
use lockstep_runtime::kernels::Compute;
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;

/// An encoder: where it is, what it is, and what became of it in our formats.
pub(super) struct Encoder<'a> {
    pub(super) name: &'a str,
    pub(super) path: &'a Path,
    pub(super) source: &'a Source,
    pub(super) bundles: &'a [Bundle],
}

impl Encoder<'_> {
    /// One encoder in all formats, beside the rivals.
    pub(super) fn judge(
        &self,
        text: &Path,
        args: &EvalSuiteArgs,
        compute: &Compute,
        bar: &Progress,
    ) -> Result<Value, Box<dyn Error>> {
        let float = &self.source.model;
        let config = self.bundles.first().ok_or("no --formats, expected at least one")?.config();
        let sentences = Sentences::read(text, &self.source.tokenizer, config.context as usize, args.tokens)?;
        let rivals = Rivals::new(float)?;
        let threads = compute.pool.threads();
        let judge = EncoderJudge { float, rivals: &rivals, kernel: compute.kernel, threads, bar };
        bar.say("judging");
        let reference = judge.reference(&sentences)?;
        let mut formats = serde_json::Map::new();
        for (format, bundle) in args.formats.iter().zip(self.bundles) {
            let mut value = judge.bundle(bundle, &sentences, &reference)?;
            value["bundle_bytes"] = json!(bundle.file_bytes());
            formats.insert(format.name().into(), value);
        }
        formats.extend(judge.rivals(&sentences, &reference)?);
        let mut row = json!({
            "model": self.name,
            "sentences": sentences.count(),
            "tokens": sentences.tokens(),
            "formats": formats,
        });
        if let Some(python) = &args.rival_python {
            bar.say("llama.cpp");
            let cls = config.pooling == Some(Pooling::First);
            let rival = LlamaCpp { python, folder: self.path, cls, threads };
            row["llama.cpp"] = rival.figures(&sentences, &reference)?;
        }
        Ok(row)
    }
}

/// Whether a row is that of an encoder.
pub(super) fn is_row(row: &Value) -> bool {
    row.get("sentences").is_some()
}

/// The table; nothing where there is no encoder.
pub(super) fn lines(rows: &[Value]) -> Vec<Vec<String>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let head = ["encoder", "format", "cosine", "1 %", "least", "same nearest"];
    let mut lines = vec![head.map(String::from).to_vec()];
    for row in rows {
        let name = row["model"].as_str().unwrap_or_default();
        for (key, whose) in [("formats", ""), ("llama.cpp", "llama.cpp ")] {
            let formats = row.get(key).and_then(Value::as_object).into_iter().flatten();
            for (format, figures) in formats.filter(|(_, figures)| figures.is_object()) {
                let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
                lines.push(vec![
                    name.into(),
                    format!("{whose}{format}"),
                    format!("{:.6}", number("cosine_mean")),
                    format!("{:.6}", number("cosine_low")),
                    format!("{:.6}", number("cosine_least")),
                    format!("{:.1} %", 100.0 * number("nearest_agreement")),
                ]);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was measured by llama.cpp itself is told from what was simulated.
    #[test]
    fn rows_say_whose_they_are() {
        let figures = |mean: f64| json!({ "cosine_mean": mean, "cosine_low": 0.5, "cosine_least": 0.25, "nearest_agreement": 1 });
        let row = json!({
            "model": "m", "sentences": 2,
            "formats": { "int8": figures(0.75) },
            "llama.cpp": { "version": "1", "q8_0": figures(0.625) },
        });
        assert!(is_row(&row) && !is_row(&json!({ "model": "m", "not_run": "absent" })));
        let lines = lines(&[row]);
        assert_eq!(lines[1], ["m", "int8", "0.750000", "0.500000", "0.250000", "100.0 %"]);
        assert_eq!(lines[2][..3], ["m", "llama.cpp q8_0", "0.625000"]);
        assert_eq!(lines.len(), 3);
    }
}
