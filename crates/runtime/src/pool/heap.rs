//! Freed memory that stays with the process: whoever fills gigabytes and leaves them again and again (a prover) pays for every page that comes
//! back from the system, some tenth of the whole, and more where a host has to find it.
//!
//! glibc gives large vectors back as soon as they are dropped. While somebody holds a [`Heap`] it does not: `mallopt(3)`, and `malloc_trim(3)` behind the
//! last one. On other systems, and with other allocators, nothing happens.

use core::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// While there is one, freed memory is used again and not given back.
#[derive(Debug)]
pub struct Heap(());

impl Heap {
    /// Threads that begin from now on have no heap of their own: those have no room for large vectors, which are given back then.
    pub fn share() {
        glibc::share();
    }

    /// From now on.
    #[must_use]
    pub fn keep() -> Heap {
        if HELD.fetch_add(1, Ordering::SeqCst) == 0 {
            glibc::keep();
        }
        Heap(())
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if HELD.fetch_sub(1, Ordering::SeqCst) == 1 {
            glibc::give_back();
        }
    }
}

#[cfg(all(feature = "std", target_os = "linux", target_env = "gnu"))]
mod glibc {
    use core::ffi::c_int;

    // `malloc.h`.
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_MMAP_MAX: c_int = -4;
    const M_ARENA_MAX: c_int = -8;
    /// What `M_MMAP_MAX` and `M_TRIM_THRESHOLD` are at first.
    const MMAP_MAX: c_int = 65_536;
    const TRIM_THRESHOLD: c_int = 128 << 10;

    // SAFETY: as malloc.h declares them.
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
        fn malloc_trim(pad: usize) -> c_int;
    }

    fn set(parameter: c_int, value: c_int) {
        // SAFETY: these parameters change nothing but where memory comes from and when it goes; any value is allowed, and threads may allocate meanwhile.
        unsafe { mallopt(parameter, value) };
    }

    pub(super) fn share() {
        set(M_ARENA_MAX, 1);
    }

    pub(super) fn keep() {
        set(M_MMAP_MAX, 0);
        set(M_TRIM_THRESHOLD, -1);
    }

    pub(super) fn give_back() {
        set(M_MMAP_MAX, MMAP_MAX);
        set(M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        // SAFETY: gives back what nobody uses; threads may allocate meanwhile.
        unsafe { malloc_trim(0) };
    }
}

#[cfg(not(all(feature = "std", target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub(super) fn share() {}

    pub(super) fn keep() {}

    pub(super) fn give_back() {}
}
