//! From rounded rows to the packed order of `lockstep_base::weights`.

use super::gptq::RoundedRow;
use super::weights::Weights;
use lockstep_base::weights::{
    Embedding, GROUP_COLS, Linear, Region, TILE_COLS, WeightFormat, code_offset, id_index,
};

/// Packs rows; bias and formats are set later, when they are known.
#[must_use]
pub(super) fn pack(rows: &[RoundedRow], cols: usize, format: WeightFormat) -> Linear {
    let mut codes = vec![0u8; format.code_bytes(rows.len(), cols)];
    let mut ids = vec![0u8; format.id_bytes(rows.len(), cols)];
    let plane = codes.len() / 2;
    for (row, rounded) in rows.iter().enumerate() {
        for col in 0..cols {
            let at = code_offset(format, cols, row, col);
            match format {
                WeightFormat::Int8 => codes[at] = rounded.weights[col] as u8,
                WeightFormat::Int16 => {
                    codes[at] = rounded.weights[col] as u8;
                    codes[plane + at] = rounded.lows[col] as u8;
                }
                WeightFormat::Int4 => {
                    let high = col % GROUP_COLS >= TILE_COLS;
                    codes[at] |= rounded.nibbles[col] << if high { 4 } else { 0 };
                }
            }
        }
        for (group, id) in rounded.table_ids.iter().enumerate() {
            let at = 2 * id_index(cols, row, group);
            ids[at..at + 2].copy_from_slice(&id.to_le_bytes());
        }
    }
    let scales = rows.iter().filter_map(|row| row.scale);
    Linear {
        rows: rows.len(),
        cols,
        format,
        codes: Region::from(codes),
        table_ids: Region::from(ids),
        multipliers: scales.clone().map(|scale| scale.multiplier).collect(),
        shifts: scales.map(|scale| scale.shift).collect(),
        bias: Vec::new(),
        pre_shift: 0,
        out_frac: 0,
    }
}

/// A table of i16 codes with the finest power-of-two step that holds its largest value.
#[must_use]
pub(super) fn embedding(table: &Weights) -> Embedding {
    const CODE_MAX: f64 = 32_767.0;
    const FRAC_MAX: i8 = 40;
    let most = table.data.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
    let frac = (-FRAC_MAX..=FRAC_MAX)
        .rev()
        .find(|frac| (most * f64::from(*frac).exp2()).round() <= CODE_MAX)
        .unwrap_or(-FRAC_MAX);
    let unit = f64::from(frac).exp2();
    let codes: Vec<u8> = table
        .data
        .iter()
        .flat_map(|x| ((f64::from(*x) * unit).round().clamp(-CODE_MAX, CODE_MAX) as i16).to_le_bytes())
        .collect();
    Embedding { rows: table.rows, cols: table.cols, frac, codes: Region::from(codes) }
}
