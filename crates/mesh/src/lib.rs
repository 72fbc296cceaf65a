//! The pipeline protocol as state machines without IO: frames, stages, routes, receipts.
//!
//! No clock, socket, file, thread or randomness: they arrive as arguments. A machine takes an
//! `Input` and gives `Effect`s; a shell (the node's libp2p one, or the simulator) performs them.
//! The formats and tables are in `docs/spec/protocol.md`.
//!
//! # Layout
//! - [`frame`], [`message`], [`data`], [`code`], [`inbound`]: what travels
//! - [`node`], [`stage`], [`work`], [`rows`]: the node's side; what takes time is a job that runs anywhere; what is kept of provable tasks
//! - [`request`], [`route`], [`receipts`], [`leaves`], [`proofs`]: the gateway's side of one request
//! - `outlet`: what left a stage and how far it was sent, for whoever takes a lost neighbour's place
//! - [`compute`], [`engine`], [`toy`]: the border to the arithmetic, and its two implementations
//! - [`swarm`]: who serves what, who should, and the way of a request through them
//! - [`limits`]
#![forbid(unsafe_code)]

pub mod code;
pub mod compute;
pub mod data;
pub mod engine;
pub mod frame;
pub mod inbound;
mod leaf_store;
pub mod leaves;
pub mod limits;
pub mod message;
pub mod node;
mod outlet;
mod proof_store;
pub mod proofs;
mod prover;
pub mod receipts;
pub mod request;
pub mod route;
pub mod rows;
pub mod stage;
pub mod swarm;
pub mod toy;
pub mod work;
