//! The exact integer transformer runtime: the same bits on every machine.
//!
//! `docs/spec/arithmetic.md` defines every operation; the scalar code here *is* that
//! specification. The SIMD twins in [`kernels`] must agree with it bit for bit under one law
//! suite. There is no float, no clock, no file and no source of randomness in this crate.
//!
//! # Layout
//! - [`arith`]: the rounding rule, steps, the norm's inverse square root
//! - [`kernels`], [`pool`]: linear layers and the other hot loops, threads
//! - [`kv`]: the cache of keys and values
//! - [`attention`], [`ffn`], [`forward`]: one layer, a range of layers
//! - [`net`]: small networks, dense and convolutional
//! - [`sample`]: greedy and seeded sampling in integers
//! - [`observe`], [`trace`], [`stage`]: the outputs of every op, the roots that receipts sign, one
//!   stage of a task
//! - [`audit`], [`drill`]: re-execution of a receipt file; one flipped bit to be found by it
//! - [`synthetic`]: random models of any shape
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod arith;
pub mod attention;
pub mod audit;
pub mod drill;
pub mod ffn;
pub mod forward;
pub mod kernels;
pub mod kv;
pub mod net;
pub mod observe;
pub mod pool;
pub mod sample;
pub mod stage;
pub mod synthetic;
pub mod trace;
