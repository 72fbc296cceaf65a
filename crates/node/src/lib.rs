//! The parts of the one binary `lockstep`: a library, so that tests serve the API in their own
//! process.
//!
//! - [`service`]: the interface between whoever generates and whoever serves; [`local`]: in-process
//! - [`text`]: tokens to text, stop strings
//! - [`api`]: HTTP as OpenAI's clients speak it
//! - [`p2p`]: streams between nodes; [`gateway`]: requests over a route of nodes
//! - [`cli`]: the commands; [`bundles`], [`config`], [`output`]: what they share

pub mod api;
pub mod bundles;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod local;
pub mod output;
pub mod p2p;
pub mod proving;
pub mod service;
pub mod swarm;
pub mod text;
pub mod verified;
