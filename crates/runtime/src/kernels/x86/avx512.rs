//! The linear kernel with AVX-512 VNNI.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds four products to each i32 without
//! saturating (its twin `vpdpbusds` saturates and must never be used). The weights are the unsigned
//! side, shifted by 128, which costs a correction per *token* instead of one per row:
//!
//! ```text
//! sum_j (W_ij + 128) x_j - 128 sum_j x_j = sum_j W_ij x_j
//! ```
//!
//! modulo 2^32, hence exactly. A vector is a tile of the packed order: 4 rows of 16 columns, one
//! row a 128-bit lane, so the 16 codes of a token are broadcast to all lanes, an int4 table is one
//! lane of a byte shuffle, and the four partial sums of a row are added up only at the end.
//!
//! Few tokens read the packed weights directly, each byte once from memory. More tokens read a
//! block of 4 panels that was unpacked into cache, in register tiles of 16 rows x 6 tokens.

use super::super::kernel::Avx512;
use super::panel::{Panel, Panels};
use super::tiles::{Tile, Tiled, chunk_steps};
use alloc::vec::Vec;
use core::arch::x86_64::*;
use core::ops::Range;
use lockstep_base::weights::PANEL_ROWS;

/// Tokens of a register tile: 4 panels x 6 tokens are 24 of 32 registers.
pub(in super::super) const TILE_TOKENS: usize = 6;
/// Panels of a block.
const PANELS: usize = 4;
/// Rows of a block.
const ROWS: usize = PANELS * PANEL_ROWS;
/// Columns unpacked at a time: 32 KiB, to stay in the first-level cache.
const CHUNK_COLS: usize = 2048;
/// Tiles of tokens up to which reading a panel of int8 again, from cache, costs less than unpacking
/// it; int4 would have to be looked up again.
const DIRECT_TILES_INT8: usize = 2;
/// Bytes ahead of the weights that are being read, where they stream from memory.
const PREFETCH: usize = 1024;

/// 16 columns of a block, shifted by 128.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(in super::super) struct Step([[u8; 64]; PANELS]);

/// Memory for one unpacked block.
pub(in super::super) type Unpacked = Vec<Step>;

/// See [`super::super::accumulate`]. `acc` is `(tokens, rows.len())`.
pub(in super::super) fn accumulate(
    _: Avx512,
    x: &Tiled<'_, i8>,
    panels: &Panels<'_>,
    rows: Range<usize>,
    acc: &mut [i32],
    unpacked: &mut Unpacked,
) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { run(x, panels, rows, acc, unpacked) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run(x: &Tiled<'_, i8>, panels: &Panels<'_>, rows: Range<usize>, acc: &mut [i32], unpacked: &mut Unpacked) {
    let mut out = Out { acc, count: rows.len() };
    let tiles = x.tiles().count();
    if tiles <= if panels.are_int8() { DIRECT_TILES_INT8 } else { 1 } {
        for row in rows.clone().step_by(PANEL_ROWS) {
            let panel = panels.get(row / PANEL_ROWS);
            for tile in x.tiles() {
                match tile.tokens {
                    1 => direct::<1, 4, 2>(&panel, &tile, row - rows.start, &mut out),
                    2 => direct::<2, 2, 1>(&panel, &tile, row - rows.start, &mut out),
                    3 => direct::<3, 2, 1>(&panel, &tile, row - rows.start, &mut out),
                    4 => direct::<4, 2, 1>(&panel, &tile, row - rows.start, &mut out),
                    5 => direct::<5, 2, 1>(&panel, &tile, row - rows.start, &mut out),
                    _ => direct::<6, 2, 1>(&panel, &tile, row - rows.start, &mut out),
                }
            }
        }
        return;
    }
    for row in rows.clone().step_by(ROWS) {
        let block = row / PANEL_ROWS..rows.end.min(row + ROWS).div_ceil(PANEL_ROWS);
        for steps in chunk_steps(x.cols, CHUNK_COLS) {
            unpacked.resize(steps.len(), Step([[0; 64]; PANELS]));
            for (slot, panel) in block.clone().enumerate() {
                unpack(&panels.get(panel), steps.clone(), slot, unpacked);
            }
            for tile in x.tiles() {
                match tile.tokens {
                    1 => block_tile::<1>(unpacked, &tile, steps.start, row - rows.start, &mut out),
                    2 => block_tile::<2>(unpacked, &tile, steps.start, row - rows.start, &mut out),
                    3 => block_tile::<3>(unpacked, &tile, steps.start, row - rows.start, &mut out),
                    4 => block_tile::<4>(unpacked, &tile, steps.start, row - rows.start, &mut out),
                    5 => block_tile::<5>(unpacked, &tile, steps.start, row - rows.start, &mut out),
                    _ => block_tile::<6>(unpacked, &tile, steps.start, row - rows.start, &mut out),
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
    /// The accumulators of one token from row `row` on, `N` at most.
    #[inline(always)]
    fn rows<const N: usize>(&mut self, token: usize, row: usize) -> &mut [i32] {
        let at = token * self.count;
        &mut self.acc[at + row..at + self.count.min(row + N)]
    }
}

/// One panel against the tokens of one tile, straight from the packed bytes. `U` tiles (int8) or
/// `G` groups (int4) are summed apart, so that additions need not wait for each other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn direct<const T: usize, const U: usize, const G: usize>(
    panel: &Panel<'_>,
    tile: &Tile<'_, i8>,
    row: usize,
    out: &mut Out<'_>,
) {
    let sums = match *panel {
        Panel::Int8 { tiles } => direct_int8::<T, U>(tiles, tile.steps()),
        Panel::Int4 { groups, ids, tables } => direct_int4::<T, G>(groups, ids, tables, tile.steps()),
    };
    for (t, sum) in sums.into_iter().enumerate() {
        let mut lanes = [0; 16];
        set_array(&mut lanes, sum);
        let rows = out.rows::<PANEL_ROWS>(tile.first + t, row).iter_mut();
        for (acc, lane) in rows.zip(lanes.as_chunks::<4>().0) {
            *acc = lane.iter().fold(tile.corrections[t], |sum, part| sum.wrapping_add(*part));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn direct_int8<const T: usize, const U: usize>(tiles: &[[u8; 64]], x: &[[[i8; 16]; T]]) -> [__m512i; T] {
    let mut sums = [[_mm512_setzero_si512(); T]; U];
    let ((turns, rest), (x_turns, x_rest)) = (tiles.as_chunks::<U>(), x.as_chunks::<U>());
    for (tiles, x) in turns.iter().zip(x_turns) {
        for u in 0..U {
            prefetch(&tiles[u]);
            dot(&mut sums[u], shifted(load(&tiles[u])), &x[u]);
        }
    }
    for (tile, x) in rest.iter().zip(x_rest) {
        dot(&mut sums[0], shifted(load(tile)), x);
    }
    fold(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn direct_int4<const T: usize, const G: usize>(
    groups: &[[u8; 64]],
    ids: &[[u8; 8]],
    tables: &[[i8; 16]],
    x: &[[[i8; 16]; T]],
) -> [__m512i; T] {
    let mut low = [[_mm512_setzero_si512(); T]; G];
    let mut high = low;
    let x = x.as_chunks::<2>().0;
    let ((turns, rest), (id_turns, id_rest)) = (groups.as_chunks::<G>(), ids.as_chunks::<G>());
    let (x_turns, x_rest) = x.as_chunks::<G>();
    for ((groups, ids), x) in turns.iter().zip(id_turns).zip(x_turns) {
        for g in 0..G {
            prefetch(&groups[g]);
            // SAFETY: enabled here; `Panels::get` has checked the ids.
            let (a, b) = unsafe { look_up(&groups[g], &ids[g], tables) };
            dot(&mut low[g], a, &x[g][0]);
            dot(&mut high[g], b, &x[g][1]);
        }
    }
    for ((group, ids), x) in rest.iter().zip(id_rest).zip(x_rest) {
        // SAFETY: enabled here; `Panels::get` has checked the ids.
        let (a, b) = unsafe { look_up(group, ids, tables) };
        dot(&mut low[0], a, &x[0]);
        dot(&mut high[0], b, &x[1]);
    }
    fold([fold(low), fold(high)])
}

/// Unpacks columns `16 steps` of one panel into slot `slot` of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack(panel: &Panel<'_>, steps: Range<usize>, slot: usize, unpacked: &mut [Step]) {
    match *panel {
        Panel::Int8 { tiles } => {
            for (step, tile) in unpacked.iter_mut().zip(&tiles[steps]) {
                store(&mut step.0[slot], shifted(load(tile)));
            }
        }
        Panel::Int4 { groups, ids, tables } => {
            // Chunks begin and end at groups.
            let range = steps.start / 2..steps.end / 2;
            let source = groups[range.clone()].iter().zip(&ids[range]);
            for (steps, (group, ids)) in unpacked.as_chunks_mut::<2>().0.iter_mut().zip(source) {
                // SAFETY: enabled here; `Panels::get` has checked the ids.
                let (a, b) = unsafe { look_up(group, ids, tables) };
                store(&mut steps[0].0[slot], a);
                store(&mut steps[1].0[slot], b);
            }
        }
    }
}

/// A register tile: the 16 rows of a block against the tokens of one tile. The chunk that begins
/// at step 0 sets the accumulators, the others add to them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn block_tile<const T: usize>(
    block: &[Step],
    tile: &Tile<'_, i8>,
    first_step: usize,
    row: usize,
    out: &mut Out<'_>,
) {
    let mut sums = [[_mm512_setzero_si512(); T]; PANELS];
    for (weights, x) in block.iter().zip(&tile.steps::<T>()[first_step..]) {
        let mut tiles = [_mm512_setzero_si512(); PANELS];
        for p in 0..PANELS {
            tiles[p] = load(&weights.0[p]);
        }
        for t in 0..T {
            let codes = spread(&x[t]);
            for p in 0..PANELS {
                sums[p][t] = _mm512_dpbusd_epi32(sums[p][t], tiles[p], codes);
            }
        }
    }
    for t in 0..T {
        let mut sum = rows_of([sums[0][t], sums[1][t], sums[2][t], sums[3][t]]);
        let acc = out.rows::<ROWS>(tile.first + t, row);
        if first_step == 0 {
            sum = _mm512_add_epi32(sum, _mm512_set1_epi32(tile.corrections[t]));
        }
        if let Some(full) = acc.first_chunk_mut() {
            let before = if first_step == 0 { _mm512_setzero_si512() } else { from_array(full) };
            set_array(full, _mm512_add_epi32(before, sum));
        } else {
            let mut sums = [0; ROWS];
            set_array(&mut sums, sum);
            for (acc, sum) in acc.iter_mut().zip(sums) {
                *acc = if first_step == 0 { sum } else { acc.wrapping_add(sum) };
            }
        }
    }
}

/// Adds the products of one tile of weights with the codes of each token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dot<const T: usize>(sums: &mut [__m512i; T], weights: __m512i, x: &[[i8; 16]; T]) {
    for t in 0..T {
        sums[t] = _mm512_dpbusd_epi32(sums[t], weights, spread(&x[t]));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fold<const T: usize, const U: usize>(sums: [[__m512i; T]; U]) -> [__m512i; T] {
    let mut total = sums[0];
    for u in 1..U {
        for t in 0..T {
            total[t] = _mm512_add_epi32(total[t], sums[u][t]);
        }
    }
    total
}

/// Sums of the four lanes' partial sums of 4 panels, in the order of the rows: a 4 x 4
/// transposition by halves, adding on the way.
#[inline]
#[target_feature(enable = "avx512f")]
fn rows_of([a, b, c, d]: [__m512i; PANELS]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // Lane r now holds row r of panels a, b, c, d.
    let lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let by_panel = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(by_panel, lanes)
}

/// The weights of one int4 group, shifted by 128: columns 0 to 15 and 16 to 31 of 4 rows.
///
/// Too large for the compiler to inline unless it must, which it may not be told of a function
/// that enables instructions; so this one enables none, and takes them from its callers.
///
/// # Safety
/// The caller enables the instructions of this file, and every id is below `tables.len()`.
#[inline(always)]
unsafe fn look_up(group: &[u8; 64], ids: &[u8; 8], tables: &[[i8; 16]]) -> (__m512i, __m512i) {
    let id = |row: usize| usize::from(u16::from_le_bytes([ids[2 * row], ids[2 * row + 1]]));
    // SAFETY: the ids are inside `tables`, whose entries are 16 bytes, and the instructions are
    // there; both by the caller's word.
    unsafe {
        let table = |row: usize| _mm_loadu_si128(tables.as_ptr().add(id(row)).cast());
        let first = _mm512_castsi128_si512(table(0));
        let two = _mm512_inserti32x4::<1>(first, table(1));
        let three = _mm512_inserti32x4::<2>(two, table(2));
        let table = shifted(_mm512_inserti32x4::<3>(three, table(3)));
        let (codes, nibble) = (load(group), _mm512_set1_epi8(15));
        let low = _mm512_and_si512(codes, nibble);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
        (_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high))
    }
}

/// int8 to unsigned: + 128.
#[inline]
#[target_feature(enable = "avx512f")]
fn shifted(weights: __m512i) -> __m512i {
    _mm512_xor_si512(weights, _mm512_set1_epi8(-128))
}

/// 16 codes, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(codes: &[i8; 16]) -> __m512i {
    // SAFETY: reads the 16 bytes of the array.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: reads the 64 bytes of the array.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: writes the 64 bytes of the array.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}

/// Asks for the weights that come [`PREFETCH`] bytes later.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(bytes: &[u8; 64]) {
    _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(PREFETCH).cast());
}

#[inline]
#[target_feature(enable = "avx512f")]
fn from_array(array: &[i32; 16]) -> __m512i {
    // SAFETY: reads the 64 bytes of the array.
    unsafe { _mm512_loadu_si512(array.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn set_array(array: &mut [i32; 16], value: __m512i) {
    // SAFETY: writes the 64 bytes of the array.
    unsafe { _mm512_storeu_si512(array.as_mut_ptr().cast(), value) }
}
