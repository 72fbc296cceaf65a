//! The exact arithmetic against its specification.

mod adapters;
mod audit;
mod drill;
mod families;
mod forward;
mod golden;
mod kernels;
mod net;
mod pack;
mod pipeline;
mod sample;
mod symmetry;
