//! The two tables of a quantisation, of shifts and of steps, and the choices that a witness makes in them.

use crate::circuit::{Circuit, Linear};
use crate::field::residue;
use crate::gadget::ranges::widths;
use crate::gadget::tables::{none, width_and_value, within};
use crate::integer::{bit_length, rsh};
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// The smallest shift: 16 bits have room for one bit, 15 to the left.
pub(super) const E_MIN: i64 = -15;
/// Bits of x16.
pub(super) const FIRST_BITS: u32 = 16;
/// Most bits of the first remainder.
pub(super) const FIRST_SHIFT_MAX: u32 = 15;
/// Second shifts of vectors that are not zero: products of 27 to 30 bits become 7.
pub(super) const SECOND_SHIFT_MIN: i64 = 18;
/// The largest: 2^15 times 2^14 is 120 of the step (17, 22), and `255 2^22` is below the order of the field.
pub(super) const SECOND_SHIFT_MAX: u32 = 22;
/// Step mantissas.
pub(super) const MANTISSAS: core::ops::RangeInclusive<i64> = 16..=31;
/// Largest code.
pub(super) const CODE_MAX: i64 = 127;
/// Bits of a limb with which a code and the upper limb of its remainder are one lookup.
pub(super) const CODE_LIMB: u32 = 16;

/// `reciprocal(k)` of a step mantissa.
pub(super) fn reciprocal(k: i64) -> i64 {
    ((1 << 18) + k / 2) / k
}

/// e of a vector that is not all zero: the smallest that leaves 16 bits.
pub(super) fn shift_of(x: &[i64]) -> Option<i64> {
    let (any, all) = x.iter().fold((0, 0), |(any, all), x| (any | x, all | (x ^ (x >> 63))));
    (any != 0).then_some((i64::from(bit_length(all)) - 15).max(E_MIN))
}

/// What a prover declares of vectors: from which e to which, and whether some are all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// The smallest e.
    pub(super) from: i64,
    /// The largest.
    pub(super) to: i64,
    /// Whether some vector is all zero.
    pub(super) zeros: bool,
}

impl Declared {
    /// The key of a vector of zeros; e is that of the others.
    pub(super) fn zero_key(self) -> i64 {
        self.from - 1
    }

    /// Whether widths of remainders are e.
    pub(super) fn plain_remainder(self, limb_bits: u32) -> bool {
        self.from >= 0 && self.to <= limb_bits.into()
    }

    /// Whether a table needs anything but the key.
    pub(super) fn is_constant(self) -> bool {
        self.from == self.to && !self.zeros && self.from >= 0
    }

    /// The key; whether all is zero; P; L, the offset of z and the widths of its limbs; the widths of the remainder's.
    pub(super) fn table(self, limb_bits: u32) -> Vec<Vec<i64>> {
        let entry = |key: i64, e: i64, zero: bool| {
            let (right, left) = (e.max(0) as u32, (-e).max(0) as u32);
            let mut entry = vec![key];
            if self.zeros {
                entry.push(zero.into());
            }
            if self.to > 0 {
                entry.push(1 << right);
            }
            if self.from < 0 {
                entry.extend([1 << left, 1 << (FIRST_BITS - 1 - left)]);
                entry.extend(widths(FIRST_BITS - left, FIRST_BITS, limb_bits));
            }
            if self.to > 0 && !self.plain_remainder(limb_bits) {
                entry.extend(widths(right, FIRST_SHIFT_MAX, limb_bits));
            }
            entry
        };
        let zero = self.zeros.then(|| entry(self.zero_key(), 0, true));
        zero.into_iter().chain((self.from..=self.to).map(|e| entry(e, e, false))).collect()
    }
}

/// The key of a step in the second table; 0 is that of a vector of zeros.
pub(super) fn step_key(k: i64, sh: i64) -> i64 {
    1 + (sh - SECOND_SHIFT_MIN) * 16 + k - MANTISSAS.start()
}

/// The next smaller step.
pub(super) fn smaller(k: i64, sh: i64) -> (i64, i64) {
    if k == *MANTISSAS.start() { (*MANTISSAS.end(), sh - 1) } else { (k - 1, sh) }
}

/// The key, then k, sh, the reciprocal, that of the next smaller step, 2^sh, the bound of the next smaller step, whether all is zero (where there are
/// such vectors), and the widths of the remainder, where [`code_table`] does not have them.
pub(super) fn second_table(zeros: bool, limb_bits: u32) -> Vec<Vec<i64>> {
    let entry = |key: i64, k: i64, sh: i64, of: [i64; 4], zero: bool| {
        let mut entry = vec![key, k, sh];
        entry.extend(of);
        if zeros {
            entry.push(zero.into());
        }
        if limb_bits < CODE_LIMB {
            entry.extend(widths(sh as u32, SECOND_SHIFT_MAX, limb_bits));
        }
        entry
    };
    let mut entries = Vec::new();
    if zeros {
        entries.push(entry(0, *MANTISSAS.start(), 0, [reciprocal(16), reciprocal(16), 1, 0], true));
    }
    for sh in SECOND_SHIFT_MIN..=SECOND_SHIFT_MAX.into() {
        for k in MANTISSAS {
            let (k_smaller, sh_smaller) = smaller(k, sh);
            let of = [reciprocal(k), reciprocal(k_smaller), 1 << sh, (2 * CODE_MAX + 1) << sh_smaller];
            entries.push(entry(step_key(k, sh), k, sh, of, false));
        }
    }
    entries
}

/// Coordinates of a code in [`code_table`].
const CODE_LOG: usize = 8;
/// Coordinates of [`code_table`].
pub(super) const CODE_TABLE_LOG: usize = (SECOND_SHIFT_MAX - CODE_LIMB) as usize + 1 + CODE_LOG;

/// sh, a code, and what its remainder has above 16 bits, which is a value of sh - 16 bits. Of a vector of zeros, all are 0: these entries are where the widths
/// are that no step has.
pub(super) fn code_table<B: PrimeField32>(circuit: &mut Circuit<B>) -> Vec<Linear<B>> {
    const { assert!(SECOND_SHIFT_MIN == 18 && CODE_LIMB == 16) };
    let high_log = CODE_TABLE_LOG - CODE_LOG;
    let (width, high) = width_and_value(circuit, 0..high_log);
    let code = within(circuit, high_log..CODE_TABLE_LOG);
    // Widths 0 and 1: all but the last two coordinates are 0, and what is said of these alone is the same.
    let small = none(circuit, 0..high_log - 2);
    let (small_width, small_high) = width_and_value(circuit, high_log - 2..high_log);
    let [view] = &small.terms[0].views[..] else { return Vec::new() };
    let but_small = |x: Linear<B>, there: Linear<B>| x.minus(&there.by(view));
    let sixteen = residue::<B>(CODE_LIMB.into());
    let sh = but_small(width.offset(sixteen), small_width.offset(sixteen));
    vec![sh, but_small(code.clone(), code), but_small(high, small_high)]
}

/// The smallest step in which every code of `x16` fits: (k, sh).
pub(super) fn step_of(x16: &[i64], rho: i64) -> (i64, i64) {
    let fits =
        |rho_k: i64, sh: i64| x16.iter().all(|x| (-CODE_MAX..=CODE_MAX).contains(&rsh(x * rho_k, sh as u32)));
    let steps = (SECOND_SHIFT_MIN..=SECOND_SHIFT_MAX.into()).flat_map(|sh| MANTISSAS.map(move |k| (k, sh)));
    let rho_of = |k| if rho == 1 << 14 { reciprocal(k) } else { rsh(rho * reciprocal(k), 14) };
    let mut steps = steps.skip_while(|(k, sh)| !fits(rho_of(*k), *sh));
    steps.next().unwrap_or((*MANTISSAS.end(), SECOND_SHIFT_MAX.into()))
}
