//! A few tokens against packed weights with VNNI: each byte of weights is read once from memory,
//! which is what a single token has to wait for. A vector is a tile of the packed order, one row a
//! 128-bit lane (or half a tile): the 16 codes of a token are broadcast to all lanes, an int4 table
//! is one lane of a byte shuffle, and the four partial sums of a row are added up only at the end.
//!
//! `N` is the number of vectors in a tile; `P` panels, which share what is loaded of the codes, and
//! `T` tokens make a register tile; and `U` sums of each are kept apart where `P` and `T` are so
//! small that additions would wait for each other.

use super::super::panel::{Panel, Panels, table_offsets};
use super::tiles::Tile;
use super::vector::{Vector, prefetch};
use lockstep_base::weights::PANEL_ROWS;

/// Bytes ahead of the weights that are being read at which memory is asked for more, at least.
const AHEAD: usize = 4096;

/// The sums of a register tile.
type Sums<V, const N: usize, const P: usize, const T: usize> = [[[V; T]; N]; P];

/// The groups of an int4 panel, and the ids of their tables.
type Int4<'a> = (&'a [[u8; 64]], &'a [[u8; 8]]);

/// Accumulators `(tokens, width)`, of which `count` columns are wanted.
pub(super) struct Out<'a> {
    pub(super) acc: &'a mut [i32],
    pub(super) width: usize,
    pub(super) count: usize,
    /// The token of the first row.
    pub(super) first: usize,
}

/// The panels from `first` on against the tokens of `tile`, into columns from `column` on.
///
/// # Safety
/// The caller enables the instructions of the kernel of `V`.
#[inline(always)]
pub(super) unsafe fn direct<V, const N: usize, const P: usize, const T: usize, const U: usize>(
    panels: &Panels<'_>,
    first: usize,
    tile: &Tile<'_, [i8; 16]>,
    column: usize,
    out: &mut Out<'_>,
) where
    V: Vector,
{
    let (x, bytes) = (tile.steps::<T>(), P * panels.panel_bytes());
    let ahead = if P == 1 { AHEAD } else { bytes.max(AHEAD) };
    // SAFETY: by the caller's word; `Panels::get` has checked the ids.
    let sums = unsafe {
        match panels.get(first) {
            Panel::Int8 { tiles } => {
                let mut all = [tiles; P];
                for p in 1..P {
                    if let Panel::Int8 { tiles } = panels.get(first + p) {
                        all[p] = tiles;
                    }
                }
                int8::<V, N, P, T, U>(all, x, ahead)
            }
            Panel::Int4 { groups, ids } => {
                let mut all = [(groups, ids); P];
                for p in 1..P {
                    if let Panel::Int4 { groups, ids } = panels.get(first + p) {
                        all[p] = (groups, ids);
                    }
                }
                int4::<V, N, P, T, U>(all, panels.tables(), x, ahead)
            }
        }
    };
    for p in 0..P {
        let column = column + p * PANEL_ROWS;
        for t in 0..T {
            let mut rows = [0i32; PANEL_ROWS];
            for n in 0..N {
                // SAFETY: by the caller's word; the N vectors have 4 lanes together.
                unsafe { sums[p][n][t].store_lane_sums(rows[n * PANEL_ROWS / N..].as_mut_ptr()) };
            }
            let at = (tile.first + t - out.first) * out.width;
            let acc = &mut out.acc[at + column..at + out.count.min(column + PANEL_ROWS)];
            for (acc, sum) in acc.iter_mut().zip(rows) {
                *acc = sum.wrapping_add(tile.corrections[t]);
            }
        }
    }
}

/// # Safety
/// The caller enables the instructions of the kernel of `V`.
#[inline(always)]
unsafe fn int8<V, const N: usize, const P: usize, const T: usize, const U: usize>(
    tiles: [&[[u8; 64]]; P],
    x: &[[[i8; 16]; T]],
    ahead: usize,
) -> Sums<V, N, P, T>
where
    V: Vector,
{
    let steps = x.len();
    for tiles in tiles {
        assert_eq!(tiles.len(), steps, "tiles of a panel");
    }
    // SAFETY: by the caller's word; steps are below the lengths of all slices.
    unsafe {
        let mut sums = [[[[V::zero(); T]; N]; P]; U];
        let mut step = 0;
        while step + U <= steps {
            for u in 0..U {
                add_int8(&mut sums[u], &tiles, x, step + u, ahead);
            }
            step += U;
        }
        while step < steps {
            add_int8(&mut sums[0], &tiles, x, step, ahead);
            step += 1;
        }
        fold(sums)
    }
}

/// # Safety
/// The caller enables the instructions of the kernel of `V`; `step` is inside all slices.
#[inline(always)]
unsafe fn add_int8<V, const N: usize, const P: usize, const T: usize>(
    sums: &mut Sums<V, N, P, T>,
    tiles: &[&[[u8; 64]]; P],
    x: &[[[i8; 16]; T]],
    step: usize,
    ahead: usize,
) where
    V: Vector,
{
    // SAFETY: by the caller's word.
    unsafe {
        for n in 0..N {
            let mut weights = [V::zero(); P];
            for p in 0..P {
                let tile = tiles[p].get_unchecked(step).as_ptr();
                if n == 0 {
                    prefetch(tile.wrapping_add(ahead));
                }
                weights[p] = V::load(tile.add(n * V::BYTES)).shifted();
            }
            for t in 0..T {
                let codes = V::splat16(x.get_unchecked(step)[t].as_ptr());
                for p in 0..P {
                    sums[p][n][t] = sums[p][n][t].dot(weights[p], codes);
                }
            }
        }
    }
}

/// # Safety
/// The caller enables the instructions of the kernel of `V`, and all ids have tables.
#[inline(always)]
unsafe fn int4<V, const N: usize, const P: usize, const T: usize, const U: usize>(
    panels: [Int4<'_>; P],
    tables: &[[u8; 16]],
    x: &[[[i8; 16]; T]],
    ahead: usize,
) -> Sums<V, N, P, T>
where
    V: Vector,
{
    let x = x.as_chunks::<2>().0;
    let count = x.len();
    for (groups, ids) in panels {
        assert!(groups.len() == count && ids.len() == count, "groups of a panel");
    }
    // Groups whose sums are kept apart: their low and high halves are too, unless U is 1.
    let turn = const { if U > 1 { U / 2 } else { 1 } };
    let tables = tables.as_ptr().cast();
    // SAFETY: by the caller's word; groups are below the lengths of all slices.
    unsafe {
        let mut sums = [[[[V::zero(); T]; N]; P]; U];
        let mut group = 0;
        while group + turn <= count {
            for g in 0..turn {
                add_int4(&mut sums, 2 * g, &panels, tables, x, group + g, ahead);
            }
            group += turn;
        }
        while group < count {
            add_int4(&mut sums, 0, &panels, tables, x, group, ahead);
            group += 1;
        }
        fold(sums)
    }
}

/// # Safety
/// The caller enables the instructions of the kernel of `V`; `group` is inside all slices, and its
/// ids have tables.
#[inline(always)]
unsafe fn add_int4<V, const N: usize, const P: usize, const T: usize, const U: usize>(
    sums: &mut [Sums<V, N, P, T>; U],
    u: usize,
    panels: &[Int4<'_>; P],
    tables: *const u8,
    x: &[[[[i8; 16]; T]; 2]],
    group: usize,
    ahead: usize,
) where
    V: Vector,
{
    let (low, high) = (u % U, (u + 1) % U);
    // SAFETY: by the caller's word.
    unsafe {
        for n in 0..N {
            let mut weights = [[V::zero(); 2]; P];
            for p in 0..P {
                let codes = panels[p].0.get_unchecked(group).as_ptr();
                let ids = panels[p].1.get_unchecked(group);
                if n == 0 {
                    prefetch(codes.wrapping_add(ahead));
                    if group.is_multiple_of(8) {
                        prefetch(ids.as_ptr().wrapping_add(ahead / 8));
                    }
                }
                let table = V::tables(tables, table_offsets(ids), n);
                let codes = V::load(codes.add(n * V::BYTES));
                weights[p] = [table.look_up(codes.low_nibbles()), table.look_up(codes.high_nibbles())];
            }
            let x = x.get_unchecked(group);
            for t in 0..T {
                let codes = V::splat16(x[0][t].as_ptr());
                for p in 0..P {
                    sums[low][p][n][t] = sums[low][p][n][t].dot(weights[p][0], codes);
                }
            }
            for t in 0..T {
                let codes = V::splat16(x[1][t].as_ptr());
                for p in 0..P {
                    sums[high][p][n][t] = sums[high][p][n][t].dot(weights[p][1], codes);
                }
            }
        }
    }
}

/// # Safety
/// The caller enables the instructions of the kernel of `V`.
#[inline(always)]
unsafe fn fold<V, const N: usize, const P: usize, const T: usize, const U: usize>(
    sums: [Sums<V, N, P, T>; U],
) -> Sums<V, N, P, T>
where
    V: Vector,
{
    let mut total = sums[0];
    for u in 1..U {
        for p in 0..P {
            for n in 0..N {
                for t in 0..T {
                    // SAFETY: by the caller's word.
                    total[p][n][t] = unsafe { total[p][n][t].add(sums[u][p][n][t]) };
                }
            }
        }
    }
    total
}
