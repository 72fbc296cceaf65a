//! What people see besides the answer: progress on standard error, only on a terminal, and plain
//! tables.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How often a clock moves.
const TICK: Duration = Duration::from_millis(120);

/// A progress bar; nothing at all where nobody looks.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar of `total` steps. `quiet` hides it, and so does standard error that is no terminal.
    #[must_use]
    pub fn new(label: &str, total: u64, quiet: bool) -> Progress {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = Progress(ProgressBar::with_draw_target(Some(total), target));
        bar.count();
        bar.label(label);
        bar
    }

    /// A clock instead of a bar, for a phase whose steps nobody counts; [`Progress::count`] ends it.
    pub fn wait(&self) {
        // The templates are constants; were they wrong, the plain bar would do.
        if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {spinner} {elapsed} {wide_msg}") {
            self.0.set_style(style);
        }
        self.0.enable_steady_tick(TICK);
    }

    /// A bar.
    pub fn count(&self) {
        self.0.disable_steady_tick();
        if let Ok(style) = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {percent:>3}% {wide_msg}") {
            self.0.set_style(style.progress_chars("=> "));
        }
    }

    /// `done` steps are done.
    pub fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Another number of steps.
    pub fn set_total(&self, total: u64) {
        self.0.set_length(total);
    }

    /// What is being done.
    pub fn say(&self, message: &str) {
        self.0.set_message(message.to_owned());
    }

    /// Another phase.
    pub fn label(&self, label: &str) {
        self.0.set_prefix(label.to_owned());
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Rows as text with aligned columns, the last one ragged.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in the largest binary unit that keeps them above 1.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.2} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!([bytes(1023), bytes(1024), bytes(3 << 29)], ["1023 B", "1.00 KiB", "1.50 GiB"]);
    }
}
