//! Laws of the loops over one vector (docs/spec/arithmetic.md, sections 2 and 7).

use lockstep_base::rng::SplitMix64;
use lockstep_runtime::arith::{Extent, RHO_ONE, choose_cut, code};
use lockstep_runtime::kernels::{Kernel, codes, extent, hadamard};

/// Lengths around the widths of vectors.
const LENGTHS: [usize; 12] = [0, 1, 2, 7, 8, 15, 16, 17, 31, 64, 100, 1000];

/// Section 2, step 1: the least and the largest value, or 0; also of what a fault leaves.
pub(super) fn extents_hold_all_values(kernel: Kernel) {
    for n in LENGTHS {
        for seed in 0..20 {
            let mut rng = SplitMix64::new(seed);
            let sign = [0, -1, i32::MIN][seed as usize % 3];
            let mut x: Vec<i32> = (0..n).map(|_| (rng.next_u64() as i32 | sign) >> rng.below(32)).collect();
            let ends = |x: &[i32]| Extent {
                min: x.iter().copied().min().unwrap_or(0).min(0),
                max: x.iter().copied().max().unwrap_or(0).max(0),
            };
            assert_eq!(extent(kernel, &x), ends(&x), "{kernel} n {n} seed {seed}");
            if n > 0 {
                x[rng.below(n as u64) as usize] = i32::MIN;
                assert_eq!(extent(kernel, &x), ends(&x), "{kernel} n {n} seed {seed}");
                assert_eq!(extent(kernel, &x).magnitude(), i32::MAX, "{kernel} n {n} seed {seed}");
            }
        }
    }
}

/// Section 2, step 4, for the cut that steps 1 to 3 choose.
pub(super) fn codes_follow_the_specification(kernel: Kernel) {
    for n in LENGTHS {
        for seed in 0..60 {
            let mut rng = SplitMix64::new(seed);
            let bits = rng.below(31);
            let x: Vec<i32> = (0..n).map(|_| (rng.next_u64() as i32 >> 2) >> bits).collect();
            let rho = RHO_ONE - rng.below(1 << 13) as i32;
            let cut = choose_cut(Extent::of(&x), rho, 0);
            let mut got = vec![99; n];
            codes(kernel, &x, &cut, &mut got);
            let expected: Vec<i8> = x.iter().map(|v| code(*v, &cut)).collect();
            assert_eq!(got, expected, "{kernel} n {n} seed {seed} {cut:?}");
            assert!(!got.contains(&-128), "{kernel} n {n} seed {seed}: -128 never occurs");
        }
    }
}

/// Section 7, step 3: `z_i = sum_j (-1)^popcount(i & j) h_j`; twice is a multiplication by n.
pub(super) fn hadamard_is_its_definition(kernel: Kernel) {
    for n in [1usize, 2, 4, 8, 16, 32, 64, 128, 256] {
        for seed in 0..5 {
            let mut rng = SplitMix64::new(seed);
            // 2^22 * 256 < 2^31: exact at every size.
            let x: Vec<i32> = (0..n).map(|_| rng.next_u64() as i32 >> 10).collect();
            let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1 } else { -1 };
            let expected: Vec<i32> = (0..n).map(|i| (0..n).map(|j| sign(i, j) * x[j]).sum()).collect();
            let mut got = x.clone();
            hadamard(kernel, &mut got);
            assert_eq!(got, expected, "{kernel} n {n} seed {seed}");
            hadamard(kernel, &mut got);
            let back: Vec<i32> = x.iter().map(|v| v.wrapping_mul(n as i32)).collect();
            assert_eq!(got, back, "{kernel} n {n} seed {seed}, twice");
        }
    }
}
