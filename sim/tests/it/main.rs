//! The laws of the mesh, each over many seeds. A failure names its seed; to repeat it alone, put
//! the seed into the law's range.

mod answers;
mod exact;
mod faults;
mod laws;
mod lies;
mod recovery;
mod swarm;

use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::limits::CONTROL_PAYLOAD_MAX;
use lockstep_mesh::node::NodeLimits;
use lockstep_mesh::toy::ToyModel;
use lockstep_sim::world::{End, Report, Request, SimModel};

/// Layers, width, vocabulary and context of the toy model of most laws.
const TOY: ToyModel = ToyModel { n_layers: 6, d_model: 8, vocab: 251, context: 1100 };

fn toy_model(toy: ToyModel) -> SimModel {
    SimModel { whole: toy.served(Part::whole(toy.n_layers)), factory: Box::new(move |_| Box::new(toy)) }
}

/// Small limits, so that runs meet them.
fn small_limits() -> NodeLimits {
    NodeLimits { tasks_max: 8, leaf_store_bytes: CONTROL_PAYLOAD_MAX, ..NodeLimits::default() }
}

/// A request drawn from `rng`: any prompt length, any way of sampling.
fn any_request(rng: &mut SplitMix64, prompt_max: u64, tokens_max: u64) -> Request {
    let prompt = (0..1 + rng.below(prompt_max)).map(|_| rng.below(TOY.vocab.into()) as u32).collect();
    let mut request = Request::new(prompt, 1 + rng.below(tokens_max) as u32);
    request.parameters = Parameters { temperature_q16: rng.below(1 << 17) as u32, ..request.parameters };
    request.full_trace = rng.below(2) == 0;
    request.logprobs = [None, Some(0), Some(5)][rng.below(3) as usize];
    request.provable = rng.below(2) == 0;
    request
}

/// The outcome of request `i`, which must have finished.
fn finished(report: &Report, i: usize, seed: u64) -> &lockstep_mesh::route::Outcome {
    match &report.ends[i] {
        Some(End::Finished(outcome)) => outcome,
        Some(End::Failed(failure)) => panic!("seed {seed}: request {i} failed: {failure}"),
        None => panic!("seed {seed}: the gateway of request {i} was killed"),
    }
}

/// The failure of request `i`, which must have failed.
fn failed(report: &Report, i: usize, seed: u64) -> &lockstep_mesh::route::Failure {
    match &report.ends[i] {
        Some(End::Failed(failure)) => failure,
        other => panic!("seed {seed}: request {i} should have failed, got {other:?}"),
    }
}
