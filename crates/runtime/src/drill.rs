//! Fault drills: one flipped bit in one activation, at a place that nobody is told.
//!
//! A node that was started with a drill lies once and writes down where. Whoever verifies its
//! receipts must find that place without the note: the whole promise in one experiment.

use crate::observe::{Observer, Values};
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use lockstep_base::part::Part;

/// Ops that every layer has and every trace shows, in all families alike: where a drill strikes is what
/// a verifier names. (What has no leaves may be changed without a trace, if nothing that is
/// computed from it changes: then the answer is right.)
const LAYER_OPS: [Op; 15] = [
    Op::AttnNorm,
    Op::QProj,
    Op::KProj,
    Op::VProj,
    Op::KCodes,
    Op::VCodes,
    Op::Scores,
    Op::Softmax,
    Op::AttnPartial,
    Op::AttnCodes,
    Op::AttnResidual,
    Op::FfnNorm,
    Op::UpProj,
    Op::HiddenCodes,
    Op::FfnResidual,
];
/// Bits that a drill flips: low ones, so that the lie stays plausible and inside its range.
const BITS: u64 = 6;

/// Where a drill struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Token, layer, op.
    pub place: Place,
    /// Element of the op's output.
    pub row: usize,
    /// Flipped bit.
    pub bit: u32,
}

/// An observer that flips one bit, once.
#[derive(Debug, Clone)]
pub struct Drill {
    place: Place,
    element_word: u64,
    bit: u32,
    struck: Option<Strike>,
}

impl Drill {
    /// A drill within the first `positions` positions of `part`, from 64-bit random `words`.
    #[must_use]
    pub fn new(part: &Part, positions: u32, words: [u64; 4]) -> Drill {
        let below = |word: u64, bound: u64| ((u128::from(word) * u128::from(bound)) >> 64) as u64;
        let per_layer = LAYER_OPS.len() as u64;
        let ops = part.layer_count() as u64 * per_layer;
        let chosen = below(words[1], ops + u64::from(part.embed) + u64::from(part.head));
        let (layer, op) = if chosen < ops {
            let layer = part.first_layer as u16 + (chosen / per_layer) as u16;
            (layer, LAYER_OPS[(chosen % per_layer) as usize])
        } else if part.embed && chosen == ops {
            (LAYER_EMBED, Op::Embed)
        } else {
            (LAYER_HEAD, Op::FinalNorm)
        };
        let position = below(words[0], positions.max(1).into()) as u32;
        let bit = below(words[3], BITS) as u32;
        Drill::at(Place { position, layer, op }, words[2], bit)
    }

    /// A drill at `place`, in the element that `element_word` chooses.
    #[must_use]
    pub fn at(place: Place, element_word: u64, bit: u32) -> Drill {
        Drill { place, element_word, bit, struck: None }
    }

    /// Where it struck, if it has.
    #[must_use]
    pub fn struck(&self) -> Option<Strike> {
        self.struck
    }
}

impl Observer for Drill {
    fn output(&mut self, place: Place, run: u32, mut values: Values<'_>) {
        // Positions before the first sampled one have no final norm: strike at the first that has.
        let late_head = self.place.layer == LAYER_HEAD && place.position >= self.place.position;
        let here = (place.layer, place.op) == (self.place.layer, self.place.op)
            && (place.position == self.place.position || late_head);
        if self.struck.is_some() || run != 0 || !here || values.is_empty() {
            return;
        }
        let row = ((u128::from(self.element_word) * values.len() as u128) >> 64) as usize;
        values.flip(row, self.bit);
        self.struck = Some(Strike { place, row, bit: self.bit });
    }

    fn wants(&self, layer: u16, op: Op) -> bool {
        self.struck.is_none() && (layer, op) == (self.place.layer, self.place.op)
    }
}
