//! Matrices for the laws: made from plain rows of weights, packed by the documented formula, with
//! the plain rows kept as the reference.

use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{GROUP_COLS, Linear, Region, WeightFormat, code_offset, id_index};

/// A packed matrix and what it means.
pub(super) struct Matrix {
    pub(super) linear: Linear,
    pub(super) tables: Vec<[i8; 16]>,
    /// `(rows, cols)`; of the high parts, where there are two planes.
    pub(super) meaning: Vec<i8>,
    /// The low parts, `(rows, cols)`, or nothing.
    pub(super) low: Vec<i8>,
}

/// Which values codes and weights take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    /// Uniform in [-127, 127].
    Uniform,
    /// All the same.
    Constant(i8),
    /// One sign, then the other, every so many columns.
    Alternating(i8, usize),
    /// One of the two extremes at random.
    Extremes,
    /// All 256 bytes, also -128, which no importer writes.
    Bytes,
}

impl Fill {
    pub(super) fn vector(self, n: usize, rng: &mut SplitMix64) -> Vec<i8> {
        let mut one = |i: usize| match self {
            Fill::Uniform => (rng.below(255) as i64 - 127) as i8,
            Fill::Constant(value) => value,
            Fill::Alternating(value, period) => {
                if (i / period).is_multiple_of(2) {
                    value
                } else {
                    value.wrapping_neg()
                }
            }
            Fill::Extremes => [-127, 127][rng.below(2) as usize],
            Fill::Bytes => rng.next_u64() as i8,
        };
        (0..n).map(&mut one).collect()
    }
}

impl Matrix {
    /// A matrix whose weights are filled with `fill`. For int4, `fill` makes the tables, and the
    /// nibbles are random (the index of the entry wherever the fill is ordered); for int16, it makes
    /// both planes.
    pub(super) fn new(
        format: WeightFormat,
        rows: usize,
        cols: usize,
        fill: Fill,
        rng: &mut SplitMix64,
    ) -> Matrix {
        let mut codes = vec![0u8; format.code_bytes(rows, cols)];
        let mut ids = vec![0u8; format.id_bytes(rows, cols)];
        let tables: Vec<[i8; 16]> = match format {
            WeightFormat::Int8 | WeightFormat::Int16 => Vec::new(),
            // More than 256, so that ids need both bytes.
            WeightFormat::Int4 => {
                (0..300).map(|_| fill.vector(16, rng).try_into().expect("16 entries")).collect()
            }
        };
        let mut meaning = vec![0; rows * cols];
        for (row, weights) in meaning.chunks_mut(cols).enumerate() {
            match format {
                WeightFormat::Int8 | WeightFormat::Int16 => {
                    weights.copy_from_slice(&fill.vector(cols, rng));
                    for (col, weight) in weights.iter().enumerate() {
                        codes[code_offset(format, cols, row, col)] = *weight as u8;
                    }
                }
                WeightFormat::Int4 => {
                    for group in 0..cols / GROUP_COLS {
                        let id = rng.below(300) as usize;
                        let at = 2 * id_index(cols, row, group);
                        ids[at..at + 2].copy_from_slice(&(id as u16).to_le_bytes());
                        for col in group * GROUP_COLS..(group + 1) * GROUP_COLS {
                            let nibble = rng.below(16) as u8;
                            let high = col % GROUP_COLS >= 16;
                            codes[code_offset(format, cols, row, col)] |=
                                if high { nibble << 4 } else { nibble };
                            weights[col] = tables[id][usize::from(nibble)];
                        }
                    }
                }
            }
        }
        let mut low = Vec::new();
        if format == WeightFormat::Int16 {
            let plane = codes.len() / 2;
            low = fill.vector(rows * cols, rng);
            for (at, weight) in low.iter().enumerate() {
                codes[plane + code_offset(format, cols, at / cols, at % cols)] = *weight as u8;
            }
        }
        let linear = Linear {
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
        };
        Matrix { linear, tables, meaning, low }
    }

    /// The exact accumulators `(tokens, rows)`, from the plain rows.
    pub(super) fn dot_products(&self, x: &[i8]) -> Vec<i32> {
        let mut acc = self.plane_products(&self.meaning, x);
        for (acc, low) in acc.iter_mut().zip(self.plane_products(&self.low, x)) {
            *acc += low.div_euclid(128);
        }
        acc
    }

    fn plane_products(&self, weights: &[i8], x: &[i8]) -> Vec<i32> {
        let cols = self.linear.cols;
        let row = |codes: &[i8], weights: &[i8]| -> i32 {
            let sum: i64 = codes.iter().zip(weights).map(|(x, w)| i64::from(*x) * i64::from(*w)).sum();
            sum.try_into().expect("dot products of 65,536 columns fit i32")
        };
        x.chunks(cols)
            .flat_map(|codes| weights.chunks(cols).map(move |weights| row(codes, weights)))
            .collect()
    }
}
