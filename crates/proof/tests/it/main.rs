//! Integration tests: what docs/spec/proofs.md claims, clause by clause.

mod alone;
mod audit;
mod complete;
mod cost;
mod declared;
mod decoder;
mod fiat_shamir;
mod file;
mod golden;
mod harness;
mod lanes;
mod liars;
mod parts;
mod plan;
mod replays;
mod stages;
mod support;
mod tampered;
