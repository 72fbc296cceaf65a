//! A persistent thread pool for loops of microseconds. A linear layer of a small model lasts about
//! as long as waking a thread, so workers spin briefly for the next loop before they sleep; and
//! since pure spinning collapses where more threads than cores run, they do not spin for long, and
//! nobody ever waits for a worker that has not begun: late workers simply find nothing to do.
//!
//! Tasks are claimed from a shared counter, by the caller too. Integer results do not depend on who
//! computes what, so stealing is harmless. Without the `std` feature everything runs in place.

mod heap;
mod rows;
#[cfg(feature = "std")]
mod threads;

pub use heap::Heap;
pub use rows::{Rows, Split};

#[cfg(feature = "std")]
use threads::Workers;

/// A pool of threads, the calling one included. Dropping it joins the others.
#[derive(Debug)]
pub struct Pool {
    #[cfg(feature = "std")]
    workers: Option<Workers>,
}

impl Pool {
    /// A pool of `threads` threads; with 0 or 1 everything runs in place and no thread is made.
    /// Where the system refuses threads the pool is smaller: see [`Pool::threads`].
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        #[cfg(feature = "std")]
        {
            Pool { workers: (threads > 1).then(|| Workers::new(threads - 1)) }
        }
        #[cfg(not(feature = "std"))]
        {
            let _ = threads;
            Pool {}
        }
    }

    /// Threads that work on a loop, the calling one included.
    #[must_use]
    pub fn threads(&self) -> usize {
        #[cfg(feature = "std")]
        {
            1 + self.workers.as_ref().map_or(0, Workers::count)
        }
        #[cfg(not(feature = "std"))]
        {
            1
        }
    }

    /// Calls `task(0)`, ..., `task(tasks - 1)`, each once, in any order and on any thread, and
    /// returns when all have returned. A loop inside a task, or while another thread's loop is
    /// running, runs in place.
    ///
    /// # Panics
    /// With the panic of a task, after all threads have left the loop; tasks that had not begun
    /// may then be left out.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        #[cfg(feature = "std")]
        if let Some(workers) = &self.workers
            && tasks > 1
            && workers.run(tasks, task)
        {
            return;
        }
        (0..tasks).for_each(task);
    }

    /// Calls `f` on each of `items` as [`Pool::run`] does.
    pub fn for_each<T: Send>(&self, items: &mut [T], f: impl Fn(&mut T) + Sync) {
        struct Items<T>(*mut T);
        // SAFETY: each item is reached by the one task of its index alone, and may change threads.
        unsafe impl<T: Send> Sync for Items<T> {}
        impl<T> Items<T> {
            /// # Safety
            /// `index` is inside the slice and no other reference to the item lives.
            #[allow(clippy::mut_from_ref)]
            unsafe fn get(&self, index: usize) -> &mut T {
                // SAFETY: as the caller promises.
                unsafe { &mut *self.0.add(index) }
            }
        }
        let count = items.len();
        let items = Items(items.as_mut_ptr());
        // SAFETY: the pool calls each index below `count` once, while `items` is borrowed here.
        self.run(count, &|index| f(unsafe { items.get(index) }));
    }
}
