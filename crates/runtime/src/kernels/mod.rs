//! The hot loops, each as a plain scalar function that *is* the specification and as twins for
//! wider instructions that give the same bits (tests/it/kernels.rs holds all of them to one law
//! suite). Integer sums do not depend on their order, so tiles, vector widths and threads are free.
//!
//! - [`Kernel`]: which instructions; [`Compute`]: a kernel and a thread pool
//! - [`linear`], [`linear_of`]: a whole linear layer; [`accumulate`] and [`requantise`] are its two halves
//! - [`scores`], [`weighted_values`], [`dot_i16`]: attention
//! - [`extent`], [`codes`], [`hadamard`]: quantisation sites
//! - [`vectorised`], [`Wide`]: loops of other crates
//!
//! `unsafe` occurs in this crate only here and in [`crate::pool`].

#[cfg(all(feature = "std", target_arch = "aarch64"))]
mod aarch64;
mod accumulate;
mod columns;
mod dispatch;
mod heads;
mod kernel;
mod linear;
#[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod panel;
mod requantise;
mod scalar;
mod vector;
mod wide;
mod words;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
mod x86;

pub use accumulate::{Activations, Scratch, accumulate};
pub use dispatch::{Task, vectorised};
pub use heads::{dot_i16, scores, weighted_values};
pub(crate) use kernel::multiversion;
pub use kernel::{Avx2, Avx512, AvxVnni, Kernel, KernelError, Neon};
pub use linear::{linear, linear_of};
pub use requantise::requantise;
pub(crate) use vector::extent_body;
pub use vector::{codes, extent, hadamard};
pub use wide::{Plain, Wide};
pub(crate) use words::words;

use crate::pool::Pool;

/// What a computation runs on. It changes nothing but speed.
#[derive(Debug)]
pub struct Compute {
    /// The instructions.
    pub kernel: Kernel,
    /// The threads.
    pub pool: Pool,
}

impl Compute {
    /// The fastest kernel of this machine on `threads` threads.
    #[must_use]
    pub fn new(threads: usize) -> Compute {
        Compute { kernel: Kernel::detect(), pool: Pool::new(threads) }
    }
}
