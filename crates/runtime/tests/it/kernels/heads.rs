//! Laws of the loops of attention (docs/spec/arithmetic.md, section 6, steps 4 and 6).

use lockstep_base::rng::SplitMix64;
use lockstep_runtime::kernels::{Kernel, dot_i16, scores, weighted_values};

/// Head sizes: those of real models, and odd ones around the widths of vectors.
const DIMS: [usize; 13] = [1, 2, 6, 8, 16, 24, 32, 48, 64, 80, 96, 128, 256];
/// Numbers of positions, around the sizes of blocks.
const POSITIONS: [usize; 10] = [0, 1, 2, 3, 4, 5, 16, 17, 255, 256];

/// Step 4 with 12-bit codes, and at the largest codes of each width.
pub(super) fn scores_are_exact(kernel: Kernel) {
    for dim in DIMS {
        for n in POSITIONS {
            for kind in 0..3 {
                let mut rng = SplitMix64::new((dim * 1000 + n) as u64);
                let bound = if dim > 128 { 1023i16 } else { 2047 };
                let mut code = || {
                    let random = rng.below(2 * bound as u64 + 1) as i16 - bound;
                    match kind {
                        0 => random,
                        1 => bound * random.signum(),
                        // Outside of every bound: the same modulo 2^32.
                        _ => [i16::MIN, i16::MAX][rng.below(2) as usize],
                    }
                };
                let q: Vec<i16> = (0..dim).map(|_| code()).collect();
                let keys: Vec<i16> = (0..n * dim).map(|_| code()).collect();
                let mut got = vec![7; n];
                scores(kernel, &q, &keys, &mut got);
                let product = |(a, b): (&i16, &i16)| i64::from(*a) * i64::from(*b);
                for (j, key) in keys.chunks(dim).enumerate() {
                    let exact: i64 = q.iter().zip(key).map(product).sum();
                    assert!(kind == 2 || exact.abs() <= 1 << 29, "the bound of step 4");
                    assert_eq!(got[j], exact as i32, "{kernel} dim {dim} n {n} kind {kind} position {j}");
                    assert_eq!(dot_i16(kernel, &q, key), exact as i32, "{kernel} dim {dim} kind {kind} one");
                }
            }
        }
    }
}

/// Step 6: weights up to 2^15 inclusive, which does not fit i16, within the bound of the sum.
pub(super) fn weighted_sums_are_exact(kernel: Kernel) {
    for dim in DIMS.into_iter().chain([3, 33, 100]) {
        for n in POSITIONS {
            for kind in 0..4 {
                let mut rng = SplitMix64::new((dim * 1000 + n * 10 + kind) as u64);
                let p: Vec<i32> = (0..n)
                    .map(|_| match kind {
                        0 => rng.below(32_769) as i32,
                        1 => 32_768,
                        // Far outside, as after a fault: still the same modulo 2^32.
                        2 => rng.next_u64() as i32,
                        _ => [0, 1, 32_767, 32_768, 65_535, 65_536, -1, -32_768, i32::MIN, i32::MAX]
                            [rng.below(10) as usize],
                    })
                    .collect();
                let values: Vec<i8> = (0..n * dim).map(|_| (rng.below(255) as i64 - 127) as i8).collect();
                let mut got = vec![5; dim];
                weighted_values(kernel, &p, &values, &mut got);
                for (c, got) in got.iter().enumerate() {
                    let sum: i64 = (0..n).map(|j| i64::from(p[j]) * i64::from(values[j * dim + c])).sum();
                    assert_eq!(*got, sum as i32, "{kernel} dim {dim} n {n} kind {kind} channel {c}");
                }
            }
        }
    }
}
