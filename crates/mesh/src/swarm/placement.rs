//! Which layers a node should hold: the rule of Petals, in integers.
//!
//! The swarm is as fast as its weakest layer. So a node with room for n layers takes the window of n layers whose
//! *sorted* vector of throughputs is lexicographically smallest (Petals, `block_selection.py`; Borzunov et al. 2023, appendix D): it
//! fills the weakest layer first, and among windows that hold it the one whose other layers are weakest, too. What Petals'
//! users missed most were complete chains, so a layer's strength here is
//!
//! ```text
//! strength = (min(replicas, 2), throughput)       compared in this order
//! ```
//!
//! and a second replica anywhere comes before any throughput. Equal windows are chosen among by the node's id: of many nodes
//! that come to an empty swarm at once, not all begin at layer 0.
//!
//! [`best_milli`] bounds what any placement reaches: with water level t, a node is worth at most t on each of its n layers,
//! so `L * t <= sum of min(rate, n * t)`.

use super::announcement::State;
use super::coverage::Holding;
use lockstep_base::keys::NodeId;
use std::ops::Range;

/// Replicas of every layer before throughput counts.
pub const REPLICAS_WANTED: u32 = 2;
/// Bits of a strength below the replicas.
const RATE_BITS: u32 = 62;

/// How many hold a layer and what passes through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Nodes online or joining.
    pub replicas: u32,
    /// Milli-tokens per second through the layer.
    pub rate_milli: u64,
}

/// The strength of a layer: replicas up to those wanted, then throughput. Larger is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strength(u64);

impl Strength {
    /// Replicas, at most [`REPLICAS_WANTED`].
    #[must_use]
    pub fn replicas(self) -> u32 {
        (self.0 >> RATE_BITS) as u32
    }

    /// Milli-tokens per second.
    #[must_use]
    pub fn rate_milli(self) -> u64 {
        self.0 & ((1 << RATE_BITS) - 1)
    }
}

impl Load {
    /// Its strength.
    #[must_use]
    pub fn strength(&self) -> Strength {
        let replicas = u64::from(self.replicas.min(REPLICAS_WANTED));
        Strength(replicas << RATE_BITS | self.rate_milli.min((1 << RATE_BITS) - 1))
    }
}

/// All layers of a model, and who holds them, as far as placement needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads(Vec<Load>);

impl Loads {
    /// Nobody holds any of `n_layers` layers.
    #[must_use]
    pub fn new(n_layers: u32) -> Loads {
        Loads(vec![Load::default(); n_layers as usize])
    }

    /// What `holdings` come to, without those that are leaving or reach beyond the model.
    #[must_use]
    pub fn of<'a>(n_layers: u32, holdings: impl Iterator<Item = &'a Holding>) -> Loads {
        let mut loads = Loads::new(n_layers);
        for holding in holdings.filter(|holding| counts(holding, n_layers)) {
            loads.add(&(holding.first..holding.end), holding.share_milli());
        }
        loads
    }

    /// Layer by layer.
    #[must_use]
    pub fn layers(&self) -> &[Load] {
        &self.0
    }

    /// A node comes to `window`, with `share_milli` for each layer.
    pub fn add(&mut self, window: &Range<u32>, share_milli: u64) {
        for load in &mut self.0[window.start as usize..window.end as usize] {
            load.replicas += 1;
            load.rate_milli = load.rate_milli.saturating_add(share_milli);
        }
    }

    /// A node leaves `window`.
    pub fn remove(&mut self, window: &Range<u32>, share_milli: u64) {
        for load in &mut self.0[window.start as usize..window.end as usize] {
            load.replicas = load.replicas.saturating_sub(1);
            load.rate_milli = load.rate_milli.saturating_sub(share_milli);
        }
    }

    /// The weakest layer.
    #[must_use]
    pub fn weakest(&self) -> Strength {
        self.0.iter().map(Load::strength).min().unwrap_or(Strength(0))
    }

    /// All strengths, weakest first: placements compare by them in this order.
    #[must_use]
    pub fn sorted(&self) -> Vec<Strength> {
        let mut strengths: Vec<Strength> = self.0.iter().map(Load::strength).collect();
        strengths.sort_unstable();
        strengths
    }

    /// The weakest layer of `window`.
    #[must_use]
    pub fn weakest_in(&self, window: &Range<u32>) -> Strength {
        let window = &self.0[window.start as usize..window.end as usize];
        window.iter().map(Load::strength).min().unwrap_or(Strength(0))
    }

    /// The window of `layers` layers where a node helps most.
    #[must_use]
    pub fn choose(&self, layers: u32, node: &NodeId) -> Range<u32> {
        let n_layers = self.0.len() as u32;
        let layers = layers.clamp(1, n_layers.max(1));
        if layers >= n_layers {
            return 0..n_layers;
        }
        let strengths: Vec<Strength> = self.0.iter().map(Load::strength).collect();
        let windows = strengths.windows(layers as usize);
        let Some(weakest) = windows.clone().filter_map(|window| window.iter().min()).min().copied() else {
            return 0..layers;
        };
        let mut best: (Vec<Strength>, Vec<u32>) = (vec![], vec![]);
        for (first, window) in (0..).zip(windows) {
            if !window.contains(&weakest) {
                continue;
            }
            let mut sorted = window.to_vec();
            sorted.sort_unstable();
            if best.1.is_empty() || sorted < best.0 {
                best = (sorted, vec![first]);
            } else if sorted == best.0 {
                best.1.push(first);
            }
        }
        let first = best.1[turn(node) as usize % best.1.len()];
        first..first + layers
    }
}

/// Whether a holding counts for whoever chooses layers.
pub(super) fn counts(holding: &Holding, n_layers: u32) -> bool {
    holding.state != State::Draining && holding.first < holding.end && holding.end <= n_layers
}

/// Where a node with room for `layers` layers helps most, beside what the others hold.
#[must_use]
pub fn choose(
    n_layers: u32,
    holdings: impl Iterator<Item = Holding>,
    node: &NodeId,
    layers: u32,
) -> Range<u32> {
    let others: Vec<Holding> = holdings.filter(|holding| holding.node != *node).collect();
    Loads::of(n_layers, others.iter()).choose(layers, node)
}

/// What the weakest layer has in the best of all placements, at most: milli-tokens per second.
///
/// `nodes` are (layers, milli-tokens per second through one layer). The largest t with
/// `n_layers * t <= sum of min(rate, layers * t)`.
#[must_use]
pub fn best_milli(n_layers: u32, nodes: &[(u32, u64)]) -> u64 {
    let enough = |level: u64| {
        let sum: u128 = nodes
            .iter()
            .map(|(layers, rate)| {
                u128::from(*rate).min(u128::from(level) * u128::from((*layers).min(n_layers)))
            })
            .sum();
        sum >= u128::from(n_layers) * u128::from(level)
    };
    let total: u128 = nodes.iter().map(|(_, rate)| u128::from(*rate)).sum();
    let most = u64::try_from(total / u128::from(n_layers.max(1))).unwrap_or(u64::MAX - 1);
    // `enough` holds at 0, and from some level on not any more: the right side is concave.
    let (mut low, mut high) = (0, most + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// What a node can do: its memory and its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The most layers that it holds.
    pub layers_max: u32,
    /// Milli-tokens per second through one layer.
    pub rate_milli: u64,
}

/// Splits a model over a fixed set of nodes: water-filling (Parallax), layers in proportion to speed under memory caps.
///
/// The slowest stage is as fast as it can be: each layer goes to the node that is fastest with it. `None` if they have not room
/// for all layers. A node may get none.
#[must_use]
pub fn split(n_layers: u32, nodes: &[Capacity]) -> Option<Vec<u32>> {
    let mut layers = vec![0u32; nodes.len()];
    for _ in 0..n_layers {
        let free = (0..nodes.len()).filter(|i| layers[*i] < nodes[*i].layers_max && nodes[*i].rate_milli > 0);
        // The time of node i with one more layer is (layers + 1) / rate: compared by cross products.
        let next = free.min_by(|a, b| {
            let time =
                |i: usize, other: usize| u128::from(layers[i] + 1) * u128::from(nodes[other].rate_milli);
            time(*a, *b).cmp(&time(*b, *a))
        })?;
        layers[next] += 1;
    }
    Some(layers)
}

/// A number of a node that others have, too, but that lies elsewhere for most.
fn turn(node: &NodeId) -> u64 {
    u64::from_be_bytes(node.0[..8].try_into().expect("8 of 20 bytes"))
}
