//! Packed weights as the SIMD kernels read them: a panel of 4 rows as arrays of tiles, its int4
//! table ids checked, so that the inner loops need no checks.

use lockstep_base::weights::{Linear, PANEL_ROWS, WeightFormat};

/// The panels of a matrix, or of one plane of two.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    int4: bool,
    cols: usize,
    codes: &'a [u8],
    ids: &'a [u8],
    tables: &'a [[u8; 16]],
}

/// The packed bytes of 4 rows.
#[derive(Clone, Copy)]
pub(super) enum Panel<'a> {
    /// Tiles of 16 columns.
    Int8 { tiles: &'a [[u8; 64]] },
    /// Groups of 32 columns, and the ids of their tables, u16 little-endian, one a row. Every id
    /// is below the number of tables: [`Panels::get`] is the only maker and checks them.
    Int4 { groups: &'a [[u8; 64]], ids: &'a [[u8; 8]] },
}

impl<'a> Panels<'a> {
    /// The panels of plane `plane` of `weights`, whose lengths were checked.
    pub(super) fn new(weights: &'a Linear, tables: &'a [[u8; 16]], plane: usize) -> Panels<'a> {
        let bytes = weights.plane_bytes();
        let codes = &weights.codes[plane * bytes..(plane + 1) * bytes];
        let int4 = weights.format == WeightFormat::Int4;
        Panels { int4, cols: weights.cols, codes, ids: &weights.table_ids, tables }
    }

    /// The tables that ids name.
    pub(super) fn tables(&self) -> &'a [[u8; 16]] {
        self.tables
    }

    /// Bytes of the codes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        if self.int4 { PANEL_ROWS * self.cols / 2 } else { PANEL_ROWS * self.cols }
    }

    /// The `index`-th panel.
    ///
    /// # Panics
    /// If the matrix has fewer panels, or an id has no table.
    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> Panel<'a> {
        let bytes = self.panel_bytes();
        let codes = self.codes[index * bytes..(index + 1) * bytes].as_chunks().0;
        if !self.int4 {
            return Panel::Int8 { tiles: codes };
        }
        let bytes = WeightFormat::Int4.id_bytes(PANEL_ROWS, self.cols);
        let ids = &self.ids[index * bytes..(index + 1) * bytes];
        let largest = ids.as_chunks().0.iter().fold(0, |max, id| u16::from_le_bytes(*id).max(max));
        let tables = self.tables.len();
        assert!(usize::from(largest) < tables, "table id {largest} of {tables} tables");
        Panel::Int4 { groups: codes, ids: ids.as_chunks().0 }
    }
}

/// Where the tables of four ids begin, in bytes.
#[inline(always)]
pub(super) fn table_offsets(ids: &[u8; 8]) -> [usize; 4] {
    // Times 16, by a shift and a mask each.
    let ids = u64::from_le_bytes(*ids);
    [ids << 4, ids >> 12, ids >> 28, ids >> 44].map(|id| (id & 0xf_fff0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_ids_times_16() {
        for ids in [[0u16, 1, 2, 3], [65_535, 0, 256, 40_000], [7, 65_535, 65_535, 65_535]] {
            let mut bytes = [0; 8];
            bytes.chunks_exact_mut(2).zip(ids).for_each(|(b, id)| b.copy_from_slice(&id.to_le_bytes()));
            assert_eq!(table_offsets(&bytes), ids.map(|id| usize::from(id) * 16));
        }
    }
}
