//! The bar on real trained models: integers next to the float model and the ggml simulation, on the
//! same weights and text (out of the sample plus self-generated).

use crate::quantise_integers::integer_logits;
use crate::source_data::data;
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_model::float::ggml::{self, quantise_weights};
use lockstep_model::float::{Activations, Rng, Sampling, compare, generate, logits_all};
use lockstep_model::quantise::{ImportOptions, Progress, QuantiseOptions, WeightFormat, import_source};
use lockstep_model::source::{self, FloatModel};

/// Positions of one text.
const TEXT_TOKENS: usize = 240;
/// Texts from the sample, and as many that the model writes itself (other seeds than calibration's).
const TEXTS: usize = 5;

#[derive(Debug, Default, Clone, Copy)]
struct Mean {
    bits: f64,
    top1: f64,
    kl: f64,
}

/// Means over all texts of logits that `run` makes.
fn judge(float: &[Vec<Vec<f32>>], texts: &[Vec<u32>], mut run: impl FnMut(&[u32]) -> Vec<Vec<f32>>) -> Mean {
    let mut mean = Mean::default();
    for (reference, text) in float.iter().zip(texts) {
        let fidelity = compare(reference, &run(text), text);
        let share = 1.0 / texts.len() as f64;
        mean.bits += share * fidelity.bits_per_token;
        mean.top1 += share * fidelity.top1_agreement;
        mean.kl += share * fidelity.mean_kl;
    }
    mean
}

fn texts(
    model: &FloatModel,
    tokenizer: &lockstep_model::tokenizer::Tokenizer,
    sample: &str,
) -> Vec<Vec<u32>> {
    let bos = tokenizer.bos().unwrap_or(1);
    let tokens = tokenizer.encode(sample, false).unwrap();
    let with_bos = |tokens: &[u32]| [&[bos], tokens].concat();
    let mut all: Vec<Vec<u32>> = tokens.chunks_exact(TEXT_TOKENS - 1).take(TEXTS).map(with_bos).collect();
    for seed in 0..TEXTS as u64 {
        let written = generate(
            model,
            &[bos],
            TEXT_TOKENS - 1,
            &[],
            Sampling::Temperature(1.0),
            &mut Rng::new(900 + seed),
        )
        .unwrap();
        all.push(with_bos(&written));
    }
    all
}

fn check_model(name: &str, weights: &str, vocabulary: &str) {
    let (Some(weights), Some(vocabulary), Some(sample)) =
        (data(weights), data(vocabulary), data("text-tinystories-sample/tinystories_sample.txt"))
    else {
        return;
    };
    let source = source::open(&weights, Some(&vocabulary)).unwrap();
    let sample: String = std::fs::read_to_string(sample).unwrap().chars().take(6_000).collect();
    let texts = texts(&source.model, &source.tokenizer, &sample);
    let float: Vec<Vec<Vec<f32>>> = texts.iter().map(|text| source.model.logits_all(text).unwrap()).collect();
    let of_float = judge(&float, &texts, |text| source.model.logits_all(text).unwrap());
    for (format, rival) in
        [(WeightFormat::Int8, ggml::WeightFormat::Q8_0), (WeightFormat::Int4, ggml::WeightFormat::Q4_0)]
    {
        let rounded = quantise_weights(&source.model, rival).unwrap();
        let rival_mean = judge(&float, &texts, |text| logits_all(&rounded, Activations::Q8_0, text).unwrap());
        let options = ImportOptions {
            quantise: QuantiseOptions { weights: format, ..Default::default() },
            ..Default::default()
        };
        let imported = import_source(&source, &options, &mut Progress::none()).unwrap();
        let bundle = Bundle::from_bytes(imported.bytes).unwrap();
        let loaded = bundle.load(&Part::whole(bundle.config().n_layers)).unwrap();
        let ours = judge(&float, &texts, |text| integer_logits(loaded.clone(), text));
        let bits = |mean: Mean| 100.0 * (mean.bits / of_float.bits - 1.0);
        eprintln!(
            "{name} {format:?}: bits {:+.3} %, top-1 {:.2} %, KL {:.3}e-3; {rival:?}: bits {:+.3} %, top-1 {:.2} %, KL {:.3}e-3",
            bits(ours),
            100.0 * ours.top1,
            1e3 * ours.kl,
            bits(rival_mean),
            100.0 * rival_mean.top1,
            1e3 * rival_mean.kl
        );
        match format {
            WeightFormat::Int8 | WeightFormat::Int16 => {
                assert!(bits(ours) <= 0.5, "{name}: bits {:+.3} % over float", bits(ours));
                assert!(
                    ours.kl <= 1.6 * rival_mean.kl,
                    "{name}: KL {} against Q8_0's {}",
                    ours.kl,
                    rival_mean.kl
                );
                assert!(
                    ours.top1 >= rival_mean.top1 - 0.005,
                    "{name}: top-1 {} against Q8_0's {}",
                    ours.top1,
                    rival_mean.top1
                );
            }
            WeightFormat::Int4 => {
                assert!(ours.kl <= rival_mean.kl, "{name}: KL {} against Q4_0's {}", ours.kl, rival_mean.kl);
                assert!(bits(ours) <= 6.0, "{name}: bits {:+.3} % over float", bits(ours));
            }
        }
    }
}

/// int8: bits within 0.5 % of float, KL at most 1.6 times and top-1 at most 0.5 points below Q8_0's; int4
/// better than Q4_0 in KL.
#[test]
fn stories260k_meets_the_bar() {
    check_model("stories260K", "llama-stories260k/stories260K.bin", "llama-stories260k/tok512.bin");
}

/// The same for a character model with heads of 16.
#[test]
fn babyllama_meets_the_bar() {
    check_model(
        "BabyLlama",
        "llama-babyllama-tok361/tok361_model5000.bin",
        "llama-babyllama-tok361/tok105.vocab",
    );
}
