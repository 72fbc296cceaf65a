//! The same laws with the exact runtime on a small random model.

use crate::{finished, small_limits};
use lockstep_base::Digest;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_mesh::engine::EngineFactory;
use lockstep_mesh::node::Served;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::synthetic;
use lockstep_sim::world::{Request, SimModel, run};
use std::sync::Arc;

fn weights_of(part: &Part, whole: &ModelWeights) -> ModelWeights {
    let mut weights = whole.clone();
    weights.first_layer = part.first_layer as usize;
    weights.layers = whole.layers[part.first_layer as usize..part.end_layer as usize].to_vec();
    if !part.embed {
        (weights.embed, weights.positions) = (None, None);
    }
    if !part.head {
        weights.head = None;
    }
    weights
}

fn exact_model(seed: u64) -> SimModel {
    let config = synthetic::small_config();
    let whole = synthetic::model(&config, WeightFormat::Int8, seed);
    let compute = Arc::new(Compute::new(1));
    let served = Served {
        model_root: Digest::tagged("synthetic", &[&seed.to_be_bytes()]),
        opset: config.opset.clone(),
        model: config.name.clone(),
        part: Part::whole(config.n_layers),
        n_layers: config.n_layers,
        d_model: config.d_model,
        vocab: config.vocab,
        context: config.context,
    };
    let factory = move |part: Part| {
        let engine = Engine::new(Arc::new(weights_of(&part, &whole)), Arc::clone(&compute));
        Box::new(EngineFactory { engine, part, keep_leaves: true, drill: None }) as Box<_>
    };
    SimModel { whole: served, factory: Box::new(factory) }
}

/// Law: any number of stages gives the same tokens, greedy and sampled, whatever the network does.
#[test]
fn routes_of_the_exact_runtime_agree() {
    for seed in 0..4 {
        let model = exact_model(seed);
        let mut request = Request::new((0..150).map(|i| i * 7 % 97).collect(), 20);
        request.parameters =
            Parameters { temperature_q16: [0, 1 << 16][seed as usize % 2], ..request.parameters };
        request.full_trace = seed == 3;
        request.logprobs = Some(2);
        let answers: Vec<Vec<u32>> = (1..=4)
            .map(|stages| {
                let report = run(seed, &model, stages, std::slice::from_ref(&request), &small_limits(), &[]);
                finished(&report, 0, seed).file.tokens.clone()
            })
            .collect();
        assert_eq!(answers[0].len(), 170, "seed {seed}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "seed {seed}: {answers:?}");
    }
}
