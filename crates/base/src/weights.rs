//! A model as the runtime reads it: plain structures over bytes that somebody else owns (a
//! memory-mapped bundle, or vectors in a test). Nothing here knows file formats.
//!
//! # Packed order
//! Rows are packed in panels of [`PANEL_ROWS`] = 4 (the last panel is filled with zero rows), so
//! that one 64-byte load brings 16 columns of 4 rows (int8) or 32 columns of 4 rows (int4), and
//! decode and prefill read the same bytes:
//! - int8: tile t of a panel holds columns 16t .. 16t+16, row after row.
//!   `offset(row, col) = (row / 4) * 4K + (col / 16) * 64 + (row % 4) * 16 + col % 16`
//! - int4: tile g holds columns 32g .. 32g+32; a byte has column c (c < 16) in its low and
//!   c + 16 in its high nibble.
//!   `offset(row, col) = (row / 4) * 2K + (col / 32) * 64 + (row % 4) * 16 + col % 16`
//! - int4 table ids, u16 little-endian: `index(row, g) = (row / 4) * 4G + g * 4 + row % 4`, G = K / 32.

use crate::config::ModelConfig;
use crate::limits;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, Range};

/// Rows that are interleaved in one panel.
pub const PANEL_ROWS: usize = 4;
/// Columns that share an int4 table.
pub const GROUP_COLS: usize = 32;
/// Columns of an int8 tile.
pub const TILE_COLS: usize = 16;

/// A range of bytes that keeps its owner alive.
#[derive(Clone)]
pub struct Region {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Region {
    /// The bytes `range` of `owner`; `None` if the range does not lie inside.
    #[must_use]
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Region> {
        let len = (*owner).as_ref().len();
        (range.start <= range.end && range.end <= len).then_some(Region { owner, range })
    }

    /// A part of this region; `None` if it does not lie inside.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Region> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (range.start <= range.end && end <= self.range.end)
            .then(|| Region { owner: self.owner.clone(), range: start..end })
    }
}

impl From<Vec<u8>> for Region {
    fn from(bytes: Vec<u8>) -> Region {
        let range = 0..bytes.len();
        Region { owner: Arc::new(bytes), range }
    }
}

impl Deref for Region {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes)", self.range.len())
    }
}

/// How a matrix is stored. What it *means* is an int8 matrix in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// One byte a weight, in [-127, 127].
    Int8,
    /// A nibble a weight and a table of 16 int8 entries for each group of 32 columns.
    Int4,
    /// Two bytes a weight: an int8 matrix of high parts, then one of low parts in [-64, 64]. A
    /// weight means `high + low / 128`; both matrices multiply the same codes.
    Int16,
}

impl WeightFormat {
    /// Bytes of the packed codes of a matrix of `rows` rows (before filling up the last panel).
    #[must_use]
    pub fn code_bytes(self, rows: usize, cols: usize) -> usize {
        let weights = rows.div_ceil(PANEL_ROWS) * PANEL_ROWS * cols;
        match self {
            WeightFormat::Int8 => weights,
            WeightFormat::Int4 => weights / 2,
            WeightFormat::Int16 => weights * 2,
        }
    }

    /// Bytes of the packed table ids.
    #[must_use]
    pub fn id_bytes(self, rows: usize, cols: usize) -> usize {
        match self {
            WeightFormat::Int8 | WeightFormat::Int16 => 0,
            WeightFormat::Int4 => rows.div_ceil(PANEL_ROWS) * PANEL_ROWS * (cols / GROUP_COLS) * 2,
        }
    }
}

/// One linear layer `y = W x + b`: int8 weights by meaning, one exact scale `m_i 2^-s_i` per row.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Output rows.
    pub rows: usize,
    /// Input columns, padded to a multiple of 32.
    pub cols: usize,
    /// How the codes are stored.
    pub format: WeightFormat,
    /// Packed codes, see the module's text.
    pub codes: Region,
    /// Packed int4 table ids, u16 little-endian; empty for int8.
    pub table_ids: Region,
    /// m_i in [1, 31], one a row.
    pub multipliers: Vec<u8>,
    /// s_i, one a row.
    pub shifts: Vec<u8>,
    /// b_i in the output format, one a row, or empty.
    pub bias: Vec<i32>,
    /// s1: static rounding shift of the accumulator.
    pub pre_shift: u8,
    /// Fractional bits of the output.
    pub out_frac: i8,
}

impl Linear {
    /// Offset of the byte that holds `(row, col)`.
    #[must_use]
    pub fn code_offset(&self, row: usize, col: usize) -> usize {
        code_offset(self.format, self.cols, row, col)
    }

    /// Index (in u16 units) of the table id of `row` and column group `group`.
    #[must_use]
    pub fn id_index(&self, row: usize, group: usize) -> usize {
        id_index(self.cols, row, group)
    }

    /// The table of `row` and column group `group`.
    #[must_use]
    pub fn table_id(&self, row: usize, group: usize) -> usize {
        let at = 2 * self.id_index(row, group);
        usize::from(u16::from_le_bytes([self.table_ids[at], self.table_ids[at + 1]]))
    }

    /// Bytes of one plane of codes: of all of them, but half of them for [`WeightFormat::Int16`].
    #[must_use]
    pub fn plane_bytes(&self) -> usize {
        if self.format == WeightFormat::Int16 { self.codes.len() / 2 } else { self.codes.len() }
    }

    /// The committed bytes of one row: m, s, bias (4 bytes little-endian, if there is one), the
    /// codes in column order (int8 bytes; high parts, then low parts; or 16 nibble bytes a group, then the ids).
    #[must_use]
    pub fn row_bytes(&self, row: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(6 + self.cols + self.cols / 16);
        self.append_row_bytes(row, &mut bytes);
        bytes
    }

    /// Appends the committed bytes of one row to `bytes`.
    pub fn append_row_bytes(&self, row: usize, bytes: &mut Vec<u8>) {
        bytes.push(self.multipliers[row]);
        bytes.push(self.shifts[row]);
        if let Some(bias) = self.bias.get(row) {
            bytes.extend_from_slice(&bias.to_le_bytes());
        }
        let step = match self.format {
            WeightFormat::Int8 | WeightFormat::Int16 => TILE_COLS,
            WeightFormat::Int4 => GROUP_COLS,
        };
        let codes: &[u8] = &self.codes;
        let planes = if self.format == WeightFormat::Int16 { 2 } else { 1 };
        for plane in 0..planes {
            // The tiles of a panel follow each other.
            let first = plane * self.plane_bytes() + self.code_offset(row, 0);
            for tile in 0..self.cols / step {
                let at = first + tile * PANEL_ROWS * TILE_COLS;
                bytes.extend_from_slice(&codes[at..at + TILE_COLS]);
            }
        }
        if self.format == WeightFormat::Int4 {
            let ids: &[u8] = &self.table_ids;
            for group in 0..self.cols / GROUP_COLS {
                let at = 2 * self.id_index(row, group);
                bytes.extend_from_slice(&ids[at..at + 2]);
            }
        }
    }

    /// The int8 meaning of one row, in column order (of the high parts, for [`WeightFormat::Int16`]).
    #[must_use]
    pub fn row_weights(&self, row: usize, int4_tables: &[[i8; 16]]) -> Vec<i8> {
        (0..self.cols)
            .map(|col| {
                let byte = self.codes[self.code_offset(row, col)];
                match self.format {
                    WeightFormat::Int8 | WeightFormat::Int16 => byte as i8,
                    WeightFormat::Int4 => {
                        let high = col % GROUP_COLS >= TILE_COLS;
                        let nibble = if high { byte >> 4 } else { byte & 15 };
                        int4_tables[self.table_id(row, col / GROUP_COLS)][usize::from(nibble)]
                    }
                }
            })
            .collect()
    }

    /// The low parts of one row, in column order; empty but for [`WeightFormat::Int16`].
    #[must_use]
    pub fn row_low_parts(&self, row: usize) -> Vec<i8> {
        if self.format != WeightFormat::Int16 {
            return Vec::new();
        }
        let low = self.plane_bytes();
        (0..self.cols).map(|col| self.codes[low + self.code_offset(row, col)] as i8).collect()
    }

    /// The rows `rows` as a layer of its own over the same memory; `None` if they do not lie inside,
    /// do not begin and end with panels, or the layer has two planes.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Option<Linear> {
        let whole = rows.start.is_multiple_of(PANEL_ROWS) && rows.end.is_multiple_of(PANEL_ROWS);
        if !whole || rows.start > rows.end || rows.end > self.rows || self.format == WeightFormat::Int16 {
            return None;
        }
        let part = |bytes: usize| rows.start / PANEL_ROWS * bytes..rows.end / PANEL_ROWS * bytes;
        let bias = if self.bias.is_empty() { Vec::new() } else { self.bias[rows.clone()].to_vec() };
        Some(Linear {
            rows: rows.len(),
            cols: self.cols,
            format: self.format,
            codes: self.codes.slice(part(self.format.code_bytes(PANEL_ROWS, self.cols)))?,
            table_ids: self.table_ids.slice(part(self.format.id_bytes(PANEL_ROWS, self.cols)))?,
            multipliers: self.multipliers[rows.clone()].to_vec(),
            shifts: self.shifts[rows].to_vec(),
            bias,
            pre_shift: self.pre_shift,
            out_frac: self.out_frac,
        })
    }
}

/// Offset of the byte that holds `(row, col)` of a packed matrix with `cols` columns (of its high
/// part, for [`WeightFormat::Int16`]).
#[must_use]
pub fn code_offset(format: WeightFormat, cols: usize, row: usize, col: usize) -> usize {
    let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
    match format {
        WeightFormat::Int8 | WeightFormat::Int16 => {
            panel * PANEL_ROWS * cols + col / TILE_COLS * 64 + lane * 16 + col % TILE_COLS
        }
        WeightFormat::Int4 => {
            panel * PANEL_ROWS * cols / 2 + col / GROUP_COLS * 64 + lane * 16 + col % TILE_COLS
        }
    }
}

/// Index (in u16 units) of the table id of `row` and column group `group`.
#[must_use]
pub fn id_index(cols: usize, row: usize, group: usize) -> usize {
    let groups = cols / GROUP_COLS;
    row / PANEL_ROWS * PANEL_ROWS * groups + group * PANEL_ROWS + row % PANEL_ROWS
}

/// A table of i16 rows with one power-of-two step: token or position embeddings.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Rows (tokens or positions).
    pub rows: usize,
    /// Columns: the unpadded width of the residual stream.
    pub cols: usize,
    /// Fractional bits of the codes.
    pub frac: i8,
    /// i16 little-endian, row after row.
    pub codes: Region,
}

impl Embedding {
    /// The committed bytes of one row.
    #[must_use]
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        &self.codes[row * self.cols * 2..(row + 1) * self.cols * 2]
    }

    /// The code at `(row, col)`.
    #[must_use]
    pub fn code(&self, row: usize, col: usize) -> i16 {
        let at = (row * self.cols + col) * 2;
        i16::from_le_bytes([self.codes[at], self.codes[at + 1]])
    }
}

/// The tables of the arithmetic: data, never library calls.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// One or two tables of Q14 cosine and sine, interleaved: entry `(position * rope_dim / 2 + pair) * 2`
    /// is the cosine.
    pub rope: Vec<Vec<i16>>,
    /// ALiBi: slope of each head as `a * 2^-b` Q8 octaves a position.
    pub alibi: Vec<Slope>,
    /// Soft-capped scores at the ends of 4,096 steps from 0 on, in Q8 octaves; empty without.
    pub score_cap: Vec<i32>,
    /// Soft-capped logits likewise, in units of the logits.
    pub logit_cap: Vec<i32>,
    /// `2^15 * 2^(-d/256)` for d in 0..4096; the last entry is 0.
    pub exp2: Vec<u16>,
    /// `2^24 * 2^(-d/256)` for d in 0..4096; the last entry is 0.
    pub exp2_sample: Vec<u32>,
    /// The activation on [-16, 16) in steps of 2^-8, values with 11 fractional bits; 8192 entries.
    pub activation: Vec<i16>,
    /// int4 tables.
    pub int4: Vec<[i8; 16]>,
}

/// The ALiBi slope of one head, `a * 2^-b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slope {
    /// Mantissa, at most 12 bits.
    pub a: u16,
    /// Shift.
    pub b: u8,
}

/// Gains (and offsets) of a norm that is not folded away: `y_i = g_i 2^-t_i * normalised x_i + offset_i`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// g_i, in [-2047, 2047].
    pub mantissas: Vec<i16>,
    /// t_i.
    pub shifts: Vec<i8>,
    /// Offsets in the output's format; empty for none.
    pub offsets: Vec<i32>,
    /// `round(n * eps * 2^(2 F))`, F the fractional bits of the input.
    pub eps: u64,
    /// Fractional bits of the output.
    pub out_frac: i8,
    /// The mean is subtracted first (layer norm).
    pub centred: bool,
}

/// One feed-forward network.
#[derive(Clone, Debug)]
pub struct DenseWeights {
    /// Gate of a gated feed-forward block.
    pub gate: Option<Linear>,
    /// Up projection.
    pub up: Linear,
    /// Down projection; the Hadamard transform is folded in.
    pub down: Linear,
}

/// The feed-forward block of a layer.
#[derive(Clone, Debug)]
// One a layer, and nearly always the large one.
#[allow(clippy::large_enum_variant)]
pub enum FfnWeights {
    /// One network.
    Dense(DenseWeights),
    /// A router, whose outputs are in octaves, and the networks that it chooses from.
    Experts {
        /// One row an expert.
        router: Linear,
        /// The networks.
        experts: Vec<DenseWeights>,
    },
}

impl FfnWeights {
    /// The network, where there is one.
    #[must_use]
    pub fn dense(&self) -> Option<&DenseWeights> {
        match self {
            FfnWeights::Dense(dense) => Some(dense),
            FfnWeights::Experts { .. } => None,
        }
    }

    /// The network, to be changed, where there is one.
    pub fn dense_mut(&mut self) -> Option<&mut DenseWeights> {
        match self {
            FfnWeights::Dense(dense) => Some(dense),
            FfnWeights::Experts { .. } => None,
        }
    }

    /// All networks: one, or the experts.
    #[must_use]
    pub fn networks(&self) -> &[DenseWeights] {
        match self {
            FfnWeights::Dense(dense) => core::slice::from_ref(dense),
            FfnWeights::Experts { experts, .. } => experts,
        }
    }
}

/// The weights of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Queries; log2(e) and the scale of the scores are folded in (or into `q_norm`).
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// Output projection.
    pub o: Linear,
    /// Subtracted from keys after RoPE, in the format of k; `(n_kv_heads, head_dim)`.
    pub k_center: Vec<i32>,
    /// Norm of each query head, `(head_dim,)`.
    pub q_norm: Option<Gain>,
    /// Norm of each key head, `(head_dim,)`.
    pub k_norm: Option<Gain>,
    /// Norm behind attention, `(d_model,)`.
    pub attn_post: Option<Gain>,
    /// The feed-forward block.
    pub ffn: FfnWeights,
    /// Norm behind the feed-forward block, `(d_model,)`.
    pub ffn_post: Option<Gain>,
}

/// The weights that a node holds: those of its part.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// The configuration of the whole model.
    pub config: ModelConfig,
    /// Tables.
    pub tables: Tables,
    /// Token embedding, where the part embeds.
    pub embed: Option<Embedding>,
    /// Position embedding, where the part embeds and the model learned positions.
    pub positions: Option<Embedding>,
    /// Norm behind the embedding, where the part embeds and the model has one.
    pub embed_norm: Option<Gain>,
    /// The first layer that is held.
    pub first_layer: usize,
    /// The layers of the part, from `first_layer`.
    pub layers: Vec<LayerWeights>,
    /// Output head, where the part has it.
    pub head: Option<Linear>,
}

impl ModelWeights {
    /// The weights of `part` among these; what `part` names and these lack stays absent.
    #[must_use]
    pub fn restrict(&self, part: &crate::part::Part) -> ModelWeights {
        let held = self.first_layer..self.first_layer + self.layers.len();
        let first = (part.first_layer as usize).clamp(held.start, held.end);
        let end = (part.end_layer as usize).clamp(first, held.end);
        ModelWeights {
            config: self.config.clone(),
            tables: self.tables.clone(),
            embed: self.embed.clone().filter(|_| part.embed),
            positions: self.positions.clone().filter(|_| part.embed),
            embed_norm: self.embed_norm.clone().filter(|_| part.embed),
            first_layer: first,
            layers: self.layers[first - held.start..end - held.start].to_vec(),
            head: self.head.clone().filter(|_| part.head),
        }
    }
}

const _: () = assert!((limits::COLS_MAX as usize).is_multiple_of(GROUP_COLS));
