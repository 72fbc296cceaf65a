//! From folded layers to integer layers: rounds matrix after matrix and keeps the books.

use super::calibrate::LayerInputs;
use super::equalise::{self, Rule};
use super::folded::{FoldedDense, FoldedFfn, FoldedLayer, FoldedLinear, FoldedNorm};
use super::formats::{self, RowBound};
use super::gptq::{self, Factor, RoundedRow};
use super::int4::{self, TableSearch};
use super::linalg::{Dense, add_outer_products, dot};
use super::report::{MatrixReport, Report};
use super::{Progress, QuantiseError, Stage, centre, check, gains, pack, scale};
use crate::bundle::names;
use crate::bundle::structure::{HEAD_GAIN_FRACS, LIMIT, Matrix};
use crate::source::FloatConfig;
use lockstep_base::config::{Block, ModelConfig};
use lockstep_base::weights::{DenseWeights, FfnWeights, Gain, LayerWeights, Linear, Tables, WeightFormat};

/// Fewer fractional bits than this in a 16-bit format deserve a warning.
const FRAC_WARNING: i8 = 7;

/// What enters a linear on the calibration text, and how to round by it.
pub(super) struct Seen {
    pub(super) moments: Option<Dense>,
    pub(super) factor: Factor,
}

impl Seen {
    /// Of input rows; `None` or no rows: round to nearest.
    pub(super) fn new(inputs: Option<&Dense>, cols: u32, format: WeightFormat) -> Seen {
        let moments = inputs.filter(|inputs| inputs.rows > 0).map(|inputs| {
            let mut moments = Dense::zeros(inputs.cols, inputs.cols);
            add_outer_products(&mut moments, inputs);
            moments
        });
        let factor = Factor::new(moments.as_ref(), cols as usize, format);
        Seen { moments, factor }
    }
}

/// The state of an import on its way through the layers.
pub(super) struct Rounder<'a, 'p> {
    pub(super) config: &'a ModelConfig,
    pub(super) float: &'a FloatConfig,
    /// Storage of the layers.
    pub(super) format: WeightFormat,
    /// Storage of the head.
    pub(super) head_format: WeightFormat,
    /// N: bound of what the next readers of the residual stream multiply.
    pub(super) norm: f64,
    pub(super) report: Report,
    /// Bits left free in 16-bit formats.
    pub(super) adapter_bits: u8,
    progress: &'a mut Progress<'p>,
    search: TableSearch,
    tables: Tables,
    done: usize,
    total: usize,
}

impl<'a, 'p> Rounder<'a, 'p> {
    pub(super) fn new(
        config: &'a ModelConfig,
        float: &'a FloatConfig,
        formats: (WeightFormat, WeightFormat),
        total: usize,
        report: Report,
        progress: &'a mut Progress<'p>,
    ) -> Self {
        Rounder {
            config,
            float,
            format: formats.0,
            head_format: formats.1,
            norm: formats::input_norm(config, None),
            report,
            adapter_bits: 0,
            progress,
            search: TableSearch::default(),
            tables: Tables { int4: int4::tables(), ..Tables::default() },
            done: 0,
            total,
        }
    }

    /// A norm that makes the residual stream (behind), or what is added to it (on both sides).
    pub(super) fn post_norm(&mut self, tensor: String, norm: &FoldedNorm) -> Result<Gain, QuantiseError> {
        let frac = self.config.residual_frac;
        let found = gains::gain(norm, self.float.norm_eps, frac, frac as i8);
        let bound = check::post_bound(self.config);
        let large = |row: usize, bound: f64| QuantiseError::Gain {
            tensor: tensor.clone(),
            row,
            got: norm.gain[row],
            bound,
        };
        let gain = found.map_err(|row| large(row, LIMIT as f64))?;
        if gains::reach(&gain) > bound {
            let got = gains::reach(&gain);
            return Err(QuantiseError::Format { tensor, got, bound });
        }
        if self.config.block == Block::PostNorm {
            self.norm = formats::input_norm(self.config, Some(&gain));
        }
        Ok(gain)
    }

    /// The norm of query or key heads, over the outputs of `linear`.
    fn head_norm(&self, tensor: String, gains: &[f64], linear: &Linear) -> Result<Gain, QuantiseError> {
        let norm = FoldedNorm { gain: gains.to_vec(), offset: None };
        let (eps, bound) = (self.float.norm_eps, formats::BOUND_I16);
        gains::fitting(&norm, eps, linear.out_frac.max(0) as u8, *HEAD_GAIN_FRACS.end(), bound)
            .map_err(|row| QuantiseError::Gain { tensor, row, got: gains[row], bound })
    }

    /// One layer, its K centre and the scales of q and k chosen by what was seen.
    pub(super) fn layer(
        &mut self,
        index: usize,
        layer: &FoldedLayer,
        seen: Option<&LayerInputs>,
    ) -> Result<LayerWeights, QuantiseError> {
        let (config, format) = (self.config, self.format);
        let layer = &self.equalised(layer, seen);
        let name = |matrix: Matrix| names::layer(index, matrix.name());
        let attn = Seen::new(seen.map(|seen| &seen.attn_in), config.d_padded(), format);
        let q = self.matrix(&name(Matrix::Q), Matrix::Q, &layer.q, &attn)?;
        let k = self.matrix(&name(Matrix::K), Matrix::K, &layer.k, &attn)?;
        let v = self.matrix(&name(Matrix::V), Matrix::V, &layer.v, &attn)?;
        let head_norm = |part: &str, gains: &Option<Vec<f64>>, linear: &Linear| {
            gains.as_ref().map(|g| self.head_norm(names::layer(index, part), g, linear)).transpose()
        };
        let q_norm = head_norm("q_norm", &layer.q_norm, &q)?;
        let k_norm = head_norm("k_norm", &layer.k_norm, &k)?;
        let attended = seen.map(|seen| {
            let constant = centre::attended(&seen.value_mean, self.float);
            centre::without(&seen.o_in, &constant)
        });
        let attended = Seen::new(attended.as_ref(), config.o_cols(), format);
        let o = self.matrix(&name(Matrix::O), Matrix::O, &layer.o, &attended)?;
        let post = |this: &mut Self, part: &str, norm: &Option<FoldedNorm>| {
            norm.as_ref().map(|norm| this.post_norm(names::layer(index, part), norm)).transpose()
        };
        let attn_post = post(self, "attn_post", &layer.attn_post)?;
        let ffn = self.ffn(index, &layer.ffn, seen)?;
        let ffn_post = post(self, "ffn_post", &layer.ffn_post)?;
        let unit = f64::from(k_norm.as_ref().map_or(k.out_frac, |gain| gain.out_frac)).exp2();
        let k_center = layer.k_center.iter().map(|c| (c * unit).round() as i32).collect();
        Ok(LayerWeights { q, k, v, o, k_center, q_norm, k_norm, attn_post, ffn, ffn_post })
    }

    fn ffn(
        &mut self,
        index: usize,
        ffn: &FoldedFfn,
        seen: Option<&LayerInputs>,
    ) -> Result<FfnWeights, QuantiseError> {
        let (config, format) = (self.config, self.format);
        let input = Seen::new(seen.map(|seen| &seen.ffn_in), config.d_padded(), format);
        let down_seen =
            |network: usize| Seen::new(seen.map(|seen| &seen.down_in[network]), config.down_cols(), format);
        let name = |matrix: Matrix| names::layer(index, matrix.name());
        match ffn {
            FoldedFfn::Dense(network) => {
                let gate = network.gate.as_ref();
                let gate = gate.map(|gate| self.matrix(&name(Matrix::Gate), Matrix::Gate, gate, &input));
                let gate = gate.transpose()?;
                let up = self.matrix(&name(Matrix::Up), Matrix::Up, &network.up, &input)?;
                let down = self.matrix(&name(Matrix::Down), Matrix::Down, &network.down, &down_seen(0))?;
                Ok(FfnWeights::Dense(DenseWeights { gate, up, down }))
            }
            FoldedFfn::Experts { router, experts } => {
                let router = self.matrix(&name(Matrix::Router), Matrix::Router, router, &input)?;
                let all =
                    |of: fn(&FoldedDense) -> Option<&FoldedLinear>| experts.iter().filter_map(of).collect();
                let gates: Vec<&FoldedLinear> = all(|network| network.gate.as_ref());
                let ups: Vec<&FoldedLinear> = all(|network| Some(&network.up));
                let downs: Vec<&FoldedLinear> = all(|network| Some(&network.down));
                let gates = self.experts(index, (Matrix::ExpertGate, Matrix::Gate), &gates, |_| &input)?;
                let ups = self.experts(index, (Matrix::ExpertUp, Matrix::Up), &ups, |_| &input)?;
                let downs = self.experts(index, (Matrix::ExpertDown, Matrix::Down), &downs, down_seen)?;
                let mut gates = gates.into_iter();
                let experts = ups.into_iter().zip(downs);
                let experts =
                    experts.map(|(up, down)| DenseWeights { gate: gates.next(), up, down }).collect();
                Ok(FfnWeights::Experts { router, experts })
            }
        }
    }

    /// One linear, rounded, with its formats.
    pub(super) fn matrix(
        &mut self,
        tensor: &str,
        matrix: Matrix,
        linear: &FoldedLinear,
        seen: &Seen,
    ) -> Result<Linear, QuantiseError> {
        let format = match matrix {
            Matrix::Head => self.head_format,
            // A router is small and its ties decide what runs.
            Matrix::Router if self.format == WeightFormat::Int4 => WeightFormat::Int8,
            // Keys that several heads share are few weights, and scores see every error of them.
            Matrix::K if self.format == WeightFormat::Int4 && self.float.n_kv_heads < self.float.n_heads => {
                WeightFormat::Int8
            }
            _ => self.format,
        };
        let mut all = vec![self.round(tensor, matrix, linear, seen, format)?];
        self.set_formats(tensor, matrix, &mut all, &[linear])?;
        Ok(all.swap_remove(0))
    }

    /// The matrices of one kind of all experts, in one format: they lie in one entry, (kind of all, kind of one).
    fn experts<S: std::borrow::Borrow<Seen>>(
        &mut self,
        index: usize,
        (all, one): (Matrix, Matrix),
        linears: &[&FoldedLinear],
        seen: impl Fn(usize) -> S,
    ) -> Result<Vec<Linear>, QuantiseError> {
        let name = names::layer(index, all.name());
        // Two planes cannot be cut by rows.
        let format = if self.format == WeightFormat::Int16 { WeightFormat::Int8 } else { self.format };
        let mut rounded = Vec::with_capacity(linears.len());
        for (expert, linear) in linears.iter().enumerate() {
            let tensor = check::expert_name(&name, expert);
            rounded.push(self.round(&tensor, one, linear, seen(expert).borrow(), format)?);
        }
        self.set_formats(&name, one, &mut rounded, linears)?;
        Ok(rounded)
    }

    /// Codes and row scales; formats come later.
    fn round(
        &mut self,
        tensor: &str,
        matrix: Matrix,
        linear: &FoldedLinear,
        seen: &Seen,
        format: WeightFormat,
    ) -> Result<Linear, QuantiseError> {
        self.progress.report(Stage::Quantise, tensor, self.done, self.total);
        let weight = linear.weight.padded_cols(matrix.shape(self.config).1 as usize);
        let rounded = gptq::round(&weight, &seen.factor, format, &self.search);
        let mut rows = Vec::with_capacity(rounded.len());
        for (row, rounded) in rounded.into_iter().enumerate() {
            rows.push(rounded.ok_or_else(|| {
                let got = weight.row(row).iter().fold(0.0f64, |most, w| most.max(w.abs()));
                QuantiseError::RowScale { tensor: tensor.into(), row, got, bound: 31.0 * 127.0 }
            })?);
        }
        let packed = pack::pack(&rows, weight.cols, format);
        let (weight_error, output_error) = errors(&weight, &rows, seen.moments.as_ref());
        self.report.matrices.push(MatrixReport {
            tensor: tensor.into(),
            shape: (packed.rows, packed.cols),
            bits: crate::bundle::bits_of(format),
            weight_error,
            output_error,
            pre_shift: 0,
            out_frac: 0,
        });
        self.done += 1;
        Ok(packed)
    }

    /// s1, F and the biases in F, of linears that share them.
    fn set_formats(
        &mut self,
        tensor: &str,
        matrix: Matrix,
        packed: &mut [Linear],
        linears: &[&FoldedLinear],
    ) -> Result<(), QuantiseError> {
        let sums: Vec<Vec<check::RowMeaning>> = packed
            .iter()
            .map(|linear| (0..linear.rows).map(|row| check::row_meaning(linear, row, &self.tables)).collect())
            .collect();
        let norm = self.norm;
        let pre_shift = formats::pre_shift(sums.iter().flatten().map(|sums| sums.l1).max().unwrap_or(0));
        let allowed = matrix.out_fracs(self.config);
        let adaptable = !matches!(matrix, Matrix::Head | Matrix::Router);
        let room = f64::from(if adaptable { self.adapter_bits } else { 0 }).exp2();
        let out_frac = match check::output_bound(matrix, self.config).map(|bound| bound / room) {
            None => *allowed.end(),
            Some(bound) => {
                let bounds: Vec<RowBound> = packed
                    .iter()
                    .zip(&sums)
                    .zip(linears)
                    .flat_map(|((linear, sums), folded)| {
                        sums.iter().enumerate().map(move |(row, sums)| {
                            let bias = folded.bias.as_ref().map_or(0.0, |bias| bias[row]);
                            let units = formats::rounding_units(linear.format, pre_shift);
                            RowBound::new(norm, scale::value(linear, row), sums.l2, bias, units)
                        })
                    })
                    .collect();
                let frac = formats::fitting_frac(&bounds, bound, *allowed.end());
                if frac < *allowed.start() {
                    let got = bounds.iter().fold(0.0f64, |most, bound| most.max(bound.in_units(0)));
                    return Err(QuantiseError::Format { tensor: tensor.into(), got, bound });
                }
                if frac < FRAC_WARNING {
                    self.report.warnings.push(format!("{tensor} has only {frac} fractional bits"));
                }
                frac
            }
        };
        let unit = f64::from(out_frac).exp2();
        for (linear, folded) in packed.iter_mut().zip(linears) {
            (linear.pre_shift, linear.out_frac) = (pre_shift, out_frac);
            linear.bias = folded.bias.iter().flatten().map(|b| (b * unit).round() as i32).collect();
        }
        let first = self.report.matrices.len() - packed.len();
        for report in &mut self.report.matrices[first..] {
            (report.pre_shift, report.out_frac) = (pre_shift, out_frac);
        }
        Ok(())
    }

    /// A layer with its K centre, and with scale moved between q and k: by the spread of the keys, or, where
    /// the formats would have too few bits for the scores, by their bounds.
    fn equalised(&self, layer: &FoldedLayer, seen: Option<&LayerInputs>) -> FoldedLayer {
        let (norm, float) = (self.norm, self.float);
        let reach = |linear: &FoldedLinear, row: usize| {
            let bias = linear.bias.as_ref().map_or(0.0, |bias| bias[row]);
            RowBound::new(norm, 1.0, linear.weight.row_norm(row), bias, 0.0).in_units(0)
        };
        let bound = formats::BOUND_I16 / f64::from(self.adapter_bits).exp2();
        let frac = |linear: &FoldedLinear, gain: &Option<Vec<f64>>| {
            let (most, cap) = match gain {
                Some(gain) => {
                    let largest = gain.iter().fold(0.0f64, |most, g| most.max(g.abs()));
                    (largest * gains::normalised(gain.len()), f64::from(*HEAD_GAIN_FRACS.end()))
                }
                None => ((0..linear.weight.rows).map(|row| reach(linear, row)).fold(0.0, f64::max), 14.0),
            };
            (bound / most).log2().floor().min(cap) as i32
        };
        let mut out = layer.clone();
        for rule in [Rule::Spread, Rule::Bound] {
            out = layer.clone();
            if let Some(seen) = seen {
                centre::keys(&mut out, seen);
                centre::values(&mut out, seen, float);
                equalise::equalise(&mut out, seen, float, rule, reach);
            }
            equalise::balance(&mut out, float, bound, reach);
            if frac(&out.q, &out.q_norm) + frac(&out.k, &out.k_norm) >= check::score_frac_min(self.config) {
                break;
            }
        }
        out
    }
}

/// Relative root mean square errors of weights and, by the second moments, of outputs.
pub(super) fn errors(weight: &Dense, rows: &[RoundedRow], moments: Option<&Dense>) -> (f64, Option<f64>) {
    let (mut error, mut total) = (0.0, 0.0);
    let (mut output_error, mut output_total) = (0.0, 0.0);
    for (at, row) in rows.iter().enumerate() {
        let exact = weight.row(at);
        let scale = row.scale.map_or(0.0, scale::RowScale::value);
        let difference: Vec<f64> =
            exact.iter().enumerate().map(|(col, w)| row.value(col) * scale - w).collect();
        error += dot(&difference, &difference);
        total += dot(exact, exact);
        if let Some(moments) = moments {
            output_error += quadratic(moments, &difference);
            output_total += quadratic(moments, exact);
        }
    }
    let relative = |error: f64, total: f64| if total > 0.0 { (error.max(0.0) / total).sqrt() } else { 0.0 };
    (relative(error, total), moments.map(|_| relative(output_error, output_total)))
}

/// `x^T M x` over the columns that M has.
fn quadratic(moments: &Dense, x: &[f64]) -> f64 {
    (0..moments.rows).map(|row| x[row] * dot(moments.row(row), &x[..moments.cols])).sum()
}
