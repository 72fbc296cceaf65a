//! The linear kernel with AVX2, which has no exact product of bytes: `vpmaddubsw` saturates its
//! sums of two products at i16.
//!
//! A few tokens read the packed weights directly. Codes are split into two digits,
//!
//! ```text
//! x = 16 h + l,  l in [-8, 7],  h in [-8, 8]
//! ```
//!
//! so that with weights shifted by 128 the sum of two products is at most 2 * 255 * 8 = 4,080, and
//! that of eight such sums still fits i16: then they are widened. Nothing else is: a shuffle
//! that looks int4 weights up gives the bytes that are multiplied. The shift of the weights is
//! undone as with VNNI ([`super::vector`]).
//!
//! More tokens read a panel that was widened to i16 into cache, in tiles of 4 rows x 3 tokens, and
//! multiply by `vpmaddwd`: as many instructions a product, and no sums to widen.

use super::super::kernel::Avx2;
use super::super::panel::{Panel, Panels, table_offsets};
use super::tiles::{Columns, Tile, Tiled, chunk_steps};
use super::vector::{Vector, prefetch};
use alloc::vec::Vec;
use core::arch::x86_64::*;
use core::ops::Range;
use lockstep_base::weights::{PANEL_ROWS, TILE_COLS};

/// Tokens of a register tile: 4 rows x 3 tokens are 12 of 16 registers.
pub(in super::super) const TILE_TOKENS: usize = 3;
/// Columns widened at a time: 16 KiB, to stay in the first-level cache.
const CHUNK_COLS: usize = 2048;
/// Bytes ahead of the weights that are being read, where they stream from memory.
const AHEAD: usize = 4096;
/// Sums of two products that i16 holds.
const SUMS: usize = 8;
/// Vectors of two rows in a panel.
const PARTS: usize = 2;

/// 16 codes as the digits l and h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
pub(in super::super) struct Digits([[i8; TILE_COLS]; 2]);

impl Columns for Digits {
    fn new(codes: &[i8; TILE_COLS]) -> Digits {
        let high = codes.map(|x| (i16::from(x) + 8) >> 4);
        let mut digits = Digits::default();
        for i in 0..TILE_COLS {
            digits.0[0][i] = (i16::from(codes[i]) - 16 * high[i]) as i8;
            digits.0[1][i] = high[i] as i8;
        }
        digits
    }
}

/// 16 codes as i16.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
pub(in super::super) struct Wide([i16; TILE_COLS]);

impl Columns for Wide {
    fn new(codes: &[i8; TILE_COLS]) -> Wide {
        Wide(codes.map(i16::from))
    }
}

/// The rows `rows` against a single tile of tokens; `acc` is `(tokens, width)`.
pub(in super::super) fn accumulate_few(
    _: Avx2,
    x: &Tiled<'_, Digits>,
    panels: &Panels<'_>,
    rows: Range<usize>,
    acc: &mut [i32],
    width: usize,
) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { few(x, panels, rows, acc, width) }
}

#[target_feature(enable = "avx2")]
fn few(x: &Tiled<'_, Digits>, panels: &Panels<'_>, rows: Range<usize>, acc: &mut [i32], width: usize) {
    let Some(tile) = x.tiles(0..1).next() else {
        return;
    };
    for row in rows.clone().step_by(PANEL_ROWS) {
        let column = row - rows.start..rows.len().min(row - rows.start + PANEL_ROWS);
        let panel = panels.get(row / PANEL_ROWS);
        match tile.tokens {
            1 => put(direct::<1>(&panel, panels, &tile), &tile, column, acc, width),
            2 => put(direct::<2>(&panel, panels, &tile), &tile, column, acc, width),
            _ => put(direct::<3>(&panel, panels, &tile), &tile, column, acc, width),
        }
    }
}

/// Writes the sums of a panel.
#[inline]
#[target_feature(enable = "avx2")]
fn put<const T: usize>(
    sums: [[__m256i; PARTS]; T],
    tile: &Tile<'_, Digits>,
    columns: Range<usize>,
    acc: &mut [i32],
    width: usize,
) {
    for t in 0..T {
        let mut rows = [0; PANEL_ROWS];
        for part in 0..PARTS {
            // SAFETY: enabled here; writes two sums.
            unsafe { sums[t][part].store_lane_sums(rows[2 * part..][..2].as_mut_ptr()) };
        }
        let acc = &mut acc[t * width..][columns.clone()];
        for (acc, sum) in acc.iter_mut().zip(rows) {
            *acc = sum.wrapping_add(tile.corrections[t]);
        }
    }
}

/// Sums of products that are still i16, of the digits l and h.
type Short<const T: usize> = [[[__m256i; 2]; PARTS]; T];

/// One panel against the tokens of one tile, straight from the packed bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn direct<const T: usize>(
    panel: &Panel<'_>,
    panels: &Panels<'_>,
    tile: &Tile<'_, Digits>,
) -> [[__m256i; PARTS]; T] {
    let mut sums = [[_mm256_setzero_si256(); PARTS]; T];
    let x = tile.steps::<T>();
    match *panel {
        Panel::Int8 { tiles } => {
            for (tiles, x) in tiles.chunks(SUMS).zip(x.chunks(SUMS)) {
                let mut short = [[[_mm256_setzero_si256(); 2]; PARTS]; T];
                for (tile, x) in tiles.iter().zip(x) {
                    prefetch(tile.as_ptr().wrapping_add(AHEAD));
                    let mut weights = [_mm256_setzero_si256(); PARTS];
                    for (part, bytes) in tile.as_chunks::<32>().0.iter().enumerate() {
                        // SAFETY: enabled here; reads the 32 bytes of the array.
                        weights[part] = unsafe { Vector::shifted(<__m256i as Vector>::load(bytes.as_ptr())) };
                    }
                    add_products(&mut short, weights, x);
                }
                widen(&mut sums, short);
            }
        }
        Panel::Int4 { groups, ids } => {
            let x = x.as_chunks::<2>().0;
            let tables = panels.tables().as_ptr().cast();
            let chunks = groups.chunks(SUMS / 2).zip(ids.chunks(SUMS / 2));
            for ((groups, ids), x) in chunks.zip(x.chunks(SUMS / 2)) {
                let mut short = [[[_mm256_setzero_si256(); 2]; PARTS]; T];
                for ((group, ids), x) in groups.iter().zip(ids).zip(x) {
                    prefetch(group.as_ptr().wrapping_add(AHEAD));
                    // SAFETY: enabled here; `Panels::get` has checked the ids.
                    let [low, high] = unsafe { look_up(group, ids, tables) };
                    add_products(&mut short, low, &x[0]);
                    add_products(&mut short, high, &x[1]);
                }
                widen(&mut sums, short);
            }
        }
    }
    sums
}

/// Columns 0 to 15 and 16 to 31 of the 4 rows of an int4 group, as the tables have them.
///
/// Too large for the compiler to inline unless it must, which it may not be told of a function
/// that enables instructions; so this one enables none, and takes them from its callers.
///
/// # Safety
/// The caller enables AVX2, and every id has a table.
#[inline(always)]
unsafe fn look_up(group: &[u8; 64], ids: &[u8; 8], tables: *const u8) -> [[__m256i; PARTS]; 2] {
    let offsets = table_offsets(ids);
    // SAFETY: by the caller's word; the two reads of 32 bytes are of the 64 of `group`.
    unsafe {
        let mut weights = [[_mm256_setzero_si256(); PARTS]; 2];
        for part in 0..PARTS {
            let table = <__m256i as Vector>::tables(tables, offsets, part);
            let codes = <__m256i as Vector>::load(group.as_ptr().add(32 * part));
            weights[0][part] = table.look_up(codes.low_nibbles());
            weights[1][part] = table.look_up(codes.high_nibbles());
        }
        weights
    }
}

/// Adds the products of 16 columns of 4 rows with the digits of each token.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products<const T: usize>(short: &mut Short<T>, weights: [__m256i; PARTS], x: &[Digits; T]) {
    for t in 0..T {
        for digit in 0..2 {
            // SAFETY: enabled here; reads the 16 bytes of the array.
            let codes = unsafe { <__m256i as Vector>::splat16(x[t].0[digit].as_ptr()) };
            for part in 0..PARTS {
                let products = _mm256_maddubs_epi16(weights[part], codes);
                short[t][part][digit] = _mm256_add_epi16(short[t][part][digit], products);
            }
        }
    }
}

/// Adds `l + 16 h` to the sums.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const T: usize>(sums: &mut [[__m256i; PARTS]; T], short: Short<T>) {
    for t in 0..T {
        for part in 0..PARTS {
            let low = _mm256_madd_epi16(short[t][part][0], _mm256_set1_epi16(1));
            let high = _mm256_madd_epi16(short[t][part][1], _mm256_set1_epi16(16));
            sums[t][part] = _mm256_add_epi32(sums[t][part], _mm256_add_epi32(low, high));
        }
    }
}

/// 16 columns of the 4 rows of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(in super::super) struct Step([[i16; TILE_COLS]; PANEL_ROWS]);

/// Memory for one widened panel.
pub(in super::super) type Unpacked = Vec<Step>;

/// The rows `rows` against the tiles `tiles` of tokens; `acc` is `(tokens, width)`.
pub(in super::super) fn accumulate(
    _: Avx2,
    x: &Tiled<'_, Wide>,
    panels: &Panels<'_>,
    tiles: Range<usize>,
    rows: Range<usize>,
    acc: &mut [i32],
    width: usize,
    unpacked: &mut Unpacked,
) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { many(x, panels, tiles, rows, acc, width, unpacked) }
}

#[target_feature(enable = "avx2")]
fn many(
    x: &Tiled<'_, Wide>,
    panels: &Panels<'_>,
    tiles: Range<usize>,
    rows: Range<usize>,
    acc: &mut [i32],
    width: usize,
    unpacked: &mut Unpacked,
) {
    let first_token = x.tiles(tiles.clone()).next().map_or(0, |tile| tile.first);
    for row in rows.clone().step_by(PANEL_ROWS) {
        let panel = panels.get(row / PANEL_ROWS);
        let columns = row - rows.start..rows.len().min(row - rows.start + PANEL_ROWS);
        for steps in chunk_steps(x.cols, CHUNK_COLS) {
            unpacked.resize(steps.len(), Step([[0; TILE_COLS]; PANEL_ROWS]));
            unpack(&panel, panels, steps.clone(), unpacked);
            let first = steps.start;
            for tile in x.tiles(tiles.clone()) {
                let acc = &mut acc[(tile.first - first_token) * width..];
                match tile.tokens {
                    1 => panel_tile::<1>(unpacked, &tile, first, columns.clone(), acc, width),
                    2 => panel_tile::<2>(unpacked, &tile, first, columns.clone(), acc, width),
                    _ => panel_tile::<3>(unpacked, &tile, first, columns.clone(), acc, width),
                }
            }
        }
    }
}

/// Widens columns `16 steps` of one panel.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack(panel: &Panel<'_>, panels: &Panels<'_>, steps: Range<usize>, unpacked: &mut [Step]) {
    match *panel {
        Panel::Int8 { tiles } => {
            for (step, tile) in unpacked.iter_mut().zip(&tiles[steps]) {
                for (values, row) in step.0.iter_mut().zip(tile.as_chunks::<TILE_COLS>().0) {
                    // SAFETY: reads the 16 bytes of the array.
                    store(values, unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
                }
            }
        }
        Panel::Int4 { groups, ids } => {
            // Chunks begin and end at groups.
            let range = steps.start / 2..steps.end / 2;
            let source = groups[range.clone()].iter().zip(&ids[range]);
            let tables = panels.tables().as_ptr().cast();
            for (steps, (group, ids)) in unpacked.as_chunks_mut::<2>().0.iter_mut().zip(source) {
                // SAFETY: enabled here; `Panels::get` has checked the ids.
                let halves = unsafe { look_up(group, ids, tables) };
                for (step, parts) in steps.iter_mut().zip(halves) {
                    for (rows, part) in step.0.as_chunks_mut::<2>().0.iter_mut().zip(parts) {
                        store(&mut rows[0], _mm256_castsi256_si128(part));
                        store(&mut rows[1], _mm256_extracti128_si256::<1>(part));
                    }
                }
            }
        }
    }
}

/// Widens 16 weights.
#[inline]
#[target_feature(enable = "avx2")]
fn store(values: &mut [i16; TILE_COLS], bytes: __m128i) {
    // SAFETY: writes the 32 bytes of the array.
    unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), _mm256_cvtepi8_epi16(bytes)) };
}

/// A register tile: the 4 rows of a widened panel against the tokens of one tile. The chunk that
/// begins at step 0 sets the accumulators, the others add to them.
#[inline]
#[target_feature(enable = "avx2")]
fn panel_tile<const T: usize>(
    panel: &[Step],
    tile: &Tile<'_, Wide>,
    first_step: usize,
    columns: Range<usize>,
    acc: &mut [i32],
    width: usize,
) {
    let mut sums = [[_mm256_setzero_si256(); T]; PANEL_ROWS];
    for (weights, x) in panel.iter().zip(&tile.steps::<T>()[first_step..]) {
        for r in 0..PANEL_ROWS {
            let row = load(&weights.0[r]);
            for t in 0..T {
                sums[r][t] = _mm256_add_epi32(sums[r][t], _mm256_madd_epi16(row, load(&x[t].0)));
            }
        }
    }
    for t in 0..T {
        let sums = rows_of([sums[0][t], sums[1][t], sums[2][t], sums[3][t]]);
        let acc = &mut acc[t * width..][columns.clone()];
        for (acc, sum) in acc.iter_mut().zip(sums) {
            *acc = if first_step == 0 { sum } else { acc.wrapping_add(sum) };
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

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[i16; TILE_COLS]) -> __m256i {
    // SAFETY: reads the 32 bytes of the array.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}
