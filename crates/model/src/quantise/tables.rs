//! The tables of docs/spec/arithmetic.md, section 10, computed once, offline, in f64.
//!
//! At run time they are data under the model root; nobody ever recomputes them.

use super::int4;
use crate::source::{Act, FloatConfig};
use lockstep_base::weights::Tables;

/// Entries of the two exponential tables: 16 octaves in steps of 2^-8.
pub(super) const EXP2_ENTRIES: usize = 4096;
/// Entries of the activation table: [-16, 16) in steps of 2^-8.
pub(super) const ACTIVATION_ENTRIES: usize = 8192;

/// All tables of a model with `context` positions; int4 tables only if `with_int4`.
#[must_use]
pub(super) fn tables(config: &FloatConfig, context: usize, with_int4: bool) -> Tables {
    Tables {
        rope: Some(rope(config, context)).filter(|table| !table.is_empty()).into_iter().collect(),
        exp2: exp2(15).map(|value| value as u16).collect(),
        exp2_sample: exp2(24).collect(),
        activation: activation_table(config.activation),
        int4: if with_int4 { int4::tables() } else { Vec::new() },
        ..Tables::default()
    }
}

/// `round(2^bits 2^(-d/256))`, the last entry 0.
fn exp2(bits: i32) -> impl Iterator<Item = u32> {
    (0..EXP2_ENTRIES).map(move |d| {
        if d + 1 == EXP2_ENTRIES { 0 } else { (f64::from(bits) - d as f64 / 256.0).exp2().round() as u32 }
    })
}

/// `round(2^11 act((i - 4096) / 256))`.
fn activation_table(kind: Act) -> Vec<i16> {
    (0..ACTIVATION_ENTRIES)
        .map(|i| (2048.0 * kind.apply((i as f64 - 4096.0) / 256.0)).round() as i16)
        .collect()
}

/// Q14 cosine and sine of (position, pair); empty with learned positions.
fn rope(config: &FloatConfig, context: usize) -> Vec<i16> {
    let Some(inv_freq) = config.inv_freq() else { return Vec::new() };
    let mut table = Vec::with_capacity(context * config.head_dim);
    for position in 0..context {
        for freq in &inv_freq {
            let (sin, cos) = (position as f64 * freq).sin_cos();
            table.extend([cos, sin].map(|x| (16_384.0 * x).round() as i16));
        }
    }
    table
}
