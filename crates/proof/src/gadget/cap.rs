//! Soft caps of scores and of logits (docs/spec/arithmetic.md, sections 6 and 8): a line between the ends of 4,096 steps of a table T.
//!
//! ```text
//! x (1 - 2 g) = 2^c step + rest + o             |x|, g a bit (either, for 0), o >= 0: a = min(|x|, 2^(12 + c) - 1) is what o leaves
//! o (2^(12+c) - 1 - 2^c step - rest) = 0
//! (step, T, R) in a table                       R = T[step + 1] - T[step], from 0 to 2^c
//! 2^c w + r = rest R + 2^(c-1)                  w, rest and r of c bits
//! y = (1 - 2 g) (T + w)
//! ```
//!
//! T begins with 0, so that either sign of 0 gives 0. Nothing wraps: |x| is at most 2^26 + 2^29, and `rest R` below 2^28.

use super::ranges::Width;
use super::tables::number;
use super::{Builder, whole};
use crate::circuit::Linear;
use crate::error::PlanError;
use crate::field::{power_of_two, residue};
use crate::integer::{half, rsh};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::SOFT_CAP_ENTRIES;
use p3_field::PrimeField32;

/// log2 of the steps of a table.
const STEP_BITS: u32 = 12;
/// Bits of what a magnitude has beyond the last step.
const BEYOND_BITS: u32 = 29;
/// Most bits of a remainder that are looked up beside another one.
const BESIDE_MAX: u32 = 7;

/// A table and log2 of its steps' width.
#[derive(Clone, Copy, Debug)]
pub struct Cap<'t> {
    /// Which one.
    pub name: &'static str,
    /// Its ends.
    pub table: &'t [i32],
    /// c.
    pub shift: u32,
}

impl Cap<'_> {
    /// Whether the table is one: it begins with 0, and rises by at most 2^c a step.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), PlanError> {
        let rises = |ends: &[i32]| (0..=1 << self.shift).contains(&(i64::from(ends[1]) - i64::from(ends[0])));
        let whole = self.table.len() == SOFT_CAP_ENTRIES && self.table[0] == 0;
        if whole && self.table.windows(2).all(rises) {
            return Ok(());
        }
        let expected = "a table of 4,097 ends from 0 on that rises by at most its steps";
        Err(PlanError::Unsupported { place: String::from(self.name), op: "a soft cap", expected })
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// x, capped. `allowed` is the largest magnitude of x that wraps nowhere, where that was not shown.
    pub fn soft_cap(
        &mut self,
        name: &str,
        log: usize,
        (x, allowed): (&Linear<B>, i64),
        cap: Cap<'_>,
    ) -> Linear<B> {
        let (c, values) = (cap.shift, self.integers(x, log));
        let last = (1i64 << (STEP_BITS + c)) - 1;
        let signs = values.iter().map(|x| i64::from(*x < 0)).collect();
        let sign = Linear::view(whole(self.boolean(&format!("{name} capped sign"), log, signs), log));
        let inside: Vec<i64> = values.iter().map(|x| x.abs().min(last)).collect();
        let steps = inside.iter().map(|a| a >> c).collect();
        let step = Linear::view(whole(self.commit(&format!("{name} step"), log, steps), log));
        let rests: Vec<i64> = inside.iter().map(|a| a & ((1 << c) - 1)).collect();
        let over = values.iter().map(|x| x.abs() - x.abs().min(last)).collect();
        let (over, over_bits) = self.declared(&format!("{name} beyond the cap"), log, BEYOND_BITS, over);
        self.owed(name, log, x, allowed, (1 << (STEP_BITS + c)) + (1 << over_bits));
        let table = self.formula_table(cap.name, (STEP_BITS as usize, 1), |circuit| {
            let steps = STEP_BITS as usize;
            let low = cap.table[..1 << steps].iter().map(|end| residue((*end).into())).collect();
            let rises = cap.table.windows(2).map(|ends| residue(i64::from(ends[1]) - i64::from(ends[0])));
            let [low, rises] = [low, rises.collect()].map(|column| circuit.vector(column));
            let [low, rises] = [low, rises].map(|source| Linear::view(whole(source, steps)));
            vec![number(circuit, 0..steps), low, rises]
        });
        let fetched = self.fetch(&format!("{name} cap"), table, log, step.clone());
        let (low, rise) = (fetched[0].clone(), fetched[1].clone());
        let mut inside = step.times(power_of_two(c));
        let mut magnitude = low;
        if c > 0 {
            let rest = Linear::view(whole(self.commit(&format!("{name} rest of a step"), log, rests), log));
            let products: Vec<i64> = {
                let [rest, rise] = [&rest, &rise].map(|linear| self.integers(linear, log));
                (0..rest.len()).map(|at| rest[at] * rise[at]).collect()
            };
            let risen = products.iter().map(|product| rsh(*product, c)).collect();
            let risen = self.value(&format!("{name} risen"), log, Width::Fixed(c), risen);
            let remainder = {
                let risen = self.integers(&risen, log);
                let rest = (0..risen.len()).map(|at| products[at] + half(c) - (risen[at] << c));
                rest.collect()
            };
            let remainder_name = format!("{name} risen remainder");
            let remainder = Linear::view(whole(self.commit(&remainder_name, log, remainder), log));
            let bits = Linear::constant(B::from_u32(c));
            if c <= BESIDE_MAX {
                self.look_up_beside(log, (bits, c), rest.clone(), (c, remainder.clone()));
            } else {
                self.look_up_range(log, bits.clone(), rest.clone());
                self.look_up_range(log, bits, remainder.clone());
            }
            let both = risen.clone().times(power_of_two(c)).plus(&remainder);
            let both = both.offset(-residue::<B>(half(c)));
            self.constrain(log, vec![(B::ONE, rest.clone(), rise)], both.times(B::NEG_ONE));
            inside = inside.plus(&rest);
            magnitude = magnitude.plus(&risen);
        }
        // x - 2 g x is what is inside and what is beyond.
        let rest = inside.clone().plus(&over).minus(x);
        self.constrain(log, vec![(B::TWO, sign.clone(), x.clone())], rest);
        if over_bits > 0 {
            let below = inside.times(B::NEG_ONE).offset(residue(last));
            self.constrain(log, vec![(B::ONE, over, below)], Linear::constant(B::ZERO));
        }
        let capped = {
            let [signs, magnitudes] = [&sign, &magnitude].map(|linear| self.integers(linear, log));
            signs.iter().zip(magnitudes).map(|(sign, magnitude)| (1 - 2 * sign) * magnitude).collect()
        };
        let capped = Linear::view(whole(self.commit(&format!("{name} capped"), log, capped), log));
        let rest = capped.clone().minus(&magnitude);
        self.constrain(log, vec![(B::TWO, sign, magnitude)], rest);
        capped
    }
}
