//! How far one set of logits is from another: the three figures that `lockstep eval` reports.

/// Next-token quality of a model over a text, next to a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fidelity {
    /// Mean bits per token of the text under the model.
    pub bits_per_token: f64,
    /// Share of positions at which both prefer the same token, 0 to 1.
    pub top1_agreement: f64,
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub mean_kl: f64,
    /// Positions counted for agreement and divergence; bits are over one fewer.
    pub positions: usize,
}

/// Compares logits `(tokens, vocab)` after each of `tokens` with those of the reference. Row `t` predicts token `t + 1`.
///
/// # Panics
/// If the three lengths differ.
pub fn compare(reference: &[Vec<f32>], logits: &[Vec<f32>], tokens: &[u32]) -> Fidelity {
    assert_eq!((reference.len(), logits.len()), (tokens.len(), tokens.len()), "one row of logits per token");
    let (mut nats, mut agree, mut kl) = (0.0, 0usize, 0.0);
    for (t, (wanted, got)) in reference.iter().zip(logits).enumerate() {
        let (p, q) = (log_softmax(wanted), log_softmax(got));
        kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        agree += usize::from(super::argmax(wanted) == super::argmax(got));
        if let Some(&next) = tokens.get(t + 1) {
            nats -= q[next as usize];
        }
    }
    let positions = tokens.len().max(1) as f64;
    Fidelity {
        bits_per_token: nats / std::f64::consts::LN_2 / tokens.len().saturating_sub(1).max(1) as f64,
        top1_agreement: agree as f64 / positions,
        mean_kl: kl / positions,
        positions: tokens.len(),
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    logits.iter().map(|&x| f64::from(x - max) - sum.ln()).collect()
}
