//! Two threads and no more: what is proved is proved beside serving, and most machines that serve have two cores.
//!
//! Work is cut into parts that own their memory, so that no part waits for another; sums over parts are exact, so a proof has the
//! same bytes whoever computes what.

use lockstep_runtime::pool::{Heap, Pool};
use std::sync::OnceLock;

/// Threads of a proof, the calling one included.
pub(crate) const THREADS: usize = 2;

/// Calls `f` on each of `items`, on [`THREADS`] threads; in place if another proof is using them.
pub(crate) fn for_each<T: Send>(items: &mut [T], f: impl Fn(&mut T) + Sync) {
    static POOL: OnceLock<Pool> = OnceLock::new();
    if items.len() < 2 {
        items.iter_mut().for_each(f);
        return;
    }
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let new = || {
        Heap::share();
        Pool::new(THREADS.min(cores()))
    };
    POOL.get_or_init(new).for_each(items, f);
}

/// `f(0), ..., f(count - 1)`, on both threads if there are more than `piece`.
pub(crate) fn map<T: Copy + Default + Send>(
    count: usize,
    piece: usize,
    f: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let mut out = vec![T::default(); count];
    let mut pieces: Vec<(usize, &mut [T])> = out.chunks_mut(piece).enumerate().collect();
    for_each(&mut pieces, |(number, out)| {
        let first = *number * piece;
        out.iter_mut().enumerate().for_each(|(at, out)| *out = f(first + at));
    });
    out
}
