//! Seconds of runs, and the figure that stands for them.

use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;

/// Seconds of each run.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) prefill: Spent,
    pub(crate) decode: Spent,
}

/// What one part of each run took.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    /// Seconds on the clock.
    pub(crate) wall: Vec<f64>,
    /// Seconds that all threads of the process computed: other processes do not lengthen them.
    pub(crate) cpu: Vec<f64>,
}

/// Measures one part of a run.
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: f64,
}

impl Stopwatch {
    pub(crate) fn start() -> Stopwatch {
        Stopwatch { wall: Instant::now(), cpu: cpu_seconds() }
    }

    /// Notes what has passed.
    pub(crate) fn stop(self, spent: &mut Spent) {
        spent.wall.push(self.wall.elapsed().as_secs_f64());
        spent.cpu.push(cpu_seconds() - self.cpu);
    }
}

/// What the process has computed so far.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// The median: what one slow minute of the machine does not change.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(
            [median(&[3.0]), median(&[9.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 90.0])],
            [3.0, 2.0, 3.0]
        );
    }
}
