//! `--threads` and `--kernel`: they change the speed of a computation and not one bit of it.

use super::config::invalid;
use crate::config::{Config, Key};
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::pool::Pool;
use std::error::Error;
use std::sync::Arc;

/// Most threads that a computation may have.
pub const THREADS_MAX: usize = 1024;

/// What to compute with.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ComputeArgs {
    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Instructions to use: scalar, neon, avx2, avxvnni, avx512 or auto (the fastest here); all give the same bits
    #[arg(long, value_name = "KERNEL")]
    pub kernel: Option<String>,
}

impl ComputeArgs {
    /// What the flags, the environment and the settings ask for.
    ///
    /// # Errors
    /// If this machine lacks the kernel, or a value is malformed.
    pub fn build(&self) -> Result<Arc<Compute>, Box<dyn Error>> {
        let config = Config::load()?;
        let threads = config.get(Key::Threads, self.threads.map(|threads| threads.to_string()));
        let count = threads.value.parse().ok().filter(|count| (1..=THREADS_MAX).contains(count));
        let count = count.ok_or_else(|| invalid(Key::Threads, &threads, &format!("1 to {THREADS_MAX}")))?;
        let kernel = config.get(Key::Kernel, self.kernel.clone());
        let kernel = match kernel.value.as_str() {
            "auto" => Kernel::detect(),
            name => name.parse().map_err(|error| format!("{error} (from: {})", kernel.origin))?,
        };
        Ok(Arc::new(Compute { kernel, pool: Pool::new(count) }))
    }
}
