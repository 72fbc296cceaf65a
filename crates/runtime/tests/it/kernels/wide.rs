//! kernels::Wide: instructions give what plain code gives, in every place that is specified.

use lockstep_base::rng::SplitMix64;
use lockstep_runtime::kernels::{Kernel, Plain, Task, Wide, vectorised};

/// What all operations give of two vectors of words.
#[derive(Debug, PartialEq, Eq)]
struct Results {
    words: [[u32; 16]; 5],
    /// Of `odd` and `mul_low`, whose odd places are unspecified.
    even: [[u32; 8]; 3],
}

struct All {
    a: [u32; 16],
    b: [u32; 16],
}

impl Task for All {
    type Output = Results;

    #[inline(always)]
    fn run(self) -> Results {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> Results {
        let (a, b) = (w.load(&self.a), w.load(&self.b));
        let (even, odd) = (w.mul(a, b), w.mul(w.odd(a), w.odd(b)));
        let less = w.less(w.add_long(even, odd), w.splat_long(0x7f00_0001 << 32));
        let joined = w.join(less, odd);
        let words = [w.add(a, b), w.sub(a, b), w.min(a, b), joined, w.splat(self.a[3])];
        let mut results = Results { words: [[0; 16]; 5], even: [[0; 8]; 3] };
        for at in 0..5 {
            w.store(words[at], &mut results.words[at]);
        }
        let evens = [w.odd(a), w.mul_low(even, b), w.mul_low(less, b)];
        for at in 0..3 {
            let mut all = [0; 16];
            w.store(evens[at], &mut all);
            for place in 0..8 {
                results.even[at][place] = all[2 * place];
            }
        }
        results
    }
}

#[test]
fn words_side_by_side_follow_plain_code() {
    let mut rng = SplitMix64::new(71);
    for case in 0..2000 {
        let mut word = || match rng.below(4) {
            0 => 0,
            1 => u32::MAX,
            _ => rng.below(1 << 32) as u32,
        };
        let (a, b): ([u32; 16], [u32; 16]) =
            (core::array::from_fn(|_| word()), core::array::from_fn(|_| word()));
        let expected = All { a, b }.run_wide(Plain);
        let products: Vec<u64> = a.iter().zip(b).map(|(a, b)| u64::from(*a) * u64::from(b)).collect();
        for place in 0..8 {
            assert_eq!(
                expected.words[3][2 * place + 1],
                (products[2 * place + 1] >> 32) as u32,
                "case {case}"
            );
            assert_eq!(expected.even[0][place], a[2 * place + 1], "case {case}");
        }
        for kernel in Kernel::available() {
            assert_eq!(vectorised(kernel, All { a, b }), expected, "case {case}, {kernel}");
        }
    }
}
