//! How tokens are chosen: the flags of `run` and `ask`.

use lockstep_base::config::ModelConfig;
use lockstep_base::limits::TOP_K_MAX;
use lockstep_base::params::{ONE_Q16, Parameters, TEMPERATURE_MAX_Q16};
use std::error::Error;

/// Tokens of an answer where nothing is said.
pub const DEFAULT_MAX_TOKENS: u32 = 256;

/// How tokens are chosen, and when the answer ends.
#[derive(Debug, Clone, clap::Args)]
pub struct SamplingArgs {
    /// Tokens of the answer at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    pub max_tokens: u32,
    /// 0 always takes the most likely token; higher is bolder
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f64,
    /// Keep the most likely tokens that make up this share
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f64,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// The same seed and prompt give the same answer, on any machine [default: a random one]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// End the answer in front of this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// The parameters in integers, for a model of this configuration.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub fn parameters(&self, config: &ModelConfig) -> Result<Parameters, Box<dyn Error>> {
        let one = f64::from(ONE_Q16);
        let temperature_max = f64::from(TEMPERATURE_MAX_Q16) / one;
        if !(0.0..=temperature_max).contains(&self.temperature) {
            return Err(format!("--temperature {}, expected 0 to {temperature_max}", self.temperature).into());
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(format!("--top-p {}, expected 0 to 1", self.top_p).into());
        }
        if self.top_k > TOP_K_MAX {
            return Err(format!("--top-k {}, expected at most {TOP_K_MAX}", self.top_k).into());
        }
        if self.max_tokens == 0 {
            return Err("--max-tokens 0, expected at least 1".into());
        }
        Ok(Parameters {
            temperature_q16: (self.temperature * one).round() as u32,
            top_k: self.top_k,
            top_p_q16: (self.top_p * one).round() as u32,
            max_tokens: self.max_tokens,
            stop_tokens: config.eos.clone(),
            stop: self.stop.clone(),
        })
    }
}
