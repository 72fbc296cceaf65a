//! What a prover declares: how wide values of a witness are.
//!
//! In the worst case a value has the width that the arithmetic allows; a real one is mostly narrower. So the prover says value by value, in the order in which a circuit has
//! them, how many bits it uses, one byte each, and both sides build the circuit from that: a value of 0 bits has no column and no lookup, one of 16 has one limb. A
//! declaration never widens anything, so it is only stricter for the prover: whoever declares too little has no witness, whoever declares too much has more to prove.
//!
//! Declarations are the first bytes of a proof and absorbed before the first message. There is no count: a verifier reads one whenever the circuit asks for one, and what
//! follows the last is the argument. Each is at most what the circuit allows there.

use super::Builder;
use crate::error::VerifyError;
use crate::integer::bit_length;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Declarations of one proof.
pub const DECLARATIONS_MAX: usize = 1 << 16;

/// Where declarations come from, and those so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Declarations {
    /// What the prover says; where there is nothing, a witness decides.
    pub given: Option<Vec<u8>>,
    /// So far.
    pub said: Vec<u8>,
    /// The first that is not one.
    pub fault: Option<VerifyError>,
}

/// Bits of the largest of some integers, which are not negative but for a liar's.
pub(super) fn unsigned_bits(values: &[i64]) -> u32 {
    bit_length(values.iter().fold(0, |all, x| all | x))
}

/// Bits with which all integers lie in `-2^(bits-1) .. 2^(bits-1)`; 0 where all are 0.
pub(super) fn signed_bits(values: &[i64]) -> u32 {
    let (any, all) = values.iter().fold((0, 0), |(any, all), x| (any | x, all | (x ^ (x >> 63))));
    if any == 0 { 0 } else { bit_length(all) + 1 }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The next declaration: what the prover says, at most `most`; `needed` is what a witness needs. Without either, the least.
    pub(super) fn declare(&mut self, most: u32, needed: impl FnOnce() -> u32) -> u32 {
        let at = self.declarations.said.len();
        let chosen = match &self.declarations.given {
            Some(given) => match given.get(at) {
                Some(said) if u32::from(*said) <= most => Ok(u32::from(*said)),
                Some(said) => Err(VerifyError::Declared { at, got: *said, limit: most }),
                None => Err(VerifyError::Truncated { got: 0, expected: 1 }),
            },
            None if self.has_witness() => Ok(needed().min(most)),
            None => Ok(0),
        };
        let full = at == DECLARATIONS_MAX;
        let chosen = chosen.unwrap_or_else(|fault| {
            self.declarations.fault.get_or_insert(fault);
            0
        });
        if full {
            let fault = VerifyError::Size { got: at + 1, limit: DECLARATIONS_MAX };
            self.declarations.fault.get_or_insert(fault);
        } else {
            self.declarations.said.push(chosen as u8);
        }
        chosen
    }

    /// The next declaration that is a number of up to 24 bits, at most `most`, its lowest byte first; in a circuit that nobody has declared anything of, 0.
    pub(super) fn declare_number(&mut self, most: usize, needed: impl FnOnce() -> usize) -> usize {
        let decides = self.has_witness() && self.declarations.given.is_none();
        let wanted = if decides { needed() } else { 0 };
        let mut number = 0;
        for byte in 0..bit_length(most as i64).div_ceil(8) {
            let limit = (most >> (8 * byte)).min(255) as u32;
            let said = self.declare(limit, || (wanted >> (8 * byte)) as u32 & 255);
            number |= (said as usize) << (8 * byte);
        }
        if number > most {
            self.undeclared(number);
            return 0;
        }
        number
    }

    /// The last declaration is none: a number that cannot be there.
    pub(super) fn undeclared(&mut self, number: usize) {
        let at = self.declarations.said.len().saturating_sub(1);
        let fault = VerifyError::Declared { at, got: number as u8, limit: 0 };
        self.declarations.fault.get_or_insert(fault);
    }
}
