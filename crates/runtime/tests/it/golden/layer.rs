//! One whole layer over literal weights: the output of every op for the last token, by name.

use super::file::{Case, Fields, Out};
use super::ops::{Tables, matrix, scalar};
use lockstep_base::config::{FeedForward, ModelConfig, Positions};
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::{DenseWeights, FfnWeights, LayerWeights, ModelWeights, Tables as ModelTables};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::{Observer, Values};
use lockstep_runtime::synthetic::small_config;
use std::sync::Arc;

/// Writes down every output of one position.
struct Notes {
    position: u32,
    out: Out,
}

impl Observer for Notes {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        assert_eq!(run, 0, "fewer than 256 positions");
        if place.position == self.position {
            self.out = note(std::mem::take(&mut self.out), place.op, values);
        }
    }
}

/// `values` under the name of their op.
pub(super) fn note(out: Out, op: Op, values: Values<'_>) -> Out {
    let name = op.name();
    match values {
        Values::I32(x) | Values::I16(x) => out.list(name, x),
        Values::U16(x) => out.list(name, x),
        Values::Codes8(x, step) => {
            out.list(name, x).one(&format!("{name}.k"), step.k).one(&format!("{name}.f"), step.f)
        }
        Values::Codes16Heads(x, e) => out.list(name, x).list(&format!("{name}.e"), e),
        Values::Codes8Heads(x, e) => out.list(name, x).list(&format!("{name}.e"), e),
        Values::Token(token) => out.one(name, token),
    }
}

pub(super) fn compute(case: &Case<'_>, tables: &Tables) -> Out {
    let input = &case.input;
    let weights = ModelWeights {
        config: config(input),
        tables: ModelTables {
            rope: if input.has("rope") { vec![input.list("rope")] } else { Vec::new() },
            exp2: tables.exp2.clone(),
            exp2_sample: tables.exp2_sample.clone(),
            activation: tables.activation.clone(),
            ..ModelTables::default()
        },
        embed: None,
        positions: None,
        embed_norm: None,
        first_layer: 0,
        layers: vec![LayerWeights {
            q: matrix(input, "q."),
            k: matrix(input, "k."),
            v: matrix(input, "v."),
            o: matrix(input, "o."),
            k_center: input.list("k_center"),
            q_norm: None,
            k_norm: None,
            attn_post: None,
            ffn: FfnWeights::Dense(DenseWeights {
                gate: input.has("gate.w").then(|| matrix(input, "gate.")),
                up: matrix(input, "up."),
                down: matrix(input, "down."),
            }),
            ffn_post: None,
        }],
        head: None,
    };
    let engine = Engine::new(Arc::new(weights), Arc::new(scalar()));
    let mut rows: Vec<i32> = input.list("rows");
    let last = (rows.len() / engine.width() - 1) as u32;
    let mut notes = Notes { position: last, out: Out::default() };
    engine.layers(&mut rows, &mut engine.new_cache(), &mut notes).expect("in range");
    notes.out
}

fn config(input: &Fields) -> ModelConfig {
    let config = ModelConfig {
        n_layers: 1,
        d_model: input.one("d_model"),
        n_heads: input.one("n_heads"),
        n_kv_heads: input.one("n_kv_heads"),
        head_dim: input.one("head_dim"),
        d_ffn: input.one("d_ffn"),
        residual_frac: input.one("R"),
        norm_eps: input.one("norm_eps"),
        positions: if input.has("rope") { Positions::Rope } else { Positions::Learned },
        feed_forward: if input.has("gate.w") { FeedForward::Gated } else { FeedForward::Plain },
        rope_dim: if input.has("rope") { input.one("head_dim") } else { 0 },
        rope_tables: input.has("rope").into(),
        ..small_config()
    };
    config.validate().expect("a configuration of the specification");
    config
}
