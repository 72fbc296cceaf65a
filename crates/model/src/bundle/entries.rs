//! Which entries a model of a configuration has, of which kind and length.

use super::structure::{Matrix, gains_of_layer};
use lockstep_base::config::{Block, ModelConfig, Positions, SOFT_CAP_ENTRIES};
use lockstep_base::manifest::EntryKind;
use lockstep_base::weights::WeightFormat;

/// Names of entries.
pub mod names {
    /// The configuration.
    pub const CONFIG: &str = "config";
    /// Token embedding.
    pub const EMBED: &str = "embed";
    /// Learned positions.
    pub const POSITIONS: &str = "positions";
    /// Output head.
    pub const HEAD: &str = "head";
    /// Tokenizer.
    pub const TOKENIZER: &str = "tokenizer";
    /// Chat template.
    pub const CHAT_TEMPLATE: &str = "chat_template";
    /// 2^-x of the softmax.
    pub const EXP2: &str = "tables/exp2";
    /// 2^-x of the sampler.
    pub const EXP2_SAMPLE: &str = "tables/exp2_sample";
    /// Activation function.
    pub const ACTIVATION: &str = "tables/activation";
    /// RoPE, one table after the other.
    pub const ROPE: &str = "tables/rope";
    /// ALiBi slopes.
    pub const ALIBI: &str = "tables/alibi";
    /// Soft cap of scores.
    pub const SCORE_CAP: &str = "tables/score_cap";
    /// Soft cap of logits.
    pub const LOGIT_CAP: &str = "tables/logit_cap";
    /// Norm behind the embedding.
    pub const EMBED_NORM: &str = "embed_norm";
    /// int4 tables.
    pub const INT4: &str = "tables/int4";

    /// An entry of a layer, e.g. `layers.0003.q`.
    #[must_use]
    pub fn layer(index: usize, part: &str) -> String {
        format!("layers.{index:04}.{part}")
    }

    /// The K centre of a layer.
    #[must_use]
    pub fn k_center(index: usize) -> String {
        layer(index, "k_center")
    }
}

/// Entries of the exponential tables.
pub(crate) const EXP2_ENTRIES: usize = 4096;
/// Entries of the activation table.
pub(crate) const ACTIVATION_ENTRIES: usize = 8192;
/// Bytes of one int4 table.
pub(crate) const INT4_TABLE_BYTES: usize = 16;
/// int4 tables that u16 ids can name.
pub(crate) const INT4_TABLES_MAX: u64 = 65_536;

/// What an entry must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Bytes of exactly this length.
    Blob(u64),
    /// Any bytes.
    AnyBlob,
    /// One or more int4 tables.
    Int4Tables,
    /// An embedding of `(rows, cols)`.
    Embedding(u32, u32),
    /// A linear layer.
    Linear(Matrix),
}

/// The entries of a model, with whether each is required.
pub(crate) fn expected(config: &ModelConfig) -> Vec<(String, Expected, bool)> {
    let mut all = vec![
        (names::CONFIG.to_owned(), Expected::AnyBlob, true),
        (names::TOKENIZER.to_owned(), Expected::AnyBlob, true),
        (names::CHAT_TEMPLATE.to_owned(), Expected::AnyBlob, false),
        (names::EXP2.to_owned(), Expected::Blob(EXP2_ENTRIES as u64 * 2), true),
        (names::EXP2_SAMPLE.to_owned(), Expected::Blob(EXP2_ENTRIES as u64 * 4), true),
        (names::ACTIVATION.to_owned(), Expected::Blob(ACTIVATION_ENTRIES as u64 * 2), true),
        (names::INT4.to_owned(), Expected::Int4Tables, false),
        (names::EMBED.to_owned(), Expected::Embedding(config.vocab, config.d_model), true),
    ];
    if config.pooling.is_none() {
        all.push((names::HEAD.to_owned(), Expected::Linear(Matrix::Head), true));
    }
    if config.block == Block::PostNorm {
        let bytes = gain_bytes(config.d_model as usize, true);
        all.push((names::EMBED_NORM.to_owned(), Expected::Blob(bytes), true));
    }
    for (name, shift) in [(names::SCORE_CAP, config.score_cap), (names::LOGIT_CAP, config.logit_cap)] {
        if shift.is_some() {
            all.push((name.to_owned(), Expected::Blob(SOFT_CAP_ENTRIES as u64 * 4), true));
        }
    }
    match config.positions {
        Positions::Rope => {
            let table = u64::from(config.context) * u64::from(config.rope_dim) * 2;
            let bytes = u64::from(config.rope_tables) * table;
            all.push((names::ROPE.to_owned(), Expected::Blob(bytes), true));
        }
        Positions::Alibi => {
            let bytes = u64::from(config.n_heads) * SLOPE_BYTES as u64;
            all.push((names::ALIBI.to_owned(), Expected::Blob(bytes), true));
        }
        Positions::Learned => {
            all.push((
                names::POSITIONS.to_owned(),
                Expected::Embedding(config.context, config.d_model),
                true,
            ));
        }
    }
    for layer in 0..config.n_layers as usize {
        all.push((names::k_center(layer), Expected::Blob(u64::from(config.kv_dim()) * 4), true));
        for matrix in Matrix::of_layer(config, layer) {
            all.push((names::layer(layer, matrix.name()), Expected::Linear(matrix), true));
        }
        for (name, width, centred) in gains_of_layer(config) {
            all.push((names::layer(layer, name), Expected::Blob(gain_bytes(width, centred)), true));
        }
    }
    all
}

impl Expected {
    /// Whether an entry's kind fits, and how many bytes it must have (`None`: any). The error is
    /// (got, expected) in words.
    pub(crate) fn check(
        &self,
        kind: &EntryKind,
        config: &ModelConfig,
    ) -> Result<Option<u64>, (String, String)> {
        let refuse = |expected: String| Err((describe(kind), expected));
        match (self, kind) {
            (Expected::Blob(bytes), EntryKind::Blob) => Ok(Some(*bytes)),
            (Expected::AnyBlob | Expected::Int4Tables, EntryKind::Blob) => Ok(None),
            (
                Expected::Embedding(rows, cols),
                EntryKind::Embedding { rows: got_rows, cols: got_cols, .. },
            ) if (rows, cols) == (got_rows, got_cols) => Ok(Some(u64::from(*rows) * u64::from(*cols) * 2)),
            (Expected::Linear(matrix), EntryKind::Linear { rows, cols, bits, bias, .. })
                if (*rows, *cols) == matrix.shape(config) && matrix.may_have(*bits) =>
            {
                Ok(format_of(*bits).map(|format| linear_bytes(format, *rows, *cols, *bias)))
            }
            (Expected::Embedding(rows, cols), _) => refuse(format!("an embedding of {rows} x {cols}")),
            (Expected::Linear(matrix), _) => {
                let (rows, cols) = matrix.shape(config);
                refuse(format!("a linear layer of {rows} x {cols} in 16, 8 or 4 bits"))
            }
            _ => refuse("a blob".into()),
        }
    }
}

/// The storage format of an entry with `bits`.
pub(crate) fn format_of(bits: u8) -> Option<WeightFormat> {
    match bits {
        16 => Some(WeightFormat::Int16),
        8 => Some(WeightFormat::Int8),
        4 => Some(WeightFormat::Int4),
        _ => None,
    }
}

/// The bits of a storage format.
pub(crate) fn bits_of(format: WeightFormat) -> u8 {
    match format {
        WeightFormat::Int16 => 16,
        WeightFormat::Int8 => 8,
        WeightFormat::Int4 => 4,
    }
}

impl Matrix {
    /// Whether a linear layer of this kind may be stored in `bits`. Experts lie in one entry and are
    /// cut out of it by rows, which two planes do not allow.
    fn may_have(self, bits: u8) -> bool {
        let cut = matches!(self, Matrix::ExpertGate | Matrix::ExpertUp | Matrix::ExpertDown);
        format_of(bits).is_some_and(|format| !(cut && format == WeightFormat::Int16))
    }
}

/// Bytes of a slope: a as u16, b.
pub(crate) const SLOPE_BYTES: usize = 3;
/// Bytes of a gain entry before its arrays: epsilon as u64, fractional bits, whether the mean is subtracted.
pub(crate) const GAIN_HEAD_BYTES: usize = 10;

/// Bytes of a gain entry: the head; mantissas as i16, shifts, offsets as i32 where there are any.
pub(crate) fn gain_bytes(width: usize, centred: bool) -> u64 {
    (GAIN_HEAD_BYTES + width * if centred { 7 } else { 3 }) as u64
}

/// Bytes of a linear entry: codes, ids, multipliers, shifts, biases.
pub(crate) fn linear_bytes(format: WeightFormat, rows: u32, cols: u32, bias: bool) -> u64 {
    let (rows, cols) = (rows as usize, cols as usize);
    let per_row = if bias { 6 } else { 2 };
    (format.code_bytes(rows, cols) + format.id_bytes(rows, cols) + rows * per_row) as u64
}

fn describe(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Blob => "a blob".into(),
        EntryKind::Embedding { rows, cols, .. } => format!("an embedding of {rows} x {cols}"),
        EntryKind::Linear { rows, cols, bits, .. } => {
            format!("a linear layer of {rows} x {cols} in {bits} bits")
        }
    }
}
