//! What an import has to say about itself.

use super::check::Margin;

/// How well one matrix was rounded.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixReport {
    /// The tensor, e.g. `layers.0003.q`.
    pub tensor: String,
    /// Rows and padded columns.
    pub shape: (usize, usize),
    /// Bits of the stored codes.
    pub bits: u8,
    /// Root mean square error of the weights, relative to their root mean square.
    pub weight_error: f64,
    /// The same of the outputs on the calibration text, if there was any.
    pub output_error: Option<f64>,
    /// s1.
    pub pre_shift: u8,
    /// Fractional bits of the output.
    pub out_frac: i8,
}

/// What an import has to say about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Every matrix, in execution order.
    pub matrices: Vec<MatrixReport>,
    /// What the interval checker proved, in the same order.
    pub margins: Vec<Margin>,
    /// Tokens of the calibration text.
    pub calibration_tokens: usize,
    /// Largest magnitude of the residual stream on it (of the embedding, without calibration).
    pub residual_max: f64,
    /// R.
    pub residual_frac: u8,
    /// What deserves a second look.
    pub warnings: Vec<String>,
}
