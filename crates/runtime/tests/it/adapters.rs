//! arithmetic.md 4, adapters: what they add is exact, each sequence has its own, and nobody else notices.

use crate::families::decoders;
use crate::pipeline::{Job, MODEL_ROOT, answer, engine_over};
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterWeights, Target};
use lockstep_base::op::{Op, Place};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::arith::{Extent, RHO_ONE, Step, choose_cut, code};
use lockstep_runtime::audit::{AuditError, Verdict, audit, audit_adapted};
use lockstep_runtime::drill::Drill;
use lockstep_runtime::forward::{Engine, Segment};
use lockstep_runtime::kernels::{Compute, Kernel, linear};
use lockstep_runtime::observe::{Observer, Silent, Values};
use lockstep_runtime::pool::Pool;
use lockstep_runtime::synthetic::{self, small_config};
use std::collections::HashMap;
use std::sync::Arc;

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..count).map(|_| rng.below(97) as u32).collect()
}

fn run(engine: &Engine, tokens: &[u32], adapter: Option<&Arc<AdapterWeights>>) -> Vec<i32> {
    let mut cache = engine.new_cache().with_adapter(adapter.cloned());
    let mut x = engine.embed(tokens, 0, &mut Silent).expect("tokens");
    engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
    x
}

/// Three sequences with two adapters and none, in one batch, on every kernel: the rows of each alone.
#[test]
fn adapters_of_a_batch_do_not_meet() {
    for (name, config) in decoders() {
        let weights = synthetic::model(&config, WeightFormat::Int8, 5);
        let adapters: Vec<_> = [(3, 11), (40, 12)]
            .map(|(rank, seed)| Arc::new(synthetic::adapter(&weights, MODEL_ROOT, rank, seed)))
            .into();
        for adapter in &adapters {
            assert_eq!(adapter.check_fits(MODEL_ROOT, &config, 0, &weights.layers), Ok(()), "{name}");
        }
        let scalar = engine_over(weights.clone(), Kernel::Scalar, 1);
        let chosen = [Some(&adapters[0]), None, Some(&adapters[1]), Some(&adapters[0])];
        let texts: Vec<Vec<u32>> = (0..4).map(|seed| tokens(5 + seed as usize, seed)).collect();
        let alone: Vec<Vec<i32>> =
            texts.iter().zip(chosen).map(|(text, adapter)| run(&scalar, text, adapter)).collect();
        assert_ne!(alone[0], run(&scalar, &texts[0], None), "{name}: an adapter changes something");
        for kernel in Kernel::available() {
            let engine = engine_over(weights.clone(), kernel, 2);
            let mut caches: Vec<_> =
                chosen.iter().map(|adapter| engine.new_cache().with_adapter(adapter.cloned())).collect();
            let mut x = Vec::new();
            for text in &texts {
                x.extend(engine.embed(text, 0, &mut Silent).expect("tokens"));
            }
            let mut silent = [Silent; 4];
            let mut segments: Vec<_> = caches
                .iter_mut()
                .zip(&texts)
                .zip(&mut silent)
                .map(|((cache, text), observer)| Segment { cache, rows: text.len(), observer })
                .collect();
            engine.layers_batch(&mut x, &mut segments).expect("in range");
            assert_eq!(x, alone.concat(), "{name} on {kernel}");
        }
    }
}

#[derive(Default)]
struct Notes(HashMap<(Place, u32), (Vec<i32>, Option<Step>)>);

impl Observer for Notes {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        let note = match values {
            Values::I32(x) | Values::I16(x) => (x.to_vec(), None),
            Values::Codes8(x, step) => (x.iter().map(|v| i32::from(*v)).collect(), Some(step)),
            _ => return,
        };
        self.0.insert((place, run), note);
    }
}

/// The definition, with the scalar functions one by one: codes between A and B, and the sum.
#[test]
fn what_is_added_is_b_of_codes_of_a() {
    let weights = synthetic::model(&small_config(), WeightFormat::Int8, 6);
    let adapter = Arc::new(synthetic::adapter(&weights, MODEL_ROOT, 7, 13));
    let engine = engine_over(weights, Kernel::detect(), 2);
    let text = tokens(4, 9);
    let mut notes = Notes::default();
    let mut cache = engine.new_cache().with_adapter(Some(adapter.clone()));
    let mut x = engine.embed(&text, 0, &mut Silent).expect("tokens");
    engine.layers(&mut x, &mut cache, &mut notes).expect("in range");

    let scalar = Compute { kernel: Kernel::Scalar, pool: Pool::new(1) };
    for (target, op, site) in [
        (Target::Q, Op::QProj, Op::AttnNorm),
        (Target::O, Op::OProj, Op::AttnCodes),
        (Target::Up, Op::UpProj, Op::FfnNorm),
        (Target::Down, Op::DownProj, Op::HiddenCodes),
    ] {
        for (position, layer) in [(0, 0), (3, 2)] {
            let note = |op, run| &notes.0[&(Place { position, layer, op }, run)];
            let (codes, step) = note(site, 0);
            let codes: Vec<i8> = codes.iter().map(|v| *v as i8).collect();
            let product = |matrix: &lockstep_base::weights::Linear, codes: &[i8], step: Step| {
                let mut y = vec![0; matrix.rows];
                linear(&scalar, matrix, &[], codes, &[step], &mut y).expect("in range");
                y
            };
            let base = product(
                target.of(&engine.weights.layers[usize::from(layer)]).expect("a matrix"),
                &codes,
                step.expect("codes have a step"),
            );
            let part = adapter.layers[usize::from(layer)].get(target).expect("a part");
            let a = product(&part.a, &codes, step.expect("a step"));
            let cut = choose_cut(Extent::of(&a), RHO_ONE, -14 - i32::from(part.a.out_frac));
            let mut between: Vec<i8> = a.iter().map(|a| code(*a, &cut)).collect();
            between.resize(part.b.cols, 0);
            let (shown, shown_step) = note(Op::AdapterCodes, target as u32);
            assert_eq!(shown.iter().map(|v| *v as i8).collect::<Vec<_>>(), between, "{op}");
            assert_eq!(*shown_step, Some(cut.step), "{op}");
            let added = product(&part.b, &between, cut.step);
            let sum: Vec<i32> = base.iter().zip(&added).map(|(base, added)| base + added).collect();
            assert_eq!(note(op, 0).0, sum, "{op} of token {position}, layer {layer}");
            assert!(added.iter().any(|added| *added != 0), "{op}");
        }
    }
}

/// receipts.md 7.1, 9: receipts name the adapter; they verify under it, and a file is refused by name under another,
/// under none, or where its receipts disagree. A lie between the matrices of an adapter is located there.
#[test]
fn receipts_bind_the_adapter() {
    let weights = synthetic::model(&small_config(), WeightFormat::Int8, 42);
    let [one, other] = [13, 14].map(|seed| Arc::new(synthetic::adapter(&weights, MODEL_ROOT, 7, seed)));
    let engine = engine_over(weights, Kernel::detect(), 1);
    let job = || Job { adapter: Some(one.clone()), ..Job::new(&[11; 9], 40, 3) };
    let (file, _) = answer(&engine, job());
    let (without, _) = answer(&engine, Job::new(&[11; 9], 40, 3));
    assert_ne!(file.tokens, without.tokens, "the adapter shows in the answer");
    let under = |file: &_, adapter| audit_adapted(file, &MODEL_ROOT, &engine, adapter, &mut |_, _| {});
    assert_eq!(under(&file, Some(&one)), Ok(Verdict::Verified { receipts: 6, tokens: 48 }));
    let misfit = |got: &Arc<AdapterWeights>, expected| Err(AuditError::Adapter { got: got.root, expected });
    assert_eq!(under(&file, Some(&other)), misfit(&one, other.root));
    assert_eq!(under(&file, None), misfit(&one, Digest::ZERO));
    assert_eq!(audit(&file, &MODEL_ROOT, &engine, &mut |_, _| {}), misfit(&one, Digest::ZERO));
    let refused = under(&without, Some(&one)).unwrap_err().to_string();
    assert_eq!(refused, format!("the receipts were signed under no adapter, expected adapter {}", one.root));

    // Computed without the adapter that the receipts name: stage 0 is found out.
    let mut lying = without;
    for (stage, record) in lying.stages.iter_mut().enumerate() {
        let mut previous = Digest::ZERO;
        for signed in &mut record.receipts {
            let mut receipt = signed.receipt.clone();
            (receipt.adapters, receipt.previous) = (one.root, previous);
            previous = receipt.struct_hash();
            *signed = receipt.sign(&crate::pipeline::key(stage));
        }
    }
    let Ok(Verdict::Fault(fault)) = under(&lying, Some(&one)) else {
        panic!("the base passed for the adapter")
    };
    assert_eq!((fault.stage, fault.first_token), (0, 0));
    assert_eq!(fault.located.expect("leaves were served").place.op, Op::AdapterCodes);

    let mut mixed = file;
    let receipt = &mut mixed.stages[1].receipts[1];
    receipt.receipt.adapters = other.root;
    *receipt = receipt.receipt.clone().sign(&crate::pipeline::key(1));
    let refused = under(&mixed, Some(&one)).unwrap_err().to_string();
    assert!(refused.starts_with("stage 1, receipt 1: adapter is adapter "), "{refused}");

    let place = Place { position: 21, layer: 1, op: Op::AdapterCodes };
    let (file, strike) = answer(&engine, Job { drill: Some((1, Drill::at(place, 5, 3))), ..job() });
    let Ok(Verdict::Fault(fault)) = under(&file, Some(&one)) else { panic!("the lie was not seen") };
    let located = fault.located.expect("leaves were served");
    assert_eq!((fault.stage, located.place), (1, place));
    assert_eq!(located.row, strike.expect("it struck").row);
}
