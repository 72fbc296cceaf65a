//! What follows from the interval of an example's largest magnitude, as numbers of the field: everything that a shift by a
//! data-dependent amount needs, so that one lookup an example replaces all of them.

use super::cut::{Cut, Rescale};
use super::plan::Layer;
use super::ranges::{limb_width, limbs};
use crate::circuit::Source;
use crate::field::{power_of_two, residue};
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Bits of the first remainder, at most.
pub const FIRST_SHIFT_MAX: u32 = 15;
/// Bits of the second, at most.
pub const SECOND_SHIFT_MAX: u32 = 23;
/// Bits of the remainder of an output, at most.
pub const OUTPUT_SHIFT_MAX: u32 = 28;
/// Bits of an output with its offset.
pub const OUTPUT_WIDTH_MAX: u32 = 31;

/// One per group of rows with one shift: `power y' + remainder = product v + half`.
#[derive(Clone, Debug)]
pub struct Group<T> {
    /// 2^s.
    pub power: T,
    /// k, or k 2^-s for a shift to the left; 0 where everything is shifted out.
    pub product: T,
    /// 2^(s-1).
    pub half: T,
    /// y' + offset has the width of an output.
    pub offset: T,
    /// Widths of the limbs of the remainder.
    pub remainder: Vec<T>,
    /// Widths of the limbs of `y' + offset`.
    pub output: Vec<T>,
}

/// Everything that follows from an interval.
#[derive(Clone, Debug)]
pub struct Steps<T> {
    /// Its beginning.
    pub low: T,
    /// 2^e.
    pub first_power: T,
    /// 2^(e-1), 0 for e = 0.
    pub first_half: T,
    /// Widths of the limbs of the first remainder.
    pub first: Vec<T>,
    /// The multiplier.
    pub rho: T,
    /// 2^sh.
    pub second_power: T,
    /// 2^(sh-1), 0 for sh = 0.
    pub second_half: T,
    /// Widths of the limbs of the second remainder.
    pub second: Vec<T>,
    /// For each shift of the rows of the matrix that reads the codes.
    pub groups: Vec<Group<T>>,
}

impl<T: Copy> Steps<T> {
    /// All numbers in one fixed order.
    #[must_use]
    pub fn tuple(&self) -> Vec<T> {
        let mut all = alloc::vec![self.low, self.first_power, self.first_half, self.rho];
        all.extend([self.second_power, self.second_half]);
        all.extend(self.first.iter().chain(&self.second));
        for group in &self.groups {
            all.extend([group.power, group.product, group.half, group.offset]);
            all.extend(group.remainder.iter().chain(&group.output));
        }
        all
    }
}

/// The widths of all limbs of a value of `bits` bits that may have up to `most`.
fn widths<B: PrimeField32>(bits: u32, most: u32, limb_bits: u32) -> Vec<B> {
    (0..limbs(most, limb_bits)).map(|limb| B::from_u32(limb_width(bits, limb, limb_bits))).collect()
}

fn half<B: PrimeField32>(shift: u32) -> B {
    if shift == 0 { B::ZERO } else { power_of_two(shift - 1) }
}

impl<B: PrimeField32> Steps<B> {
    /// What follows from `cut` for codes that `reader` reads.
    #[must_use]
    pub fn new(cut: &Cut, reader: &Layer, limb_bits: u32) -> Steps<B> {
        let group = |shift: &i32| {
            let rescale = Rescale::new(shift - cut.shift() as i32);
            let bits = rescale.output_bits();
            let product =
                if rescale.nothing { B::ZERO } else { power_of_two::<B>(rescale.left) * B::from_u8(cut.k) };
            Group {
                power: power_of_two(rescale.right),
                product,
                half: half(rescale.right),
                offset: bits.map_or(B::ZERO, power_of_two),
                remainder: widths(rescale.right, OUTPUT_SHIFT_MAX, limb_bits),
                output: widths(bits.map_or(0, |bits| bits + 1), OUTPUT_WIDTH_MAX, limb_bits),
            }
        };
        Steps {
            low: residue(cut.low),
            first_power: power_of_two(cut.e),
            first_half: half(cut.e),
            first: widths(cut.e, FIRST_SHIFT_MAX, limb_bits),
            rho: residue(cut.rho),
            second_power: power_of_two(cut.sh),
            second_half: half(cut.sh),
            second: widths(cut.sh, SECOND_SHIFT_MAX, limb_bits),
            groups: reader.shifts.iter().map(group).collect(),
        }
    }
}

impl Steps<Source> {
    /// One source for each number, made by `make` in the order of [`Steps::tuple`].
    pub fn sources(groups: usize, limb_bits: u32, mut make: impl FnMut() -> Source) -> Steps<Source> {
        let count = |most| limbs(most, limb_bits);
        let [low, first_power, first_half, rho] = [(); 4].map(|()| make());
        let [second_power, second_half] = [(); 2].map(|()| make());
        let first = (0..count(FIRST_SHIFT_MAX)).map(|_| make()).collect();
        let second = (0..count(SECOND_SHIFT_MAX)).map(|_| make()).collect();
        let mut group = || {
            let [power, product, half, offset] = [(); 4].map(|()| make());
            let remainder = (0..count(OUTPUT_SHIFT_MAX)).map(|_| make()).collect();
            let output = (0..count(OUTPUT_WIDTH_MAX)).map(|_| make()).collect();
            Group { power, product, half, offset, remainder, output }
        };
        let groups = (0..groups).map(|_| group()).collect();
        Steps { low, first_power, first_half, first, rho, second_power, second_half, second, groups }
    }
}
