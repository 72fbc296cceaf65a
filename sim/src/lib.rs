//! Deterministic simulator of the mesh: one seed is one whole run.
//!
//! A run is a gateway per request and the nodes of a route, on a network whose latency, piece
//! sizes and losses come from the seed. The state machines, the frames and their decoders are the
//! real ones; only sockets, clock and threads are simulated, and, unless a test brings the exact
//! runtime, the arithmetic is the toy one. A failing run prints its seed, and the seed is enough
//! to repeat it.
//!
//! # Layout
//! - [`net`]: time, streams, losses
//! - [`transport`]: the laws that any transport must keep, for this network and for others
//! - [`world`]: gateways and nodes as shells around the state machines
//! - [`fault`]: what a liar, a crash or a hostile peer does
//! - [`swarm`]: thousands of machines that come, choose their layers, move and leave
#![forbid(unsafe_code)]

pub mod fault;
pub mod net;
pub mod swarm;
pub mod transport;
pub mod world;
