//! Packed weights as the SIMD kernels read them: a panel of 4 rows as arrays of tiles, its int4
//! table ids checked, so that the inner loops need no checks.

use lockstep_base::weights::{Linear, PANEL_ROWS, WeightFormat};

/// The panels of a matrix.
pub(in super::super) struct Panels<'a> {
    format: WeightFormat,
    cols: usize,
    codes: &'a [u8],
    ids: &'a [u8],
    tables: &'a [[i8; 16]],
}

/// The packed bytes of 4 rows.
#[derive(Clone, Copy)]
pub(super) enum Panel<'a> {
    /// Tiles of 16 columns.
    Int8 { tiles: &'a [[u8; 64]] },
    /// Groups of 32 columns, and the ids of their tables, u16 little-endian, one a row. Every id
    /// is below `tables.len()`: [`Panels::get`] is the only maker and checks them.
    Int4 { groups: &'a [[u8; 64]], ids: &'a [[u8; 8]], tables: &'a [[i8; 16]] },
}

impl<'a> Panels<'a> {
    /// The panels of `weights`, whose lengths were checked.
    pub(in super::super) fn new(weights: &'a Linear, tables: &'a [[i8; 16]]) -> Panels<'a> {
        let (codes, ids) = (&*weights.codes, &*weights.table_ids);
        Panels { format: weights.format, cols: weights.cols, codes, ids, tables }
    }

    /// Whether a byte is a weight.
    pub(super) fn are_int8(&self) -> bool {
        self.format == WeightFormat::Int8
    }

    /// The `index`-th panel.
    ///
    /// # Panics
    /// If the matrix has fewer panels, or an id has no table.
    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> Panel<'a> {
        let format = if self.format == WeightFormat::Int16 { WeightFormat::Int8 } else { self.format };
        let bytes = format.code_bytes(PANEL_ROWS, self.cols);
        let codes = self.codes[index * bytes..(index + 1) * bytes].as_chunks().0;
        match self.format {
            // The high parts, for two planes.
            WeightFormat::Int8 | WeightFormat::Int16 => Panel::Int8 { tiles: codes },
            WeightFormat::Int4 => {
                let bytes = self.format.id_bytes(PANEL_ROWS, self.cols);
                let ids = &self.ids[index * bytes..(index + 1) * bytes];
                let largest = ids.as_chunks().0.iter().fold(0, |max, id| u16::from_le_bytes(*id).max(max));
                let tables = self.tables.len();
                assert!(usize::from(largest) < tables, "table id {largest} of {tables} tables");
                Panel::Int4 { groups: codes, ids: ids.as_chunks().0, tables: self.tables }
            }
        }
    }
}
