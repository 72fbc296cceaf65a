//! What an import has to say about itself: a table for people ([`std::fmt::Display`]), JSON for programs
//! ([`Report::to_json`]).

use super::calibrate::LayerInputs;
use super::check::Margin;
use super::linalg::Dense;
use crate::bundle::names;
use lockstep_base::limits::CONTEXT_MAX;
use serde::Serialize;
use std::fmt;

/// How well one matrix was rounded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MatrixReport {
    /// The tensor, e.g. `layers.0003.q`, or `layers.0003.expert_up[5]`.
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

/// What entered the linears of one site on the calibration text, after norm and rotation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteReport {
    /// The site, e.g. `layers.0003.attn_in` (of q, k and v), `layers.0003.down_in[5]`, `head_in`.
    pub site: String,
    /// Tokens that were seen there.
    pub tokens: usize,
    /// Root mean square.
    pub rms: f64,
    /// Largest magnitude.
    pub largest: f64,
    /// Mean over the tokens of largest magnitude by root mean square. A token has one step for all of its channels,
    /// so this is what its 8-bit codes lose; a Gaussian vector of 2,000 channels has 3.5.
    pub crest: f64,
}

/// The longest sequence of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ContextReport {
    /// Positions.
    pub positions: u32,
    /// What ends there.
    pub limit: ContextLimit,
}

/// What a model's context ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextLimit {
    /// The positions that the model was made for.
    Model,
    /// The bound of the softmax sum ([`CONTEXT_MAX`]): the model has more.
    Arithmetic,
}

impl ContextReport {
    /// Of a model that was made for so many positions.
    #[must_use]
    pub fn of_model(positions: usize) -> ContextReport {
        let limited = u32::try_from(positions).unwrap_or(u32::MAX).min(CONTEXT_MAX);
        let limit =
            if limited as usize == positions { ContextLimit::Model } else { ContextLimit::Arithmetic };
        ContextReport { positions: limited, limit }
    }
}

impl fmt::Display for ContextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.limit {
            ContextLimit::Model => "all that the model was made for",
            ContextLimit::Arithmetic => "the bound of the exact softmax; the model was made for more",
        };
        write!(f, "{} positions: {why}", self.positions)
    }
}

impl SiteReport {
    /// Statistics of `inputs`, a row a token.
    #[must_use]
    pub(super) fn new(site: String, inputs: &Dense) -> SiteReport {
        let (mut squares, mut largest, mut crests) = (0.0, 0.0f64, 0.0);
        for row in 0..inputs.rows {
            let row = inputs.row(row);
            let square: f64 = row.iter().map(|x| x * x).sum();
            let most = row.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            squares += square;
            largest = largest.max(most);
            let rms = (square / row.len().max(1) as f64).sqrt();
            crests += if rms > 0.0 { most / rms } else { 0.0 };
        }
        let count = |n: usize| n.max(1) as f64;
        SiteReport {
            site,
            tokens: inputs.rows,
            rms: (squares / count(inputs.rows * inputs.cols)).sqrt(),
            largest,
            crest: crests / count(inputs.rows),
        }
    }

    /// All sites of layer `index`, in execution order.
    pub(super) fn of_layer(index: usize, seen: &LayerInputs) -> Vec<SiteReport> {
        let site = |name: &str, inputs| SiteReport::new(names::layer(index, name), inputs);
        let mut sites =
            vec![site("attn_in", &seen.attn_in), site("o_in", &seen.o_in), site("ffn_in", &seen.ffn_in)];
        match seen.down_in.as_slice() {
            [one] => sites.push(site("down_in", one)),
            many => {
                sites.extend(many.iter().enumerate().map(|(at, one)| site(&format!("down_in[{at}]"), one)));
            }
        }
        sites
    }
}

/// What an import has to say about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Every matrix, in execution order.
    pub matrices: Vec<MatrixReport>,
    /// What the interval checker proved, matrix by matrix.
    pub margins: Vec<Margin>,
    /// Every site on the calibration text, in execution order; none without calibration.
    pub sites: Vec<SiteReport>,
    /// The longest sequence and what limits it; that of the base, for an adapter.
    pub context: Option<ContextReport>,
    /// Tokens of the calibration text.
    pub calibration_tokens: usize,
    /// Largest magnitude of the residual stream on it (of the embedding, without calibration).
    pub residual_max: f64,
    /// R.
    pub residual_frac: u8,
    /// What deserves a second look.
    pub warnings: Vec<String>,
}

/// Errors of all matrices of one kind, e.g. of `q` in all layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindReport {
    /// The name inside a layer.
    pub kind: String,
    /// Matrices.
    pub count: usize,
    /// Root mean square over the matrices' relative errors of outputs (of weights, without calibration).
    pub error: f64,
    /// The largest of them, and whose it is.
    pub worst: (f64, String),
    /// Smallest and largest number of fractional bits.
    pub out_frac: (i8, i8),
}

impl MatrixReport {
    /// The error of the outputs, where it is known, else of the weights.
    fn error(&self) -> f64 {
        self.output_error.unwrap_or(self.weight_error)
    }

    /// `q` of `layers.0003.q`, `expert_up` of `layers.0003.expert_up[5]`.
    fn kind(&self) -> &str {
        let last = self.tensor.rsplit('.').next().unwrap_or(&self.tensor);
        last.split('[').next().unwrap_or(last)
    }
}

impl Report {
    /// Kind by kind, in the order in which they first run.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindReport> {
        let mut kinds: Vec<(KindReport, f64)> = Vec::new();
        for matrix in &self.matrices {
            let (error, frac) = (matrix.error(), matrix.out_frac);
            match kinds.iter_mut().find(|(kind, _)| kind.kind == matrix.kind()) {
                Some((kind, squares)) => {
                    *squares += error * error;
                    kind.count += 1;
                    kind.out_frac = (kind.out_frac.0.min(frac), kind.out_frac.1.max(frac));
                    if error > kind.worst.0 {
                        kind.worst = (error, matrix.tensor.clone());
                    }
                }
                None => {
                    let kind = KindReport {
                        kind: matrix.kind().into(),
                        count: 1,
                        error,
                        worst: (error, matrix.tensor.clone()),
                        out_frac: (frac, frac),
                    };
                    kinds.push((kind, error * error));
                }
            }
        }
        let mean = |(mut kind, squares): (KindReport, f64)| {
            kind.error = (squares / kind.count as f64).sqrt();
            kind
        };
        kinds.into_iter().map(mean).collect()
    }

    /// All of it, and the summary by kind, as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            kinds: Vec<KindReport>,
        }
        let whole = Whole { report: self, kinds: self.kinds() };
        serde_json::to_string_pretty(&whole).expect("numbers, text and lists")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, most) = (self.calibration_tokens, self.residual_max);
        writeln!(
            f,
            "calibration: {tokens} tokens, residual stream up to {most:.1}, {} fractional bits",
            self.residual_frac
        )?;
        self.context.iter().try_for_each(|context| writeln!(f, "context: {context}"))?;
        let what = if tokens > 0 { "outputs" } else { "weights" };
        writeln!(
            f,
            "{:14} {:>5} {:>5} {:>12} {:>12}  worst",
            "matrix", "count", "frac", "rms error", "largest"
        )?;
        for kind in self.kinds() {
            let (low, high) = kind.out_frac;
            let frac = if low == high { low.to_string() } else { format!("{low}-{high}") };
            let (worst, tensor) = kind.worst;
            let (name, count, error) = (kind.kind, kind.count, kind.error);
            writeln!(f, "{name:14} {count:>5} {frac:>5} {error:>12.3e} {worst:>12.3e}  {tensor}")?;
        }
        writeln!(f, "errors of {what}, relative to their root mean square")?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(tensor: &str, error: f64, out_frac: i8) -> MatrixReport {
        MatrixReport {
            tensor: tensor.into(),
            shape: (4, 32),
            bits: 8,
            weight_error: 1.0,
            output_error: Some(error),
            pre_shift: 0,
            out_frac,
        }
    }

    /// Statistics of a site by hand: two tokens (3, 4) and (0, 0).
    #[test]
    fn sites_are_counted() {
        let inputs = Dense::from_f32(2, 2, &[3.0, -4.0, 0.0, 0.0]);
        let site = SiteReport::new("site".into(), &inputs);
        assert_eq!((site.tokens, site.largest, site.rms), (2, 4.0, 2.5));
        assert!((site.crest - 0.5 * 4.0 / 12.5f64.sqrt()).abs() < 1e-12, "{}", site.crest);
    }

    /// The context says what it ends with.
    #[test]
    fn contexts_say_what_limits_them() {
        let of = |positions| ContextReport::of_model(positions).to_string();
        assert_eq!(of(2048), "2048 positions: all that the model was made for");
        assert_eq!(of(CONTEXT_MAX as usize), "131072 positions: all that the model was made for");
        assert!(of(1 << 20).starts_with("131072 positions: the bound of the exact softmax"));
    }

    /// Experts and layers of one kind are one line; the worst is named.
    #[test]
    fn matrices_of_a_kind_are_one_line() {
        let report = Report {
            matrices: vec![
                matrix("layers.0000.q", 0.3, 9),
                matrix("layers.0000.expert_up[0]", 0.1, 8),
                matrix("layers.0000.expert_up[1]", 0.1, 8),
                matrix("layers.0001.q", 0.4, 11),
                matrix("head", 0.5, 12),
            ],
            calibration_tokens: 7,
            ..Report::default()
        };
        let kinds = report.kinds();
        let names: Vec<(&str, usize)> = kinds.iter().map(|kind| (kind.kind.as_str(), kind.count)).collect();
        assert_eq!(names, [("q", 2), ("expert_up", 2), ("head", 1)]);
        assert!((kinds[0].error - 0.125f64.sqrt()).abs() < 1e-12);
        assert_eq!((kinds[0].worst.clone(), kinds[0].out_frac), ((0.4, "layers.0001.q".into()), (9, 11)));
        assert!(report.to_string().contains("9-11"), "{report}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!((&json["calibration_tokens"], &json["kinds"][2]["kind"]), (&7.into(), &"head".into()));
        assert_eq!(json["matrices"][3]["tensor"], "layers.0001.q");
    }
}
