//! The kernel for AArch64: dot products of signed bytes, which need no offset. The loops are in an
//! assembly file, `dot.s`, because it can then be assembled and run by itself, against the scalar
//! specification, on machines that have neither the processor nor a Rust target for it
//! (tests/it/kernels/neon.rs, under `qemu-aarch64`).
//!
//! Verified so far under emulation only (this file's assembly, and the law suite of the whole kernel
//! on the target aarch64-unknown-linux-gnu); its speed has not been measured on hardware.
//!
//! int4 panels are unpacked to int8 first, into the first-level cache.

use super::kernel::Neon;
use super::panel::{Panel, Panels};
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::weights::PANEL_ROWS;

core::arch::global_asm!(include_str!("dot.s"), options(raw));

// SAFETY: these are the signatures of dot.s, which keeps the procedure call standard.
unsafe extern "C" {
    /// # Safety
    /// `tiles` is `[[u8; 64]; count]`, count even and not 0; `codes` is `[i8; 16 count]`; `sums` is `[i32; 4]`.
    fn lockstep_neon_dot1(tiles: *const u8, count: usize, codes: *const i8, sums: *mut i32);

    /// # Safety
    /// As above, for 4 tokens whose codes begin `stride` bytes apart; `sums` is `[[i32; 4]; 4]`.
    fn lockstep_neon_dot4(tiles: *const u8, count: usize, codes: *const i8, stride: usize, sums: *mut i32);

    /// # Safety
    /// `groups` is `[[u8; 64]; count]`, count not 0; `ids` is `[[u16; 4]; count]`, each inside `tables`;
    /// `tiles` is `[[u8; 64]; 2 count]`.
    fn lockstep_neon_unpack4(
        groups: *const u8,
        ids: *const u8,
        tables: *const u8,
        count: usize,
        tiles: *mut u8,
    );
}

/// Tokens of a register tile: 4 rows x 4 tokens are 16 of 32 registers.
const TILE_TOKENS: usize = 4;

/// Memory for one unpacked panel.
pub(super) type Unpacked = Vec<[u8; 64]>;

/// The rows `rows` against `x`, `(tokens, cols)`; `acc` is `(tokens, width)`.
pub(super) fn accumulate(
    _: Neon,
    x: &[i8],
    cols: usize,
    panels: &Panels<'_>,
    rows: Range<usize>,
    acc: &mut [i32],
    width: usize,
    unpacked: &mut Unpacked,
) {
    for row in rows.clone().step_by(PANEL_ROWS) {
        let tiles = match panels.get(row / PANEL_ROWS) {
            Panel::Int8 { tiles } => tiles,
            Panel::Int4 { groups, ids } => {
                unpacked.resize(2 * groups.len(), [0; 64]);
                assert!(!groups.is_empty() && ids.len() == groups.len(), "groups of a panel");
                let tables = panels.tables().as_ptr().cast();
                // SAFETY: the lengths are asserted, `Panels::get` has checked the ids, and the
                // witness says that the machine has these instructions.
                unsafe {
                    lockstep_neon_unpack4(
                        groups.as_ptr().cast(),
                        ids.as_ptr().cast(),
                        tables,
                        groups.len(),
                        unpacked.as_mut_ptr().cast(),
                    );
                }
                &unpacked[..]
            }
        };
        let columns = row - rows.start..rows.len().min(row - rows.start + PANEL_ROWS);
        for (codes, acc) in x.chunks(TILE_TOKENS * cols).zip(acc.chunks_mut(TILE_TOKENS * width)) {
            for (acc, sums) in acc.chunks_mut(width).zip(dot(tiles, codes, cols)) {
                acc[columns.clone()].copy_from_slice(&sums[..columns.len()]);
            }
        }
    }
}

/// The sums of the 4 rows of a panel for up to 4 tokens.
fn dot(tiles: &[[u8; 64]], codes: &[i8], cols: usize) -> [[i32; PANEL_ROWS]; TILE_TOKENS] {
    let mut sums = [[0; PANEL_ROWS]; TILE_TOKENS];
    let count = tiles.len();
    assert!(count > 0 && count.is_multiple_of(2) && cols == 16 * count, "tiles of a panel");
    let tiles = tiles.as_ptr().cast();
    if codes.len() == TILE_TOKENS * cols {
        // SAFETY: 4 tokens of 16 `count` codes, the other lengths are asserted, and the witness
        // that `accumulate` was given says that the machine has these instructions.
        unsafe { lockstep_neon_dot4(tiles, count, codes.as_ptr(), cols, sums.as_mut_ptr().cast()) };
    } else {
        for (codes, sums) in codes.chunks_exact(cols).zip(&mut sums) {
            // SAFETY: as above, for one token.
            unsafe { lockstep_neon_dot1(tiles, count, codes.as_ptr(), sums.as_mut_ptr()) };
        }
    }
    sums
}
