//! What leaves a stage: to whom it goes, how far it was sent, and all of it once more for whoever takes that node's place (*upstream backup*, as stream processing has it:
//! Hwang et al., ICDE 2005).
//!
//! ```text
//! rows        0 ............ sent ............ until ............ computed
//!             sent already   goes out now      held               not there yet
//! ```
//!
//! In quiet times `until` has no end and every batch goes out as it came. When the next stage is lost, everything is held until the gateway names another one, and
//! from where on: what was sent before is sent again, 128 positions at a time, as prefill.

use crate::code::Code;
use crate::data::{Batch, Data, Values};
use crate::limits::{PREFILL_CHUNK_TOKENS, WINDOW_POSITIONS};
use crate::message::NextHop;
use crate::work::Refusal;
use lockstep_base::Digest;

/// The way out of one stage of one task.
#[derive(Debug)]
pub(crate) struct Outlet {
    task: Digest,
    next: NextHop,
    width: usize,
    /// `(positions, width)`, from position 0 on, or from `first` on.
    rows: Vec<i32>,
    /// Of each of these positions, whether the last stage samples there.
    sampled: Vec<bool>,
    /// First position that is kept: 0, unless memory was short.
    first: u32,
    sent: u32,
    until: u32,
}

impl Outlet {
    /// Nothing has left yet.
    pub(crate) fn new(task: Digest, next: NextHop, width: usize, held: bool) -> Outlet {
        let until = if held { 0 } else { u32::MAX };
        Outlet { task, next, width, rows: Vec::new(), sampled: Vec::new(), first: 0, sent: 0, until }
    }

    /// The next stage.
    pub(crate) fn next(&self) -> &NextHop {
        &self.next
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.rows.len() + self.sampled.len()
    }

    fn end(&self) -> u32 {
        self.first + self.sampled.len() as u32
    }

    /// Nothing goes out any more.
    pub(crate) fn hold(&mut self) {
        self.until = 0;
    }

    /// Forgets what was sent: memory is short.
    pub(crate) fn forget(&mut self) {
        let kept = self.sent.clamp(self.first, self.end());
        let count = (kept - self.first) as usize;
        self.rows.drain(..count * self.width);
        self.rows.shrink_to_fit();
        self.sampled.drain(..count);
        self.first = kept;
    }

    /// Takes what the stage computed; what goes out now.
    pub(crate) fn push(&mut self, data: Data) -> Vec<Data> {
        match data {
            Data::Batch(Batch { position, count, sample_from, values: Values::Rows(rows), .. }) => {
                self.rows.extend_from_slice(&rows);
                self.sampled.extend((position..position + count).map(|at| at >= sample_from));
                self.pump()
            }
            Data::Batch(_) => Vec::new(),
            Data::Truncate { branch, position, .. } => {
                let count = (position.max(self.first) - self.first) as usize;
                self.rows.truncate(count * self.width);
                self.sampled.truncate(count);
                let known = self.sent > position;
                self.sent = self.sent.min(position);
                let truncate = Data::Truncate { task: self.task, branch, position };
                if known { vec![truncate] } else { Vec::new() }
            }
        }
    }

    /// Another order of the gateway; what goes out now.
    pub(crate) fn resend(
        &mut self,
        next: NextHop,
        from: Option<u32>,
        until: u32,
    ) -> Result<Vec<Data>, Refusal> {
        let from = from.unwrap_or(self.sent);
        if from < self.first {
            let text = format!(
                "sending again from position {from}, expected at least {}: the rest is not kept",
                self.first
            );
            return Err(Refusal::new(Code::NoBackup, text));
        }
        let count = self.end().min(until).saturating_sub(from);
        if count > WINDOW_POSITIONS {
            let text =
                format!("{count} positions to send again at once, expected at most {WINDOW_POSITIONS}");
            return Err(Refusal::new(Code::Window, text));
        }
        // More may be known to the next stage than was computed here again.
        (self.next, self.sent, self.until) = (next, from, until);
        Ok(self.pump())
    }

    /// Batches of what may go out: none is longer than a frame takes, and in none a position is sampled in front of one that is not.
    fn pump(&mut self) -> Vec<Data> {
        let mut out = Vec::new();
        let end = self.end().min(self.until);
        while self.sent < end {
            let at = (self.sent - self.first) as usize;
            let most = ((end - self.sent) as usize).min(PREFILL_CHUNK_TOKENS);
            let sampled = &self.sampled[at..at + most];
            let quiet = sampled.iter().position(|sampled| *sampled).unwrap_or(most);
            let count = quiet + sampled[quiet..].iter().position(|sampled| !*sampled).unwrap_or(most - quiet);
            out.push(Data::Batch(Batch {
                task: self.task,
                branch: 0,
                position: self.sent,
                count: count as u32,
                sample_from: self.sent + quiet as u32,
                values: Values::Rows(self.rows[at * self.width..(at + count) * self.width].to_vec()),
            }));
            self.sent += count as u32;
        }
        out
    }
}
