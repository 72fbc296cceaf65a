//! Tests of the protocol: formats, and each state machine on its own. Whole runs of machines
//! under faults are in `sim`.
//!
//! Golden vectors are text under `golden/`; `LOCKSTEP_BLESS=1 cargo test -p lockstep-mesh`
//! rewrites them.

mod backup;
mod frames;
mod golden;
mod messages;
mod node;
mod proofs;
mod receipts;
mod recover;
mod route;
mod samples;
mod swarm;
