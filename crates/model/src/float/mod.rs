//! The float reference: what the exact integer model is compared with, and where calibration data come from.
//!
//! Offline only: import, calibration, `lockstep eval`. Serving never reaches it. The forward pass is written to be read in
//! one sitting (in the style of llama2.c); sums are in f64, so that it stands for "the model" and not for one order of f32
//! additions. Hooks show every vector that enters a linear and every key after RoPE.

mod compare;
mod embed;
mod forward;
pub mod ggml;
pub mod ggml_k;
mod hooks;
mod math;
mod sample;

pub use compare::{Fidelity, compare};
pub use forward::{Activations, FloatError, Runner, logits_all};
pub use hooks::{Hooks, InputHook, KeyHook, Site};
pub use sample::{Rng, Sampling, argmax, generate};
