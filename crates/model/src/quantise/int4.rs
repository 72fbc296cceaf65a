//! The int4 tables of docs/spec/arithmetic.md, section 10, and the choice of one for a group.
//!
//! A group of 32 weights names one table of 16 int8 entries. Two families: asymmetric uniform grids
//! `s (c - z)`, and the 16 levels of ggml's IQ4_NL scaled by t/32 in both signs. Together they are
//! worth 8 to 16 % of KL over the uniform grids alone under GPTQ, and cost nothing at run time.

/// Levels of ggml's non-linear 4-bit format (`kvalues_iq4nl`).
const NON_LINEAR: [i32; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Steps of the uniform grids.
const STEPS: std::ops::RangeInclusive<i32> = 1..=17;
/// Zero points of the uniform grids.
const ZEROS: std::ops::RangeInclusive<i32> = 0..=15;
/// Scales of the non-linear levels, in 32nds.
const SCALES: std::ops::RangeInclusive<i32> = 1..=32;
/// Largest weight that the row scale is chosen for: the widest uniform grid reaches 120.
pub(crate) const ROW_MAX: f64 = 120.0;

/// All tables, in the order of their ids. Entries ascend and stay in [-127, 127].
#[must_use]
pub fn tables() -> Vec<[i8; 16]> {
    let uniform = STEPS.flat_map(|s| ZEROS.map(move |z| std::array::from_fn(|c| s * (c as i32 - z))));
    let non_linear = [1, -1].into_iter().flat_map(|sign| {
        SCALES.map(move |t| {
            let mut levels = NON_LINEAR.map(|level| sign * (f64::from(level * t) / 32.0).round() as i32);
            levels.sort_unstable();
            levels
        })
    });
    uniform
        .chain(non_linear)
        .filter(|table: &[i32; 16]| table.iter().all(|entry| entry.abs() <= 127))
        .map(|table| table.map(|entry| entry as i8))
        .collect()
}

/// The tables with what the search needs.
#[derive(Debug)]
pub struct TableSearch {
    tables: Vec<[i8; 16]>,
    /// For each table and integer weight + 127, the nearest entry.
    nearest: Vec<[i8; 255]>,
}

impl Default for TableSearch {
    fn default() -> Self {
        let tables = tables();
        let nearest = tables
            .iter()
            .map(|table| std::array::from_fn(|at| table[nearest(table, at as f64 - 127.0)]))
            .collect();
        TableSearch { tables, nearest }
    }
}

impl TableSearch {
    /// The table with the smallest `sum importance_j (w_j - entry)^2` over a group; the first of equals.
    #[must_use]
    pub fn best(&self, weights: &[f64], importance: &[f64]) -> u16 {
        let mut rounded = [0usize; 64];
        for (at, w) in rounded.iter_mut().zip(weights) {
            *at = (w.clamp(-127.0, 127.0).round() + 127.0) as usize;
        }
        let mut best = (f64::INFINITY, 0);
        for (id, nearest) in self.nearest.iter().enumerate() {
            let mut error = 0.0;
            for ((w, importance), &at) in weights.iter().zip(importance).zip(&rounded) {
                let difference = w - f64::from(nearest[at]);
                error += importance * difference * difference;
            }
            if error < best.0 {
                best = (error, id);
            }
        }
        best.1 as u16
    }

    /// The nibble whose entry is nearest to `weight` in table `id`, and the entry.
    #[must_use]
    pub fn round(&self, id: u16, weight: f64) -> (u8, i8) {
        let table = &self.tables[usize::from(id)];
        let nibble = nearest(table, weight);
        (nibble as u8, table[nibble])
    }
}

/// Index of the nearest entry, the lowest of equals.
fn nearest(table: &[i8; 16], weight: f64) -> usize {
    let mut best = 0;
    for (at, entry) in table.iter().enumerate() {
        if (weight - f64::from(*entry)).abs() < (weight - f64::from(table[best])).abs() {
            best = at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 10: which tables there are.
    #[test]
    fn tables_are_those_of_the_specification() {
        let tables = tables();
        assert!(tables.iter().all(|table| table.is_sorted() && !table.contains(&-128)));
        assert!(tables.contains(&std::array::from_fn(|c| (7 * (c as i32 - 3)) as i8)));
        assert!(tables.contains(&NON_LINEAR.map(|level| level as i8)));
        let mut mirrored = NON_LINEAR.map(|level| -level as i8);
        mirrored.reverse();
        assert!(tables.contains(&mirrored));
        let fits = |s: i32, z: i32| s * z <= 127 && s * (15 - z) <= 127;
        let uniform = (1..=17).map(|s| (0..=15).filter(|&z| fits(s, z)).count()).sum::<usize>();
        assert_eq!(tables.len(), uniform + 64);
    }

    #[test]
    fn the_best_table_reproduces_a_group_on_its_grid() {
        let search = TableSearch::default();
        let group: Vec<f64> = (0..32).map(|i| f64::from(5 * (i % 16 - 4))).collect();
        let id = search.best(&group, &[1.0; 32]);
        assert!(group.iter().all(|w| f64::from(search.round(id, *w).1) == *w));
    }
}
