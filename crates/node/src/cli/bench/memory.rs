//! What this machine's memory gives: the ceiling of decoding, which reads every weight once for each token.
//!
//! ```text
//! ceiling = bytes of all matrices / seconds of reading them with all threads and doing nothing else
//! achieved = bytes that a token reads * tokens per second
//! ```
//! The same bytes are read in the same order as decoding reads them, by the same threads, so page sizes, caches and
//! neighbours on the machine are the same too. The best pass counts: a ceiling is what can be reached.

use lockstep_base::config::Experts;
use lockstep_base::weights::{FfnWeights, LayerWeights, Linear, ModelWeights};
use lockstep_runtime::kernels::Compute;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Passes of one measurement.
const PASSES: usize = 3;
/// Pieces that a matrix is read in, for each thread.
const PIECES: usize = 4;

/// The matrices of the layers in the order of their use, then the head.
fn matrices(weights: &ModelWeights) -> Vec<&Linear> {
    let mut all: Vec<&Linear> = weights.layers.iter().flat_map(of_layer).collect();
    all.extend(&weights.head);
    all
}

fn of_layer(layer: &LayerWeights) -> Vec<&Linear> {
    let mut all = vec![&layer.q, &layer.k, &layer.v, &layer.o];
    for network in layer.ffn.networks() {
        all.extend(&network.gate);
        all.extend([&network.up, &network.down]);
    }
    all
}

fn bytes(linear: &Linear) -> usize {
    linear.codes.len() + linear.table_ids.len()
}

/// Bytes that decoding one token reads: all matrices, but of experts only those that a token uses.
#[must_use]
pub(crate) fn token_bytes(weights: &ModelWeights) -> usize {
    let all: usize = matrices(weights).into_iter().map(bytes).sum();
    let unused: usize =
        weights.layers.iter().map(|layer| unused_bytes(&layer.ffn, weights.config.experts)).sum();
    all - unused
}

fn unused_bytes(ffn: &FfnWeights, experts: Option<Experts>) -> usize {
    let (FfnWeights::Experts { experts: networks, .. }, Some(experts)) = (ffn, experts) else { return 0 };
    let unused = networks.iter().skip(experts.per_token as usize);
    unused.map(|one| one.gate.iter().chain([&one.up, &one.down]).map(bytes).sum::<usize>()).sum()
}

/// Bytes per second of reading all matrices with all threads: the best of a few passes.
#[must_use]
pub(crate) fn ceiling(weights: &ModelWeights, compute: &Compute) -> f64 {
    let matrices = matrices(weights);
    let total: usize = matrices.iter().map(|linear| linear.codes.len()).sum();
    let pieces = compute.pool.threads() * PIECES;
    let sum = AtomicU64::new(0);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let began = Instant::now();
        for linear in &matrices {
            let codes: &[u8] = &linear.codes;
            let piece = codes.len().div_ceil(pieces).max(1);
            compute.pool.run(codes.len().div_ceil(piece), &|task| {
                let part = &codes[task * piece..codes.len().min((task + 1) * piece)];
                sum.fetch_add(read(part), Ordering::Relaxed);
            });
        }
        best = best.min(began.elapsed().as_secs_f64());
    }
    black_box(sum.into_inner());
    total as f64 / best
}

/// Reads every byte: sums of words in enough accumulators that only memory is waited for.
fn read(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in bytes.chunks_exact(128) {
        for (sum, word) in sums.iter_mut().zip(chunk.chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(std::array::from_fn(|at| word[at])));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// The largest resident set of this process so far, where the system tells it.
#[must_use]
pub(crate) fn peak_resident() -> Option<u64> {
    status_kib("/proc/self/status", "VmHWM:")
}

/// Memory that new allocations can have, where the system tells it.
#[must_use]
pub(crate) fn available() -> Option<u64> {
    status_kib("/proc/meminfo", "MemAvailable:")
}

fn status_kib(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::weights::WeightFormat;
    use lockstep_runtime::synthetic;

    /// A pass reads each byte once: the sum is that of the words.
    #[test]
    fn every_byte_is_read() {
        let bytes: Vec<u8> = (0..128 * 5).map(|at| (at * 7) as u8).collect();
        let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        assert_eq!(read(&bytes), words.fold(0, u64::wrapping_add));
    }

    /// What a token reads is less than what is stored where it chooses experts.
    #[test]
    fn tokens_read_the_matrices() {
        let weights = synthetic::model(&synthetic::small_config(), WeightFormat::Int8, 1);
        let stored: usize = matrices(&weights).into_iter().map(bytes).sum();
        assert_eq!(token_bytes(&weights), stored);
        assert!(ceiling(&weights, &Compute::new(2)) > 0.0);
    }
}
