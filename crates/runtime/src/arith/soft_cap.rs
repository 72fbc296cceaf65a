//! Soft caps (docs/spec/arithmetic.md, sections 6 and 8): `c tanh(x / c)` by a table of its values at the
//! ends of 4,096 equal steps, and a straight line between: the slope is one near zero, where a
//! value must come through unharmed.

/// log2 of the steps of a table.
const STEPS_LOG2: u32 = 12;

/// `x` capped by `table`, whose steps are `2^shift` wide; values beyond the last step count as its end.
#[inline]
#[must_use]
pub fn soft_cap(x: i32, table: &[i32], shift: u8) -> i32 {
    let shift = u32::from(shift);
    let a = x.unsigned_abs().min((1 << (STEPS_LOG2 + shift)) - 1);
    let (step, rest) = ((a >> shift) as usize, (a & ((1 << shift) - 1)) as i32);
    let (low, high) = (table[step], table[step + 1]);
    let y = low.wrapping_add(super::rsh(rest.wrapping_mul(high.wrapping_sub(low)), shift));
    if x < 0 { y.wrapping_neg() } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A table of slope one is the identity up to its end, either side of zero; the last value stands beyond it.
    #[test]
    fn lines_are_exact_between_entries() {
        for shift in [0u8, 3, 14] {
            let table: Vec<i32> = (0..4097).map(|i| i << shift).collect();
            let end = 4096 << shift;
            for x in [0, 1, 5, 1000, end / 3, end - 1] {
                assert_eq!((soft_cap(x, &table, shift), soft_cap(-x, &table, shift)), (x, -x));
            }
            for x in [end, end + 12_345, i32::MAX] {
                assert_eq!((soft_cap(x, &table, shift), soft_cap(-x, &table, shift)), (end - 1, 1 - end));
            }
        }
        assert_eq!(soft_cap(i32::MIN, &[0; 4097], 4), 0);
    }

    /// Capping keeps the order of scores: it never falls.
    #[test]
    fn order_is_kept() {
        let table: Vec<i32> = (0..4097i64).map(|i| (i * 32 * 20_000 / (20_000 + i * 32)) as i32).collect();
        let capped: Vec<i32> = (-140_000..140_000).step_by(7).map(|x| soft_cap(x, &table, 5)).collect();
        assert!(capped.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
