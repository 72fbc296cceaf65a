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
}

impl WeightFormat {
    /// Bytes of the packed codes of a matrix of `rows` rows (before filling up the last panel).
    #[must_use]
    pub fn code_bytes(self, rows: usize, cols: usize) -> usize {
        let weights = rows.div_ceil(PANEL_ROWS) * PANEL_ROWS * cols;
        match self {
            WeightFormat::Int8 => weights,
            WeightFormat::Int4 => weights / 2,
        }
    }

    /// Bytes of the packed table ids.
    #[must_use]
    pub fn id_bytes(self, rows: usize, cols: usize) -> usize {
        match self {
            WeightFormat::Int8 => 0,
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

    /// The committed bytes of one row: m, s, bias (4 bytes little-endian, if there is one), the
    /// codes in column order (int8 bytes; or 16 nibble bytes a group, then the ids).
    #[must_use]
    pub fn row_bytes(&self, row: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(6 + self.cols + self.cols / 16);
        bytes.push(self.multipliers[row]);
        bytes.push(self.shifts[row]);
        if let Some(bias) = self.bias.get(row) {
            bytes.extend_from_slice(&bias.to_le_bytes());
        }
        let step = match self.format {
            WeightFormat::Int8 => TILE_COLS,
            WeightFormat::Int4 => GROUP_COLS,
        };
        for col in (0..self.cols).step_by(step) {
            let at = self.code_offset(row, col);
            bytes.extend_from_slice(&self.codes[at..at + 16]);
        }
        if self.format == WeightFormat::Int4 {
            for group in 0..self.cols / GROUP_COLS {
                let at = 2 * self.id_index(row, group);
                bytes.extend_from_slice(&self.table_ids[at..at + 2]);
            }
        }
        bytes
    }

    /// The int8 meaning of one row, in column order.
    #[must_use]
    pub fn row_weights(&self, row: usize, int4_tables: &[[i8; 16]]) -> Vec<i8> {
        (0..self.cols)
            .map(|col| {
                let byte = self.codes[self.code_offset(row, col)];
                match self.format {
                    WeightFormat::Int8 => byte as i8,
                    WeightFormat::Int4 => {
                        let high = col % GROUP_COLS >= TILE_COLS;
                        let nibble = if high { byte >> 4 } else { byte & 15 };
                        int4_tables[self.table_id(row, col / GROUP_COLS)][usize::from(nibble)]
                    }
                }
            })
            .collect()
    }
}

/// Offset of the byte that holds `(row, col)` of a packed matrix with `cols` columns.
#[must_use]
pub fn code_offset(format: WeightFormat, cols: usize, row: usize, col: usize) -> usize {
    let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
    match format {
        WeightFormat::Int8 => panel * PANEL_ROWS * cols + col / TILE_COLS * 64 + lane * 16 + col % TILE_COLS,
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
    /// Q14 cosine and sine, interleaved: entry `(position * head_dim / 2 + pair) * 2` is the cosine.
    pub rope: Vec<i16>,
    /// `2^15 * 2^(-d/256)` for d in 0..4096; the last entry is 0.
    pub exp2: Vec<u16>,
    /// `2^24 * 2^(-d/256)` for d in 0..4096; the last entry is 0.
    pub exp2_sample: Vec<u32>,
    /// The activation on [-16, 16) in steps of 2^-8, values with 11 fractional bits; 8192 entries.
    pub activation: Vec<i16>,
    /// int4 tables.
    pub int4: Vec<[i8; 16]>,
}

/// The weights of one decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Queries; log2(e)/sqrt(head) is folded in.
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// Output projection.
    pub o: Linear,
    /// Subtracted from keys after RoPE, in the format of k; `(n_kv_heads, head_dim)`.
    pub k_center: Vec<i32>,
    /// Gate of a gated feed-forward block.
    pub gate: Option<Linear>,
    /// Up projection.
    pub up: Linear,
    /// Down projection; the Hadamard transform is folded in.
    pub down: Linear,
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
            first_layer: first,
            layers: self.layers[first - held.start..end - held.start].to_vec(),
            head: self.head.clone().filter(|_| part.head),
        }
    }
}

const _: () = assert!((limits::COLS_MAX as usize).is_multiple_of(GROUP_COLS));
