//! Plain code compiled for the instructions of this machine: for crates that contain no `unsafe` and whose loops the compiler
//! vectorises by itself, if only it may assume that the instructions are there.

#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::Avx512;
use super::{Kernel, Plain, Wide};

/// Work that [`vectorised`] runs.
pub trait Task {
    /// What it gives.
    type Output;

    /// Does it. Only what is inlined here is compiled for wider vectors: mark this, and every function that it calls in its
    /// loops, `#[inline(always)]`.
    fn run(self) -> Self::Output;

    /// The same by the instructions of `wide`: for tasks whose loops are products of words. Closures are not inlined here either.
    #[inline(always)]
    fn run_wide<W: Wide>(self, wide: W) -> Self::Output
    where
        Self: Sized,
    {
        let _ = wide;
        self.run()
    }
}

#[cfg(all(feature = "std", target_arch = "x86_64"))]
#[target_feature(enable = "avx2")]
fn avx2<T: Task>(task: T) -> T::Output {
    task.run_wide(Plain)
}

#[cfg(all(feature = "std", target_arch = "x86_64"))]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn avx512<T: Task>(witness: Avx512, task: T) -> T::Output {
    task.run_wide(witness)
}

/// Runs `task`, compiled for `kernel`, which changes nothing but speed.
#[inline]
pub fn vectorised<T: Task>(kernel: Kernel, task: T) -> T::Output {
    match kernel {
        // SAFETY: the witness in the variant says that the machine has AVX2.
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx2(_) => unsafe { avx2(task) },
        // SAFETY: and the machines with AVX-VNNI have it too.
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::AvxVnni(_) => unsafe { avx2(task) },
        // SAFETY: the witness in the variant says that the machine has AVX-512.
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx512(witness) => unsafe { avx512(witness, task) },
        _ => task.run_wide(Plain),
    }
}
