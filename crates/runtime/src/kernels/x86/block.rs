//! Many tokens with VNNI. Weights are rearranged, once for all tokens, so that a vector holds 4
//! columns of 16 rows (or 8): then a token's part is one broadcast of 4 codes, and the sums of 16
//! rows end up side by side in one register, with nothing left to add.
//!
//! ```text
//! packed:   4 panels of 4 rows, 16 columns a tile      [panel][row][column]
//! unpacked: 16 rows, 4 vectors of 4 columns each       [column / 4][row][panel][column % 4]
//! ```
//!
//! which is a transposition of 4 x 4 words in each 128-bit lane. Rows come out in the order (row of
//! a panel, panel): [`super::super::accumulate::Order::Lanes`].
//!
//! A register tile is `G` x 16 rows by `T` tokens. The unpacked rows of a block stay in the
//! second-level cache, while the codes of a tile of tokens stay in the first.

use super::super::panel::{Panel, Panels, table_offsets};
use super::tiles::Tile;
use super::vector::Vector;
use alloc::vec::Vec;
use core::ops::Range;

/// Panels that are unpacked together.
pub(super) const GROUP_PANELS: usize = 4;
/// Rows of such a group.
pub(super) const GROUP_ROWS: usize = 16;
/// Columns unpacked at a time: a tile's codes and the rows that meet them stay in cache.
pub(super) const CHUNK_COLS: usize = 1024;

/// 16 columns of 16 rows, shifted by 128.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(in super::super) struct Step([[u8; 64]; 4]);

impl Step {
    pub(super) const EMPTY: Step = Step([[0; 64]; 4]);
}

/// Memory for unpacked rows.
pub(in super::super) type Unpacked = Vec<Step>;

/// Unpacks columns `16 steps` of the panels `group`, four at most; the rows of those that are
/// missing have anything in them.
///
/// # Safety
/// The caller enables the instructions of the kernel of `V`.
#[inline(always)]
pub(super) unsafe fn unpack<V: Vector, const N: usize>(
    panels: &Panels<'_>,
    group: Range<usize>,
    steps: Range<usize>,
    out: &mut [Step],
) {
    assert_eq!(out.len(), steps.len(), "steps to unpack");
    let panel = |p: usize| panels.get((group.start + p).min(group.end - 1));
    // SAFETY: by the caller's word; indices are inside the slices, whose lengths are asserted, and
    // `Panels::get` has checked the ids.
    unsafe {
        match [panel(0), panel(1), panel(2), panel(3)] {
            [
                Panel::Int8 { tiles: a },
                Panel::Int8 { tiles: b },
                Panel::Int8 { tiles: c },
                Panel::Int8 { tiles: d },
            ] => {
                let tiles = [a, b, c, d].map(|tiles| &tiles[steps.clone()]);
                for (i, step) in out.iter_mut().enumerate() {
                    for n in 0..N {
                        let mut rows = [V::zero(); GROUP_PANELS];
                        for p in 0..GROUP_PANELS {
                            let tile = tiles[p].get_unchecked(i).as_ptr();
                            rows[p] = V::load(tile.add(n * V::BYTES)).shifted();
                        }
                        put(step, n, rows);
                    }
                }
            }
            [
                Panel::Int4 { groups: a, ids: e },
                Panel::Int4 { groups: b, ids: f },
                Panel::Int4 { groups: c, ids: g },
                Panel::Int4 { groups: d, ids: h },
            ] => {
                // Chunks begin and end at groups of 32 columns.
                let range = steps.start / 2..steps.end / 2;
                let groups = [a, b, c, d].map(|groups| &groups[range.clone()]);
                let ids = [e, f, g, h].map(|ids| &ids[range.clone()]);
                let tables = panels.tables().as_ptr().cast();
                for (i, [low, high]) in out.as_chunks_mut().0.iter_mut().enumerate() {
                    for n in 0..N {
                        let (mut lows, mut highs) = ([V::zero(); 4], [V::zero(); 4]);
                        for p in 0..GROUP_PANELS {
                            let offsets = table_offsets(ids[p].get_unchecked(i));
                            let table = V::tables(tables, offsets, n);
                            let codes = V::load(groups[p].get_unchecked(i).as_ptr().add(n * V::BYTES));
                            lows[p] = table.look_up(codes.low_nibbles());
                            highs[p] = table.look_up(codes.high_nibbles());
                        }
                        put(low, n, lows);
                        put(high, n, highs);
                    }
                }
            }
            _ => unreachable!("the panels of a matrix have one format"),
        }
    }
}

/// Writes part `n` of 16 columns, given as rows of 4 panels.
///
/// # Safety
/// The caller enables the instructions of the kernel of `V`.
#[inline(always)]
unsafe fn put<V: Vector>(step: &mut Step, n: usize, [a, b, c, d]: [V; GROUP_PANELS]) {
    // SAFETY: by the caller's word; part n of 64 bytes is inside them.
    unsafe {
        let (ab, cd) = (a.zip_low32(b), c.zip_low32(d));
        let (ef, gh) = (a.zip_high32(b), c.zip_high32(d));
        let columns = [ab.zip_low64(cd), ab.zip_high64(cd), ef.zip_low64(gh), ef.zip_high64(gh)];
        for j in 0..4 {
            columns[j].store(step.0[j].as_mut_ptr().add(n * V::BYTES));
        }
    }
}

/// The register tile of unpacked groups `block` and the tokens of `tile`. `acc` is `(T, width)`,
/// beginning with the tile's first token and the first group's first row. The chunk that begins at
/// step 0 sets the accumulators, the others add to them.
///
/// # Safety
/// The caller enables the instructions of the kernel of `V`.
#[inline(always)]
pub(super) unsafe fn block_tile<V, const N: usize, const G: usize, const T: usize>(
    block: [&[Step]; G],
    tile: &Tile<'_, [i8; 16]>,
    first_step: usize,
    acc: &mut [i32],
    width: usize,
) where
    V: Vector,
{
    let steps = block[0].len();
    let x = &tile.steps::<T>()[first_step..first_step + steps];
    for steps in block {
        assert_eq!(steps.len(), x.len(), "steps of a group");
    }
    assert!(acc.len() >= (T - 1) * width + G * GROUP_ROWS, "accumulators of a tile");
    // SAFETY: by the caller's word; all pointers stay inside slices whose lengths are asserted.
    unsafe {
        let mut sums = [[[V::zero(); T]; N]; G];
        for step in 0..steps {
            let x = x.get_unchecked(step);
            for j in 0..4 {
                let mut weights = [[V::zero(); N]; G];
                for g in 0..G {
                    for n in 0..N {
                        let from = block[g].get_unchecked(step).0[j].as_ptr();
                        weights[g][n] = V::load(from.add(n * V::BYTES));
                    }
                }
                for t in 0..T {
                    let codes = V::splat4(x[t].as_ptr().add(4 * j));
                    for g in 0..G {
                        for n in 0..N {
                            sums[g][n][t] = sums[g][n][t].dot(weights[g][n], codes);
                        }
                    }
                }
            }
        }
        for t in 0..T {
            for g in 0..G {
                for n in 0..N {
                    let acc = acc.as_mut_ptr().add(t * width + g * GROUP_ROWS + n * GROUP_ROWS / N).cast();
                    let before = if first_step == 0 { V::splat(tile.corrections[t]) } else { V::load(acc) };
                    sums[g][n][t].add(before).store(acc.cast());
                }
            }
        }
    }
}
