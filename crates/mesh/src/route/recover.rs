//! Another node in the place of a lost one, in the middle of an answer.
//!
//! The arithmetic is exact, so whoever computes a stage again computes the same rows, the same tokens and the same roots. What the new node needs, in the order in which
//! it is arranged:
//!
//! | who | is told | answers |
//! |---|---|---|
//! | the new node | `Open`, held: it keeps what it computes | `Opened` |
//! | the stage behind it | `Rewire`: data come from the new node | `Rewired`: so many positions arrived |
//! | the new node | `Resend`: go on from there | - |
//! | the new node | `Rewire` | `Rewired`: nothing has arrived |
//! | the stage before it | `Resend` from 0 on, as many positions at once as the window allows | - |
//!
//! Before the first stage there is the gateway, which has all tokens; behind the last one as well: tokens that come again must be those that came before. Several stages
//! may be lost at once: an entrance is mended as soon as both of its ends are there. Two neighbours that lost each other, while the gateway still hears both, are
//! joined again in the same way.

use super::{Effect, Event, Phase, Reason, Route, RouteStage, Standing, Step};
use crate::code::Code;
use crate::limits::{MENDS_MAX, REPLACEMENTS_MAX, RESEND_STEP, WINDOW_POSITIONS};
use crate::message::{Fault, Message};
use lockstep_base::keys::NodeId;
use std::collections::BTreeSet;

/// What comes into a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// Data, as soon as they are there.
    Live,
    /// Nothing: one of the two ends is missing, or was.
    Broken,
    /// Nothing yet: the stage was told where data will come from.
    Asking,
    /// What was sent before, up to this position.
    Resending {
        /// The position.
        until: u32,
    },
}

impl Route {
    /// Whether a stage is not where the others are.
    pub(super) fn recovering(&self) -> bool {
        self.stages.iter().any(|stage| match stage.standing {
            Standing::Lost(_) | Standing::Opening => true,
            Standing::Open => stage.entrance != Entrance::Live,
            Standing::Closed => false,
        })
    }

    /// The node of a stage is of no use any more: another one is asked for.
    pub(super) fn lost(
        &mut self,
        now_ms: u64,
        stage: u16,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) -> Step {
        let at = usize::from(stage);
        match self.stages.get(at).map(|state| &state.standing) {
            // A stage that has closed owes nothing.
            None | Some(Standing::Closed) => return Ok(()),
            // Nobody was found in time.
            Some(Standing::Lost(first)) if matches!(reason, Reason::Timeout { .. }) => {
                return Err((stage, first.clone()));
            }
            Some(Standing::Lost(_)) => return Ok(()),
            Some(Standing::Opening | Standing::Open) => {}
        }
        if !matches!(reason, Reason::Lost(_)) {
            let message = Message::Cancel { task: self.config.task };
            effects.push(Effect::Message { stage, message });
        }
        self.stages[at].standing = Standing::Lost(reason.clone());
        self.stages[at].computed = 0;
        for entrance in self.stages.iter_mut().skip(at).take(2).map(|stage| &mut stage.entrance) {
            *entrance = Entrance::Broken;
        }
        if self.phase == Phase::Idle || self.replacements >= REPLACEMENTS_MAX {
            return Err((stage, reason));
        }
        self.replacements += 1;
        self.mends = 0;
        self.progress_ms = now_ms;
        self.stages[at].tried.push(self.config.stages[at].node);
        effects.push(Effect::Replace { stage, tried: self.stages[at].tried.clone() });
        Ok(())
    }

    /// Somebody takes the place of a lost node, or nobody does.
    pub(super) fn replacement(
        &mut self,
        now_ms: u64,
        stage: u16,
        with: Option<RouteStage>,
        effects: &mut Vec<Effect>,
    ) -> Step {
        let at = usize::from(stage);
        let Some(Standing::Lost(reason)) = self.stages.get(at).map(|state| &state.standing) else {
            return Ok(());
        };
        let stages = &self.config.stages;
        let elsewhere =
            |node| stages.iter().enumerate().any(|(other, stage)| other != at && stage.node == node);
        let fits = |with: &RouteStage| with.part == stages[at].part && !elsewhere(with.node);
        let Some(with) = with.filter(fits) else { return Err((stage, reason.clone())) };
        let (lost, by) = (stages[at].node, with.node);
        self.config.stages[at] = with;
        self.book.replace(at, by);
        if at == 0 {
            self.fed = 0;
        }
        if at + 1 == self.stages.len() {
            self.told = self.config.prompt.len() as u32;
        }
        self.stages[at].standing = Standing::Opening;
        self.progress_ms = now_ms;
        let mut open = self.config.open_message(stage);
        open.held = open.next.is_some();
        effects.push(Effect::Message { stage, message: Message::Open(Box::new(open)) });
        effects.push(Effect::Event(Event::Replaced { stage, lost, by }));
        Ok(())
    }

    /// A stage is ready.
    pub(super) fn opened(&mut self, now_ms: u64, stage: u16, effects: &mut Vec<Effect>) {
        self.stages[usize::from(stage)].standing = Standing::Open;
        self.progress_ms = now_ms;
        if self.phase == Phase::Opening {
            if self.stages.iter().any(|stage| stage.standing != Standing::Open) {
                return;
            }
            self.phase = Phase::Running;
            effects.push(Effect::Event(Event::Opened));
            (0..self.stages.len() as u16).for_each(|stage| self.mend(stage, effects));
            return self.feed(effects);
        }
        self.mend(stage + 1, effects);
        self.mend(stage, effects);
        let last = self.stages.iter().rposition(|stage| stage.standing != Standing::Closed);
        if last == Some(stage.into()) {
            self.close_next(effects);
        }
    }

    /// Mends the entrance of a stage, if both of its ends are there.
    fn mend(&mut self, stage: u16, effects: &mut Vec<Effect>) {
        let at = usize::from(stage);
        let is_open = |at: usize| self.stages.get(at).is_some_and(|state| state.standing == Standing::Open);
        if !is_open(at) || self.stages[at].entrance != Entrance::Broken {
            return;
        }
        match at.checked_sub(1) {
            None => {
                self.stages[0].entrance = Entrance::Live;
                self.feed(effects);
            }
            Some(before) if is_open(before) => {
                self.stages[at].entrance = Entrance::Asking;
                let previous = self.config.before(stage);
                let message = Message::Rewire { task: self.config.task, previous };
                effects.push(Effect::Message { stage, message });
            }
            Some(_) => {}
        }
    }

    /// A stage takes data from the node before it.
    pub(super) fn rewired(
        &mut self,
        now_ms: u64,
        stage: u16,
        previous: NodeId,
        received: u32,
        effects: &mut Vec<Effect>,
    ) -> Step {
        let asked = self.stages[usize::from(stage)].entrance == Entrance::Asking;
        // An answer to what was asked before the node in front was lost once more is no answer.
        if !asked || previous != self.config.before(stage) {
            return Ok(());
        }
        if received > self.sent {
            let text = format!("{received} positions received, {} were sent", self.sent);
            return Err((stage, Reason::Unexpected { message: "Rewired", text }));
        }
        self.progress_ms = now_ms;
        self.order(stage, Some(received), effects);
        Ok(())
    }

    /// Orders what goes into `stage`: as much as it may have in flight.
    fn order(&mut self, stage: u16, from: Option<u32>, effects: &mut Vec<Effect>) {
        let Some(before) = stage.checked_sub(1) else { return };
        let room = self.book.signed(stage.into()) + WINDOW_POSITIONS;
        let (until, entrance) = match room >= self.sent {
            true => (u32::MAX, Entrance::Live),
            false => (room, Entrance::Resending { until: room }),
        };
        self.stages[usize::from(stage)].entrance = entrance;
        let message = Message::Resend { task: self.config.task, next: self.config.hop(stage), from, until };
        effects.push(Effect::Message { stage: before, message });
    }

    /// A stage that is computed again has signed more, so that more may be sent to it.
    pub(super) fn resend_more(&mut self, stage: u16, effects: &mut Vec<Effect>) {
        if let Entrance::Resending { until } = self.stages[usize::from(stage)].entrance {
            let room = self.book.signed(stage.into()) + WINDOW_POSITIONS;
            if room >= self.sent || room >= until + RESEND_STEP {
                self.order(stage, None, effects);
            }
        }
    }

    /// A stage reports that it lost a neighbour.
    pub(super) fn reported(
        &mut self,
        now_ms: u64,
        by: u16,
        peer: NodeId,
        code: Code,
        effects: &mut Vec<Effect>,
    ) -> Step {
        let after = by + 1;
        let stage = if self.config.stages.get(usize::from(after)).is_some_and(|next| next.node == peer) {
            after
        } else if by > 0 && self.config.before(by) == peer {
            by - 1
        } else {
            // It was replaced meanwhile.
            return Ok(());
        };
        let behind = usize::from(stage.max(by));
        let known = matches!(self.stages[behind].entrance, Entrance::Broken | Entrance::Asking);
        let there = self.stages[usize::from(stage)].standing == Standing::Open;
        if known || (self.phase != Phase::Opening && !there) {
            return Ok(());
        }
        // A stage that says itself that it forgot the task, or was joined often enough, is of no use.
        if self.phase != Phase::Opening && (code != Code::PeerLost || self.mends >= MENDS_MAX) {
            let text = format!("node {peer}");
            return self.lost(now_ms, stage, Reason::Remote { code, text, by }, effects);
        }
        self.stages[behind].entrance = Entrance::Broken;
        if self.phase != Phase::Opening {
            self.mends += 1;
            self.mend(behind as u16, effects);
        }
        Ok(())
    }

    /// A stage may blame itself or a neighbour, nobody else.
    pub(super) fn remote(&self, by: u16, fault: &Fault) -> (u16, Reason) {
        let last = self.stages.len() as u16 - 1;
        let neighbours: BTreeSet<u16> = [by.saturating_sub(1), by, (by + 1).min(last)].into();
        let stage = fault.stage.filter(|stage| neighbours.contains(stage)).unwrap_or(by);
        (stage, Reason::Remote { code: fault.code, text: fault.text.clone(), by })
    }
}
