//! Memory that is used again: a proof fills hundreds of megabytes and leaves them, and the next stage of the same answer needs as much. Memory that was
//! given back to the system costs a page fault for every 4 KiB when it comes again, some tenth of a proof, and more where a host has to find it.
//!
//! Vectors are kept while somebody holds a [`Keep`], by type; without one they are dropped as all others.

use crate::lanes::{Base, Ext};
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of the smallest vector that is worth it.
const LEAST_BYTES: usize = 1 << 16;
/// How many times larger than what is asked for a vector may be.
const SLACK: usize = 2;

/// How many there are.
static KEEPS: AtomicUsize = AtomicUsize::new(0);

/// While there is one, memory is kept.
#[derive(Debug)]
pub(crate) struct Keep(());

impl Keep {
    pub(crate) fn new() -> Keep {
        KEEPS.fetch_add(1, Ordering::SeqCst);
        Keep(())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if KEEPS.fetch_sub(1, Ordering::SeqCst) == 1 {
            forget::<Base>();
            forget::<[Ext; 2]>();
            forget::<[Ext; 4]>();
        }
    }
}

fn forget<T: Pooled>() {
    let vectors = core::mem::take(&mut *T::pool().lock().unwrap_or_else(PoisonError::into_inner));
    drop(vectors);
}

/// What vectors are kept of.
pub(crate) trait Pooled: Sized + 'static {
    /// Those that nobody uses.
    fn pool() -> &'static Mutex<Vec<Vec<Self>>>;
}

/// A pool for each type.
macro_rules! pooled {
    ($($kind:ty),*) => {
        $(impl Pooled for $kind {
            fn pool() -> &'static Mutex<Vec<Vec<Self>>> {
                static POOL: Mutex<Vec<Vec<$kind>>> = Mutex::new(Vec::new());
                &POOL
            }
        })*
    };
}

pooled!(Base, [Ext; 2], [Ext; 4]);

/// A vector whose memory is kept when it is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Recycled<T: Pooled>(Vec<T>);

impl<T: Pooled> Recycled<T> {
    /// None, but room for `capacity`.
    pub(crate) fn with_capacity(capacity: usize) -> Recycled<T> {
        let mut vector = taken(capacity);
        vector.clear();
        Recycled(vector)
    }
}

impl<T: Pooled + Copy> Recycled<T> {
    /// `count` elements that nobody may rely on: whatever was there, or `default`.
    pub(crate) fn unspecified(count: usize, default: T) -> Recycled<T> {
        let mut vector = taken(count);
        vector.resize(count, default);
        Recycled(vector)
    }

    /// `count` times `element`.
    pub(crate) fn filled(count: usize, element: T) -> Recycled<T> {
        let mut vector = Recycled::with_capacity(count);
        vector.0.resize(count, element);
        vector
    }
}

/// A vector with room for `capacity`, and whatever is in it.
fn taken<T: Pooled>(capacity: usize) -> Vec<T> {
    if capacity * size_of::<T>() >= LEAST_BYTES {
        let mut pool = T::pool().lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |vector: &Vec<T>| (capacity..=SLACK * capacity).contains(&vector.capacity());
        let fitting = pool.iter().enumerate().filter(|(_, vector)| fits(vector));
        if let Some((at, _)) = fitting.min_by_key(|(_, vector)| vector.capacity()) {
            return pool.swap_remove(at);
        }
    }
    Vec::with_capacity(capacity)
}

impl<T: Pooled> Default for Recycled<T> {
    fn default() -> Recycled<T> {
        Recycled(Vec::new())
    }
}

impl<T: Pooled> From<Vec<T>> for Recycled<T> {
    fn from(vector: Vec<T>) -> Recycled<T> {
        Recycled(vector)
    }
}

impl<T: Pooled> Deref for Recycled<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Pooled> DerefMut for Recycled<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T: Pooled> Drop for Recycled<T> {
    fn drop(&mut self) {
        if self.0.capacity() * size_of::<T>() >= LEAST_BYTES && KEEPS.load(Ordering::SeqCst) > 0 {
            let vector = core::mem::take(&mut self.0);
            T::pool().lock().unwrap_or_else(PoisonError::into_inner).push(vector);
        }
    }
}
