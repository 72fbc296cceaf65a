//! One vector of a text: what an encoder is for.
//!
//! ```text
//! h = last layer's output (tokens, d_model);  v = mean of h, or h[0];  v / |v| where the model says so
//! ```

use super::forward::{Activations, FloatError, Runner};
use super::hooks::Hooks;
use crate::source::{FloatModel, PoolKind};

/// Vectors shorter than this are not divided by their length (sentence-transformers does the same).
const MIN_LENGTH: f64 = 1e-12;

impl FloatModel {
    /// The last layer's output `(tokens, d_model)`; of a decoder after its final norm.
    pub fn hidden_all(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, FloatError> {
        self.hidden_with(Activations::Float, tokens)
    }

    fn hidden_with(&self, activations: Activations, tokens: &[u32]) -> Result<Vec<Vec<f32>>, FloatError> {
        let mut runner = Runner::with_activations(self, activations);
        let rows = runner.run(tokens, &mut Hooks::default())?;
        Ok(rows.into_iter().map(|x| runner.final_vector(x)).collect())
    }

    /// The embedding `(d_model,)` of a text.
    ///
    /// # Errors
    /// Also if the text is empty or the model has no pooling.
    pub fn embedding(&self, tokens: &[u32]) -> Result<Vec<f32>, FloatError> {
        self.embedding_with(Activations::Float, tokens)
    }

    /// The same with rounded linear inputs.
    ///
    /// # Errors
    /// As [`FloatModel::embedding`].
    pub fn embedding_with(&self, activations: Activations, tokens: &[u32]) -> Result<Vec<f32>, FloatError> {
        let pooling = self.config.pooling.ok_or(FloatError::NoPooling)?;
        let rows = self.hidden_with(activations, tokens)?;
        let first = rows.first().ok_or(FloatError::NoTokens)?;
        let mut pooled: Vec<f64> = match pooling.kind {
            PoolKind::Cls => first.iter().copied().map(f64::from).collect(),
            PoolKind::Mean => {
                let sum = |i: usize| rows.iter().map(|row| f64::from(row[i])).sum::<f64>();
                (0..first.len()).map(|i| sum(i) / rows.len() as f64).collect()
            }
        };
        if pooling.normalise {
            let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt().max(MIN_LENGTH);
            pooled.iter_mut().for_each(|x| *x /= length);
        }
        Ok(pooled.into_iter().map(|x| x as f32).collect())
    }
}
