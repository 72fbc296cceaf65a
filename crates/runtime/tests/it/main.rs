//! The exact arithmetic against its specification.

mod audit;
mod drill;
mod forward;
mod kernels;
mod pipeline;
mod sample;
