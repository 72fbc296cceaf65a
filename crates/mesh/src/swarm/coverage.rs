//! Who holds the layers of one model: replicas and throughput of every layer, and the holes.
//!
//! A node that holds n layers passes `rate / n` tokens per second through each of them, where `rate` is what it
//! computes of one layer. (With a whole number of milli-tokens; what is lost by rounding is nobody's.) Nodes that are
//! joining count for throughput, since others should not come for the same layers, and not for routes.

use super::announcement::{Claims, State};
use lockstep_base::keys::NodeId;
use std::ops::Range;

/// What one node holds of a model, in the few words that placement needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The node.
    pub node: NodeId,
    /// First layer.
    pub first: u32,
    /// One past the last layer.
    pub end: u32,
    /// Milli-tokens per second through one layer.
    pub rate_milli: u64,
    /// Where the node is in its life.
    pub state: State,
    /// With the embedding.
    pub embed: bool,
    /// With the head.
    pub head: bool,
}

impl Holding {
    /// What an announcement holds; `None` for shards of a part, which nobody serves alone.
    #[must_use]
    pub fn of(claims: &Claims) -> Option<Holding> {
        let part = claims.part;
        (part.shards == 1).then_some(Holding {
            node: claims.node,
            first: part.first_layer,
            end: part.end_layer,
            rate_milli: claims.decode_milli,
            state: claims.state,
            embed: part.embed,
            head: part.head,
        })
    }

    /// Layers.
    #[must_use]
    pub fn layers(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }

    /// Milli-tokens per second that it adds to each of its layers.
    #[must_use]
    pub fn share_milli(&self) -> u64 {
        self.rate_milli / u64::from(self.layers().max(1))
    }
}

/// One layer in the swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Nodes that take tasks.
    pub online: u32,
    /// Nodes that are getting ready.
    pub joining: u32,
    /// Nodes that are leaving.
    pub draining: u32,
    /// Milli-tokens per second of those online and joining together.
    pub rate_milli: u64,
}

/// All layers of a model in the swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Layer by layer.
    pub blocks: Vec<Block>,
    /// Nodes online with the embedding.
    pub embeds: u32,
    /// Nodes online with the head.
    pub heads: u32,
}

impl Coverage {
    /// The coverage of a model of `n_layers` layers by `holdings`; one that reaches beyond the model counts for nothing.
    #[must_use]
    pub fn of(n_layers: u32, holdings: impl Iterator<Item = Holding>) -> Coverage {
        let mut coverage =
            Coverage { blocks: vec![Block::default(); n_layers as usize], embeds: 0, heads: 0 };
        for holding in holdings {
            coverage.add(&holding);
        }
        coverage
    }

    fn add(&mut self, holding: &Holding) {
        if holding.end as usize > self.blocks.len() || holding.first > holding.end {
            return;
        }
        if holding.state == State::Online {
            self.embeds += u32::from(holding.embed);
            self.heads += u32::from(holding.head);
        }
        for block in &mut self.blocks[holding.first as usize..holding.end as usize] {
            let (count, rate) = match holding.state {
                State::Online => (&mut block.online, holding.share_milli()),
                State::Joining => (&mut block.joining, holding.share_milli()),
                State::Draining => (&mut block.draining, 0),
            };
            *count += 1;
            block.rate_milli = block.rate_milli.saturating_add(rate);
        }
    }

    /// Ranges of layers that nobody online holds.
    #[must_use]
    pub fn holes(&self) -> Vec<Range<u32>> {
        let mut holes: Vec<Range<u32>> = Vec::new();
        for (layer, _) in (0..).zip(&self.blocks).filter(|(_, block)| block.online == 0) {
            match holes.last_mut() {
                Some(hole) if hole.end == layer => hole.end += 1,
                _ => holes.push(layer..layer + 1),
            }
        }
        holes
    }

    /// Whether embedding, every layer and head are online.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.embeds > 0 && self.heads > 0 && self.blocks.iter().all(|block| block.online > 0)
    }

    /// The fewest replicas online of any layer.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.blocks.iter().map(|block| block.online).min().unwrap_or(0)
    }

    /// Milli-tokens per second of the weakest layer: no chain passes more through all layers.
    #[must_use]
    pub fn weakest_milli(&self) -> u64 {
        self.blocks.iter().map(|block| block.rate_milli).min().unwrap_or(0)
    }
}
