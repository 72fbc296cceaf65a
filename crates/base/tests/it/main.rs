//! The formats of `lockstep-base` against their specification, `docs/spec/receipts.md`.
//!
//! Golden vectors are text under `golden/`. `LOCKSTEP_BLESS=1 cargo test -p lockstep-base` rewrites
//! them; `golden/check.py` recomputes every line in Python from the specification alone.

mod golden;

mod canonical;
mod config;
mod dictionary;
mod digests;
mod eip712;
mod file;
mod hostile;
mod keys;
mod leaves;
mod manifest;
mod merkle;
mod params;
mod parts;
mod receipts;
