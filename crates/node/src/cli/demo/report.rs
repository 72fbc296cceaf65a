//! What people see of the demonstration: steps with what each cost, the answer as it comes, and
//! one bar for each stage while it works.

use crate::service::StageProgress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lockstep_base::part::Part;
use serde_json::Value;
use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Columns of the answer's text.
const COLUMNS: usize = 76;
/// Columns of a stage's bar.
const BAR: u64 = 96;

/// Prints to standard output, or with `--json` to standard error.
pub(super) struct Report {
    json: bool,
    step: Cell<Instant>,
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report { json, step: Cell::new(Instant::now()) }
    }

    fn print(&self, text: &str) {
        // A reader that went away is no reason to stop a check.
        let _ = if self.json {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    /// A step begins.
    pub(super) fn step(&self, title: &str) {
        self.step.set(Instant::now());
        self.print(&format!("\n== {title}"));
    }

    /// Something to know about the step.
    pub(super) fn line(&self, text: &str) {
        self.print(&format!("   {text}"));
    }

    /// The step is over: what it cost.
    pub(super) fn took(&self) {
        self.print(&format!("   [{:.2} s]", self.step.get().elapsed().as_secs_f64()));
    }

    /// The view of an answer by stages `parts`.
    pub(super) fn answer(&self, parts: &[Part]) -> AnswerView {
        let live = std::io::stderr().is_terminal();
        let bars = MultiProgress::new();
        let style = ProgressStyle::with_template("   {prefix} [{bar:32}] {pos} tokens {msg}");
        let style = style.expect("the template is valid").progress_chars("=> ");
        let text = bars.add(ProgressBar::new_spinner());
        text.set_style(ProgressStyle::with_template("   | {msg}").expect("the template is valid"));
        let stages = parts
            .iter()
            .enumerate()
            .map(|(stage, part)| {
                let bar = bars.add(ProgressBar::new(BAR));
                bar.set_style(style.clone());
                bar.set_prefix(format!("stage {stage}, {:<22}", part.to_string()));
                bar
            })
            .collect();
        AnswerView { json: self.json, live, bars, text, stages, line: String::new() }
    }

    /// The end.
    pub(super) fn end(&self, result: &Value, seconds: f64) {
        if self.json {
            println!("{result}");
        } else {
            let verdict = match (sound(result), &result["proof"]) {
                (true, Value::Null) => "The honest answer verified, and the flipped bit was found.",
                (true, _) => "The honest answer verified, the flipped bit was found, and the proof holds.",
                (false, _) => "NOT as promised: see above.",
            };
            self.print(&format!("\n{verdict} [{seconds:.2} s in all]"));
        }
    }
}

/// Whether everything was shown that is promised.
pub(super) fn sound(result: &Value) -> bool {
    let proved = result["proof"].is_null() || result["proof"]["verified"] == true;
    result["verified"] == true && result["tamper"]["caught"] == true && proved
}

/// Text as it comes, and the stages.
pub(super) struct AnswerView {
    json: bool,
    live: bool,
    bars: MultiProgress,
    text: ProgressBar,
    stages: Vec<ProgressBar>,
    line: String,
}

impl AnswerView {
    /// More of the answer.
    pub(super) fn text(&mut self, text: &str) {
        self.line.push_str(text);
        while let Some(end) = line_end(&self.line) {
            let line: String = self.line.drain(..end).collect();
            self.line = self.line.trim_start().to_owned();
            self.print(line.trim());
        }
        self.text.set_message(self.line.clone());
    }

    /// A stage got on.
    pub(super) fn stage(&mut self, progress: &StageProgress) {
        if let Some(bar) = self.stages.get(progress.stage) {
            bar.set_length(BAR.max(progress.positions.into()));
            bar.set_position(progress.positions.into());
            bar.set_message(format!("{} receipts", progress.receipts));
        }
    }

    /// The answer is complete.
    pub(super) fn finish(mut self) {
        let rest = std::mem::take(&mut self.line);
        if !rest.trim().is_empty() {
            self.print(rest.trim());
        }
        self.text.finish_and_clear();
        self.stages.iter().for_each(ProgressBar::finish_and_clear);
    }

    fn print(&self, line: &str) {
        let text = format!("   | {line}");
        if self.live {
            // Above the bars, whichever stream it goes to.
            self.bars.suspend(|| self.write(&text));
        } else {
            self.write(&text);
        }
    }

    fn write(&self, text: &str) {
        let _ = if self.json {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }
}

/// Where the first line of `text` ends: at a line break, or at the last space of a full line.
fn line_end(text: &str) -> Option<usize> {
    let full = text.char_indices().nth(COLUMNS).map(|(at, _)| at);
    let line = &text[..full.unwrap_or(text.len())];
    if let Some(at) = line.find('\n') {
        return Some(at + 1);
    }
    full.map(|full| line.rfind(' ').map_or(full, |space| space + 1))
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, line_end};

    /// Lines break at line breaks, else at the last space that fits, else hard.
    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(line_end("one\ntwo"), Some(4));
        assert_eq!(line_end("short"), None);
        let long = "word ".repeat(COLUMNS);
        assert_eq!(line_end(&format!("{long}\nend")), line_end(&long), "a break behind a full line");
        let long = format!("{} {}", "a".repeat(50), "b".repeat(50));
        assert_eq!(line_end(&long), Some(51));
        assert_eq!(line_end(&"é".repeat(80)), Some(2 * 76));
    }
}
