//! Sampling (arithmetic.md, section 8): integers, ties, seeds, and the distribution they give.

use lockstep_base::params::{ONE_Q16, Parameters, client_seed, draw};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::sample::{distribution, greedy, sample, weights};
use lockstep_runtime::synthetic::{self, small_config};

const FRAC: i32 = 12;

fn table() -> Vec<u32> {
    synthetic::model(&small_config(), WeightFormat::Int8, 1).tables.exp2_sample
}

fn parameters(temperature: f64, top_k: u32, top_p: f64) -> Parameters {
    Parameters {
        temperature_q16: (temperature * 65536.0) as u32,
        top_k,
        top_p_q16: (top_p * 65536.0) as u32,
        ..Parameters::greedy(1)
    }
}

/// Greedy takes the largest logit, the lowest index on ties; temperatures below 2^-10 are greedy.
#[test]
fn greedy_breaks_ties_by_index() {
    assert_eq!(greedy(&[3, 9, 9, 1]), 1);
    assert_eq!(greedy(&[-5]), 0);
    let p = Parameters { temperature_q16: 63, ..parameters(0.0, 0, 1.0) };
    assert_eq!(sample(&[3, 9, 9, 1], FRAC, &p, u64::MAX, &table()), 1);
}

/// The weights are 2^24 exp(-(L - l)/T) to the table's resolution of 1/256 octave.
#[test]
fn weights_are_those_of_the_softmax() {
    let table = table();
    let mut rng = SplitMix64::new(4);
    let logits: Vec<i32> = (0..500).map(|_| rng.below(40 << FRAC) as i32 - (20 << FRAC)).collect();
    let largest = *logits.iter().max().unwrap();
    for temperature in [0.001, 0.1, 0.7, 1.0, 1.9, 15.9] {
        let p = parameters(temperature, 0, 1.0);
        for (logit, weight) in logits.iter().zip(weights(&logits, FRAC, p.temperature_q16, &table)) {
            let distance = f64::from(largest - logit) / f64::from(1 << FRAC);
            let expected =
                f64::exp(-distance / (f64::from(p.temperature_q16) / 65536.0)) * f64::from(1 << 24);
            // 16 octaves below the largest the weight is 0: 2^24 2^-16 = 256.
            let error = (f64::from(weight) - expected).abs() / expected;
            assert!(
                error < 0.008 || (weight == 0 && expected < 260.0),
                "T {temperature} distance {distance}: {weight} {expected}"
            );
        }
    }
}

/// Frequencies over many positions follow the weights (chi-square, 9 degrees of freedom).
#[test]
fn draws_follow_the_weights() {
    let table = table();
    let logits: Vec<i32> = (0..10).map(|i| i * 900).collect();
    let p = parameters(1.0, 0, 1.0);
    let w: Vec<f64> = weights(&logits, FRAC, ONE_Q16, &table).map(f64::from).collect();
    let total: f64 = w.iter().sum();
    let seed = client_seed(77, 0);
    let draws = 20_000;
    let mut counts = [0f64; 10];
    for position in 0..draws {
        counts[sample(&logits, FRAC, &p, draw(&seed, position), &table) as usize] += 1.0;
    }
    let chi: f64 = (0..10)
        .map(|i| {
            let expected = w[i] / total * f64::from(draws);
            (counts[i] - expected).powi(2) / expected
        })
        .sum();
    assert!(chi < 27.9, "chi-square {chi} (0.1 % bound 27.9), counts {counts:?}");
}

/// top-k keeps the k most likely, top-p the shortest prefix with the mass, ties by index; draws go through what is kept by index.
#[test]
fn truncation_keeps_the_most_likely() {
    let table = table();
    let logits = [0, 8000, 8000, 7000, -20_000];
    let seed = client_seed(5, 0);
    let seen = |p: &Parameters| {
        let mut seen: Vec<u32> =
            (0..3000).map(|i| sample(&logits, FRAC, p, draw(&seed, i), &table)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(seen(&parameters(1.0, 1, 1.0)), [1]);
    assert_eq!(seen(&parameters(1.0, 2, 1.0)), [1, 2]);
    assert_eq!(seen(&parameters(1.0, 0, 0.0)), [1]);
    assert_eq!(seen(&parameters(1.0, 0, 0.5)), [1, 2]);
    assert_eq!(seen(&parameters(1.0, 0, 1.0)), [0, 1, 2, 3, 4]);
    assert_eq!(
        sample(&logits, FRAC, &parameters(1.0, 0, 1.0), 0, &table),
        0,
        "the first candidate is that of the lowest index"
    );
    assert_eq!(sample(&logits, FRAC, &parameters(1.0, 0, 1.0), u64::MAX, &table), 4);
}

/// What has one weight has an order: that of the logits, so top-k is not decided by the table's resolution.
#[test]
fn equal_weights_have_the_order_of_their_logits() {
    let p = parameters(16.0, 1, 1.0);
    let logits = [800, 803, 801];
    assert!(weights(&logits, FRAC, p.temperature_q16, &table()).all(|weight| weight == 1 << 24));
    assert_eq!(sample(&logits, FRAC, &p, 0, &table()), 1);
}

/// Extremes end in a token, never in a panic: one logit, equal logits, the whole i32 range.
#[test]
fn extremes_are_sampled() {
    let table = table();
    for logits in [vec![0], vec![i32::MIN / 4; 3], vec![-(1 << 29), 1 << 29], vec![7; 1000]] {
        for frac in [6, 12, 16] {
            for p in [parameters(0.001, 0, 1.0), parameters(15.9, 3, 0.9), parameters(1.0, 0, 0.01)] {
                for word in [0, 1, u64::MAX] {
                    assert!((sample(&logits, frac, &p, word, &table) as usize) < logits.len());
                }
            }
        }
    }
    let d = distribution(&[5, 9, 9], FRAC, 2, 2, &table);
    assert_eq!((d.largest, d.chosen, d.top), (9, 9, vec![(1, 9), (2, 9)]));
}
