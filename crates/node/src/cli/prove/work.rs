//! Proving with a clock: what `lockstep prove` and `lockstep bench prove` have in common.

use super::super::bench::{cpu_seconds, peak_resident};
use crate::output::Progress;
use lockstep_proof::argument::prove::Phase;
use lockstep_proof::file::AnswerFile;
use lockstep_proof::file::make::{Order, make};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::time::Instant;

/// Seconds of a part of the work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seconds {
    /// On the clock.
    pub wall: f64,
    /// That all threads of the process computed.
    pub cpu: f64,
}

/// A clock that tells what has passed since it was asked last.
#[derive(Debug)]
pub struct Clock {
    wall: Instant,
    cpu: f64,
}

impl Clock {
    /// From now on.
    #[must_use]
    pub fn start() -> Clock {
        Clock { wall: Instant::now(), cpu: cpu_seconds() }
    }

    /// What has passed.
    pub fn lap(&mut self) -> Seconds {
        let now = Clock::start();
        let passed = now.wall - self.wall;
        let lap = Seconds { wall: passed.as_secs_f64(), cpu: now.cpu - self.cpu };
        *self = now;
        lap
    }
}

/// A proof that holds, and what it took.
#[derive(Debug)]
pub struct Work {
    /// The answer with its proof.
    pub file: AnswerFile,
    /// What each phase took, over all stages.
    pub phases: Vec<(Phase, Seconds)>,
    /// What checking took.
    pub verify: Seconds,
}

impl Work {
    /// All phases.
    #[must_use]
    pub fn proving(&self) -> Seconds {
        self.phases.iter().fold(Seconds::default(), |sum, (_, one)| Seconds {
            wall: sum.wall + one.wall,
            cpu: sum.cpu + one.cpu,
        })
    }

    /// Adds what it took to a JSON object.
    pub fn add_to(&self, result: &mut Value) {
        let seconds = |spent: Seconds| json!({ "seconds": spent.wall, "cpu_seconds": spent.cpu });
        let phases: Map<String, Value> =
            self.phases.iter().map(|(phase, spent)| (phase.name().to_owned(), seconds(*spent))).collect();
        let all = self.proving();
        result["prove_seconds"] = json!(all.wall);
        result["prove_cpu_seconds"] = json!(all.cpu);
        result["verify_seconds"] = json!(self.verify.wall);
        result["verify_cpu_seconds"] = json!(self.verify.cpu);
        result["peak_memory_bytes"] = json!(peak_resident());
        result["phases"] = Value::Object(phases);
    }
}

/// Proves, showing progress, and checks what was proved.
///
/// # Errors
/// If there is no proof, or this program refuses its own.
pub fn prove(order: &Order<'_>, quiet: bool) -> Result<Work, Box<dyn Error>> {
    let mut clock = Clock::start();
    let all = order.ends.len() * Phase::ALL.len();
    let bar = Progress::new("proving", all as u64, quiet);
    let mut phases: Vec<(Phase, Seconds)> =
        Phase::ALL.iter().map(|phase| (*phase, Seconds::default())).collect();
    let spend = |phases: &mut Vec<(Phase, Seconds)>, phase: Option<Phase>, lap: Seconds| {
        for (_, seconds) in phases.iter_mut().filter(|(known, _)| Some(*known) == phase) {
            seconds.wall += lap.wall;
            seconds.cpu += lap.cpu;
        }
    };
    // What comes before the first phase commits to boundaries.
    let mut now = Some(Phase::Commitment);
    // A phase ends where the next one begins.
    let mut watch = |stage: usize, stages: usize, phase: Phase| {
        spend(&mut phases, now, clock.lap());
        now = Some(phase);
        let at = Phase::ALL.iter().position(|known| *known == phase).unwrap_or(0);
        bar.say(&match stages {
            1 => phase.name().to_owned(),
            _ => format!("stage {} of {stages}, {}", stage + 1, phase.name()),
        });
        bar.set((stage * Phase::ALL.len() + at) as u64);
    };
    let file = make(order, &mut watch);
    bar.finish();
    spend(&mut phases, now, clock.lap());
    let file = file.map_err(|error| format!("this answer has no proof: {error}"))?;

    clock.lap();
    let checked = match order.key {
        Some(key) => file.verify_with_key(key),
        None => file.verify_adapted(order.answer.weights, order.answer.root, order.answer.adapter),
    };
    checked.map_err(|error| format!("{error}; nothing is written: this program and its proofs disagree"))?;
    let verify = clock.lap();
    Ok(Work { file, phases, verify })
}
