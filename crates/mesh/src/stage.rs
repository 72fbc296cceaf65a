//! The node's side of one task.
//!
//! | state | input | then |
//! |---|---|---|
//! | open | batch at the expected position | queued; computed in order; sent on, signed every 32 positions |
//! | open | truncate to p, first position of the unsigned span <= p <= received | queued; positions from p on are forgotten |
//! | open | close at end = received | the last step is queued: closing receipt, `Closed`, gone |
//! | open | close at end > received | waits for the data in flight, then as above |
//! | closing | data beyond `end` | refused |
//! | any | anything else | refused: the owner gets an error that says got and expected |

use crate::code::Code;
use crate::data::{Batch, Data, Values};
use crate::limits::{QUEUE_FRAMES_MAX, RESIDUAL_LIMIT, WINDOW_POSITIONS};
use crate::message::{NextHop, Open};
use crate::outlet::Outlet;
use crate::work::{Job, JobId, Kind, Refusal, Step, Work};
use lockstep_base::keys::NodeId;
use lockstep_base::limits::SPAN_TOKENS;
use std::collections::VecDeque;
use std::sync::Arc;

/// The numbers of the model that data are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: u32,
    /// Size of the vocabulary.
    pub vocab: u32,
}

/// One task at one node.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) open: Arc<Open>,
    pub(crate) owner: NodeId,
    pub(crate) heard_ms: u64,
    /// Who sends the data.
    pub(crate) previous: NodeId,
    /// Whether that changed.
    rewired: bool,
    /// Where what was computed goes; none where the head is.
    pub(crate) outlet: Option<Outlet>,
    id: JobId,
    shape: Shape,
    /// `None` while a job is out.
    work: Option<Work>,
    queue: VecDeque<Step>,
    /// Positions in the queue or in the job that is out.
    in_flight: u32,
    job_positions: u32,
    received: u32,
    computed: u32,
    /// Highest multiple of the span length that was received: signed once computed.
    sealed: u32,
    end: Option<u32>,
}

impl Session {
    pub(crate) fn new(
        id: JobId,
        owner: NodeId,
        shape: Shape,
        open: Arc<Open>,
        work: Work,
        now_ms: u64,
    ) -> Session {
        let outlet = |next: &NextHop| Outlet::new(open.task, next.clone(), shape.d_model as usize, open.held);
        Session {
            previous: open.previous,
            rewired: false,
            outlet: open.next.as_ref().map(outlet),
            open,
            owner,
            heard_ms: now_ms,
            id,
            shape,
            work: Some(work),
            queue: VecDeque::new(),
            in_flight: 0,
            job_positions: 0,
            received: 0,
            computed: 0,
            sealed: 0,
            end: None,
        }
    }

    pub(crate) fn id(&self) -> JobId {
        self.id
    }

    /// Computed and received positions.
    pub(crate) fn progress(&self) -> (u32, u32) {
        (self.computed, self.received)
    }

    /// Positions that arrived and are not computed.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether `peer` is the next stage.
    pub(crate) fn goes_to(&self, peer: NodeId) -> bool {
        self.outlet.as_ref().is_some_and(|outlet| outlet.next().node == peer)
    }

    /// Keeps what is computed until the owner names another next stage.
    pub(crate) fn hold(&mut self) {
        if let Some(outlet) = &mut self.outlet {
            outlet.hold();
        }
    }

    /// Takes data from another node; the positions that arrived so far. They may come again from now on.
    pub(crate) fn rewire(&mut self, previous: NodeId) -> u32 {
        self.previous = previous;
        self.rewired = true;
        self.received
    }

    /// What goes to `next` now.
    pub(crate) fn resend(
        &mut self,
        next: NextHop,
        from: Option<u32>,
        until: u32,
    ) -> Result<Vec<Data>, Refusal> {
        let Some(outlet) = &mut self.outlet else {
            let text = format!("{} sends nothing on, expected another stage", self.open.part);
            return Err(Refusal::new(Code::Unexpected, text));
        };
        outlet.resend(next, from, until)
    }

    /// Bytes that are kept of what left.
    pub(crate) fn backup_bytes(&self) -> usize {
        self.outlet.as_ref().map_or(0, Outlet::bytes)
    }

    /// Takes a data frame from the stage before.
    pub(crate) fn data(&mut self, data: Data) -> Result<(), Refusal> {
        if self.queue.len() >= QUEUE_FRAMES_MAX {
            let text =
                format!("{} frames wait already, expected at most {QUEUE_FRAMES_MAX}", self.queue.len());
            return Err(Refusal::new(Code::Window, text));
        }
        match data {
            Data::Batch(batch) => self.batch(batch),
            Data::Truncate { branch, position, .. } => self.truncate(branch, position),
        }
    }

    fn batch(&mut self, batch: Batch) -> Result<(), Refusal> {
        self.check_branch(batch.branch)?;
        let again = self.rewired && batch.position < self.received;
        let rest = if again { batch.without(self.received) } else { Some(batch) };
        let Some(batch) = rest else { return Ok(()) };
        if batch.position != self.received {
            let text = format!("data begin at position {}, expected {}", batch.position, self.received);
            return Err(Refusal::new(Code::Position, text));
        }
        let limit = self.end.unwrap_or(self.open.positions);
        if batch.end() > limit {
            let text = format!("data end at position {}, expected at most {limit}", batch.end());
            return Err(Refusal::new(Code::Context, text));
        }
        let in_flight = self.in_flight + batch.count;
        if in_flight > WINDOW_POSITIONS {
            let text = format!("{in_flight} positions in flight, expected at most {WINDOW_POSITIONS}");
            return Err(Refusal::new(Code::Window, text));
        }
        self.check_values(&batch)?;
        self.in_flight = in_flight;
        self.received = batch.end();
        self.sealed = self.sealed.max(self.received / SPAN_TOKENS * SPAN_TOKENS);
        self.queue.push_back(Step::Batch(batch));
        self.close_if_complete();
        Ok(())
    }

    fn truncate(&mut self, branch: u32, position: u32) -> Result<(), Refusal> {
        self.check_branch(branch)?;
        if !(self.sealed..=self.received).contains(&position) || self.end.is_some() {
            let text = format!(
                "truncation to position {position}, expected {} to {} (what was signed stays) and an open task",
                self.sealed, self.received
            );
            return Err(Refusal::new(Code::Truncate, text));
        }
        self.received = position;
        self.queue.push_back(Step::Truncate(position));
        Ok(())
    }

    /// Signs what is left once all positions below `end` are computed.
    pub(crate) fn close(&mut self, end: u32) -> Result<(), Refusal> {
        if let Some(first) = self.end {
            let text = format!("a second close at position {end}, the first was at {first}");
            return Err(Refusal::new(Code::Unexpected, text));
        }
        if end < self.received || end > self.open.positions {
            let text =
                format!("close at position {end}, expected {} to {}", self.received, self.open.positions);
            return Err(Refusal::new(Code::Position, text));
        }
        self.end = Some(end);
        self.close_if_complete();
        Ok(())
    }

    fn close_if_complete(&mut self) {
        if self.end == Some(self.received) {
            self.queue.push_back(Step::Close);
        }
    }

    fn check_branch(&self, branch: u32) -> Result<(), Refusal> {
        if branch == 0 {
            return Ok(());
        }
        Err(Refusal::new(Code::Branch, format!("branch {branch} is not served, expected 0")))
    }

    fn check_values(&self, batch: &Batch) -> Result<(), Refusal> {
        let count = batch.count as usize;
        match (&batch.values, self.open.part.embed) {
            (Values::Tokens(tokens), true) => {
                let vocab = self.shape.vocab;
                let foreign = tokens.iter().position(|token| *token >= vocab);
                foreign.map_or(Ok(()), |i| {
                    let at = batch.position + i as u32;
                    let text = format!("token {} at position {at}, expected below {vocab}", tokens[i]);
                    Err(Refusal::new(Code::Range, text))
                })
            }
            (Values::Rows(rows), false) => {
                let width = self.shape.d_model as usize;
                if rows.len() != count * width {
                    let got = rows.len() / count;
                    return Err(Refusal::new(Code::Shape, format!("rows of {got} values, expected {width}")));
                }
                let outside = rows.iter().position(|x| !(-RESIDUAL_LIMIT..RESIDUAL_LIMIT).contains(x));
                outside.map_or(Ok(()), |i| {
                    let at = batch.position + (i / width) as u32;
                    let text = format!(
                        "residual value {} at position {at}, channel {}, expected from -2^28 to below 2^28",
                        rows[i],
                        i % width
                    );
                    Err(Refusal::new(Code::Range, text))
                })
            }
            (Values::Tokens(_), false) => Err(Refusal::new(
                Code::Shape,
                format!("tokens for {}, expected residual rows", self.open.part),
            )),
            (Values::Rows(_), true) => Err(Refusal::new(
                Code::Shape,
                format!("residual rows for {}, expected tokens", self.open.part),
            )),
        }
    }

    /// The next step as a job, unless one is out already.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        if self.queue.is_empty() {
            return None;
        }
        let work = self.work.take()?;
        let step = self.queue.pop_front().expect("not empty");
        self.job_positions = if let Step::Batch(batch) = &step { batch.count } else { 0 };
        Some(Job { id: self.id, kind: Kind::Step(work, step) })
    }

    /// Whether a job could be taken.
    pub(crate) fn ready(&self) -> bool {
        self.work.is_some() && !self.queue.is_empty()
    }

    /// Takes the work of a finished job back.
    pub(crate) fn done(&mut self, work: Work) {
        self.in_flight -= self.job_positions;
        self.job_positions = 0;
        self.computed = work.computed();
        self.work = Some(work);
    }
}
