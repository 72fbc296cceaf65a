//! Which tasks a node takes.

use super::Node;
use crate::code::Code;
use crate::limits;
use crate::message::Open;
use crate::work::Refusal;
use lockstep_base::Digest;

impl Node {
    /// Whether `open` is about what is served here, fits, and has room.
    pub(super) fn check_open(&self, open: &Open) -> Result<(), Refusal> {
        let served = &self.served;
        let refuse = |code, text: String| Err(Refusal::new(code, text));
        if self.sessions.contains_key(&open.task) || self.seen.contains(&open.task) {
            return refuse(
                Code::DuplicateTask,
                format!("task {} was opened here before, expected a new one", open.task),
            );
        }
        if open.model_root != served.model_root {
            return refuse(
                Code::ModelRoot,
                format!("model root {}, expected {}", open.model_root, served.model_root),
            );
        }
        if open.opset != served.opset {
            return refuse(Code::Opset, format!("opset {:?}, expected {:?}", open.opset, served.opset));
        }
        if open.part != served.part {
            return refuse(Code::Part, format!("part {}, expected {}", open.part, served.part));
        }
        if open.adapter != Digest::ZERO && !served.adapters.contains(&open.adapter) {
            let count = served.adapters.len();
            return refuse(
                Code::Adapter,
                format!("adapter {}, expected none or one of the {count} served here", open.adapter),
            );
        }
        if open.positions == 0 || open.positions > served.context {
            return refuse(
                Code::Context,
                format!("{} positions, expected 1 to {}", open.positions, served.context),
            );
        }
        if served.part.head != open.next.is_none() {
            let (got, expected) =
                if served.part.head { ("a next stage", "none") } else { ("no next stage", "one") };
            return refuse(Code::Parameters, format!("{got} for {}, expected {expected}", served.part));
        }
        match &open.parameters {
            None if served.part.head => {
                return refuse(Code::Parameters, format!("no parameters for {}, expected some", served.part));
            }
            Some(parameters) if parameters.digest() != open.parameters_digest => {
                let (got, expected) = (parameters.digest(), open.parameters_digest);
                return refuse(
                    Code::Parameters,
                    format!("parameters with digest {got}, expected {expected}"),
                );
            }
            _ => {}
        }
        if open.provable {
            self.check_provable(open)?;
        }
        if self.sessions.len() >= self.limits.tasks_max {
            return refuse(
                Code::Busy,
                format!("busy: {} tasks are open, expected fewer", self.sessions.len()),
            );
        }
        let reserved: u64 = self.sessions.values().map(|session| u64::from(session.open.positions)).sum();
        let positions = reserved + u64::from(open.positions);
        if positions > self.limits.positions_max {
            let limit = self.limits.positions_max;
            return refuse(
                Code::Busy,
                format!("busy: {positions} positions with this task, expected at most {limit}"),
            );
        }
        Ok(())
    }

    /// Rows of provable tasks stay in memory until the tasks are closed, and for a while behind that.
    fn check_provable(&self, open: &Open) -> Result<(), Refusal> {
        if self.prover.is_none() {
            return Err(Refusal::new(Code::NoProof, "a provable task, no proofs are made here"));
        }
        let provable = self.sessions.values().filter(|session| session.open.provable);
        let others: u64 = provable.map(|session| u64::from(session.open.positions)).sum();
        let (positions, limit) = (others + u64::from(open.positions), limits::PROVABLE_TASKS_POSITIONS_MAX);
        if positions > limit {
            let text =
                format!("busy: {positions} provable positions with this task, expected at most {limit}");
            return Err(Refusal::new(Code::Busy, text));
        }
        Ok(())
    }
}
