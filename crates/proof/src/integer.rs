//! The integer functions of docs/spec/arithmetic.md, section 1, for tables and witnesses.

/// `floor((x + 2^(s-1)) / 2^s)`, x for s = 0.
#[must_use]
pub const fn rsh(x: i64, s: u32) -> i64 {
    if s == 0 { x } else { (x + (1 << (s - 1))) >> s }
}

/// Bits of x >= 0.
#[must_use]
pub const fn bit_length(x: i64) -> u32 {
    i64::BITS - x.leading_zeros()
}

/// What is added before a shift by s: 2^(s-1), 0 for s = 0.
#[must_use]
pub const fn half(s: u32) -> i64 {
    if s == 0 { 0 } else { 1 << (s - 1) }
}

/// log2 of `n`, rounded up.
#[must_use]
pub const fn log2_ceil(n: usize) -> usize {
    n.next_power_of_two().trailing_zeros() as usize
}

/// `floor(x / y)` for y > 0, which is mostly a power of two; x for all others.
#[must_use]
pub const fn floor_div(x: i64, y: i64) -> i64 {
    match y {
        ..=1 => x,
        _ if y & (y - 1) == 0 => x >> y.trailing_zeros(),
        _ => x.div_euclid(y),
    }
}
