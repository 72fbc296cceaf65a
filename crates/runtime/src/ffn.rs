//! Element-wise part of the feed-forward block (docs/spec/arithmetic.md, section 7): activation
//! by table with exact tails, product with up, Hadamard transform.

use crate::arith::{RangeError, rsh, scale};

/// Fractional bits of the activation table's values.
pub const TABLE_FRAC: i32 = 11;
/// Shift of the gated product; keeps it below 2^22.
pub const PRODUCT_SHIFT: u32 = 7;

/// Step 1: the activation of `g`, in the `frac` fractional bits of `g`.
///
/// # Errors
/// [`RangeError`] if `frac` is far below 8 and `g` large, which no importer produces.
pub fn activation(g: i32, frac: i32, table: &[i16]) -> Result<i32, RangeError> {
    let g8 = scale(g, frac - 8, "activation input")?;
    if g8 >= 4096 {
        Ok(g)
    } else if g8 < -4096 {
        Ok(0)
    } else {
        scale(i32::from(table[(g8 + 4096) as usize]), TABLE_FRAC - frac, "activation")
    }
}

/// Steps 1 and 2 for a gated block: `h = rsh(act(g) * u, 7)`, into `g`.
///
/// # Errors
/// See [`activation`].
pub fn gated(g: &mut [i32], u: &[i32], frac: i32, table: &[i16]) -> Result<(), RangeError> {
    for (g, u) in g.iter_mut().zip(u) {
        *g = rsh(activation(*g, frac, table)?.wrapping_mul(*u), PRODUCT_SHIFT);
    }
    Ok(())
}

/// Steps 1 and 2 for a plain block: `h = act(u)`, in place.
///
/// # Errors
/// See [`activation`].
pub fn plain(u: &mut [i32], frac: i32, table: &[i16]) -> Result<(), RangeError> {
    for u in u.iter_mut() {
        *u = activation(*u, frac, table)?;
    }
    Ok(())
}
