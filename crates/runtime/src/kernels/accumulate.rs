//! One front for the accumulators of all kernels: shapes are checked here, once, and the kernels
//! behind it rely on them.

#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::kernel::{Avx2, Avx512, Kernel};
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::x86::{avx2, avx512, panel::Panels, tiles::Tiled};
use super::{Compute, scalar};
use core::ops::Range;
use lockstep_base::weights::{GROUP_COLS, Linear, PANEL_ROWS};

/// The codes of some tokens, prepared for one kernel.
#[derive(Debug)]
pub struct Activations<'a> {
    pub(super) tokens: usize,
    cols: usize,
    prepared: Prepared<'a>,
}

#[derive(Debug)]
enum Prepared<'a> {
    /// As they are.
    Scalar(&'a [i8]),
    /// Tiles of i16.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    Avx2(Avx2, Tiled<'a, i16>),
    /// Tiles of i8.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    Avx512(Avx512, Tiled<'a, i8>),
}

impl<'a> Activations<'a> {
    /// Prepares `codes`, `(tokens, cols)`, for the kernel of `compute`.
    ///
    /// # Panics
    /// If `codes` is not a whole number of tokens, or `cols` not a positive multiple of 32.
    #[must_use]
    pub fn new(compute: &Compute, codes: &'a [i8], cols: usize) -> Activations<'a> {
        assert!(
            cols > 0 && cols.is_multiple_of(GROUP_COLS),
            "{cols} columns, expected a multiple of {GROUP_COLS}"
        );
        assert!(codes.len().is_multiple_of(cols), "{} codes, expected a multiple of {cols}", codes.len());
        let prepared = match compute.kernel {
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::Avx2(witness) => {
                Prepared::Avx2(witness, Tiled::new(&compute.pool, codes, cols, avx2::TILE_TOKENS))
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::Avx512(witness) if codes.len() == cols => {
                Prepared::Avx512(witness, Tiled::single(codes, avx512::TILE_TOKENS))
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::Avx512(witness) => {
                Prepared::Avx512(witness, Tiled::new(&compute.pool, codes, cols, avx512::TILE_TOKENS))
            }
            _ => Prepared::Scalar(codes),
        };
        Activations { tokens: codes.len() / cols, cols, prepared }
    }

    /// How many tokens there are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Memory that a kernel unpacks weights into; kept by the caller so that it is allocated once.
#[derive(Debug, Default)]
pub struct Scratch {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    avx2: avx2::Unpacked,
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    avx512: avx512::Unpacked,
}

/// `acc[t][r] = sum_j W[rows.start + r][j] x[t][j]`, exact; `acc` is `(tokens, rows.len())`, token
/// after token. All kernels give the same bits for all weights and codes, -128 included.
///
/// # Panics
/// If `rows` does not start at a multiple of 4 or exceeds the matrix, if a length does not fit the
/// shape, or if a table id has no table.
pub fn accumulate(
    x: &Activations<'_>,
    weights: &Linear,
    tables: &[[i8; 16]],
    rows: Range<usize>,
    acc: &mut [i32],
    scratch: &mut Scratch,
) {
    let (format, all) = (weights.format, weights.rows);
    assert!(rows.start.is_multiple_of(PANEL_ROWS) && rows.end <= all, "rows {rows:?} of {all}");
    assert_eq!(weights.cols, x.cols, "columns of weights and codes");
    assert_eq!(acc.len(), x.tokens * rows.len(), "accumulators");
    assert_eq!(weights.codes.len(), format.code_bytes(all, x.cols), "bytes of packed weights");
    assert_eq!(weights.table_ids.len(), format.id_bytes(all, x.cols), "bytes of table ids");
    match &x.prepared {
        Prepared::Scalar(codes) => {
            // The specification unpacks nothing.
            let _ = scratch;
            scalar::accumulate(weights, tables, codes, rows, acc);
        }
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Prepared::Avx2(witness, x) => {
            avx2::accumulate(*witness, x, &Panels::new(weights, tables), rows, acc, &mut scratch.avx2);
        }
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Prepared::Avx512(witness, x) => {
            avx512::accumulate(*witness, x, &Panels::new(weights, tables), rows, acc, &mut scratch.avx512);
        }
    }
}
