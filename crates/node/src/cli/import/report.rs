//! What `import --report` says: tables for people, one JSON object for programs.

use crate::output::table;
use lockstep_model::quantise::{Margin, MatrixReport, Report, SiteReport};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Everything about an import, for programs: every matrix and site, what was proved, the summary by kind.
pub(super) fn to_json(report: &Report) -> Value {
    let mut value = json!(report);
    value["kinds"] = json!(report.kinds());
    value
}

/// The same for people: a line a matrix, a line a site, the summary.
pub(super) fn to_text(report: &Report) -> String {
    let margins: BTreeMap<&str, &Margin> =
        report.margins.iter().map(|margin| (margin.tensor.as_str(), margin)).collect();
    let mut head = vec!["tensor", "shape", "bits", "weight error", "output error", "s1", "F"];
    // Bounds of an adapter's sums are the base's business: its warnings say where they may not hold.
    let proved = !margins.is_empty();
    if proved {
        head.extend(["accumulator", "output"]);
    }
    let rows = report.matrices.iter().map(|matrix| {
        let mut row = matrix_row(matrix);
        if proved {
            row.extend(shares(margins.get(matrix.tensor.as_str()).copied()));
        }
        row
    });
    let mut text = with_head(&head, rows);
    text.push_str("errors: relative to the root mean square\n");
    if proved {
        text.push_str("accumulator, output: the share of its bound that any input can reach\n");
    }
    if !report.sites.is_empty() {
        let head = ["site", "tokens", "rms", "largest", "crest"];
        text.push('\n');
        text.push_str(&with_head(&head, report.sites.iter().map(site_row)));
    }
    text.push('\n');
    text.push_str(&report.to_string());
    text
}

fn with_head(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn matrix_row(matrix: &MatrixReport) -> Vec<String> {
    let percent = |share: f64| format!("{:.3} %", 100.0 * share);
    vec![
        matrix.tensor.clone(),
        format!("{} x {}", matrix.shape.0, matrix.shape.1),
        matrix.bits.to_string(),
        percent(matrix.weight_error),
        matrix.output_error.map_or("-".into(), percent),
        matrix.pre_shift.to_string(),
        matrix.out_frac.to_string(),
    ]
}

/// What was proved of a matrix: of its accumulator, of its output.
fn shares(margin: Option<&Margin>) -> [String; 2] {
    let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share));
    [share(margin.map(|margin| margin.accumulator)), share(margin.and_then(|margin| margin.output))]
}

fn site_row(site: &SiteReport) -> Vec<String> {
    vec![
        site.site.clone(),
        site.tokens.to_string(),
        format!("{:.3}", site.rms),
        format!("{:.2}", site.largest),
        format!("{:.2}", site.crest),
    ]
}
