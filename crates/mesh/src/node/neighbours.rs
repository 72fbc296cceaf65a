//! What a node does when a neighbour of a task is lost: it tells the owner, keeps the task, and waits for orders.

use super::{Effect, Node};
use crate::code::Code;
use crate::message::{Fault, Message};
use crate::work::Refusal;
use lockstep_base::keys::NodeId;

impl Node {
    /// The next stage refused our data: the owner must know, since it may not hear it itself.
    pub(super) fn neighbour_failed(&mut self, from: NodeId, fault: &Fault, effects: &mut Vec<Effect>) {
        let Some(task) = fault.task else { return };
        let Some(session) = self.sessions.get_mut(&task).filter(|session| session.goes_to(from)) else {
            return;
        };
        if fault.code.is_loss() {
            session.hold();
            let message = Message::Lost { task, peer: from, code: fault.code };
            effects.push(Effect::Message { to: session.owner, message });
        } else {
            let refusal = Refusal::new(fault.code, format!("the next stage said: {}", fault.text));
            self.fail(task, &refusal, -1, effects);
        }
    }

    /// Tasks of a lost owner are over; those of a lost neighbour wait for another one.
    pub(super) fn peer_lost(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        self.sessions.retain(|_, session| session.owner != peer);
        self.ready.retain(|task| self.sessions.contains_key(task));
        for (task, session) in &mut self.sessions {
            let is_next = session.goes_to(peer);
            if is_next {
                session.hold();
            }
            if is_next || session.previous == peer {
                let message = Message::Lost { task: *task, peer, code: Code::PeerLost };
                effects.push(Effect::Message { to: session.owner, message });
            }
        }
    }

    /// While too much is kept of what left, the task with the most of it forgets: it cannot be sent again then.
    pub(super) fn bound_backups(&mut self) {
        while self.backup_bytes() > self.limits.backup_bytes {
            let largest = self.sessions.values_mut().max_by_key(|session| session.backup_bytes());
            let Some(outlet) = largest.and_then(|session| session.outlet.as_mut()) else { return };
            let before = outlet.bytes();
            outlet.forget();
            if outlet.bytes() == before {
                return;
            }
        }
    }
}
