//! Where a node lies in the network: round trips between nodes that never measured each other.
//!
//! A route needs the round trips between any two of thousands of nodes, and nobody can measure them all. Vivaldi
//! (Dabek et al., SIGCOMM 2004) gives every node a point such that distances are round trips: whoever measures one
//! moves a little towards where it should be, less so if it is surer than the other. Here in integers, in three dimensions and a
//! height for the way to the next exchange:
//!
//! ```text
//! distance(a, b) = |a - b| + a.height + b.height                                     microseconds
//! ```
//!
//! Coordinates are claims. They only choose among routes; what was measured counts before what is computed.

use super::limits;
use minicbor::{Decode, Encode};

/// Largest coordinate on an axis, microseconds.
pub const AXIS_MAX_US: i32 = limits::RTT_MAX_US as i32;
/// Largest height, microseconds.
pub const HEIGHT_MAX_US: u32 = limits::RTT_MAX_US;
/// Smallest height: no node is its exchange.
const HEIGHT_MIN_US: i64 = 100;
/// The error of who has measured nothing, thousandths.
pub const ERROR_MAX_PERMILLE: u32 = 1000;
/// The error that nobody is below, thousandths: round trips vary.
const ERROR_MIN_PERMILLE: i64 = 20;
/// How far a measurement moves a node that knows nothing, in fourths of the way.
const STEP_FOURTHS: i64 = 1;

/// A node's place, and how sure it is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Coordinate {
    /// On the first axis, microseconds.
    #[n(0)]
    pub x_us: i32,
    /// On the second.
    #[n(1)]
    pub y_us: i32,
    /// On the third.
    #[n(2)]
    pub z_us: i32,
    /// To the next exchange.
    #[n(3)]
    pub height_us: u32,
    /// Mean error of what is computed with it, thousandths.
    #[n(4)]
    pub error_permille: u32,
}

impl Coordinate {
    /// Where somebody begins who has measured nothing: near the middle, with a direction from a random word, so that no two begin together.
    #[must_use]
    pub fn unknown(word: u64) -> Coordinate {
        let axis = |shift: u32| (word >> shift & 0x3ff) as i32 - 512;
        Coordinate {
            x_us: axis(0),
            y_us: axis(10),
            z_us: axis(20),
            height_us: HEIGHT_MIN_US as u32,
            error_permille: ERROR_MAX_PERMILLE,
        }
    }

    /// Whether it is within the limits.
    #[must_use]
    pub fn possible(&self) -> bool {
        let axes = [self.x_us, self.y_us, self.z_us];
        axes.iter().all(|axis| axis.unsigned_abs() <= AXIS_MAX_US.unsigned_abs())
            && self.height_us <= HEIGHT_MAX_US
            && self.error_permille <= ERROR_MAX_PERMILLE
    }

    /// The round trip to `other` as it is computed, microseconds.
    #[must_use]
    pub fn rtt_us(&self, other: &Coordinate) -> u32 {
        let heights = u64::from(self.height_us) + u64::from(other.height_us);
        u32::try_from(self.apart_us(other) + heights).unwrap_or(u32::MAX).min(limits::RTT_MAX_US)
    }

    fn apart_us(&self, other: &Coordinate) -> u64 {
        let axes = [(self.x_us, other.x_us), (self.y_us, other.y_us), (self.z_us, other.z_us)];
        let squares = axes.iter().map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>();
        squares.isqrt()
    }

    /// Moves by a round trip that was measured to `other`, who says where it lies. `word` is a direction for two at one place.
    pub fn measured(&mut self, other: &Coordinate, rtt_us: u32, word: u64) {
        let rtt_us = i64::from(rtt_us.clamp(1, limits::RTT_MAX_US));
        let computed = i64::from(self.rtt_us(other));
        let (mine, theirs) = (i64::from(self.error_permille.max(1)), i64::from(other.error_permille.max(1)));
        // How much of the way to go: the surer the other one is, beside me, the more. Thousandths.
        let weight = mine * 1000 / (mine + theirs);
        let off = ((computed - rtt_us).abs() * 1000 / rtt_us).min(1000);
        let keep = 4000 - weight;
        let error = (off * weight + mine * keep) / 4000;
        self.error_permille = error.clamp(ERROR_MIN_PERMILLE, ERROR_MAX_PERMILLE.into()) as u32;

        // Further apart than we lie: away from the other one; nearer: towards it. The heights take their part.
        let force_us = (rtt_us - computed) * STEP_FOURTHS * weight / 4000;
        let apart = self.apart_us(other) as i64;
        let total = (apart + i64::from(self.height_us) + i64::from(other.height_us)).max(1);
        let from = if apart == 0 { Coordinate::unknown(word) } else { *self };
        let to = if apart == 0 { Coordinate { x_us: 0, y_us: 0, z_us: 0, ..from } } else { *other };
        let length = (from.apart_us(&to) as i64).max(1);
        let along = force_us * apart.max(1) / total;
        let moved = |mine: i32, a: i32, b: i32| {
            let step = (i64::from(a) - i64::from(b)) * along / length;
            (i64::from(mine) + step).clamp(-i64::from(AXIS_MAX_US), AXIS_MAX_US.into()) as i32
        };
        (self.x_us, self.y_us, self.z_us) = (
            moved(self.x_us, from.x_us, to.x_us),
            moved(self.y_us, from.y_us, to.y_us),
            moved(self.z_us, from.z_us, to.z_us),
        );
        let up = force_us * i64::from(self.height_us) / total;
        self.height_us = (i64::from(self.height_us) + up).clamp(HEIGHT_MIN_US, HEIGHT_MAX_US.into()) as u32;
    }
}
