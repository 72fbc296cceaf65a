//! One row of the table, for people and for programs.

use super::median;
use super::proofs::{Beside, Proved};
use crate::output::{bytes, table};
use serde_json::{Value, json};
use std::io::Write;

/// What there is no figure of.
const NOT_YET: &str = "not yet";

/// A row.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) name: String,
    /// Published seconds of proof systems.
    pub(super) proofs: &'static [(&'static str, f64)],
    /// Oyster's published figure.
    pub(super) tee: Theirs,
    pub(super) serve: Measured,
    pub(super) prove: Option<Proved>,
    pub(super) beside: Option<Beside>,
    /// Right answers, of how many.
    pub(super) right: Option<(usize, usize)>,
    pub(super) notes: Vec<String>,
}

/// A published figure.
#[derive(Clone, Copy)]
pub(super) enum Theirs {
    Seconds(f64),
    TokensPerSecond { value: f64, tokens: usize, cpus: u32 },
}

/// What this run measured.
pub(super) enum Measured {
    /// Of every run.
    Seconds(Vec<f64>),
    /// Nothing, and why.
    Skipped(String),
}

impl Row {
    /// Our median in seconds, and how many times better than Oyster it is.
    fn figures(&self) -> Option<(f64, f64)> {
        let Measured::Seconds(seconds) = &self.serve else { return None };
        let ours = median(seconds);
        Some((
            ours,
            match self.tee {
                Theirs::Seconds(theirs) => theirs / ours,
                Theirs::TokensPerSecond { value, tokens, .. } => tokens as f64 / ours / value,
            },
        ))
    }

    pub(super) fn json(&self) -> Value {
        let proofs: Vec<Value> =
            self.proofs.iter().map(|(name, seconds)| json!({ "name": name, "seconds": seconds })).collect();
        let tee = match self.tee {
            Theirs::Seconds(seconds) => json!({ "name": "Oyster", "seconds": seconds }),
            Theirs::TokensPerSecond { value, cpus, .. } => {
                json!({ "name": "Oyster", "tokens_per_second": value, "vcpus": cpus })
            }
        };
        let mut row = json!({ "id": self.id, "name": self.name, "proofs": proofs, "tee": tee });
        match (&self.serve, self.figures()) {
            (Measured::Seconds(seconds), Some((ours, ratio))) => {
                row["serve"] = json!({ "median_seconds": ours, "seconds": seconds });
                if let Theirs::TokensPerSecond { tokens, .. } = self.tee {
                    row["serve"]["tokens_per_second"] = json!(tokens as f64 / ours);
                }
                row["times_oyster"] = json!(ratio);
            }
            (Measured::Skipped(why), _) => row["skipped"] = json!(why),
            (Measured::Seconds(_), None) => {}
        }
        if let Some((right, of)) = self.right {
            row["right"] = json!({ "right": right, "of": of });
        }
        row["prove"] = self.prove.map_or(json!(NOT_YET), |proved| proved.json());
        if let Some(beside) = &self.beside {
            row["vs"] = beside.json();
        }
        row["attest"] = json!(NOT_YET);
        row["notes"] = json!(self.notes);
        row
    }

    fn cells(&self) -> Vec<String> {
        let proofs: Vec<String> =
            self.proofs.iter().map(|(name, seconds)| format!("{name} {seconds} s")).collect();
        let tee = match self.tee {
            Theirs::Seconds(seconds) => format!("{seconds} s"),
            Theirs::TokensPerSecond { value, cpus, .. } => format!("{value:.2} tok/s, {cpus} vCPU"),
        };
        let (serve, ratio) = match self.figures() {
            None => ("skipped".into(), "-".into()),
            Some((ours, ratio)) => {
                let serve = match self.tee {
                    Theirs::Seconds(_) => duration(ours),
                    Theirs::TokensPerSecond { tokens, .. } => format!("{:.1} tok/s", tokens as f64 / ours),
                };
                (serve, if ratio < 100.0 { format!("{ratio:.1} x") } else { format!("{ratio:.0} x") })
            }
        };
        let proofs = if proofs.is_empty() { "-".into() } else { proofs.join(", ") };
        let prove = self.prove.map_or(NOT_YET.into(), |proved| {
            let (prove, verify) = (duration(proved.prove), duration(proved.verify));
            format!("{prove}, verify {verify}, {}", bytes(proved.bytes as u64))
        });
        vec![self.name.clone(), proofs, tee, serve, ratio, prove, NOT_YET.into()]
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// The table, then what is to be known about each row.
pub(super) fn print(head: &str, rows: &[Row], out: &mut dyn Write) -> std::io::Result<()> {
    let titles = ["model", "proofs", "Oyster (TEE)", "Lockstep serve", "over Oyster", "prove", "attest"];
    let titles = titles.map(String::from).to_vec();
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(rows.iter().map(Row::cells)).collect();
    writeln!(out, "{head}\n\n{}", table(&lines).trim_end())?;
    writeln!(out)?;
    for row in rows {
        let mut notes = row.notes.clone();
        if let Some((right, of)) = row.right {
            notes.push(format!("{right} of {of} right"));
        }
        if let Some(beside) = &row.beside {
            let [ezkl, verify] = ["prove_seconds", "verify_seconds"]
                .map(|figure| beside.ezkl[figure].as_f64().unwrap_or(f64::NAN));
            notes.push(format!(
                "one input: proved in {} and verified in {}, by EZKL {} in {} and {}: {:.0} times our CPU time",
                duration(beside.ours.prove),
                duration(beside.ours.verify),
                beside.ezkl["version"].as_str().unwrap_or_default(),
                duration(ezkl),
                duration(verify),
                beside.ratio()
            ));
        }
        if let Measured::Skipped(why) = &row.serve {
            notes.push(format!("skipped: {why}"));
        }
        writeln!(out, "{}: {}", row.name, notes.join("; "))?;
    }
    Ok(())
}
