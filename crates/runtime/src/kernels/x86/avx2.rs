//! The linear kernel with AVX2.
//!
//! There is no exact product of bytes here: `vpmaddubsw` saturates its sums of two products at
//! i16. So weights and codes are widened to i16 and multiplied by `vpmaddwd`, whose sums of two
//! products are i32 and exact for all bytes. With the sign trick (|a| times sign(b, a)) bytes
//! would need as many instructions, and be wrong for a code of -128.
//!
//! A vector holds 16 columns of one row. Up to [`TILE_TOKENS`] tokens read the packed weights
//! directly; more tokens read a panel that was widened into cache, in tiles of 4 rows x 3 tokens.

use super::super::kernel::Avx2;
use super::panel::{Panel, Panels};
use super::tiles::{Tile, Tiled, chunk_steps};
use alloc::vec::Vec;
use core::arch::x86_64::*;
use core::ops::Range;
use lockstep_base::weights::PANEL_ROWS;

/// Tokens of a register tile: 4 rows x 3 tokens are 12 of 16 registers.
pub(in super::super) const TILE_TOKENS: usize = 3;
/// Columns widened at a time: 16 KiB, to stay in the first-level cache.
const CHUNK_COLS: usize = 2048;
/// Bytes ahead of the weights that are being read, where they stream from memory.
const PREFETCH: usize = 1024;

/// 16 columns of the 4 rows of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(in super::super) struct Step([[i16; 16]; PANEL_ROWS]);

/// Memory for one widened panel.
pub(in super::super) type Unpacked = Vec<Step>;

type Sums<const T: usize> = [[__m256i; T]; PANEL_ROWS];

/// See [`super::super::accumulate`]. `acc` is `(tokens, rows.len())`.
pub(in super::super) fn accumulate(
    _: Avx2,
    x: &Tiled<'_, i16>,
    panels: &Panels<'_>,
    rows: Range<usize>,
    acc: &mut [i32],
    unpacked: &mut Unpacked,
) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { run(x, panels, rows, acc, unpacked) }
}

#[target_feature(enable = "avx2")]
fn run(
    x: &Tiled<'_, i16>,
    panels: &Panels<'_>,
    rows: Range<usize>,
    acc: &mut [i32],
    unpacked: &mut Unpacked,
) {
    let mut out = Out { acc, count: rows.len() };
    let mut tiles = x.tiles();
    if let (Some(tile), None) = (tiles.next(), tiles.next()) {
        for row in rows.clone().step_by(PANEL_ROWS) {
            let panel = panels.get(row / PANEL_ROWS);
            match tile.tokens {
                1 => out.put(direct::<1>(&panel, tile.steps()), &tile, row - rows.start, true),
                2 => out.put(direct::<2>(&panel, tile.steps()), &tile, row - rows.start, true),
                _ => out.put(direct::<3>(&panel, tile.steps()), &tile, row - rows.start, true),
            }
        }
        return;
    }
    for row in rows.clone().step_by(PANEL_ROWS) {
        let panel = panels.get(row / PANEL_ROWS);
        for steps in chunk_steps(x.cols, CHUNK_COLS) {
            unpacked.resize(steps.len(), Step([[0; 16]; PANEL_ROWS]));
            unpack(&panel, steps.clone(), unpacked);
            let (first, row) = (steps.start, row - rows.start);
            for tile in x.tiles() {
                match tile.tokens {
                    1 => out.put(panel_tile::<1>(unpacked, &tile.steps()[first..]), &tile, row, first == 0),
                    2 => out.put(panel_tile::<2>(unpacked, &tile.steps()[first..]), &tile, row, first == 0),
                    _ => out.put(panel_tile::<3>(unpacked, &tile.steps()[first..]), &tile, row, first == 0),
                }
            }
        }
    }
}

/// The accumulators `(tokens, count)`.
struct Out<'a> {
    acc: &'a mut [i32],
    count: usize,
}

impl Out<'_> {
    /// Writes the sums of a panel from row `row` on, or adds them to what is there.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn put<const T: usize>(&mut self, sums: Sums<T>, tile: &Tile<'_, i16>, row: usize, first: bool) {
        for t in 0..T {
            let sum = rows_of([sums[0][t], sums[1][t], sums[2][t], sums[3][t]]);
            let at = (tile.first + t) * self.count;
            let acc = &mut self.acc[at + row..at + self.count.min(row + PANEL_ROWS)];
            for (acc, sum) in acc.iter_mut().zip(sum) {
                *acc = if first { sum } else { acc.wrapping_add(sum) };
            }
        }
    }
}

/// One panel against the tokens of one tile, straight from the packed bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn direct<const T: usize>(panel: &Panel<'_>, x: &[[[i16; 16]; T]]) -> Sums<T> {
    let mut sums = [[_mm256_setzero_si256(); T]; PANEL_ROWS];
    match *panel {
        Panel::Int8 { tiles } => {
            for (tile, x) in tiles.iter().zip(x) {
                prefetch(tile);
                dot(&mut sums, widened(tile), x);
            }
        }
        Panel::Int4 { groups, ids, tables } => {
            for ((group, ids), x) in groups.iter().zip(ids).zip(x.as_chunks::<2>().0) {
                prefetch(group);
                // SAFETY: enabled here; `Panels::get` has checked the ids.
                let (low, high) = unsafe { look_up(group, ids, tables) };
                dot(&mut sums, low, &x[0]);
                dot(&mut sums, high, &x[1]);
            }
        }
    }
    sums
}

/// Widens columns `16 steps` of one panel.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack(panel: &Panel<'_>, steps: Range<usize>, unpacked: &mut [Step]) {
    match *panel {
        Panel::Int8 { tiles } => {
            for (step, tile) in unpacked.iter_mut().zip(&tiles[steps]) {
                store(step, widened(tile));
            }
        }
        Panel::Int4 { groups, ids, tables } => {
            // Chunks begin and end at groups.
            let range = steps.start / 2..steps.end / 2;
            let source = groups[range.clone()].iter().zip(&ids[range]);
            for (steps, (group, ids)) in unpacked.as_chunks_mut::<2>().0.iter_mut().zip(source) {
                // SAFETY: enabled here; `Panels::get` has checked the ids.
                let (low, high) = unsafe { look_up(group, ids, tables) };
                store(&mut steps[0], low);
                store(&mut steps[1], high);
            }
        }
    }
}

/// A register tile: the 4 rows of a widened panel against the tokens of one tile.
#[inline]
#[target_feature(enable = "avx2")]
fn panel_tile<const T: usize>(panel: &[Step], x: &[[[i16; 16]; T]]) -> Sums<T> {
    let mut sums = [[_mm256_setzero_si256(); T]; PANEL_ROWS];
    for (weights, x) in panel.iter().zip(x) {
        let mut rows = [_mm256_setzero_si256(); PANEL_ROWS];
        for r in 0..PANEL_ROWS {
            rows[r] = load(&weights.0[r]);
        }
        dot(&mut sums, rows, x);
    }
    sums
}

/// Adds the products of 16 columns of 4 rows with the codes of each token.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const T: usize>(sums: &mut Sums<T>, weights: [__m256i; PANEL_ROWS], x: &[[i16; 16]; T]) {
    for r in 0..PANEL_ROWS {
        for t in 0..T {
            sums[r][t] = _mm256_add_epi32(sums[r][t], _mm256_madd_epi16(weights[r], load(&x[t])));
        }
    }
}

/// The sums of each of 4 vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn rows_of([a, b, c, d]: [__m256i; PANEL_ROWS]) -> [i32; PANEL_ROWS] {
    let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
    let mut rows = [0; PANEL_ROWS];
    // SAFETY: writes the 16 bytes of the array.
    unsafe { _mm_storeu_si128(rows.as_mut_ptr().cast(), sums) };
    rows
}

/// A tile of int8 weights as i16, row by row.
#[inline]
#[target_feature(enable = "avx2")]
fn widened(tile: &[u8; 64]) -> [__m256i; PANEL_ROWS] {
    let rows: &[[u8; 16]] = tile.as_chunks().0;
    let mut wide = [_mm256_setzero_si256(); PANEL_ROWS];
    for (wide, row) in wide.iter_mut().zip(rows) {
        // SAFETY: reads the 16 bytes of the array.
        *wide = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
    }
    wide
}

/// The weights of one int4 group as i16: columns 0 to 15 and 16 to 31 of 4 rows.
///
/// Too large for the compiler to inline unless it must, which it may not be told of a function
/// that enables instructions; so this one enables none, and takes them from its callers.
///
/// # Safety
/// The caller enables AVX2, and every id is below `tables.len()`.
#[inline(always)]
unsafe fn look_up(
    group: &[u8; 64],
    ids: &[u8; 8],
    tables: &[[i8; 16]],
) -> ([__m256i; PANEL_ROWS], [__m256i; PANEL_ROWS]) {
    let id = |row: usize| usize::from(u16::from_le_bytes([ids[2 * row], ids[2 * row + 1]]));
    // SAFETY: the ids are inside `tables`, whose entries are 16 bytes, and the instructions are
    // there, both by the caller's word; the two reads of 32 bytes are of the 64 of `group`.
    unsafe {
        let table = |row: usize| _mm_loadu_si128(tables.as_ptr().add(id(row)).cast());
        let nibble = _mm256_set1_epi8(15);
        // Two rows at a time, one a 128-bit lane.
        let (first, last) = (_mm256_set_m128i(table(1), table(0)), _mm256_set_m128i(table(3), table(2)));
        let codes = group.as_ptr().cast::<__m256i>();
        let (codes_first, codes_last) = (_mm256_loadu_si256(codes), _mm256_loadu_si256(codes.add(1)));
        let low = |codes| _mm256_and_si256(codes, nibble);
        let high = |codes| _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
        let [a, b] = split(_mm256_shuffle_epi8(first, low(codes_first)));
        let [c, d] = split(_mm256_shuffle_epi8(last, low(codes_last)));
        let [e, f] = split(_mm256_shuffle_epi8(first, high(codes_first)));
        let [g, h] = split(_mm256_shuffle_epi8(last, high(codes_last)));
        ([a, b, c, d], [e, f, g, h])
    }
}

/// The two lanes of int8 as i16.
#[inline]
#[target_feature(enable = "avx2")]
fn split(bytes: __m256i) -> [__m256i; 2] {
    let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
    [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[i16; 16]) -> __m256i {
    // SAFETY: reads the 32 bytes of the array.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(step: &mut Step, rows: [__m256i; PANEL_ROWS]) {
    for (values, row) in step.0.iter_mut().zip(rows) {
        // SAFETY: writes the 32 bytes of the array.
        unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), row) };
    }
}

/// Asks for the weights that come [`PREFETCH`] bytes later.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(bytes: &[u8; 64]) {
    _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(PREFETCH).cast());
}
