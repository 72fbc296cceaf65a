//! The numbers that the runtime relies on, checked before it sees them.
//!
//! A hash says that bytes are those of the model root, not that the model is sane: its maker may be
//! hostile. After these checks no product or sum of a linear layer can leave 32 bits, no table is
//! indexed outside, and no division is by zero; what can still happen is a *range error*, which is a
//! defined result. The interval checker of the importer proves more (that 16-bit formats are never left).

use lockstep_base::config::{Block, FeedForward, ModelConfig, Positions, SOFT_CAP_ENTRIES};
use lockstep_base::limits::{BIAS_MAX, HEAD_BIAS_MAX, PRE_SHIFT_MAX, STEP_MANTISSA_MAX};
use lockstep_base::weights::{GROUP_COLS, Gain, Linear, PANEL_ROWS, TILE_COLS, Tables, WeightFormat};
use std::ops::RangeInclusive;

/// Largest magnitude of a value that a proof sees: 127 * 2^23.
pub const LIMIT: i64 = 127 << 23;
/// Row multipliers.
pub const MULTIPLIERS: RangeInclusive<u8> = 1..=31;
/// Largest shift of a row.
pub const ROW_SHIFT_MAX: u8 = 60;
/// Largest magnitude of a K centre: keys after RoPE are below 2^15.5.
pub const K_CENTER_MAX: i32 = 65_535;
/// Largest mantissa of a gain.
pub const GAIN_MAX: i64 = 2047;
/// Largest shift of a gain, either way.
pub const GAIN_SHIFT_MAX: i64 = 40;
/// Largest offset of a norm.
pub const OFFSET_MAX: i64 = 1 << 28;
/// Largest magnitude of a gain times a normalised value, which is below [`NORMALISED_MAX`].
pub const GAINED_MAX: i64 = 1 << 29;
/// Largest magnitude of a normalised value: the root of n, a little more, in 17 bits.
pub const NORMALISED_MAX: i64 = 132_000;
/// Bits of the root of n and its fractional bits.
const NORMALISED_BITS: i64 = 17;
/// Shifts above this give 0.
const SHIFT_MAX: i64 = 28;
/// Fractional bits of what a norm with gains gives the residual stream.
pub const GAIN_FRACS: RangeInclusive<i8> = 0..=24;
/// The same of queries and keys.
pub const HEAD_GAIN_FRACS: RangeInclusive<i8> = 0..=14;
/// Largest |cosine| + |sine|: on the unit circle it is 23,170.
pub const ANGLE_SUM_MAX: i64 = 24_576;
/// Where the table of the activation has 0.
const ACTIVATION_ZERO: usize = 4096;
/// What falls with distance is at most this.
const ALIBI_MAX: i64 = 1 << 28;
/// Fractional bits of an embedding.
pub const EMBEDDING_FRACS: RangeInclusive<i8> = -40..=40;

/// The linear layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Output projection.
    O,
    /// Gate of a gated block.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
    /// Router of a mixture of experts: one row an expert.
    Router,
    /// Gates of all experts, one below the other.
    ExpertGate,
    /// Up projections of all experts.
    ExpertUp,
    /// Down projections of all experts.
    ExpertDown,
    /// Output head.
    Head,
}

impl Matrix {
    /// Those of layer `index` of `config`, in execution order.
    #[must_use]
    pub fn of_layer(config: &ModelConfig, index: usize) -> Vec<Matrix> {
        use Matrix::{Down, ExpertDown, ExpertGate, ExpertUp, Gate, K, O, Q, Router, Up, V};
        let ffn: &[Matrix] = match (config.layer_pattern(index).experts, config.feed_forward) {
            (false, FeedForward::Gated) => &[Gate, Up, Down],
            (false, FeedForward::Plain) => &[Up, Down],
            (true, FeedForward::Gated) => &[Router, ExpertGate, ExpertUp, ExpertDown],
            (true, FeedForward::Plain) => &[Router, ExpertUp, ExpertDown],
        };
        [&[Q, K, V, O], ffn].concat()
    }

    /// Its name inside a layer.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Matrix::Q => "q",
            Matrix::K => "k",
            Matrix::V => "v",
            Matrix::O => "o",
            Matrix::Gate => "gate",
            Matrix::Up => "up",
            Matrix::Down => "down",
            Matrix::Router => "router",
            Matrix::ExpertGate => "expert_gate",
            Matrix::ExpertUp => "expert_up",
            Matrix::ExpertDown => "expert_down",
            Matrix::Head => "head",
        }
    }

    /// `(rows, padded columns)`.
    #[must_use]
    pub fn shape(self, config: &ModelConfig) -> (u32, u32) {
        let experts = config.experts.map_or(0, |experts| experts.count);
        match self {
            Matrix::Q => (config.q_dim(), config.d_padded()),
            Matrix::K | Matrix::V => (config.kv_dim(), config.d_padded()),
            Matrix::O => (config.d_model, config.o_cols()),
            Matrix::Gate | Matrix::Up => (config.d_ffn, config.d_padded()),
            Matrix::Down => (config.d_model, config.down_cols()),
            Matrix::Router => (experts, config.d_padded()),
            Matrix::ExpertGate | Matrix::ExpertUp => (experts * config.d_ffn, config.d_padded()),
            Matrix::ExpertDown => (experts * config.d_model, config.down_cols()),
            Matrix::Head => (config.vocab, config.d_padded()),
        }
    }

    /// Allowed fractional bits of the output (specification, section 4).
    #[must_use]
    pub fn out_fracs(self, config: &ModelConfig) -> RangeInclusive<i8> {
        let residual = config.residual_frac as i8;
        match self {
            Matrix::Q | Matrix::K | Matrix::V => 0..=14,
            Matrix::Gate | Matrix::ExpertGate => 0..=11,
            Matrix::Up | Matrix::ExpertUp if config.feed_forward == FeedForward::Plain => 0..=11,
            Matrix::Up | Matrix::ExpertUp => 0..=14,
            Matrix::Router => 0..=12,
            Matrix::O | Matrix::Down | Matrix::ExpertDown => residual..=residual,
            Matrix::Head => 6..=10,
        }
    }
}

/// Which number is out of range.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StructureError {
    /// A tensor or table has the wrong number of something.
    #[error("{tensor} has {got} {what}, expected {expected}")]
    Count {
        /// The tensor.
        tensor: String,
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many it should have.
        expected: usize,
    },
    /// A number of a tensor.
    #[error("{tensor}: {what} is {got}, expected {low} to {high}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// Which number.
        what: &'static str,
        /// Its value.
        got: i64,
        /// Smallest allowed.
        low: i64,
        /// Largest allowed.
        high: i64,
    },
    /// A number of a row, or of an entry of a table.
    #[error("{tensor}, row {row}: {what} is {got}, expected {low} to {high}")]
    Row {
        /// The tensor.
        tensor: String,
        /// The row (or index).
        row: usize,
        /// Which number.
        what: &'static str,
        /// Its value.
        got: i64,
        /// Smallest allowed.
        low: i64,
        /// Largest allowed.
        high: i64,
    },
    /// The rows that fill up the last panel are not zero.
    #[error("{tensor}: the rows that fill up the last panel are not zero")]
    PanelPadding {
        /// The tensor.
        tensor: String,
    },
}

/// What a row's int8 meaning adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSums {
    /// Sum of magnitudes.
    pub l1: u64,
    /// Sum of squares.
    pub squares: u64,
    /// Smallest weight.
    pub least: i8,
}

/// Sums of one row. Table ids must be in range.
#[must_use]
pub fn row_sums(linear: &Linear, row: usize, tables: &Tables) -> RowSums {
    let mut sums = RowSums::default();
    let mut add = |w: i8| {
        sums.l1 += u64::from(w.unsigned_abs());
        sums.squares += u64::from(w.unsigned_abs()) * u64::from(w.unsigned_abs());
        sums.least = sums.least.min(w);
    };
    match linear.format {
        WeightFormat::Int8 => {
            for col in (0..linear.cols).step_by(TILE_COLS) {
                let at = linear.code_offset(row, col);
                linear.codes[at..at + TILE_COLS].iter().for_each(|byte| add(*byte as i8));
            }
        }
        WeightFormat::Int16 => {
            // Of the high parts, those one further from zero whose low part points there: high + low / 128 lies between.
            for col in (0..linear.cols).step_by(TILE_COLS) {
                let at = linear.code_offset(row, col);
                let low = &linear.codes[linear.plane_bytes() + at..][..TILE_COLS];
                for (high, low) in linear.codes[at..at + TILE_COLS].iter().zip(low) {
                    let (high, low) = (*high as i8, (*low as i8).signum());
                    let outward = if high == 0 || high.signum() == low { low } else { 0 };
                    add(high.saturating_add(outward));
                }
            }
        }
        WeightFormat::Int4 => {
            for group in 0..linear.cols / GROUP_COLS {
                let table = &tables.int4[linear.table_id(row, group)];
                let at = linear.code_offset(row, group * GROUP_COLS);
                for byte in &linear.codes[at..at + TILE_COLS] {
                    add(table[usize::from(byte & 15)]);
                    add(table[usize::from(byte >> 4)]);
                }
            }
        }
    }
    sums
}

/// Checks one linear layer; its sums row by row are returned for those who prove more.
///
/// # Errors
/// The first number out of range, with tensor and row.
pub fn check_linear(
    tensor: &str,
    matrix: Matrix,
    linear: &Linear,
    tables: &Tables,
    config: &ModelConfig,
) -> Result<Vec<RowSums>, StructureError> {
    check_head_bias(tensor, matrix, linear)?;
    check_matrix(tensor, matrix.shape(config), &matrix.out_fracs(config), linear, tables)
}

/// The head has smaller biases than other matrices, so that no two logits differ by more than a proof compares.
///
/// # Errors
/// The first bias out of range.
pub fn check_head_bias(tensor: &str, matrix: Matrix, linear: &Linear) -> Result<(), StructureError> {
    let bound = i64::from(if matrix == Matrix::Head { HEAD_BIAS_MAX } else { BIAS_MAX });
    let mut each = linear.bias.iter().enumerate();
    each.try_for_each(|(row, bias)| in_row(tensor, row, "bias", (*bias).into(), -bound, bound))
}

/// The same for a matrix of any shape and formats.
///
/// # Errors
/// The first number out of range, with tensor and row.
pub fn check_matrix(
    tensor: &str,
    shape: (u32, u32),
    fracs: &RangeInclusive<i8>,
    linear: &Linear,
    tables: &Tables,
) -> Result<Vec<RowSums>, StructureError> {
    check_matrix_head(tensor, shape, fracs, linear)?;
    check_panel_padding(tensor, linear)?;
    (0..linear.rows).map(|row| check_row(tensor, linear, row, tables)).collect()
}

/// The part of [`check_matrix`] that reads no codes: shape, lengths, static numbers.
pub(super) fn check_matrix_head(
    tensor: &str,
    (rows, cols): (u32, u32),
    fracs: &RangeInclusive<i8>,
    linear: &Linear,
) -> Result<(), StructureError> {
    let (rows, cols) = (rows as usize, cols as usize);
    let count = |what, got: usize, expected: usize| {
        if got == expected {
            Ok(())
        } else {
            Err(StructureError::Count { tensor: tensor.into(), what, got, expected })
        }
    };
    count("rows", linear.rows, rows)?;
    count("columns", linear.cols, cols)?;
    count("bytes of codes", linear.codes.len(), linear.format.code_bytes(rows, cols))?;
    count("bytes of table ids", linear.table_ids.len(), linear.format.id_bytes(rows, cols))?;
    count("multipliers", linear.multipliers.len(), rows)?;
    count("shifts", linear.shifts.len(), rows)?;
    if !linear.bias.is_empty() {
        count("biases", linear.bias.len(), rows)?;
    }
    let one = |what, got: i64, low: i64, high: i64| {
        if (low..=high).contains(&got) {
            Ok(())
        } else {
            Err(StructureError::Tensor { tensor: tensor.into(), what, got, low, high })
        }
    };
    let (low, high) = (i64::from(*fracs.start()), i64::from(*fracs.end()));
    one("fractional bits of the output", linear.out_frac.into(), low, high)?;
    one("static shift", linear.pre_shift.into(), 0, PRE_SHIFT_MAX.into())
}

fn check_row(tensor: &str, linear: &Linear, row: usize, tables: &Tables) -> Result<RowSums, StructureError> {
    check_row_head(tensor, linear, row, tables)?;
    let sums = row_sums(linear, row, tables);
    check_reach(tensor, linear, row, sums.l1, sums.least)?;
    Ok(sums)
}

/// Scale, bias, low parts and table ids of a row.
pub(super) fn check_row_head(
    tensor: &str,
    linear: &Linear,
    row: usize,
    tables: &Tables,
) -> Result<(), StructureError> {
    let one = |what, got: i64, low: i64, high: i64| in_row(tensor, row, what, got, low, high);
    let multiplier = linear.multipliers[row];
    one("multiplier", multiplier.into(), (*MULTIPLIERS.start()).into(), (*MULTIPLIERS.end()).into())?;
    one("shift", linear.shifts[row].into(), 0, ROW_SHIFT_MAX.into())?;
    if let Some(bias) = linear.bias.get(row) {
        one("bias", (*bias).into(), -i64::from(BIAS_MAX), BIAS_MAX.into())?;
    }
    if linear.format == WeightFormat::Int16 {
        for low in linear.row_low_parts(row) {
            one("low part", low.into(), -64, 64)?;
        }
    }
    if linear.format == WeightFormat::Int4 {
        for group in 0..linear.cols / GROUP_COLS {
            one("table id", linear.table_id(row, group) as i64, 0, tables.int4.len() as i64 - 1)?;
        }
    }
    Ok(())
}

/// What a row's accumulator can reach, from the sum of its magnitudes and its smallest weight.
pub(super) fn check_reach(
    tensor: &str,
    linear: &Linear,
    row: usize,
    l1: u64,
    least: i8,
) -> Result<(), StructureError> {
    in_row(tensor, row, "smallest weight", least.into(), -127, 127)?;
    let accumulator = 127 * l1 as i64;
    let shift = linear.pre_shift;
    let t = if shift == 0 { accumulator } else { (accumulator + (1 << (shift - 1))) >> shift };
    let largest = t * i64::from(STEP_MANTISSA_MAX) * i64::from(linear.multipliers[row]);
    in_row(tensor, row, "largest rescaled accumulator", largest, 0, LIMIT)
}

fn in_row(
    tensor: &str,
    row: usize,
    what: &'static str,
    got: i64,
    low: i64,
    high: i64,
) -> Result<(), StructureError> {
    if (low..=high).contains(&got) {
        Ok(())
    } else {
        Err(StructureError::Row { tensor: tensor.into(), row, what, got, low, high })
    }
}

/// Panels have 4 rows; those past the last row are zero, in codes and ids, so that every byte is bound.
pub(super) fn check_panel_padding(tensor: &str, linear: &Linear) -> Result<(), StructureError> {
    let refuse = || Err(StructureError::PanelPadding { tensor: tensor.into() });
    for row in linear.rows..linear.rows.div_ceil(PANEL_ROWS) * PANEL_ROWS {
        let step = if linear.format == WeightFormat::Int4 { GROUP_COLS } else { TILE_COLS };
        for plane in (0..linear.codes.len()).step_by(linear.plane_bytes().max(1)) {
            for col in (0..linear.cols).step_by(step) {
                let at = plane + linear.code_offset(row, col);
                if linear.codes[at..at + TILE_COLS].iter().any(|byte| *byte != 0) {
                    return refuse();
                }
            }
        }
        if linear.format == WeightFormat::Int4
            && (0..linear.cols / GROUP_COLS).any(|group| linear.table_id(row, group) != 0)
        {
            return refuse();
        }
    }
    Ok(())
}

/// Checks the tables of a model of `config`: their lengths; exponentials fall from one, angles are at most 1,
/// soft caps rise by no more than their steps, nothing is -128 (or its 16-bit like).
///
/// # Errors
/// The first entry out of range.
pub fn check_tables(tables: &Tables, config: &ModelConfig) -> Result<(), StructureError> {
    let count = |tensor: &str, got: usize, expected: usize| {
        if got == expected {
            Ok(())
        } else {
            Err(StructureError::Count { tensor: tensor.into(), what: "entries", got, expected })
        }
    };
    count("tables/rope", tables.rope.len(), config.rope_tables.into())?;
    for rope in &tables.rope {
        count("tables/rope", rope.len(), config.context as usize * config.rope_dim as usize)?;
    }
    let heads = if config.positions == Positions::Alibi { config.n_heads as usize } else { 0 };
    count("tables/alibi", tables.alibi.len(), heads)?;
    let one = |tensor: &str, row: usize, what, got: i64, low: i64, high: i64| {
        if (low..=high).contains(&got) {
            Ok(())
        } else {
            Err(StructureError::Row { tensor: tensor.into(), row, what, got, low, high })
        }
    };
    let falling = |tensor: &str, first: u32, values: &mut dyn Iterator<Item = u32>| {
        let mut before = first;
        for (row, value) in values.enumerate() {
            let low = if row == 0 { first } else { 0 };
            one(tensor, row, "entry", value.into(), low.into(), before.into())?;
            before = value;
        }
        Ok(())
    };
    falling("tables/exp2", 1 << 15, &mut tables.exp2.iter().map(|value| u32::from(*value)))?;
    falling("tables/exp2_sample", 1 << 24, &mut tables.exp2_sample.iter().copied())?;
    for (row, value) in tables.activation.iter().enumerate() {
        // Filling has an activation of 0.
        let most = if row == ACTIVATION_ZERO { 0 } else { 32_767 };
        one("tables/activation", row, "entry", (*value).into(), -most, most)?;
    }
    for (row, slope) in tables.alibi.iter().enumerate() {
        one("tables/alibi", row, "mantissa", slope.a.into(), 0, 4095)?;
        one("tables/alibi", row, "shift", slope.b.into(), 0, 31)?;
        let most = i64::from(slope.a) * i64::from(config.context - 1);
        let most = (most + ((1 << slope.b) >> 1)) >> slope.b;
        one("tables/alibi", row, "loss at the largest distance", most, 0, ALIBI_MAX - 1)?;
    }
    let caps = [
        ("tables/score_cap", config.score_cap, &tables.score_cap),
        ("tables/logit_cap", config.logit_cap, &tables.logit_cap),
    ];
    for (name, shift, table) in caps {
        count(name, table.len(), if shift.is_some() { SOFT_CAP_ENTRIES } else { 0 })?;
        for (row, ends) in table.windows(2).enumerate() {
            let step = i64::from(ends[1]) - i64::from(ends[0]);
            one(name, row, "rise", step, 0, 1 << shift.unwrap_or(0))?;
        }
        if let Some(first) = table.first() {
            one(name, 0, "entry", (*first).into(), 0, 0)?;
        }
    }
    for (row, value) in tables.rope.iter().flatten().enumerate() {
        one("tables/rope", row, "entry", (*value).into(), -16_384, 16_384)?;
    }
    let angles = tables.rope.iter().flat_map(|table| table.as_chunks::<2>().0);
    for (row, [cos, sin]) in angles.enumerate() {
        let sum = i64::from(*cos).abs() + i64::from(*sin).abs();
        one("tables/rope", 2 * row, "|cosine| + |sine|", sum, 0, ANGLE_SUM_MAX)?;
    }
    for (row, table) in tables.int4.iter().enumerate() {
        for entry in table {
            one("tables/int4", row, "entry", (*entry).into(), -127, 127)?;
        }
    }
    Ok(())
}

/// Checks the gains of a norm over `width` values; the mean is subtracted where `centred`.
///
/// # Errors
/// The first number out of range.
pub fn check_gain(tensor: &str, gain: &Gain, width: usize, centred: bool) -> Result<(), StructureError> {
    let count = |what, got: usize, expected: usize| {
        if got == expected {
            Ok(())
        } else {
            Err(StructureError::Count { tensor: tensor.into(), what, got, expected })
        }
    };
    count("gains", gain.mantissas.len(), width)?;
    count("shifts", gain.shifts.len(), width)?;
    count("offsets", gain.offsets.len(), if centred { width } else { 0 })?;
    count("subtracted means", gain.centred.into(), centred.into())?;
    let row = |row: usize, what, got: i64, limit: i64| {
        if got.abs() <= limit {
            Ok(())
        } else {
            Err(StructureError::Row { tensor: tensor.into(), row, what, got, low: -limit, high: limit })
        }
    };
    for (at, mantissa) in gain.mantissas.iter().enumerate() {
        row(at, "gain", (*mantissa).into(), GAIN_MAX)?;
    }
    for (at, shift) in gain.shifts.iter().enumerate() {
        row(at, "shift", (*shift).into(), GAIN_SHIFT_MAX)?;
    }
    for (at, offset) in gain.offsets.iter().enumerate() {
        row(at, "offset", (*offset).into(), OFFSET_MAX)?;
    }
    // u g 2^(F_y - t - F_u) where that is a shift to the left, u g where it is one to the right.
    let frac = NORMALISED_BITS - i64::from((usize::BITS - (width - 1).leading_zeros()).div_ceil(2));
    for (at, (g, t)) in gain.mantissas.iter().zip(&gain.shifts).enumerate() {
        let right = i64::from(*t) + frac - i64::from(gain.out_frac);
        let factor = if right > SHIFT_MAX { 0 } else { i64::from(*g).abs() << (-right).clamp(0, 40) };
        row(at, "gain times a normalised value", factor.saturating_mul(NORMALISED_MAX), GAINED_MAX)?;
    }
    let of_heads = tensor.ends_with("q_norm") || tensor.ends_with("k_norm");
    let fracs = if of_heads { HEAD_GAIN_FRACS } else { GAIN_FRACS };
    let (low, high) = (i64::from(*fracs.start()), i64::from(*fracs.end()));
    if !fracs.contains(&gain.out_frac) {
        let what = "fractional bits of the output";
        return Err(StructureError::Tensor {
            tensor: tensor.into(),
            what,
            got: gain.out_frac.into(),
            low,
            high,
        });
    }
    Ok(())
}

/// The norms of layer `index` of `config`: name, width, whether the mean is subtracted.
#[must_use]
pub fn gains_of_layer(config: &ModelConfig) -> Vec<(&'static str, usize, bool)> {
    let (head, width) = (config.head_dim as usize, config.d_model as usize);
    let mut all = Vec::new();
    if config.qk_norm {
        all.extend([("q_norm", head, false), ("k_norm", head, false)]);
    }
    if config.block != Block::PreNorm {
        let centred = config.block == Block::PostNorm;
        all.extend([("attn_post", width, centred), ("ffn_post", width, centred)]);
    }
    all
}

/// Checks a K centre.
///
/// # Errors
/// The first channel out of range.
pub fn check_k_center(tensor: &str, center: &[i32], config: &ModelConfig) -> Result<(), StructureError> {
    let expected = config.kv_dim() as usize;
    if center.len() != expected {
        return Err(StructureError::Count {
            tensor: tensor.into(),
            what: "channels",
            got: center.len(),
            expected,
        });
    }
    match center.iter().position(|c| c.unsigned_abs() > K_CENTER_MAX as u32) {
        None => Ok(()),
        Some(row) => Err(StructureError::Row {
            tensor: tensor.into(),
            row,
            what: "channel",
            got: center[row].into(),
            low: -i64::from(K_CENTER_MAX),
            high: K_CENTER_MAX.into(),
        }),
    }
}
