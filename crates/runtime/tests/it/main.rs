//! The exact arithmetic against its specification.

mod audit;
mod forward;
mod kernels;
mod pipeline;
mod sample;
