//! Succinct proofs that exact integer inference was done right (docs/spec/proofs.md).
#![cfg_attr(not(any(test, feature = "prover")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod circuit;
pub mod claims;
pub mod commitment;
pub mod error;
pub mod field;
pub mod logup;
pub mod matmul;
pub mod merkle;
pub mod multilinear;
pub mod net;
pub mod proof;
pub mod sumcheck;
pub mod transcript;
