//! The linear kernels with VNNI, for vectors of 512 and of 256 bits: which loops run for how many
//! tokens, compiled for one set of instructions each.

use super::super::accumulate::{BLOCK_ROWS, Order};
use super::super::kernel::{Avx512, AvxVnni};
use super::super::panel::Panels;
use super::block::{
    CHUNK_COLS, GROUP_PANELS, GROUP_ROWS, Step, Unpacked, block_tile, unpack as unpack_group,
};
use super::direct::{Out, direct as direct_panels};
use super::tiles::{Tile, Tiled, chunk_steps};
use core::arch::x86_64::{__m256i, __m512i};
use core::ops::Range;
use lockstep_base::weights::PANEL_ROWS;

/// Tiles of tokens up to which the packed weights are read again, from cache, for each; with more,
/// unpacking them costs less.
pub(in super::super) const DIRECT_TILES: usize = 2;

macro_rules! vnni {
    (
        $(#[$meta:meta])*
        mod $module:ident for $witness:ident, $features:literal;
        $vector:ty, $parts:literal a tile;
        tiles of $tile_tokens:literal tokens, of $($few:literal)* directly, of $($many:literal)* in blocks;
        $panels:literal panels together, $groups:literal groups together
    ) => {
        $(#[$meta])*
        pub(in super::super) mod $module {
            use super::*;

            /// Tokens of a register tile.
            pub(in super::super::super) const TILE_TOKENS: usize = $tile_tokens;

            /// The rows `rows` (as many as a block has, at most) against the tiles `tiles` of
            /// tokens; `acc` is `(tokens, width)`.
            pub(in super::super::super) fn accumulate(
                _: $witness,
                x: &Tiled<'_, [i8; 16]>,
                panels: &Panels<'_>,
                tiles: Range<usize>,
                rows: Range<usize>,
                acc: &mut [i32],
                width: usize,
                unpacked: &mut Unpacked,
            ) -> Order {
                // SAFETY: the witness says that the machine has these instructions.
                unsafe {
                    if x.count() <= DIRECT_TILES {
                        few(x, panels, rows, acc, width);
                        Order::Rows
                    } else {
                        many(x, panels, tiles, rows, acc, width, unpacked);
                        Order::Lanes
                    }
                }
            }

            #[target_feature(enable = $features)]
            fn few(x: &Tiled<'_, [i8; 16]>, panels: &Panels<'_>, rows: Range<usize>, acc: &mut [i32], width: usize) {
                let mut out = Out { acc, width, count: rows.len(), first: 0 };
                let mut tiles = x.tiles(0..DIRECT_TILES);
                let (Some(first), second) = (tiles.next(), tiles.next()) else {
                    return;
                };
                let mut panel = rows.start / PANEL_ROWS;
                let end = rows.end.div_ceil(PANEL_ROWS);
                while panel < end {
                    let together = if first.tokens > 1 && end - panel >= $panels { $panels } else { 1 };
                    let column = panel * PANEL_ROWS - rows.start;
                    for tile in core::iter::once(&first).chain(&second) {
                        match (tile.tokens, together) {
                            (1, _) => direct::<1, 1, 4>(panels, panel, tile, column, &mut out),
                            $(
                                ($few, 1) => direct::<1, $few, 1>(panels, panel, tile, column, &mut out),
                                ($few, _) => direct::<$panels, $few, 1>(panels, panel, tile, column, &mut out),
                            )*
                            (tokens, _) => unreachable!("a tile of {tokens} tokens"),
                        }
                    }
                    panel += together;
                }
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn direct<const P: usize, const T: usize, const U: usize>(
                panels: &Panels<'_>,
                first: usize,
                tile: &Tile<'_, [i8; 16]>,
                column: usize,
                out: &mut Out<'_>,
            ) {
                // SAFETY: the instructions are enabled here.
                unsafe { direct_panels::<$vector, $parts, P, T, U>(panels, first, tile, column, out) }
            }

            #[target_feature(enable = $features)]
            fn many(
                x: &Tiled<'_, [i8; 16]>,
                panels: &Panels<'_>,
                tiles: Range<usize>,
                rows: Range<usize>,
                acc: &mut [i32],
                width: usize,
                unpacked: &mut Unpacked,
            ) {
                assert!(rows.len() <= BLOCK_ROWS, "{} rows, expected at most {BLOCK_ROWS}", rows.len());
                let (first_panel, end_panel) = (rows.start / PANEL_ROWS, rows.end.div_ceil(PANEL_ROWS));
                let groups = (end_panel - first_panel).div_ceil(GROUP_PANELS);
                let Some(first_token) = x.tiles(tiles.clone()).next().map(|tile| tile.first) else {
                    return;
                };
                for steps in chunk_steps(x.cols, CHUNK_COLS) {
                    let count = steps.len();
                    if unpacked.len() < groups * count {
                        unpacked.resize(groups * count, Step::EMPTY);
                    }
                    for (group, out) in unpacked.chunks_exact_mut(count).take(groups).enumerate() {
                        let first = first_panel + group * GROUP_PANELS;
                        unpack(panels, first..end_panel.min(first + GROUP_PANELS), steps.clone(), out);
                    }
                    let group_steps = |group: usize| &unpacked[group * count..(group + 1) * count];
                    for tile in x.tiles(tiles.clone()) {
                        let mut group = 0;
                        while group < groups {
                            let at = (tile.first - first_token) * width + group * GROUP_ROWS;
                            let acc = &mut acc[at..];
                            let mut block = [group_steps(group); $groups];
                            let together = if groups - group >= $groups { $groups } else { 1 };
                            for g in 1..together {
                                block[g] = group_steps(group + g);
                            }
                            match (tile.tokens, together) {
                                $(
                                    ($many, 1) => tile_of::<1, $many>([block[0]], &tile, steps.start, acc, width),
                                    ($many, _) => tile_of::<$groups, $many>(block, &tile, steps.start, acc, width),
                                )*
                                (tokens, _) => unreachable!("a tile of {tokens} tokens"),
                            }
                            group += together;
                        }
                    }
                }
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn unpack(panels: &Panels<'_>, group: Range<usize>, steps: Range<usize>, out: &mut [Step]) {
                // SAFETY: the instructions are enabled here.
                unsafe { unpack_group::<$vector, $parts>(panels, group, steps, out) }
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn tile_of<const G: usize, const T: usize>(
                block: [&[Step]; G],
                tile: &Tile<'_, [i8; 16]>,
                first_step: usize,
                acc: &mut [i32],
                width: usize,
            ) {
                // SAFETY: the instructions are enabled here.
                unsafe { block_tile::<$vector, $parts, G, T>(block, tile, first_step, acc, width) }
            }
        }
    };
}

vnni! {
    /// 512 bits: 32 registers hold 2 panels, or 2 groups of rows, by 12 tokens.
    mod avx512 for Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni";
    __m512i, 1 a tile;
    tiles of 12 tokens, of 2 3 4 5 6 7 8 9 10 11 12 directly, of 8 9 10 11 12 in blocks;
    2 panels together, 2 groups together
}

vnni! {
    /// 256 bits: 16 registers hold a panel, or a group of rows, by 6 tokens.
    mod avx_vnni for AvxVnni, "avx2,avxvnni";
    __m256i, 2 a tile;
    tiles of 6 tokens, of 2 3 4 5 6 directly, of 4 5 6 in blocks;
    1 panels together, 1 groups together
}
