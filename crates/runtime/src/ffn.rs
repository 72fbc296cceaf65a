//! Element-wise part of the feed-forward block (docs/spec/arithmetic.md, section 7): activation
//! by table with exact tails, or ReLU, and the product with up.

use crate::arith::{RangeError, rsh, scale};
use crate::kernels::{Kernel, multiversion};
use lockstep_base::config::Activation;

/// Fractional bits of the activation table's values.
pub const TABLE_FRAC: i32 = 11;
/// Shift of the gated product; keeps it below 2^22.
pub const PRODUCT_SHIFT: u32 = 7;
/// Entries of the activation table.
const TABLE_ENTRIES: usize = 8192;
/// Fractional bits of the table's index, and half its entries.
const INDEX_FRAC: i32 = 8;
const HALF: i32 = TABLE_ENTRIES as i32 / 2;

/// Step 1: the activation of `g`, in the `frac` fractional bits of `g`.
///
/// # Errors
/// [`RangeError`] if `frac` is far below 8 and `g` large, which no importer produces.
pub fn activation(g: i32, frac: i32, table: &[i16]) -> Result<i32, RangeError> {
    let g8 = scale(g, frac - INDEX_FRAC, "activation input")?;
    if g8 >= HALF {
        Ok(g)
    } else if g8 < -HALF {
        Ok(0)
    } else {
        scale(i32::from(table[(g8 + HALF) as usize]), TABLE_FRAC - frac, "activation")
    }
}

/// Steps 1 and 2: `h = act(g)`, or with `u` (a gated block) `h = rsh(act(g) u, 7)`.
///
/// # Errors
/// See [`activation`].
pub fn hidden(
    kernel: Kernel,
    kind: Activation,
    g: &[i32],
    u: Option<&[i32]>,
    frac: i32,
    table: &[i16],
    h: &mut [i32],
) -> Result<(), RangeError> {
    let usual = (INDEX_FRAC..=TABLE_FRAC).contains(&frac);
    match (kind, <&[i16; TABLE_ENTRIES]>::try_from(table)) {
        (Activation::Relu, _) => h.iter_mut().zip(g).for_each(|(h, g)| *h = (*g).max(0)),
        (Activation::Table, Ok(table)) if usual => {
            look_up(kernel, g, (frac - INDEX_FRAC) as u32, (TABLE_FRAC - frac) as u32, table, h);
        }
        (Activation::Table, _) => {
            for (h, g) in h.iter_mut().zip(g) {
                *h = activation(*g, frac, table)?;
            }
        }
    }
    if let Some(u) = u {
        multiply(kernel, h, u);
    }
    Ok(())
}

multiversion! {
    /// [`activation`] where all shifts go to the right: `down` to the index, `up` from the entry.
    fn look_up(g: &[i32], down: u32, up: u32, table: &[i16; TABLE_ENTRIES], h: &mut [i32]) = look_up_body
}

#[inline(always)]
fn look_up_body(g: &[i32], down: u32, up: u32, table: &[i16; TABLE_ENTRIES], h: &mut [i32]) {
    for (h, g) in h.iter_mut().zip(g) {
        let g8 = rsh(*g, down);
        let entry = table[(g8 + HALF).clamp(0, 2 * HALF - 1) as usize];
        let inside = rsh(entry.into(), up);
        *h = if g8 >= HALF {
            *g
        } else if g8 < -HALF {
            0
        } else {
            inside
        };
    }
}

multiversion! {
    /// `h_i = rsh(h_i u_i, 7)`.
    fn multiply(h: &mut [i32], u: &[i32]) = multiply_body
}

#[inline(always)]
fn multiply_body(h: &mut [i32], u: &[i32]) {
    for (h, u) in h.iter_mut().zip(u) {
        *h = rsh(h.wrapping_mul(*u), PRODUCT_SHIFT);
    }
}
