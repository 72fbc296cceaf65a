//! How an answer is proved: in how many stages, for whom, and all of them or those that a beacon draws.

use super::super::CommandResult;
use crate::proving::gib_at_most;
use lockstep_base::Digest;
use lockstep_base::part::Part;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::file::{STAGES_MAX, Sample};
use lockstep_proof::key::{KEY_BYTES_MAX, Key};
use std::error::Error;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What to prove, and for whom. The commitment that a beacon must be younger than is what --commit prints.
#[derive(Debug, Clone, clap::Args)]
pub struct StageArgs {
    /// Prove the layers in N stages, one by one: less memory, a larger file [default: 1, or those of the key]
    #[arg(long, value_name = "N", conflicts_with = "key")]
    stages: Option<u32>,
    /// Prove in as few stages as certainly need no more than so many GiB beside the model
    #[arg(long, value_name = "GIB", conflicts_with_all = ["stages", "key", "sample", "commit"])]
    memory: Option<f64>,
    /// Prove for who has this key of the model (`lockstep proof-key`) and not its weights
    #[arg(long, value_name = "KEY")]
    key: Option<PathBuf>,
    /// Folder with the encoded weights of the key (`lockstep proof-key --keep`): they need not be committed to again
    #[arg(long, value_name = "DIR", requires = "key")]
    kept: Option<PathBuf>,
    /// Prove only K of the stages, those that --beacon draws
    #[arg(long, value_name = "K", requires = "beacon")]
    sample: Option<u32>,
    /// 32 bytes in hex that nobody knew when the commitment was published, such as the hash of a later block
    #[arg(long, value_name = "HEX", requires = "sample", value_parser = digest)]
    beacon: Option<Digest>,
    /// Prove nothing yet: print what --beacon must be younger than; the same command with --sample and --beacon has the same commitment
    #[arg(long, conflicts_with = "sample")]
    pub commit: bool,
}

impl StageArgs {
    /// The key, where there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is another model's, or one of answers under another adapter.
    pub fn key(&self, root: Digest, adapter: Option<Digest>) -> Result<Option<Key>, Box<dyn Error>> {
        let Some(path) = &self.key else { return Ok(None) };
        let key = read_key(path)?;
        if key.root() != root {
            let (path, got) = (path.display(), key.root());
            return Err(format!("{path}: a key of model {got}, this is model {root}").into());
        }
        let named = |adapter: Option<Digest>| {
            adapter
                .map_or("answers without an adapter".into(), |root| format!("answers under adapter {root}"))
        };
        let got = key.adapter().map(|adapter| adapter.root);
        if got != adapter {
            let (path, got, expected) = (path.display(), named(got), named(adapter));
            return Err(format!("{path}: a key of {got}, expected one of {expected}").into());
        }
        Ok(Some(key))
    }

    /// Where stages end that fit --memory; nothing if there is no such limit.
    ///
    /// # Errors
    /// If the layers do not fit one by one, or the answer has no proof.
    pub fn fitting(&self, answer: &Answer<'_>) -> Result<Option<Vec<usize>>, Box<dyn Error>> {
        let Some(limit) = self.memory else { return Ok(None) };
        let layers = answer.weights.config.n_layers;
        let mut least = f64::INFINITY;
        for stages in 1..=layers.min(STAGES_MAX as u32) {
            let (ends, mut needed) = (ends("--memory", stages, layers)?, 0.0f64);
            for (stage, end) in ends.iter().enumerate() {
                let first = stage.checked_sub(1).map_or(0, |before| ends[before]);
                needed = needed.max(gib_at_most(answer, first..*end)?);
            }
            if needed <= limit {
                return Ok(Some(ends));
            }
            least = least.min(needed);
        }
        Err(format!("--memory {limit}, expected at least {least:.2}: what the largest layer may need").into())
    }

    /// Where the encoded weights of the key are.
    #[must_use]
    pub fn kept(&self) -> Option<&Path> {
        self.kept.as_deref()
    }

    /// Where stages end.
    ///
    /// # Errors
    /// If there are more stages than layers, or none.
    pub fn ends(&self, layers: u32, key: Option<&Key>) -> Result<Vec<usize>, Box<dyn Error>> {
        match key {
            Some(key) => Ok(key.stages().iter().map(|stage| stage.end as usize).collect()),
            None => ends("--stages", self.stages.unwrap_or(1), layers),
        }
    }

    /// Which stages are proved.
    ///
    /// # Errors
    /// If it is none, or more than all.
    pub fn sample(&self, stages: usize) -> Result<Option<Sample>, Box<dyn Error>> {
        let (Some(count), Some(beacon)) = (self.sample, self.beacon) else { return Ok(None) };
        if !(1..stages).contains(&(count as usize)) {
            let most = stages - 1;
            return Err(format!("--sample {count}, expected 1 to {most}: there are {stages} stages").into());
        }
        Ok(Some(Sample { stages: count, beacon }))
    }
}

/// 32 bytes in hex.
///
/// # Errors
/// If it is anything else.
pub fn digest(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text).ok_or_else(|| format!("{} characters that are no 32 bytes in hex", text.len()))
}

/// Where `stages` stages of `layers` layers end.
///
/// # Errors
/// If there are more stages than layers, or none.
pub fn ends(flag: &str, stages: u32, layers: u32) -> Result<Vec<usize>, Box<dyn Error>> {
    let most = layers.min(STAGES_MAX as u32);
    if !(1..=most).contains(&stages) {
        return Err(format!("{flag} {stages}, expected 1 to {most}: the model has {layers} layers").into());
    }
    Ok(Part::split(layers, stages).iter().map(|part| part.end_layer as usize).collect())
}

/// A key from a file. A pipe or a device tells no length: one byte more than is allowed is read, at most.
///
/// # Errors
/// If it cannot be read or is none.
pub fn read_key(path: &Path) -> Result<Key, Box<dyn Error>> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| named(&error))?;
    file.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut content).map_err(|error| named(&error))?;
    Ok(Key::from_bytes(&content).map_err(|error| named(&error))?)
}

/// Whether a file can be there is known before the work, not behind it.
///
/// # Errors
/// If it cannot.
pub fn check_writable(path: &Path) -> CommandResult {
    let there = path.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|error| format!("{}: {error}", path.display()))?;
    if !there {
        std::fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
