//! Matrices between their packed form and plain rows, for tests that write weights down or move
//! rows and columns about.

use lockstep_base::weights::{GROUP_COLS, Linear, Region, WeightFormat, code_offset, id_index};

/// A matrix as plain rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plain {
    pub(crate) cols: usize,
    pub(crate) format: WeightFormat,
    /// int8 weights as bytes, or nibbles; column order.
    pub(crate) rows: Vec<Row>,
    pub(crate) pre_shift: u8,
    pub(crate) out_frac: i8,
}

/// One row of a matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) cells: Vec<u8>,
    /// Low parts of int16; empty otherwise.
    pub(crate) low: Vec<u8>,
    /// One table id a group of 32 columns; empty for int8.
    pub(crate) ids: Vec<u16>,
    pub(crate) multiplier: u8,
    pub(crate) shift: u8,
    pub(crate) bias: Option<i32>,
}

impl Plain {
    /// The plain rows of `linear`.
    pub(crate) fn of(linear: &Linear) -> Plain {
        let (cols, format) = (linear.cols, linear.format);
        let groups = if format == WeightFormat::Int4 { cols / GROUP_COLS } else { 0 };
        let cell = |row: usize, col: usize| {
            let byte = linear.codes[code_offset(format, cols, row, col)];
            match format {
                WeightFormat::Int8 | WeightFormat::Int16 => byte,
                WeightFormat::Int4 if col % GROUP_COLS >= 16 => byte >> 4,
                WeightFormat::Int4 => byte & 15,
            }
        };
        let rows = (0..linear.rows).map(|row| Row {
            cells: (0..cols).map(|col| cell(row, col)).collect(),
            ids: (0..groups).map(|group| linear.table_id(row, group) as u16).collect(),
            multiplier: linear.multipliers[row],
            shift: linear.shifts[row],
            bias: linear.bias.get(row).copied(),
            low: linear.row_low_parts(row).into_iter().map(|low| low as u8).collect(),
        });
        Plain { cols, format, rows: rows.collect(), pre_shift: linear.pre_shift, out_frac: linear.out_frac }
    }

    /// The packed matrix.
    pub(crate) fn pack(&self) -> Linear {
        let (cols, format, count) = (self.cols, self.format, self.rows.len());
        let mut codes = vec![0u8; format.code_bytes(count, cols)];
        let mut ids = vec![0u8; format.id_bytes(count, cols)];
        for (r, row) in self.rows.iter().enumerate() {
            for (col, cell) in row.cells.iter().enumerate() {
                let high = format == WeightFormat::Int4 && col % GROUP_COLS >= 16;
                codes[code_offset(format, cols, r, col)] |= if high { cell << 4 } else { *cell };
            }
            for (col, low) in row.low.iter().enumerate() {
                codes[format.code_bytes(count, cols) / 2 + code_offset(format, cols, r, col)] = *low;
            }
            for (group, id) in row.ids.iter().enumerate() {
                let at = 2 * id_index(cols, r, group);
                ids[at..at + 2].copy_from_slice(&id.to_le_bytes());
            }
        }
        Linear {
            rows: count,
            cols,
            format,
            codes: Region::from(codes),
            table_ids: Region::from(ids),
            multipliers: self.rows.iter().map(|row| row.multiplier).collect(),
            shifts: self.rows.iter().map(|row| row.shift).collect(),
            bias: self.rows.iter().filter_map(|row| row.bias).collect(),
            pre_shift: self.pre_shift,
            out_frac: self.out_frac,
        }
    }

    /// Row i of the result is row `from[i]`.
    pub(crate) fn permute_rows(&mut self, from: &[usize]) {
        assert_eq!(from.len(), self.rows.len());
        self.rows = from.iter().map(|row| self.rows[*row].clone()).collect();
    }

    /// Column i of the result is column `from[i]`; columns past the end of `from` stay.
    ///
    /// # Panics
    /// If the storage is int4 and a group of 32 columns does not come from one group.
    pub(crate) fn permute_cols(&mut self, from: &[usize]) {
        let from: Vec<usize> = from.iter().copied().chain(from.len()..self.cols).collect();
        for row in &mut self.rows {
            row.cells = from.iter().map(|col| row.cells[*col]).collect();
            let group_of = |cols: &[usize]| {
                let group = cols[0] / GROUP_COLS;
                assert!(cols.iter().all(|col| col / GROUP_COLS == group), "groups map to groups");
                group
            };
            if self.format == WeightFormat::Int4 {
                row.ids = from.chunks(GROUP_COLS).map(|cols| row.ids[group_of(cols)]).collect();
            }
        }
    }
}

/// Packing and unpacking are inverse.
#[test]
fn plain_rows_round_trip() {
    use lockstep_runtime::synthetic::{model, small_config};
    for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16] {
        let weights = model(&small_config(), format, 3);
        let down = &weights.layers[1].ffn.dense().unwrap().down;
        let packed = Plain::of(down).pack();
        assert_eq!(packed.codes[..], down.codes[..]);
        assert_eq!(packed.row_weights(7, &weights.tables.int4), down.row_weights(7, &weights.tables.int4));
        assert_eq!(Plain::of(&packed), Plain::of(down));
    }
}
