//! Whole swarms in virtual time: does a crowd that nobody leads come to hold every layer, evenly and often enough?
//!
//! Machines are as different as those of Petals' volunteers: from 8 GB cards to servers, all over a plane of round trips,
//! some behind relays, coming and going. Members, movers and routes are the real machines of
//! `lockstep_mesh::swarm`; signatures are real. Simulated are time, the population, and gossip: every announcement arrives
//! at every peer after a delay of its own, or not at all, both drawn from the seed.
//!
//! 10,000 directories of 10,000 entries each would fill a hundred million places, most never looked at. So what a peer knows is computed
//! when it looks ([`gossip`]); one observer keeps a real directory, and tests compare the two.
//!
//! # A run
//! Everybody comes within `arrive_ms`, then some leave and others come (half of them without a word), then at `shock_ms` a share leaves at
//! once without a word. The report says how long it took until the weakest layer had nine tenths of what the best
//! placement could give it, what was covered, how far routes are from the best, and who had to hear how much.

pub mod gossip;
pub mod measure;
pub mod population;
pub mod report;
mod world;

pub use report::Report;
pub use world::run;

/// A run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Seed of everything.
    pub seed: u64,
    /// Machines that come at the beginning.
    pub nodes: usize,
    /// Layers of the model.
    pub n_layers: u32,
    /// Milliseconds in which all of them come.
    pub arrive_ms: u64,
    /// Milliseconds that a machine stays, on average; half of those that go say so. 0: nobody goes.
    pub stay_mean_ms: u64,
    /// When a share leaves at once.
    pub shock_ms: u64,
    /// How many leave then, thousandths.
    pub shock_permille: u64,
    /// The end.
    pub end_ms: u64,
    /// Announcements that do not arrive at a peer, thousandths.
    pub loss_permille: u64,
    /// The longest way of an announcement, milliseconds.
    pub delay_max_ms: u64,
    /// Requests whose routes are compared with the best ones.
    pub requests: usize,
}

impl Config {
    /// Half an hour of `nodes` machines: they come in two minutes, stay for four hours on average, and 30 % leave at minute 12.
    #[must_use]
    pub fn new(seed: u64, nodes: usize) -> Config {
        Config {
            seed,
            nodes,
            n_layers: 80,
            arrive_ms: 120_000,
            stay_mean_ms: 4 * 3_600_000,
            shock_ms: 720_000,
            shock_permille: 300,
            end_ms: 1_800_000,
            loss_permille: 10,
            delay_max_ms: 3_000,
            requests: 40,
        }
    }
}

/// A number below `bound` from the seed and any words: the same whenever it is asked for.
pub(crate) fn drawn(seed: u64, words: [u64; 3], bound: u64) -> u64 {
    let mut state = seed;
    for word in words {
        state =
            lockstep_base::rng::SplitMix64::new(state ^ word.wrapping_mul(0xd6e8_feb8_6659_fd93)).next_u64();
    }
    ((u128::from(state) * u128::from(bound)) >> 64) as u64
}
