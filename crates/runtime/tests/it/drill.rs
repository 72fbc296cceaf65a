//! Fault drills at their extremes: a lie may be any bit of any op, and the liar itself must go on
//! (with wrong bits) or end in a range error.

use crate::families::decoders;
use crate::pipeline::engine;
use lockstep_base::config::{Block, FeedForward, ModelConfig, Positions};
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::forward::ForwardError;
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::observe::{Observer, Values};
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic::small_config;

/// Flips one bit at every output of one op, in its first and last element.
struct Flip {
    op: Op,
    bit: u32,
    struck: usize,
}

impl Observer for Flip {
    fn output(&mut self, place: Place, _: u32, mut values: Values<'_>) {
        if place.op == self.op {
            values.flip(0, self.bit);
            values.flip(values.len() - 1, self.bit);
            self.struck += 1;
        }
    }
}

/// Debug builds panic where arithmetic overflows: no bit of no op makes them, on any kernel.
#[test]
fn any_bit_of_any_op_is_wrong_bits_or_a_range_error() {
    let plain = ModelConfig {
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        ..small_config()
    };
    let llama_like = [small_config(), plain].map(|config| (config, Kernel::available()));
    let families = decoders().into_iter().map(|(_, config)| (config, vec![Kernel::detect()]));
    for (config, kernels) in llama_like.into_iter().chain(families) {
        for kernel in kernels {
            let engine = engine(&config, WeightFormat::Int8, kernel, 1);
            for op in Op::ALL {
                for bit in 0..32 {
                    let mut flip = Flip { op: *op, bit, struck: 0 };
                    match run(&engine, &mut flip) {
                        Ok(logits) => assert!(greedy(&logits) < config.vocab),
                        Err(error) => {
                            assert!(matches!(error, ForwardError::Range { .. }), "{op} {bit}: {error}");
                        }
                    }
                    assert_eq!(flip.struck == 0, absent(*op, &config), "{op} {bit}");
                }
            }
        }
    }
}

/// Ops that no layer of `config` has.
fn absent(op: Op, config: &ModelConfig) -> bool {
    match op {
        Op::Token | Op::Sample | Op::Boundary | Op::Pooled | Op::AdapterCodes => true,
        Op::GateProj => config.feed_forward == FeedForward::Plain,
        Op::AttnPostNorm | Op::FfnPostNorm => config.block != Block::Sandwich,
        Op::RouterLogits | Op::RouterChoice => config.experts.is_none(),
        _ => false,
    }
}

fn run(engine: &lockstep_runtime::forward::Engine, flip: &mut Flip) -> Result<Vec<i32>, ForwardError> {
    let mut cache = engine.new_cache();
    let mut rows = engine.embed(&[1, 5, 9], 0, flip)?;
    engine.layers(&mut rows, &mut cache, flip)?;
    engine.logits(&rows[2 * engine.width()..], &[2], flip)
}
