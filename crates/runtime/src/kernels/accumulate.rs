//! One front for the accumulators of all kernels: shapes are checked here, once, and the kernels
//! behind it rely on them. With two planes of weights, both multiply the same codes, and
//! `acc = acc_h + floor(acc_l / 128)` (docs/spec/arithmetic.md, section 4).

#[cfg(all(feature = "std", target_arch = "aarch64"))]
use super::aarch64;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::kernel::{Avx2, Avx512, AvxVnni};
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::x86::{
    avx2,
    block::Unpacked,
    tiles::Tiled,
    vnni::{DIRECT_TILES, avx_vnni, avx512},
};
use super::{Compute, scalar};
#[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
use super::{kernel::Kernel, panel::Panels};
#[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::weights::{GROUP_COLS, Linear, PANEL_ROWS, WeightFormat};

/// Rows whose accumulators are held at a time, at most.
pub(super) const BLOCK_ROWS: usize = 128;
/// The same for a few tokens, whose accumulators are few.
const FEW_BLOCK_ROWS: usize = 64;
/// Tiles of tokens whose accumulators are held at a time: with the unpacked rows, they stay in the
/// second-level cache.
const PASS_TILES: usize = 44;
/// `acc_l` counts in units of 2^-7.
const LOW_BITS: u32 = 7;

/// How the accumulators of some rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Row after row.
    Rows,
    /// In blocks of 16 rows, four panels of four: the first rows of the panels, the second rows, ...
    #[cfg_attr(not(all(feature = "std", target_arch = "x86_64")), allow(dead_code))]
    Lanes,
}

impl Order {
    /// Where row `row` (counted from the first) is.
    pub(super) fn column(self, row: usize) -> usize {
        match self {
            Order::Rows => row,
            Order::Lanes => row / 16 * 16 + row % 4 * 4 + row % 16 / 4,
        }
    }
}

/// The codes of some tokens, prepared for one kernel. What is prepared once may be multiplied with
/// several matrices: see [`super::linear_of`].
#[derive(Debug)]
pub struct Activations<'a> {
    pub(super) tokens: usize,
    pub(super) cols: usize,
    prepared: Prepared<'a>,
}

#[derive(Debug)]
enum Prepared<'a> {
    /// As they are.
    Scalar(&'a [i8]),
    /// As they are.
    #[cfg(all(feature = "std", target_arch = "aarch64"))]
    Neon(super::kernel::Neon, &'a [i8]),
    /// A few tokens, as two digits.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    Avx2Few(Avx2, Tiled<'a, avx2::Digits>),
    /// Tiles of i16.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    Avx2(Avx2, Tiled<'a, avx2::Wide>),
    /// Tiles of i8.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    AvxVnni(AvxVnni, Tiled<'a, [i8; 16]>),
    /// Tiles of i8.
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    Avx512(Avx512, Tiled<'a, [i8; 16]>),
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
        let tokens = codes.len() / cols;
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        let vnni = |tile_tokens| match tokens {
            1 => Tiled::single(compute, codes, tile_tokens),
            _ => Tiled::new(compute, codes, cols, tile_tokens),
        };
        let prepared = match compute.kernel {
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::Avx2(witness) if tokens <= avx2::TILE_TOKENS => {
                Prepared::Avx2Few(witness, Tiled::new(compute, codes, cols, avx2::TILE_TOKENS))
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::Avx2(witness) => {
                Prepared::Avx2(witness, Tiled::new(compute, codes, cols, avx2::TILE_TOKENS))
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::AvxVnni(witness) => Prepared::AvxVnni(witness, vnni(avx_vnni::TILE_TOKENS)),
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Kernel::Avx512(witness) => Prepared::Avx512(witness, vnni(avx512::TILE_TOKENS)),
            #[cfg(all(feature = "std", target_arch = "aarch64"))]
            Kernel::Neon(witness) => Prepared::Neon(witness, codes),
            _ => Prepared::Scalar(codes),
        };
        Activations { tokens, cols, prepared }
    }

    /// How many tokens there are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rows whose accumulators are held at a time: a multiple of 16.
    pub(super) fn block_rows(&self) -> usize {
        match &self.prepared {
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::AvxVnni(_, x) | Prepared::Avx512(_, x) if x.count() > DIRECT_TILES => BLOCK_ROWS,
            _ => FEW_BLOCK_ROWS,
        }
    }

    /// How many tiles the tokens are divided into, as evenly as possible.
    fn tiles(&self) -> usize {
        match &self.prepared {
            Prepared::Scalar(_) => self.tokens,
            #[cfg(all(feature = "std", target_arch = "aarch64"))]
            Prepared::Neon(..) => self.tokens.div_ceil(4),
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::Avx2Few(_, x) => x.count(),
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::Avx2(_, x) => x.count(),
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::AvxVnni(_, x) | Prepared::Avx512(_, x) => x.count(),
        }
    }

    /// The tiles in the fewest passes whose accumulators stay in cache.
    pub(super) fn passes(&self) -> impl Iterator<Item = Pass> {
        let (tokens, tiles) = (self.tokens, self.tiles());
        let passes = tiles.div_ceil(PASS_TILES);
        let token = move |tile: usize| tile * tokens / tiles;
        (0..passes).map(move |pass| {
            let tiles = pass * tiles / passes..(pass + 1) * tiles / passes;
            Pass { tokens: token(tiles.start)..token(tiles.end), tiles }
        })
    }
}

/// Some tiles, and the tokens in them.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    #[cfg_attr(not(all(feature = "std", target_arch = "x86_64")), allow(dead_code))]
    pub(super) tiles: Range<usize>,
    pub(super) tokens: Range<usize>,
}

/// A matrix as the kernels read it.
pub(super) struct Matrix<'a> {
    weights: &'a Linear,
    tables: &'a [[i8; 16]],
    /// The tables' entries as bytes, + 128 where the kernel wants them so.
    #[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
    bytes: Cow<'a, [[u8; 16]]>,
}

impl<'a> Matrix<'a> {
    /// Checks that the parts of `weights` fit its shape, and that shape the codes.
    pub(super) fn new(x: &Activations<'_>, weights: &'a Linear, tables: &'a [[i8; 16]]) -> Matrix<'a> {
        let (format, all) = (weights.format, weights.rows);
        assert_eq!(weights.cols, x.cols, "columns of weights and codes");
        assert_eq!(weights.codes.len(), format.code_bytes(all, x.cols), "bytes of packed weights");
        assert_eq!(weights.table_ids.len(), format.id_bytes(all, x.cols), "bytes of table ids");
        Matrix {
            weights,
            tables,
            #[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
            bytes: match &x.prepared {
                _ if format != WeightFormat::Int4 => Cow::Borrowed(&[]),
                Prepared::Scalar(_) => Cow::Borrowed(&[]),
                #[cfg(all(feature = "std", target_arch = "aarch64"))]
                Prepared::Neon(..) => tables.iter().map(|table| table.map(|entry| entry as u8)).collect(),
                #[cfg(all(feature = "std", target_arch = "x86_64"))]
                Prepared::Avx2(..) => tables.iter().map(|table| table.map(|entry| entry as u8)).collect(),
                #[cfg(all(feature = "std", target_arch = "x86_64"))]
                _ => tables.iter().map(|table| table.map(|entry| entry as u8 ^ 128)).collect(),
            },
        }
    }

    /// The accumulators of `rows` (at most as many as a block has) for the tokens of `pass`. They
    /// are in `scratch.acc`, `(tokens, width)`, in the order that is returned.
    pub(super) fn accumulate(
        &self,
        x: &Activations<'_>,
        pass: &Pass,
        rows: Range<usize>,
        scratch: &mut Scratch,
    ) -> Order {
        let all = self.weights.rows;
        assert!(rows.start.is_multiple_of(PANEL_ROWS) && rows.end <= all, "rows {rows:?} of {all}");
        let order = self.plane(x, pass, rows.clone(), 0, scratch);
        if self.weights.format == WeightFormat::Int16 {
            core::mem::swap(&mut scratch.acc, &mut scratch.low);
            self.plane(x, pass, rows.clone(), 1, scratch);
            core::mem::swap(&mut scratch.acc, &mut scratch.low);
            let len = pass.tokens.len() * width(&rows);
            for (high, low) in scratch.acc[..len].iter_mut().zip(&scratch.low[..len]) {
                *high = high.wrapping_add(low >> LOW_BITS);
            }
        }
        order
    }

    fn plane(
        &self,
        x: &Activations<'_>,
        pass: &Pass,
        rows: Range<usize>,
        plane: usize,
        scratch: &mut Scratch,
    ) -> Order {
        let width = width(&rows);
        let len = pass.tokens.len() * width;
        if scratch.acc.len() < len {
            scratch.acc.resize(len, 0);
        }
        let acc = &mut scratch.acc[..len];
        #[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
        let panels = Panels::new(self.weights, &self.bytes, plane);
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        let tiles = pass.tiles.clone();
        match &x.prepared {
            Prepared::Scalar(codes) => {
                let codes = &codes[pass.tokens.start * x.cols..pass.tokens.end * x.cols];
                scalar::accumulate(self.weights, self.tables, codes, plane, rows, acc, width);
                Order::Rows
            }
            #[cfg(all(feature = "std", target_arch = "aarch64"))]
            Prepared::Neon(witness, codes) => {
                let codes = &codes[pass.tokens.start * x.cols..pass.tokens.end * x.cols];
                let unpacked = &mut scratch.neon;
                aarch64::accumulate(*witness, codes, x.cols, &panels, rows, acc, width, unpacked);
                Order::Rows
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::Avx2Few(witness, x) => {
                avx2::accumulate_few(*witness, x, &panels, rows, acc, width);
                Order::Rows
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::Avx2(witness, x) => {
                avx2::accumulate(*witness, x, &panels, tiles, rows, acc, width, &mut scratch.avx2);
                Order::Rows
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::AvxVnni(witness, x) => {
                avx_vnni::accumulate(*witness, x, &panels, tiles, rows, acc, width, &mut scratch.vnni)
            }
            #[cfg(all(feature = "std", target_arch = "x86_64"))]
            Prepared::Avx512(witness, x) => {
                avx512::accumulate(*witness, x, &panels, tiles, rows, acc, width, &mut scratch.vnni)
            }
        }
    }
}

/// Accumulators that a token has for `rows`: kernels write whole groups of 16.
pub(super) fn width(rows: &Range<usize>) -> usize {
    rows.len().next_multiple_of(16)
}

/// Memory that accumulators and unpacked weights are kept in; kept itself, so that it is allocated once.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) acc: Vec<i32>,
    /// Of the low parts, where there are two planes.
    low: Vec<i32>,
    #[cfg(all(feature = "std", target_arch = "aarch64"))]
    neon: aarch64::Unpacked,
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    avx2: avx2::Unpacked,
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    vnni: Unpacked,
}

#[cfg(feature = "std")]
std::thread_local! {
    static SCRATCH: core::cell::RefCell<Scratch> = core::cell::RefCell::default();
}

impl Scratch {
    /// Lends the thread's own scratch memory to `f`.
    pub(super) fn lend<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
        // Taken out while it is used, so that nothing can borrow it twice.
        #[cfg(feature = "std")]
        let mut scratch = SCRATCH.take();
        #[cfg(not(feature = "std"))]
        let mut scratch = Scratch::default();
        let result = f(&mut scratch);
        #[cfg(feature = "std")]
        SCRATCH.set(scratch);
        result
    }
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
    let matrix = Matrix::new(x, weights, tables);
    assert_eq!(acc.len(), x.tokens * rows.len(), "accumulators");
    let count = rows.len();
    for pass in x.passes() {
        for start in rows.clone().step_by(x.block_rows()) {
            let block = start..rows.end.min(start + x.block_rows());
            let order = matrix.accumulate(x, &pass, block.clone(), scratch);
            for (token, sums) in pass.tokens.clone().zip(scratch.acc.chunks(width(&block))) {
                let acc = &mut acc[token * count..(token + 1) * count];
                for row in 0..block.len() {
                    acc[start - rows.start + row] = sums[order.column(row)];
                }
            }
        }
    }
}
