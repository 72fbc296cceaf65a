//! Seconds of runs, and the figure that stands for them.

/// Seconds of each run.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) prefill: Vec<f64>,
    pub(crate) decode: Vec<f64>,
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
