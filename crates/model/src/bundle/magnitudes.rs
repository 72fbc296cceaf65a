//! Sums of magnitudes of a panel of four rows at once: what [`super::structure::row_sums`] says of each of
//! them (without squares), at the speed of memory, because nothing of a model may be used before it is known.
//!
//! ```text
//! l1_r = sum_c |w_rc|,  least_r = min_c w_rc
//! ```
//! int8: magnitudes are added in 16 bits for as many tiles as cannot overflow, which compilers turn into
//! vector code. int4: a byte holds two codes, so a table of 256 sums of two magnitudes, made once for each
//! int4 table, needs one look-up a byte.

use super::structure::row_sums;
use lockstep_base::weights::{GROUP_COLS, Linear, PANEL_ROWS, TILE_COLS, Tables, WeightFormat};

/// Bytes of a tile: 16 of each row of a panel.
const TILE_BYTES: usize = PANEL_ROWS * TILE_COLS;
/// Tiles whose magnitudes, up to 128 each, fit 16 bits.
const TILES_MAX: usize = u16::MAX as usize / 128;

/// Magnitudes of int4 tables, two codes at a time.
#[derive(Debug)]
pub(super) struct Magnitudes {
    /// For each table and byte: magnitude of the low nibble's entry + that of the high one's.
    pairs: Vec<[u8; 256]>,
    /// For each table its smallest entry.
    least: Vec<i8>,
}

impl Magnitudes {
    /// For `tables`, whose entries are at least -127: two magnitudes fit a byte.
    pub(super) fn new(tables: &Tables) -> Magnitudes {
        let sums = |table: &[i8; 16]| {
            let magnitude = |code: usize| table[code].unsigned_abs();
            std::array::from_fn(|byte| magnitude(byte & 15).saturating_add(magnitude(byte >> 4)))
        };
        Magnitudes {
            pairs: tables.int4.iter().map(sums).collect(),
            least: tables.int4.iter().map(|table| table.iter().copied().min().unwrap_or(0)).collect(),
        }
    }

    /// (l1, least) of the rows of `panel`. `least` of int4 is that of the tables named, a lower bound.
    /// Table ids must be in range.
    pub(super) fn panel(&self, linear: &Linear, panel: usize, tables: &Tables) -> [(u64, i8); PANEL_ROWS] {
        let first = panel * PANEL_ROWS;
        match linear.format {
            WeightFormat::Int8 => int8(panel_bytes(linear, panel, linear.cols)),
            WeightFormat::Int4 => self.int4(linear, panel),
            WeightFormat::Int16 => std::array::from_fn(|row| {
                let row = first + row;
                if row >= linear.rows {
                    return (0, 0);
                }
                let sums = row_sums(linear, row, tables);
                (sums.l1, sums.least)
            }),
        }
    }

    fn int4(&self, linear: &Linear, panel: usize) -> [(u64, i8); PANEL_ROWS] {
        let codes = panel_bytes(linear, panel, linear.cols / 2);
        let groups = linear.cols / GROUP_COLS;
        let ids = &linear.table_ids[2 * panel * PANEL_ROWS * groups..][..2 * PANEL_ROWS * groups];
        let mut sums = [(0u64, 0i8); PANEL_ROWS];
        for (tile, ids) in codes.chunks_exact(TILE_BYTES).zip(ids.chunks_exact(2 * PANEL_ROWS)) {
            for ((row, sum), id) in tile.chunks_exact(TILE_COLS).zip(&mut sums).zip(ids.chunks_exact(2)) {
                let id = usize::from(u16::from_le_bytes([id[0], id[1]]));
                let pairs = &self.pairs[id];
                sum.0 += u64::from(row.iter().map(|byte| u32::from(pairs[usize::from(*byte)])).sum::<u32>());
                sum.1 = sum.1.min(self.least[id]);
            }
        }
        sums
    }
}

/// The codes of a panel with `row_bytes` a row.
fn panel_bytes(linear: &Linear, panel: usize, row_bytes: usize) -> &[u8] {
    &linear.codes[panel * PANEL_ROWS * row_bytes..][..PANEL_ROWS * row_bytes]
}

fn int8(codes: &[u8]) -> [(u64, i8); PANEL_ROWS] {
    let mut l1 = [0u64; PANEL_ROWS];
    let mut largest = [0u8; TILE_BYTES];
    for tiles in codes.chunks(TILES_MAX * TILE_BYTES) {
        let mut sums = [0u16; TILE_BYTES];
        for tile in tiles.chunks_exact(TILE_BYTES) {
            for ((code, sum), largest) in tile.iter().zip(&mut sums).zip(&mut largest) {
                let magnitude = (*code as i8).unsigned_abs();
                *sum += u16::from(magnitude);
                *largest = (*largest).max(magnitude);
            }
        }
        for (l1, sums) in l1.iter_mut().zip(sums.chunks_exact(TILE_COLS)) {
            *l1 += sums.iter().map(|sum| u64::from(*sum)).sum::<u64>();
        }
    }
    std::array::from_fn(|row| {
        let largest = largest[row * TILE_COLS..][..TILE_COLS].iter().copied().max().unwrap_or(0);
        // Only -128 has the magnitude 128; of others it is the magnitude that counts.
        (l1[row], if largest == 128 { i8::MIN } else { -(largest as i8) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;
    use lockstep_base::weights::Region;

    fn linear(format: WeightFormat, rows: usize, cols: usize, rng: &mut SplitMix64) -> Linear {
        let mut codes = vec![0; format.code_bytes(rows, cols)];
        rng.fill(&mut codes);
        let mut ids = vec![0; format.id_bytes(rows, cols)];
        ids.chunks_mut(2).for_each(|id| id[0] = rng.below(5) as u8);
        Linear {
            rows,
            cols,
            format,
            codes: Region::from(codes),
            table_ids: Region::from(ids),
            multipliers: vec![1; rows],
            shifts: vec![0; rows],
            bias: Vec::new(),
            pre_shift: 0,
            out_frac: 0,
        }
    }

    /// The fast sums are the plain ones, in every format, over widths that need several rounds of 16-bit sums.
    #[test]
    fn panels_add_up_as_rows_do() {
        let mut rng = SplitMix64::new(7);
        let tables = Tables {
            int4: (0..5)
                .map(|_| std::array::from_fn(|_| rng.below(255) as i8).map(|x: i8| x.max(-127)))
                .collect(),
            ..Tables::default()
        };
        let magnitudes = Magnitudes::new(&tables);
        for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16] {
            for (rows, cols) in [(1, 32), (4, 64), (9, 1056), (5, 32 * 600)] {
                let linear = linear(format, rows, cols, &mut rng);
                for row in 0..rows {
                    let (l1, least) = magnitudes.panel(&linear, row / PANEL_ROWS, &tables)[row % PANEL_ROWS];
                    let expected = row_sums(&linear, row, &tables);
                    assert_eq!(l1, expected.l1, "{format:?} {rows} x {cols}, row {row}");
                    assert_eq!(least == i8::MIN, expected.least == i8::MIN, "{format:?}, row {row}");
                    assert!(least <= expected.least, "{format:?}, row {row}: {least}, {}", expected.least);
                }
            }
        }
    }
}
