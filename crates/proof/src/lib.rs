//! Succinct proofs that exact integer inference was done right (docs/spec/proofs.md).
//!
//! [`net::verify()`] needs neither the runtime nor a prover: build this crate without its feature `prover`, and it is
//! `no_std` with `alloc`.
//!
//! # Layout
//! - [`field`], [`transcript`], [`proof`]: elements, challenges, the file
//! - `lanes`, `parallel` (feature `prover`): sixteen elements at once, two threads
//! - [`multilinear`], [`sumcheck`], [`matmul`], [`logup`]: what everything is reduced with
//! - [`merkle`], [`commitment`], [`claims`]: one commitment, one opening
//! - [`circuit`]: columns and what must hold of them, the same for both sides
//! - [`argument`]: prover and verifier of any circuit
//! - [`gadget`]: the operators of the arithmetic
//! - [`net`]: small networks; [`decoder`]: decoders
//! - [`mod@file`]: an answer with its proof; [`key`]: a model without its weights
//! - [`error`]: why there is no proof, and why one is refused
#![cfg_attr(not(any(test, feature = "prover")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod argument;
#[cfg(feature = "prover")]
pub mod cells;
pub mod circuit;
pub mod claims;
pub mod commitment;
pub mod decoder;
pub mod error;
mod few;
pub mod field;
pub mod file;
pub mod gadget;
pub mod integer;
pub mod key;
#[cfg(feature = "prover")]
pub mod lanes;
pub mod logup;
pub mod matmul;
pub mod merkle;
pub mod multilinear;
pub mod net;
#[cfg(feature = "prover")]
mod parallel;
pub mod proof;
pub mod sumcheck;
pub mod transcript;
