//! From a float network to its integer twin, without data.
//!
//! - Weights: int8, one scale `m 2^-s` (m in [16, 31]) a row, the smallest that holds the row's largest weight; nearest rounding.
//! - Constant factors (`Scale`) cost nothing: a value carries the real size of its unit, and the next layer's
//!   weights take it in.
//! - Formats: the most fractional bits whose bound is proved for every input (docs/spec/nets.md, 4). No calibration:
//!   the step of activations is chosen per example at run time.

use super::float::{Affine, FloatNet, FloatOp};
use crate::quantise::formats::pre_shift;
use lockstep_base::config::{COLS_MULTIPLE, padded};
use lockstep_base::limits::COLS_MAX;
use lockstep_base::net::{Builder, FRACS, Input, Net, NetError, Op, Window};
use lockstep_base::weights::{Linear, Region, WeightFormat, code_offset};

/// Row multipliers that are chosen: five bits, the highest set.
const MULTIPLIERS: std::ops::RangeInclusive<u8> = 16..=31;
/// Largest shift of a row.
const ROW_SHIFT_MAX: u8 = 60;
/// Largest code.
const CODE_MAX: f64 = 127.0;
/// Bits of the accumulator after its static shift.
/// Bytes of the packed matrices of a network: padding may make them larger than the file that they come from.
const PACKED_BYTES_MAX: usize = 1 << 28;

/// The integers that will enter: x means `x 2^-frac`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputFormat {
    /// Fractional bits.
    pub frac: i8,
    /// The smallest.
    pub low: i32,
    /// The largest.
    pub high: i32,
}

impl InputFormat {
    /// Pixels: 0 to 255.
    pub const BYTES: InputFormat = InputFormat { frac: 0, low: 0, high: 255 };
}

/// Why a network has no integer twin.
#[derive(Debug, thiserror::Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum QuantiseNetError {
    /// The integer network is refused: a limit, or a bound that cannot be proved.
    #[error("op {op}: {source}")]
    Net {
        /// Which op.
        op: usize,
        /// The check.
        source: NetError,
    },
    /// A row whose weights are larger than any row scale.
    #[error("op {op}, row {row}: a weight of {got:e}, expected at most 3937")]
    Weight {
        /// Which op.
        op: usize,
        /// Which row.
        row: usize,
        /// Its magnitude.
        got: f64,
    },
    /// Summands of different constant factors.
    #[error("op {op} adds values of units {left} and {right}, expected equal ones")]
    Units {
        /// Which op.
        op: usize,
        /// One unit.
        left: f64,
        /// The other.
        right: f64,
    },
    /// Matrices that padding makes too large.
    #[error("op {op}: {got} bytes of packed weights, expected at most {PACKED_BYTES_MAX}")]
    Packed {
        /// Which op.
        op: usize,
        /// How many bytes so far.
        got: usize,
    },
    /// The output is not what the last op computes, or has another unit than 1.
    #[error(
        "the output is value {value} of {values} in units of {unit}, expected the last value in units of 1"
    )]
    Output {
        /// The value.
        value: u32,
        /// How many there are.
        values: usize,
        /// Its unit.
        unit: f64,
    },
}

/// The integer twin of `float` for inputs of this format.
///
/// # Errors
/// If a bound cannot be proved, or a limit is met.
pub fn quantise(float: &FloatNet, input: InputFormat) -> Result<Net, QuantiseNetError> {
    let name = float.name();
    let input = Input { shape: float.shapes()[0], frac: input.frac, low: input.low, high: input.high };
    let at_input = |source| QuantiseNetError::Net { op: 0, source };
    let builder = Builder::new(name, input).map_err(at_input)?;
    let mut lowering =
        Lowering { float, builder, placed: vec![Placed { value: 0, unit: 1.0, codes: None }], packed: 0 };
    for (op, what) in float.ops().iter().enumerate() {
        let placed = lowering.op(op, what)?;
        lowering.placed.push(placed);
    }
    let last = lowering.placed[float.ops().len()];
    let values = lowering.builder.values().len();
    if last.unit != 1.0 || last.value as usize + 1 != values {
        return Err(QuantiseNetError::Output { value: last.value, values, unit: last.unit });
    }
    lowering.builder.finish().map_err(|source| QuantiseNetError::Net { op: float.ops().len(), source })
}

/// Where a float value went.
#[derive(Clone, Copy)]
struct Placed {
    value: u32,
    /// What 1 of the integer value means, over the fractional bits.
    unit: f64,
    /// Its codes, once something needed them.
    codes: Option<u32>,
}

struct Lowering<'a> {
    float: &'a FloatNet,
    builder: Builder,
    placed: Vec<Placed>,
    /// Bytes of packed weights so far.
    packed: usize,
}

impl Lowering<'_> {
    fn op(&mut self, op: usize, what: &FloatOp) -> Result<Placed, QuantiseNetError> {
        match what {
            FloatOp::Scale { input, factor } => {
                let placed = self.placed[*input];
                Ok(Placed { unit: placed.unit * factor, ..placed })
            }
            FloatOp::Pad { input, pads } => self.same(op, *input, |input| Op::Pad { input, pads: *pads }),
            FloatOp::Relu { input } => self.same(op, *input, |input| Op::Relu { input }),
            FloatOp::MaxPool { input, window } => {
                self.same(op, *input, |input| Op::MaxPool { input, window: *window })
            }
            FloatOp::Flatten { input } if self.float.shapes()[*input].places() == 1 => {
                Ok(self.placed[*input])
            }
            FloatOp::Flatten { input } => self.same(op, *input, |input| Op::Flatten { input }),
            FloatOp::Linear { input, affine } => {
                let codes = self.codes(op, *input)?;
                let weights = self.builder.next_weights();
                self.affine(op, *input, affine, &Window::PLACE, Op::Linear { input: codes, weights })
            }
            FloatOp::Conv { input, affine, window } => {
                let codes = self.codes(op, *input)?;
                let weights = self.builder.next_weights();
                let node = Op::Conv { input: codes, weights, window: *window };
                self.affine(op, *input, affine, window, node)
            }
            FloatOp::Add { left, right } => self.add(op, *left, *right),
        }
    }

    fn push(&mut self, op: usize, node: Op, weights: Option<Linear>) -> Result<u32, QuantiseNetError> {
        self.builder.push(node, weights).map_err(|source| QuantiseNetError::Net { op, source })
    }

    /// An op that keeps format and unit.
    fn same(
        &mut self,
        op: usize,
        input: usize,
        node: impl Fn(u32) -> Op,
    ) -> Result<Placed, QuantiseNetError> {
        let placed = self.placed[input];
        Ok(Placed { value: self.push(op, node(placed.value), None)?, codes: None, ..placed })
    }

    /// The codes of a value, made once.
    fn codes(&mut self, op: usize, input: usize) -> Result<u32, QuantiseNetError> {
        if let Some(codes) = self.placed[input].codes {
            return Ok(codes);
        }
        let codes = self.push(op, Op::Quantise { input: self.placed[input].value }, None)?;
        self.placed[input].codes = Some(codes);
        Ok(codes)
    }

    fn affine(
        &mut self,
        op: usize,
        input: usize,
        affine: &Affine,
        window: &Window,
        node: Op,
    ) -> Result<Placed, QuantiseNetError> {
        let (unit, channels) = (self.placed[input].unit, self.float.shapes()[input].channels as usize);
        let linear = round(op, affine, unit, window, channels, &mut self.packed)?;
        // The most fractional bits that are proved; the bound grows with them.
        let (mut low, mut high) = (i32::from(*FRACS.start()), i32::from(*FRACS.end()));
        let fits = |frac: i32| {
            let linear = with_format(&linear, affine, frac as i8)?;
            self.builder.check(&node, Some(&linear)).is_ok().then_some(linear)
        };
        while low < high {
            let middle = (low + high + 1).div_euclid(2);
            if fits(middle).is_some() { low = middle } else { high = middle - 1 }
        }
        let linear = fits(low).or_else(|| with_format(&linear, affine, low as i8)).unwrap_or(linear);
        Ok(Placed { value: self.push(op, node, Some(linear))?, unit: 1.0, codes: None })
    }

    fn add(&mut self, op: usize, left: usize, right: usize) -> Result<Placed, QuantiseNetError> {
        let (a, b) = (self.placed[left], self.placed[right]);
        if a.unit != b.unit {
            return Err(QuantiseNetError::Units { op, left: a.unit, right: b.unit });
        }
        let frac = |placed: Placed| self.builder.values()[placed.value as usize].frac;
        let finest = frac(a).min(frac(b));
        let node = |frac: i8| Op::Add { left: a.value, right: b.value, frac };
        let proved = (*FRACS.start()..=finest).rev().find(|f| self.builder.check(&node(*f), None).is_ok());
        let value = self.push(op, node(proved.unwrap_or(*FRACS.start())), None)?;
        Ok(Placed { value, unit: a.unit, codes: None })
    }
}

/// The smallest row scale on the grid `m 2^-s` that is at least `least`.
fn row_scale(least: f64) -> Option<(u8, u8)> {
    (0..=ROW_SHIFT_MAX).rev().find_map(|shift| {
        let multiplier = (least * f64::from(shift).exp2()).ceil();
        let fits = multiplier <= f64::from(*MULTIPLIERS.end());
        fits.then(|| (multiplier.max(f64::from(*MULTIPLIERS.start())) as u8, shift))
    })
}

/// Codes and scales; bias and format come later. Columns go from (channel, row, column) to (row, column, channel).
fn round(
    op: usize,
    affine: &Affine,
    unit: f64,
    window: &Window,
    channels: usize,
    packed: &mut usize,
) -> Result<Linear, QuantiseNetError> {
    let limit = |got| QuantiseNetError::Packed { op, got };
    if affine.cols > COLS_MAX as usize {
        return Err(limit(affine.cols));
    }
    let cols = padded(affine.cols as u32, COLS_MULTIPLE) as usize;
    let bytes = WeightFormat::Int8.code_bytes(affine.rows, cols);
    *packed = packed.saturating_add(bytes);
    if *packed > PACKED_BYTES_MAX {
        return Err(limit(*packed));
    }
    let mut codes = vec![0u8; bytes];
    let (mut multipliers, mut shifts) = (Vec::with_capacity(affine.rows), Vec::with_capacity(affine.rows));
    let kernel = window.kernel[0] as usize * window.kernel[1] as usize;
    let mut most_l1 = 0u64;
    for (row, weights) in affine.weights.chunks_exact(affine.cols).enumerate() {
        let largest = weights.iter().fold(0.0f64, |most, w| most.max((f64::from(*w) * unit).abs()));
        let (multiplier, shift) =
            row_scale(largest / CODE_MAX).ok_or(QuantiseNetError::Weight { op, row, got: largest })?;
        let scale = f64::from(multiplier) * (-f64::from(shift)).exp2();
        let mut l1 = 0;
        for (index, weight) in weights.iter().enumerate() {
            let code = (f64::from(*weight) * unit / scale).round().clamp(-CODE_MAX, CODE_MAX) as i8;
            let col = index % kernel * channels + index / kernel;
            codes[code_offset(WeightFormat::Int8, cols, row, col)] = code as u8;
            l1 += u64::from(code.unsigned_abs());
        }
        most_l1 = most_l1.max(l1);
        multipliers.push(multiplier);
        shifts.push(shift);
    }
    Ok(Linear {
        rows: affine.rows,
        cols,
        format: WeightFormat::Int8,
        codes: Region::from(codes),
        table_ids: Region::from(Vec::new()),
        multipliers,
        shifts,
        bias: Vec::new(),
        pre_shift: pre_shift(most_l1),
        out_frac: 0,
    })
}

/// With bias and this many fractional bits; `None` if a bias leaves 30 bits.
fn with_format(linear: &Linear, affine: &Affine, frac: i8) -> Option<Linear> {
    const BIAS_MAX: f64 = lockstep_base::limits::BIAS_MAX as f64;
    let unit = f64::from(frac).exp2();
    let mut bias = Vec::with_capacity(affine.rows);
    for b in &affine.bias {
        let b = (f64::from(*b) * unit).round();
        if b.abs() > BIAS_MAX {
            return None;
        }
        bias.push(b as i32);
    }
    if bias.iter().all(|b| *b == 0) {
        bias.clear();
    }
    Some(Linear { bias, out_frac: frac, ..linear.clone() })
}
