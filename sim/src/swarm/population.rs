//! Machines of volunteers: memory, speed, place.
//!
//! Petals' measurements (Borzunov et al. 2023, section 4) are of consumer cards beside servers, three continents, and some machines
//! behind firewalls. Numbers are for a model of 80 layers; for fewer layers memory is scaled.

use lockstep_base::keys::NodeKey;
use lockstep_base::rng::SplitMix64;

/// A kind of machine: how many of a hundred, layers that it holds, milli-tokens per second through one layer.
struct Kind {
    percent: u64,
    layers: (u32, u32),
    rate_milli: (u64, u64),
}

const KINDS: [Kind; 4] = [
    Kind { percent: 40, layers: (4, 8), rate_milli: (2_000_000, 6_000_000) },
    Kind { percent: 35, layers: (10, 20), rate_milli: (8_000_000, 20_000_000) },
    Kind { percent: 20, layers: (20, 40), rate_milli: (20_000_000, 60_000_000) },
    Kind { percent: 5, layers: (60, 80), rate_milli: (50_000_000, 100_000_000) },
];
/// Layers of the model that the kinds are for.
const KIND_LAYERS: u32 = 80;
/// Microseconds of round trip across the plane.
const PLANE_US: u64 = 120_000;
/// Microseconds of round trip to the next exchange: a server, a home.
const ACCESS_US: (u64, u64) = (1_000, 15_000);
/// Machines behind a relay, of a hundred.
const RELAYED_PERCENT: u64 = 15;

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its key.
    pub key: NodeKey,
    /// Layers that it has room for.
    pub layers: u32,
    /// Milli-tokens per second through one layer.
    pub rate_milli: u64,
    /// Behind a relay.
    pub relayed: bool,
    x_us: u64,
    y_us: u64,
    access_us: u64,
}

/// So many machines, by node id.
#[must_use]
pub fn machines(seed: u64, count: usize, n_layers: u32) -> Vec<Machine> {
    let mut rng = SplitMix64::new(seed);
    let mut machines: Vec<Machine> = (0..count).map(|_| machine(&mut rng, n_layers)).collect();
    machines.sort_by_key(|machine| machine.key.id());
    machines
}

fn machine(rng: &mut SplitMix64, n_layers: u32) -> Machine {
    let key = loop {
        let mut secret = [0; 32];
        rng.fill(&mut secret);
        if let Ok(key) = NodeKey::from_bytes(&secret) {
            break key;
        }
    };
    let mut percent = rng.below(100);
    let kind = KINDS.iter().find(|kind| {
        let found = percent < kind.percent;
        percent = percent.saturating_sub(kind.percent);
        found
    });
    let kind = kind.unwrap_or(&KINDS[0]);
    let mut between = |(low, high): (u64, u64)| low + rng.below(high - low + 1);
    let layers = between((kind.layers.0.into(), kind.layers.1.into())) as u32;
    Machine {
        key,
        layers: (layers * n_layers / KIND_LAYERS).clamp(1, n_layers),
        rate_milli: between(kind.rate_milli),
        relayed: between((0, 99)) < RELAYED_PERCENT,
        x_us: between((0, PLANE_US)),
        y_us: between((0, PLANE_US)),
        access_us: between(ACCESS_US),
    }
}

/// The round trip between two machines, microseconds: across the plane, and from both to their exchanges.
#[must_use]
pub fn rtt_us(a: &Machine, b: &Machine) -> u32 {
    let across = (a.x_us.abs_diff(b.x_us).pow(2) + a.y_us.abs_diff(b.y_us).pow(2)).isqrt();
    (across + a.access_us + b.access_us) as u32
}
