//! The same laws with the exact runtime on small random models; and the whole promise in one
//! run: a stage that flips one bit signs in good faith, and re-execution finds the place.

use crate::finished;
use lockstep_base::Digest;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_mesh::engine::{DrillFactory, EngineFactory};
use lockstep_mesh::node::{NodeLimits, Served};
use lockstep_runtime::audit::{Verdict, audit};
use lockstep_runtime::drill::Drill;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::{Observer, Values};
use lockstep_runtime::synthetic;
use lockstep_sim::world::{Report, Request, SimModel, run};
use std::sync::{Arc, Mutex};

/// A drill that the test can look at while the node has it.
#[derive(Clone)]
struct Watched(Arc<Mutex<Drill>>);

impl Observer for Watched {
    fn output(&mut self, place: lockstep_base::op::Place, run: u32, values: Values<'_>) {
        self.0.lock().expect("no test thread panicked").output(place, run, values);
    }
}

/// A random model and all of its weights. The node whose part begins at the layer of `drill`
/// lies once.
fn exact_model(seed: u64, drill: Option<(u32, Watched)>) -> (SimModel, Engine) {
    let config = synthetic::small_config();
    let format = [WeightFormat::Int8, WeightFormat::Int4][seed as usize % 2];
    let weights = Arc::new(synthetic::model(&config, format, seed));
    let engine = Engine::new(weights, Arc::new(Compute::new(1)));
    let root = Digest::tagged("synthetic", &[&seed.to_be_bytes()]);
    let served = Served::new(root, &config, Part::whole(config.n_layers));
    let whole = engine.clone();
    let factory = move |part: Part| {
        let engine = Engine::new(Arc::new(whole.weights.restrict(&part)), Arc::clone(&whole.compute));
        let liar = drill
            .as_ref()
            .filter(|(layer, _)| *layer == part.first_layer)
            .map(|(_, watched)| watched.clone());
        let drill = liar.map(|watched| {
            Box::new(move |_: &_| Box::new(watched.clone()) as Box<dyn Observer + Send>) as DrillFactory
        });
        Box::new(EngineFactory { engine, part, adapters: Vec::new(), keep_leaves: true, drill }) as Box<_>
    };
    (SimModel { whole: served, factory: Box::new(factory) }, engine)
}

fn exact_request(seed: u64, prompt: u32, max_tokens: u32) -> Request {
    let mut request = Request::new((0..prompt).map(|i| i * 7 % 97).collect(), max_tokens);
    request.parameters =
        Parameters { temperature_q16: [0, 1 << 16][seed as usize % 2], ..request.parameters };
    request.full_trace = !seed.is_multiple_of(3);
    request
}

fn answer(seed: u64, model: &SimModel, stages: u32, request: &Request) -> Report {
    run(seed, model, stages, std::slice::from_ref(request), &NodeLimits::default(), &[])
}

fn verdict(file: &ReceiptFile, engine: &Engine) -> Verdict {
    audit(file, &file.model_root, engine, &mut |_, _| {}).expect("a consistent file")
}

/// Law: any number of stages gives the same tokens, greedy and sampled, whatever the network does,
/// and re-execution verifies every receipt.
#[test]
fn routes_of_the_exact_runtime_agree_and_verify() {
    for seed in 0..6 {
        let (model, engine) = exact_model(seed, None);
        let mut request = exact_request(seed, 150, 20);
        request.logprobs = Some(2);
        let mut answers = Vec::new();
        for stages in 1..=4 {
            let report = answer(seed, &model, stages, &request);
            let file = &finished(&report, 0, seed).file;
            let receipts = stages as usize * 6;
            assert_eq!(verdict(file, &engine), Verdict::Verified { receipts, tokens: 169 }, "seed {seed}");
            answers.push(file.tokens.clone());
        }
        assert_eq!(answers[0].len(), 170, "seed {seed}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "seed {seed}: {answers:?}");
    }
}

/// Law: a stage that flips one bit in one activation goes through the gateway (its receipts are
/// signed and chained), and re-execution names the stage, token, layer, op and row of the drill's
/// own note.
#[test]
fn a_flipped_activation_is_located() {
    for seed in 0..20 {
        let mut rng = SplitMix64::new(seed);
        let parts = Part::split(4, 3);
        let stage = rng.below(3) as usize;
        let words = std::array::from_fn(|_| rng.next_u64());
        let watched = Watched(Arc::new(Mutex::new(Drill::new(&parts[stage], 40, words))));
        let (model, engine) = exact_model(seed, Some((parts[stage].first_layer, watched.clone())));
        let mut request = exact_request(1, 30, 12);
        request.fetch_leaves = true;
        let report = answer(seed, &model, 3, &request);
        let mut file = finished(&report, 0, seed).file.clone();
        let note = watched.0.lock().expect("no thread panicked").struck();
        let note = note.unwrap_or_else(|| panic!("seed {seed}: the drill did not strike"));

        let Verdict::Fault(blind) = verdict(&file, &engine) else {
            panic!("seed {seed}: {note:?} was not caught")
        };
        assert_eq!((blind.stage, blind.located), (stage, None), "seed {seed}: without leaves");
        assert!((blind.first_token..blind.end_token).contains(&note.place.position), "seed {seed}");

        for (from, span) in &report.leaves[0] {
            file.stages[usize::from(*from)].served.push(span.clone());
        }
        let Verdict::Fault(fault) = verdict(&file, &engine) else { panic!("seed {seed}: with leaves") };
        let located = fault.located.unwrap_or_else(|| panic!("seed {seed}: {note:?} was not located"));
        assert_eq!((fault.stage, located.place, located.row), (stage, note.place, note.row), "seed {seed}");
    }
}
