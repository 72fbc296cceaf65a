//! The rows that entered and left a stage in a provable task: what its closing receipt commits to, and what it proves afterwards.

use crate::compute::Output;
use crate::data::Values;

/// Residual rows of all positions so far, `(positions, width)` each; none of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageRows {
    width: usize,
    /// What entered; nothing where the stage embeds.
    pub entering: Vec<i32>,
    /// What left; nothing where the stage has the head.
    pub leaving: Vec<i32>,
}

impl StageRows {
    /// No rows yet, of so many values each.
    #[must_use]
    pub fn new(width: usize) -> StageRows {
        StageRows { width, ..StageRows::default() }
    }

    pub(crate) fn enter(&mut self, values: &Values) {
        if let Values::Rows(rows) = values {
            self.entering.extend_from_slice(rows);
        }
    }

    pub(crate) fn leave(&mut self, output: &Output) {
        if let Output::Rows(rows) = output {
            self.leaving.extend_from_slice(rows);
        }
    }

    /// Forgets positions from `position` on.
    pub(crate) fn truncate(&mut self, position: u32) {
        let end = position as usize * self.width;
        self.entering.truncate(end);
        self.leaving.truncate(end);
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.entering.len() + self.leaving.len())
    }
}
