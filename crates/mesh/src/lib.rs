//! The pipeline protocol as state machines without IO: frames, stages, routes, receipts.
//!
//! No clock, socket, file, thread or randomness: they arrive as arguments. A machine takes an
//! `Input` and gives `Effect`s; a shell (the node's libp2p one, or the simulator) performs them.
//! The formats and tables are in `docs/spec/protocol.md`.
//!
//! # Layout
//! - [`frame`], [`message`], [`data`], [`code`], [`inbound`]: what travels
//! - [`limits`]
#![forbid(unsafe_code)]

pub mod code;
pub mod data;
pub mod frame;
pub mod inbound;
pub mod limits;
pub mod message;
