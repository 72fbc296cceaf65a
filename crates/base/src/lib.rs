//! Ids, digests, receipts, limits and the op graph: what every part of Lockstep agrees on.
//!
//! No IO, no clock, no float. Formats are settled in `docs/spec/receipts.md` and
//! `docs/spec/arithmetic.md`; this crate is their one implementation in Rust.
//!
//! # Layout
//! - [`digest`], [`merkle`], [`cbor`]: hashing and deterministic encoding
//! - [`keys`]: node keys (secp256k1) and their addresses
//! - [`config`], [`weights`], [`manifest`]: what a model *is*, and its root
//! - [`op`], [`leaf`]: the op graph, and the salted leaves of a trace
//! - [`net`]: small networks, an op graph each, with proved bounds
//! - [`params`]: sampling parameters and seeds
//! - [`part`], [`receipt`], [`receipt_file`]: stages and what they sign
//! - [`limits`], [`rng`]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod adapter;
pub mod cbor;
pub mod config;
pub mod digest;
pub mod keys;
pub mod leaf;
pub mod limits;
pub mod manifest;
pub mod merkle;
pub mod net;
pub mod op;
pub mod params;
pub mod part;
pub mod receipt;
pub mod receipt_file;
pub mod rng;
pub mod weights;

pub use digest::Digest;
