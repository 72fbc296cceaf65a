//! Low-rank adapters (LoRA, arXiv 2106.09685) beside a model that was imported: `y = W x + b + B (A x)`.
//!
//! Folding is linear, so an adapter goes the way of its base: A reads like the matrix beside which it stands, B writes
//! like it. What the base's import chose from calibration (scale that moved between q and k) is read back from the
//! integers: row i of q is `f_i` times the folded row, f shared as in [`super::equalise`]. The same comparison refuses a base
//! that was made from other weights or with other rotations.
//!
//! Channels between A and B share one step a token, so each is scaled to a root mean square of one; what the offset of a
//! layer norm in front, or the bias of values, adds becomes the bias of A. A of q, k, v, gate and up is proved like any reader; of o and down, whose
//! inputs have no bounded norm, it leaves room over what calibration saw.

use super::calibrate::{self, CalibrationRun, LayerInputs};
use super::equalise;
use super::fold::{Basis, Rotations, fold};
use super::folded::FoldedLinear;
use super::formats::{self, RowBound};
use super::gptq;
use super::int4::TableSearch;
use super::linalg::{Dense, axpy, dot};
use super::progress::{Progress, Stage};
use super::report::{ContextReport, MatrixReport, Report, SiteReport};
use super::rounder::{Seen, errors};
use super::stream::dense;
use super::{centre, check, pack, scale};
use crate::bundle::structure::{self, Matrix, StructureError};
use crate::bundle::{BundleError, names, read_adapter, write_adapter};
use crate::source::{
    FloatAdapter, FloatConfig, FloatLayer, FloatLowRank, FloatModel, Linear as FloatLinear, SourceError,
};
use lockstep_base::adapter::{AdapterConfig, AdapterWeights, LayerAdapter, LowRank, Target};
use lockstep_base::config::{Block, COLS_MULTIPLE, OPSET};
use lockstep_base::digest::Digest;
use lockstep_base::weights::{Gain, LayerWeights, Linear, ModelWeights, Tables, WeightFormat};

/// Room over what calibration saw between A and B, where nothing is proved.
const ROOM: f64 = 16.0;
/// Most fractional bits between A and B.
const BETWEEN_FRAC_MAX: i8 = 14;
/// Fewest tokens that tell how large values are.
const TOKENS_MIN: usize = 64;
/// Largest relative difference between a base's integers and the folded float matrix: int4 stays below 0.2, another
/// rotation is beyond 1.
const DIFFERENCE_MAX: f64 = 0.5;

/// How to import an adapter. Seed and rotations are those of the base's import.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterOptions {
    /// A name for people.
    pub name: String,
    /// Seed of the base's import.
    pub seed: u64,
    /// Rotations of the base's import.
    pub rotations: Rotations,
    /// Tokens of calibration text.
    pub calibration_tokens: usize,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        let name = "adapter".into();
        AdapterOptions { name, seed: 0, rotations: Rotations::default(), calibration_tokens: 500 }
    }
}

/// A finished import.
#[derive(Clone, Debug)]
pub struct ImportedAdapter {
    /// The bundle.
    pub bytes: Vec<u8>,
    /// What it opens to.
    pub weights: AdapterWeights,
    /// How it went: A and B of every matrix.
    pub report: Report,
}

/// Why an adapter's import ended without a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterImportError {
    /// The adapter does not fit the float model.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The base is another model.
    #[error("the base has {got} {what}, the float model {expected}")]
    Shape {
        /// Of what.
        what: &'static str,
        /// How many the base has.
        got: usize,
        /// How many the float model has.
        expected: usize,
    },
    /// The base's integers are not those of the float model.
    #[error(
        "{tensor}: the base differs from the float model by {got:.2} of its size, expected at most {DIFFERENCE_MAX}: another seed, other rotations or other weights"
    )]
    Base {
        /// The matrix.
        tensor: String,
        /// Relative difference.
        got: f64,
    },
    /// A row needs a larger scale than the grid has, or no format holds the values.
    #[error("{tensor}: values reach {got:.3e}, beyond every format")]
    Format {
        /// The matrix.
        tensor: String,
        /// Largest magnitude.
        got: f64,
    },
    /// A number that the runtime refuses.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Quantises and packs `adapter`, which was trained beside `model`, for the bundle of `model` whose weights are `base`
/// and whose root is `root`.
///
/// # Errors
/// [`AdapterImportError`], naming the matrix.
pub fn import_adapter(
    model: &FloatModel,
    base: &ModelWeights,
    root: Digest,
    adapter: &FloatAdapter,
    options: &AdapterOptions,
    progress: &mut Progress<'_>,
) -> Result<ImportedAdapter, AdapterImportError> {
    let adapter = adapter.clone().checked(&model.config)?;
    for (what, got, expected) in [
        ("layers", base.layers.len(), model.config.n_layers),
        ("channels", base.config.d_model as usize, model.config.d_model),
        ("tokens in its vocabulary", base.config.vocab as usize, model.config.vocab),
    ] {
        if got != expected {
            return Err(AdapterImportError::Shape { what, got, expected });
        }
    }
    // What enters A is what the adapted model computes.
    let folded = fold(&model.clone().merged(&adapter)?, options.rotations, options.seed);
    let tokens = options.calibration_tokens.max(TOKENS_MIN);
    let (bos, eos) = (base.config.bos, &base.config.eos);
    let text = calibrate::write_text(&folded, tokens, bos, eos, options.seed, progress);
    let mut run = CalibrationRun::new(&folded, &text.texts);
    let mut importer = Importer {
        config: &model.config,
        basis: Basis::draw(&model.config, options.rotations, options.seed),
        base,
        rank: adapter.rank,
        report: Report {
            calibration_tokens: text.tokens(),
            residual_max: text.residual_max,
            residual_frac: base.config.residual_frac,
            context: Some(ContextReport::of_model(model.config.context)),
            ..Report::default()
        },
        search: TableSearch::default(),
        norm: formats::input_norm(&base.config, base.embed_norm.as_ref()),
    };
    let mut layers = Vec::with_capacity(adapter.layers.len());
    for (index, parts) in adapter.layers.iter().enumerate() {
        progress.report(Stage::Quantise, &names::layer(index, "adapter"), index, adapter.layers.len());
        let seen = run.layer(&folded, index);
        importer.report.sites.extend(SiteReport::of_layer(index, &seen));
        let place = Place { index, float: &model.layers[index], seen: &seen };
        let mut layer = LayerAdapter::default();
        for target in Target::ALL {
            if let Some(part) = parts.get(target) {
                layer.set(target, importer.part(&place, target, part)?);
            }
            if target == Target::O {
                importer.behind(base.layers[index].attn_post.as_ref());
            }
        }
        importer.behind(base.layers[index].ffn_post.as_ref());
        layers.push(layer);
    }
    let config = AdapterConfig {
        opset: OPSET.into(),
        name: options.name.clone(),
        base: root,
        rank: adapter.rank as u32,
    };
    let weights = AdapterWeights { config, root: Digest([0; 32]), first_layer: 0, layers };
    let bytes = write_adapter(&weights)?;
    let weights = read_adapter(bytes.clone())?; // what was written opens, under its root
    Ok(ImportedAdapter { bytes, weights, report: importer.report })
}

/// Where in the model a part stands.
struct Place<'a> {
    index: usize,
    float: &'a FloatLayer,
    seen: &'a LayerInputs,
}

struct Importer<'a> {
    config: &'a FloatConfig,
    basis: Basis<'a>,
    base: &'a ModelWeights,
    rank: usize,
    report: Report,
    search: TableSearch,
    /// N: bound of what the next readers of the residual stream multiply.
    norm: f64,
}

impl Importer<'_> {
    /// Passes a norm behind a block.
    fn behind(&mut self, gain: Option<&Gain>) {
        if self.base.config.block == Block::PostNorm {
            self.norm = formats::input_norm(&self.base.config, gain);
        }
    }

    fn part(
        &mut self,
        place: &Place<'_>,
        target: Target,
        part: &FloatLowRank,
    ) -> Result<LowRank, AdapterImportError> {
        let name = |half: &str| names::layer(place.index, &format!("{}.{half}", target.name()));
        let layer = &self.base.layers[place.index];
        let missing = || BundleError::Missing { entry: names::layer(place.index, target.name()) };
        let matrix = target.of(layer).ok_or_else(missing)?;
        let (mut a, mut b) = self.folded(place, target, part)?;
        let centred;
        let inputs = match target {
            Target::Q | Target::K | Target::V => &place.seen.attn_in,
            Target::O => {
                centred = centre::without(&place.seen.o_in, &self.value_centre(layer));
                &centred
            }
            Target::Gate | Target::Up => &place.seen.ffn_in,
            Target::Down => &place.seen.down_in[0],
        };
        let mut between = a.run(inputs);
        balance(&mut a, &mut b, &mut between);
        let bounded = !matches!(target, Target::O | Target::Down);
        self.warn_of_format(place.index, target, matrix, (&a, &b));
        let quantised = self.a(&name("a"), &a, matrix.cols, inputs, (!bounded).then_some(&between))?;
        let b = self.b(&name("b"), &b, matrix.out_frac, &between)?;
        Ok(LowRank { a: quantised, b })
    }

    /// Says so where no proof keeps the sum of matrix and adapter inside the matrix's format, which the base chose.
    fn warn_of_format(
        &mut self,
        index: usize,
        target: Target,
        matrix: &Linear,
        (a, b): (&FoldedLinear, &FoldedLinear),
    ) {
        let kind = match target {
            Target::Q => Matrix::Q,
            Target::K => Matrix::K,
            Target::V => Matrix::V,
            Target::O => Matrix::O,
            Target::Gate => Matrix::Gate,
            Target::Up => Matrix::Up,
            Target::Down => Matrix::Down,
        };
        let Some(bound) = check::output_bound(kind, &self.base.config) else { return };
        let unit = f64::from(matrix.out_frac).exp2();
        let a_rows = a.weight.padded_cols(a.weight.cols);
        let mut most = 0.0f64;
        for row in 0..matrix.rows {
            let l2 = check::row_meaning(matrix, row, &self.base.tables).l2;
            let bias = matrix.bias.get(row).map_or(0.0, |bias| f64::from(*bias) / unit);
            let (mut sum, mut offset) = (vec![0.0; a_rows.cols], bias);
            for (rank, b) in b.weight.row(row).iter().enumerate() {
                axpy(&mut sum, f64::from(*b), a_rows.row(rank));
                offset += f64::from(*b) * a.bias.as_ref().map_or(0.0, |bias| bias[rank]);
            }
            let norm = scale::value(matrix, row) * l2 + dot(&sum, &sum).sqrt();
            most = most.max((self.norm * norm + offset.abs()) * unit);
        }
        if most > bound {
            let tensor = names::layer(index, target.name());
            self.report.warnings.push(format!(
                "{tensor} with its adapter can reach {most:.0}, beyond {bound}: a range error on some inputs; a base imported with --adapter-room has room"
            ));
        }
    }

    /// A and B in the basis of the integers.
    fn folded(
        &self,
        place: &Place<'_>,
        target: Target,
        part: &FloatLowRank,
    ) -> Result<(FoldedLinear, FoldedLinear), AdapterImportError> {
        let (basis, index) = (&self.basis, place.index);
        let [attn_front, ffn_front] = basis.fronts(place.float);
        let half = FloatLinear { weight: part.a.clone(), bias: None };
        let mut b = dense(&part.b);
        b.data.iter_mut().for_each(|w| *w *= part.scale);
        let plain = |b: Dense| FoldedLinear { weight: b.into(), bias: None };
        Ok(match target {
            Target::Q | Target::K => {
                let a = basis.stream.reader(&half, attn_front, 1.0);
                let factors = self.factors(place, target)?;
                let factor = if target == Target::Q { basis.query_factor() } else { 1.0 };
                for (row, moved) in factors.iter().enumerate() {
                    b.row_mut(row).iter_mut().for_each(|w| *w *= factor * moved);
                }
                (a, plain(b))
            }
            Target::V => {
                basis.turn_values(index, &mut b);
                (basis.stream.reader(&half, attn_front, 1.0), plain(b))
            }
            Target::Gate | Target::Up => {
                (basis.stream.reader(&half, ffn_front, 1.0), basis.padded_rows(plain(b)))
            }
            Target::O => {
                // The base's values have lost their bias and their mean to o; A misses them as well.
                let mut v = basis.stream.reader(&place.float.v, attn_front, 1.0);
                let mut a = dense(&part.a);
                let bias = basis.attended_bias(&mut v).unwrap_or_else(|| vec![0.0; a.cols]);
                let mut bias: Vec<f64> = (0..a.rows).map(|row| dot(a.row(row), &bias)).collect();
                basis.turn_attended(index, &mut a);
                let centre = self.value_centre(&self.base.layers[index]);
                bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(a.row(row), &centre));
                (FoldedLinear { weight: a.into(), bias: Some(bias) }, basis.stream.writer(b, None))
            }
            Target::Down => (plain(basis.turn_hidden(&dense(&part.a))), basis.stream.writer(b, None)),
        })
    }

    /// What attention over the values of `layer` lacks: their mean, which o adds (see [`super::centre`]).
    fn value_centre(&self, layer: &LayerWeights) -> Vec<f64> {
        let unit = f64::from(layer.v.out_frac).exp2();
        let mut centre: Vec<f64> = layer.v.bias.iter().map(|bias| -f64::from(*bias) / unit).collect();
        centre.resize(layer.v.rows, 0.0);
        centre::attended(&centre, self.config)
    }

    /// By what the base's import multiplied each row of q or k; refuses a base of other weights.
    fn factors(&self, place: &Place<'_>, target: Target) -> Result<Vec<f64>, AdapterImportError> {
        let layer: &LayerWeights = &self.base.layers[place.index];
        let (linear, float, factor) = match target {
            Target::Q => (&layer.q, &place.float.q, self.basis.query_factor()),
            _ => (&layer.k, &place.float.k, 1.0),
        };
        let folded = self.basis.stream.reader(float, self.basis.fronts(place.float)[0], factor);
        let tensor = || names::layer(place.index, target.name());
        if linear.rows != folded.weight.rows || linear.cols < folded.weight.cols {
            let (got, expected) = (linear.rows, folded.weight.rows);
            return Err(AdapterImportError::Shape { what: "rows of queries or keys", got, expected });
        }
        let folded = folded.weight.padded_cols(linear.cols);
        let meaning = |row: usize| {
            let values = check::row_values(linear, row, &self.base.tables);
            let size = scale::value(linear, row);
            values.into_iter().map(|w| w * size).collect::<Vec<f64>>()
        };
        let mut factors = vec![1.0; linear.rows];
        for rows in equalise::shared_rows(self.config, target == Target::Q) {
            let (mut product, mut square, mut total) = (0.0, 0.0, 0.0);
            for &row in &rows {
                let got = meaning(row);
                product += dot(&got, folded.row(row));
                square += dot(folded.row(row), folded.row(row));
                total += dot(&got, &got);
            }
            if square > 0.0 && total > 0.0 {
                // What is left of the integers beside the multiple of the folded rows.
                let left = (1.0 - product * product / (square * total)).max(0.0).sqrt();
                if left > DIFFERENCE_MAX || product <= 0.0 {
                    return Err(AdapterImportError::Base { tensor: tensor(), got: left });
                }
                rows.iter().for_each(|row| factors[*row] = product / square);
            }
        }
        Ok(factors)
    }

    /// A, in the finest format: proved for readers of the residual stream, with room over what was `seen` for others.
    fn a(
        &mut self,
        tensor: &str,
        a: &FoldedLinear,
        cols: usize,
        inputs: &Dense,
        seen: Option<&Dense>,
    ) -> Result<Linear, AdapterImportError> {
        let mut linear =
            self.round(tensor, a, cols, &Seen::new(Some(inputs), cols as u32, WeightFormat::Int8))?;
        let bias = |row: usize| a.bias.as_ref().map_or(0.0, |bias| bias[row]);
        let units = formats::rounding_units(linear.format, linear.pre_shift);
        let bounds: Vec<RowBound> = match seen {
            None => (0..linear.rows)
                .map(|row| {
                    let l2 = check::row_meaning(&linear, row, &self.base.tables).l2;
                    RowBound::new(self.norm, scale::value(&linear, row), l2, bias(row), units)
                })
                .collect(),
            Some(values) => {
                let most = values.data.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                vec![RowBound { magnitude: ROOM * most, rounding: 0.0 }]
            }
        };
        linear.out_frac = formats::fitting_frac(&bounds, formats::BOUND_I16, BETWEEN_FRAC_MAX);
        if linear.out_frac < 0 {
            let got = bounds.iter().fold(0.0f64, |most, bound| most.max(bound.in_units(0)));
            return Err(AdapterImportError::Format { tensor: tensor.into(), got });
        }
        let unit = f64::from(linear.out_frac).exp2();
        linear.bias = a.bias.iter().flatten().map(|b| (b * unit).round() as i32).collect();
        self.finished(tensor, linear)
    }

    /// B, in the format of the matrix beside which it stands.
    fn b(
        &mut self,
        tensor: &str,
        b: &FoldedLinear,
        frac: i8,
        between: &Dense,
    ) -> Result<Linear, AdapterImportError> {
        let cols = (self.rank as u32).next_multiple_of(COLS_MULTIPLE);
        let mut linear =
            self.round(tensor, b, cols as usize, &Seen::new(Some(between), cols, WeightFormat::Int8))?;
        linear.out_frac = frac;
        self.finished(tensor, linear)
    }

    fn round(
        &mut self,
        tensor: &str,
        folded: &FoldedLinear,
        cols: usize,
        seen: &Seen,
    ) -> Result<Linear, AdapterImportError> {
        let weight = folded.weight.padded_cols(cols);
        let rows: Option<Vec<_>> =
            gptq::round(&weight, &seen.factor, WeightFormat::Int8, &self.search).into_iter().collect();
        let rows = rows.ok_or_else(|| {
            let got = weight.data.iter().fold(0.0f64, |most, w| most.max(w.abs()));
            AdapterImportError::Format { tensor: tensor.into(), got }
        })?;
        let mut packed = pack::pack(&rows, cols, WeightFormat::Int8);
        let l1 = |row: usize| structure::row_sums(&packed, row, &Tables::default()).l1;
        packed.pre_shift = formats::pre_shift((0..packed.rows).map(l1).max().unwrap_or(0));
        let (weight_error, output_error) = errors(&weight, &rows, seen.moments.as_ref());
        self.report.matrices.push(MatrixReport {
            tensor: tensor.into(),
            shape: (packed.rows, packed.cols),
            bits: 8,
            weight_error,
            output_error,
            pre_shift: packed.pre_shift,
            out_frac: 0,
        });
        Ok(packed)
    }

    fn finished(&mut self, tensor: &str, linear: Linear) -> Result<Linear, AdapterImportError> {
        let shape = (linear.rows as u32, linear.cols as u32);
        structure::check_matrix(tensor, shape, &(0..=24), &linear, &Tables::default())?;
        if let Some(report) = self.report.matrices.last_mut() {
            report.out_frac = linear.out_frac;
        }
        Ok(linear)
    }
}

/// Every channel between A and B gets a root mean square of one.
fn balance(a: &mut FoldedLinear, b: &mut FoldedLinear, between: &mut Dense) {
    for rank in 0..a.weight.rows {
        let squares: f64 = (0..between.rows).map(|row| between.row(row)[rank].powi(2)).sum();
        let size = (squares / between.rows.max(1) as f64).sqrt();
        let size = if size > 0.0 { size } else { a.weight.row_norm(rank) };
        if !(size > 0.0 && size.is_finite()) {
            continue;
        }
        a.weight.row_mut(rank).iter_mut().for_each(|w| *w = (f64::from(*w) / size) as f32);
        if let Some(bias) = &mut a.bias {
            bias[rank] /= size;
        }
        for row in 0..b.weight.rows {
            let w = &mut b.weight.row_mut(row)[rank];
            *w = (f64::from(*w) * size) as f32;
        }
        (0..between.rows).for_each(|row| between.row_mut(row)[rank] /= size);
    }
}
