//! One whole layer over literal weights: the output of every op for the last token, by name.

use super::file::{Case, Fields, Out};
use super::ops::{Tables, matrix, scalar};
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterConfig, AdapterWeights, LayerAdapter, LowRank, Target};
use lockstep_base::config::{
    Activation, Block, Experts, FeedForward, LayerPattern, ModelConfig, OPSET, Pooling, Positions,
    SOFT_CAP_ENTRIES,
};
use lockstep_base::op::Place;
use lockstep_base::weights::{
    DenseWeights, FfnWeights, Gain, LayerWeights, ModelWeights, Slope, Tables as ModelTables,
};
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
        if place.position == self.position {
            let name = match run {
                0 => place.op.name().to_string(),
                run => format!("{}.{run}", place.op),
            };
            self.out = note(std::mem::take(&mut self.out), &name, values);
        }
    }
}

/// `values` under the name of their op and, behind a point, the number of a repeated output.
fn note(out: Out, name: &str, values: Values<'_>) -> Out {
    match values {
        Values::I32(x) | Values::I16(x) => out.list(name, x),
        Values::I32Parts(x) => out.list(name, &x.concat()),
        Values::U16Parts(x) => out.list(name, &x.concat()),
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
    let config = config(input);
    let weights = ModelWeights {
        tables: ModelTables {
            rope: if input.has("rope") { vec![input.list("rope")] } else { Vec::new() },
            alibi: slopes(input),
            score_cap: cap(input).map_or_else(Vec::new, |(_, table)| table),
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
            q_norm: gain(input, "q_norm."),
            k_norm: gain(input, "k_norm."),
            attn_post: gain(input, "attn_post."),
            ffn: match config.experts {
                None => FfnWeights::Dense(network(input, "")),
                Some(experts) => FfnWeights::Experts {
                    router: matrix(input, "router."),
                    experts: (0..experts.count).map(|e| network(input, &format!("e{e}."))).collect(),
                },
            },
            ffn_post: gain(input, "ffn_post."),
        }],
        head: None,
        config,
    };
    let adapter = adapter(input);
    let engine = Engine::new(Arc::new(weights), Arc::new(scalar()));
    let mut rows: Vec<i32> = input.list("rows");
    let last = (rows.len() / engine.width() - 1) as u32;
    let mut notes = Notes { position: last, out: Out::default() };
    let mut cache = engine.new_cache().with_adapter(adapter.map(Arc::new));
    engine.layers(&mut rows, &mut cache, &mut notes).expect("in range");
    notes.out
}

/// What stands beside the matrices: A and B of those that have one, `q.A.w` and so on.
fn adapter(input: &Fields) -> Option<AdapterWeights> {
    let mut layer = LayerAdapter::default();
    for target in Target::ALL {
        let of = |part: &str| format!("{}.{part}.", target.name());
        if input.has(&format!("{}cols", of("A"))) {
            layer.set(target, LowRank { a: matrix(input, &of("A")), b: matrix(input, &of("B")) });
        }
    }
    let (base, root) = (Digest([0; 32]), Digest([1; 32]));
    let rank = input.has("rank").then(|| input.one("rank"))?;
    let config = AdapterConfig { opset: OPSET.into(), name: "golden".into(), base, rank };
    Some(AdapterWeights { config, root, first_layer: 0, layers: vec![layer] })
}

fn network(input: &Fields, p: &str) -> DenseWeights {
    let gate = format!("{p}gate.");
    DenseWeights {
        gate: input.has(&format!("{gate}w")).then(|| matrix(input, &gate)),
        up: matrix(input, &format!("{p}up.")),
        down: matrix(input, &format!("{p}down.")),
    }
}

/// The gains of fields with the prefix `p`, if there are such.
fn gain(input: &Fields, p: &str) -> Option<Gain> {
    let key = |name: &str| format!("{p}{name}");
    input.has(&key("g")).then(|| Gain {
        mantissas: input.list(&key("g")),
        shifts: input.list(&key("t")),
        offsets: if input.has(&key("offsets")) { input.list(&key("offsets")) } else { Vec::new() },
        eps: input.one(&key("eps")),
        out_frac: input.one(&key("F")),
        centred: input.one::<u8>(&key("centred")) == 1,
    })
}

fn slopes(input: &Fields) -> Vec<Slope> {
    if !input.has("alibi") {
        return Vec::new();
    }
    let values: Vec<u16> = input.list("alibi");
    values.chunks(2).map(|slope| Slope { a: slope[0], b: slope[1] as u8 }).collect()
}

/// Shift and table of the soft cap: `x / (1 + x / slope)` at the ends of its steps.
fn cap(input: &Fields) -> Option<(u8, Vec<i32>)> {
    let [shift, slope] = input.has("score_cap").then(|| input.list::<i64>("score_cap"))?[..] else {
        panic!("score_cap is shift and slope");
    };
    let end = |i: i64| ((i << shift) * slope / (slope + (i << shift))) as i32;
    Some((shift as u8, (0..SOFT_CAP_ENTRIES as i64).map(end).collect()))
}

fn config(input: &Fields) -> ModelConfig {
    let (rope, experts) = (input.has("rope"), input.has("experts"));
    let rope_dim = if input.has("rope_dim") { input.one("rope_dim") } else { input.one("head_dim") };
    let window = if input.has("window") { input.one("window") } else { 0 };
    let config = ModelConfig {
        n_layers: 1,
        d_model: input.one("d_model"),
        n_heads: input.one("n_heads"),
        n_kv_heads: input.one("n_kv_heads"),
        head_dim: input.one("head_dim"),
        d_ffn: input.one("d_ffn"),
        residual_frac: input.one("R"),
        norm_eps: input.one("norm_eps"),
        positions: match (rope, input.has("alibi")) {
            (true, _) => Positions::Rope,
            (false, true) => Positions::Alibi,
            (false, false) => Positions::Learned,
        },
        feed_forward: if input.has("gate.w") || input.has("e0.gate.w") {
            FeedForward::Gated
        } else {
            FeedForward::Plain
        },
        rope_dim: if rope { rope_dim } else { 0 },
        rope_tables: rope.into(),
        block: match input.has("block").then(|| input.word("block")) {
            None => Block::PreNorm,
            Some("sandwich") => Block::Sandwich,
            Some("post") => Block::PostNorm,
            Some(other) => panic!("unknown block {other}"),
        },
        activation: if input.has("relu") { Activation::Relu } else { Activation::Table },
        qk_norm: input.has("q_norm.g"),
        pattern: vec![LayerPattern { window, rope: 0, experts }],
        score_cap: cap(input).map(|(shift, _)| shift),
        experts: experts.then(|| {
            let [count, per_token, normalise] = input.list::<u32>("experts")[..] else {
                panic!("experts are count, per_token, normalise");
            };
            Experts { count, per_token, normalise: normalise == 1 }
        }),
        pooling: input.has("pooling").then_some(Pooling::Mean),
        ..small_config()
    };
    // Rows of few channels keep the file short; where they are rotated, a model has more.
    let wide = ModelConfig { d_model: config.d_model.max(32), ..config.clone() };
    wide.validate().expect("a configuration of the specification");
    config
}
